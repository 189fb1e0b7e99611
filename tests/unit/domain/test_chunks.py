# SPDX-License-Identifier: Apache-2.0
"""The map of a file's chunks, against a model of plain sets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.domain.chunks import CHUNK_BYTES, ChunkMap, ChunkSpan, chunk_span, count_chunks
from modelexpress.domain.errors import Invalid

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 7 * CHUNK_BYTES + 5]


class PlainMap:
    """The same promises by sets alone; obviously right, and slow."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.all = set(range(-(-size // CHUNK_BYTES)))
        self.here: set[int] = set()
        self.taken: set[int] = set()
        self.begun: dict[int, int] = {}

    def length(self, index: int) -> int:
        return min((index + 1) * CHUNK_BYTES, self.size) - index * CHUNK_BYTES

    def take(self, most: int) -> tuple[int, int] | None:
        missing = self.all - self.here - self.taken
        if not missing:
            return None
        first = end = min(missing)
        while end in missing and end - first < most and (end == first or end not in self.begun):
            end += 1
        self.taken |= set(range(first, end))
        return first, end

    def until(self, offset: int) -> int:
        index, end = offset // CHUNK_BYTES, offset
        while index in self.here:
            end = index * CHUNK_BYTES + self.length(index)
            index += 1
        begun = index * CHUNK_BYTES + self.begun[index] if index in self.begun else 0
        return max(end, begun, offset)

    def drop(self, index: int) -> None:
        self.taken.discard(index)
        self.begun.pop(index, None)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "grow", "arrive", "arrive", "give_back", "forget", "stray", "anew"]),
        st.integers(0, 40),
        st.integers(1, 5),
    ),
    max_size=80,
)


def assert_same(found: ChunkMap, model: PlainMap) -> None:
    assert found.is_complete == (model.here == model.all)
    here = sum(model.length(index) for index in model.here)
    assert found.arrived_bytes == here + sum(model.begun.values())
    assert found.prefix_bytes == model.until(0)
    for index in model.all:
        assert found.has_arrived(index) == (index in model.here)
    places = {0, model.size, model.size // 2, max(model.size - 1, 0), 1, CHUNK_BYTES, 2 * CHUNK_BYTES - 1}
    for offset in places:
        if offset <= model.size:
            assert found.arrived_until(offset) == model.until(offset)


def grow_or_begin_anew(found: ChunkMap, model: PlainMap, step: str, number: int, most: int) -> None:
    if step == "grow" and model.taken:
        index = sorted(model.taken)[number % len(model.taken)]
        count = (model.length(index) - model.begun.get(index, 0)) * most // 6
        if count:
            found.grown(index, count)
            model.begun[index] = model.begun.get(index, 0) + count
        assert found.begun_bytes(index) == model.begun.get(index, 0)
    elif step == "anew" and model.begun:
        index = sorted(model.begun)[number % len(model.begun)]
        found.begin_anew(index)
        del model.begun[index]


@given(
    size=st.one_of(
        st.sampled_from(SIZES),
        st.integers(0, 30).map(lambda count: count * CHUNK_BYTES),
        st.integers(0, 30 * CHUNK_BYTES),
    ),
    steps=STEPS,
)
def test_whatever_happens_the_map_says_what_plain_sets_say(
    size: int, steps: list[tuple[str, int, int]]
) -> None:
    found, model = ChunkMap(size), PlainMap(size)
    spans: list[ChunkSpan] = []
    for step, number, most in steps:
        if step == "take":
            span, expected = found.take_missing(most), model.take(most)
            assert (span and (span.first, span.end)) == expected
            if span is not None:
                spans.append(span)
        elif step == "give_back" and spans:
            span = spans.pop(number % len(spans))
            found.give_back(span)
            model.taken -= set(span)
        elif step == "arrive" and model.taken:
            index = sorted(model.taken)[number % len(model.taken)]
            found.arrived(index)
            model.drop(index)
            model.here.add(index)
        elif step == "stray" and model.all:  # somebody brought it without taking it, or brought it twice
            index = number % len(model.all)
            found.arrived(index)
            model.drop(index)
            model.here.add(index)
        elif step == "forget" and model.all:
            index = number % len(model.all)
            found.forget(index)
            model.drop(index)
            model.here.discard(index)
        else:
            grow_or_begin_anew(found, model, step, number, most)
        assert_same(found, model)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_taken_chunk_by_chunk_is_complete_and_given_out_once(size: int) -> None:
    chunks, given = ChunkMap(size), []
    while (span := chunks.take_missing(2)) is not None:
        given.extend(span)
    assert given == list(range(count_chunks(size)))
    for index in given:
        assert not chunks.is_complete
        chunks.arrived(index)

    assert chunks.is_complete and chunks.prefix_bytes == chunks.arrived_bytes == size
    assert chunks.take_missing(2) is None and chunks.arrived_until(0) == size


def test_a_huge_file_is_walked_from_the_front_without_looking_at_everything_each_time() -> None:
    chunks = ChunkMap(50_000 * CHUNK_BYTES)
    for index in range(50_000):  # quadratic work would take minutes
        span = chunks.take_missing(1)
        assert span is not None and span.first == index
        chunks.arrived(index)

    assert chunks.is_complete and chunks.prefix_bytes == chunks.size


def test_what_was_given_back_comes_before_what_lies_behind_it() -> None:
    chunks = ChunkMap(10 * CHUNK_BYTES)
    first, second = chunks.take_missing(3), chunks.take_missing(3)
    assert first is not None and second is not None
    chunks.arrived(1)
    chunks.give_back(first)

    assert [chunks.take_missing(5) for _ in range(3)] == [ChunkSpan(0, 1), ChunkSpan(2, 3), ChunkSpan(6, 10)]


def test_a_forgotten_chunk_is_the_next_to_be_fetched_and_ends_the_prefix() -> None:
    chunks = ChunkMap(4 * CHUNK_BYTES)
    for index in range(4):
        chunks.arrived(index)
    chunks.forget(2)

    assert chunks.prefix_bytes == 2 * CHUNK_BYTES and chunks.arrived_bytes == 3 * CHUNK_BYTES
    assert chunks.arrived_until(3 * CHUNK_BYTES) == 4 * CHUNK_BYTES
    assert chunks.take_missing(9) == ChunkSpan(2, 3)
    chunks.arrived(2)
    assert chunks.is_complete and chunks.prefix_bytes == 4 * CHUNK_BYTES


def test_the_bytes_behind_the_end_are_never_here() -> None:
    chunks = ChunkMap(CHUNK_BYTES + 1)
    chunks.arrived(0)
    chunks.arrived(1)

    assert chunks.arrived_until(CHUNK_BYTES + 1) == CHUNK_BYTES + 1
    assert chunks.arrived_until(10 * CHUNK_BYTES) == 10 * CHUNK_BYTES
    assert ChunkMap(0).arrived_until(0) == 0 and ChunkMap(0).is_complete


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 1), (1, CHUNK_BYTES), (2, CHUNK_BYTES + 1)])
def test_a_chunk_that_is_not_there_has_no_bytes(index: int, size: int) -> None:
    with pytest.raises(Invalid, match="no chunk"):
        chunk_span(index, size)


@given(size=st.integers(1, 40 * CHUNK_BYTES))
def test_the_chunks_of_a_file_are_its_bytes_once_and_in_order(size: int) -> None:
    spans = [chunk_span(index, size) for index in range(count_chunks(size))]

    assert spans[0].start == 0 and spans[-1].end == size
    assert all(a.end == b.start and a.length == CHUNK_BYTES for a, b in pairwise(spans))
    assert ChunkSpan(0, len(spans)).bytes_of(size).length == size


@pytest.mark.parametrize(("first", "end"), [(0, 0), (1, 1), (2, 1), (-1, 1)])
def test_an_empty_or_backward_span_is_refused(first: int, end: int) -> None:
    with pytest.raises(Invalid):
        ChunkSpan(first, end)
