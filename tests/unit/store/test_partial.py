# SPDX-License-Identifier: Apache-2.0
"""One arriving file: in any order, by many threads, and taken up again by hashing."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from tests.support.arrivals import chunk_of, content_of, digests_of, flip, open_descriptors
from tests.support.limits import files_limited_to

from modelexpress.domain.chunks import CHUNK_BYTES, DIGEST_BYTES, ChunkSpan, chunk_span, count_chunks
from modelexpress.domain.errors import Corrupt, NoRoom
from modelexpress.store.journal import Header, Journal, Piece, read_journal
from modelexpress.store.partial import Partial

SIZE = 3 * CHUNK_BYTES + 7
CONTENT = content_of(SIZE)


class Closing(Partial):
    """A partial file that knows whether it is open, and its journal."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True
        super().close()

    def journalled(self) -> dict[int, Piece]:
        found = read_journal(self._journal.path)
        assert found is not None
        return found.pieces

    def resume_from_itself(self, pieces: dict[int, Piece], etags: dict[str, str]) -> int:
        return self.resume(self._descriptor, pieces, etags)


Make = Callable[..., Closing]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Closing] = []

    def make(name: str = "a", size: int = SIZE, heard: list[int] | None = None, part: str = "") -> Closing:
        journal = Journal(tmp_path / f"{name}.journal", Header("org/name", "f", size, "d"))
        on_arrival = (lambda count: None) if heard is None else heard.append
        made.append(Closing(tmp_path / f"{part or name}.part", size, journal, on_arrival))
        return made[-1]

    yield make
    for partial in made:
        if not partial.is_closed:  # twice would close whatever has the number now
            partial.close()


def pieces_of(content: bytes) -> dict[int, Piece]:
    digests, spans = (
        digests_of(content),
        [chunk_span(i, len(content)) for i in range(count_chunks(len(content)))],
    )
    return {i: Piece(span.length, digests[i * 32 : i * 32 + 32]) for i, span in enumerate(spans)}


def put_all(partial: Partial, content: bytes = CONTENT) -> None:
    for index in range(count_chunks(len(content))):
        partial.put(index, chunk_of(content, index))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, SIZE])
def test_chunks_put_in_any_order_are_the_file(make: Make, size: int) -> None:
    content, heard = content_of(size), list[int]()
    partial = make(size=size, heard=heard)
    order = list(range(count_chunks(size)))
    random.Random(size).shuffle(order)
    for index in order:
        assert not partial.is_complete
        partial.put(index, chunk_of(content, index))

    assert partial.is_complete and partial.prefix_bytes == partial.arrived_bytes == sum(heard) == size
    assert partial.path.read_bytes() == content and partial.digests == digests_of(content)
    assert partial.journalled() == pieces_of(content)


def test_what_has_not_arrived_is_zeros_in_the_list_and_nothing_to_read(make: Make) -> None:
    partial = make()
    partial.put(1, chunk_of(CONTENT, 1))

    assert partial.prefix_bytes == 0 and partial.arrived_bytes == CHUNK_BYTES
    assert partial.arrived_until(0) == 0
    assert partial.arrived_until(CHUNK_BYTES + 5) == 2 * CHUNK_BYTES
    assert partial.digests[:DIGEST_BYTES] == bytes(DIGEST_BYTES)
    assert partial.digests[DIGEST_BYTES : 2 * DIGEST_BYTES] == digests_of(CONTENT)[32:64]
    assert partial.read(CHUNK_BYTES, 10) == CONTENT[CHUNK_BYTES : CHUNK_BYTES + 10]


def test_a_forgotten_chunk_is_missing_and_its_digest_gone(make: Make) -> None:
    partial = make()
    put_all(partial)
    partial.forget(3)

    assert not partial.is_complete and partial.digests[-DIGEST_BYTES:] == bytes(DIGEST_BYTES)
    assert partial.take_missing(9) == ChunkSpan(3, 4)
    assert len(partial.digests) == 4 * DIGEST_BYTES


def test_the_file_has_its_size_and_its_blocks_from_the_first_moment(make: Make) -> None:
    partial = make()
    status = partial.path.stat()

    assert status.st_size == SIZE
    if partial.bytes_allocated:  # where the file system can
        assert partial.bytes_allocated == SIZE <= status.st_blocks * 512


def test_four_threads_bring_every_chunk_once_and_right(make: Make) -> None:
    content = content_of(11 * CHUNK_BYTES + 3)
    heard: list[int] = []
    partial, brought = make(size=len(content), heard=heard), list[int]()
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        while (span := partial.take_missing(1 + number % 2)) is not None:
            for index in span:
                partial.put(index, chunk_of(content, index))
                brought.append(index)
            partial.give_back(span)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(brought) == list(range(12)) and sum(heard) == len(content)
    assert partial.path.read_bytes() == content and partial.digests == digests_of(content)
    assert len(partial.journalled()) == 12


class TestResume:
    def test_a_flipped_byte_costs_its_chunk_alone(self, make: Make) -> None:
        before = make("a")
        put_all(before)
        before.close()
        flip(before.path, 2 * CHUNK_BYTES + 11)
        after = make("b", part="a")
        taken = after.resume_from_itself(before.journalled(), {})

        assert taken == SIZE - CHUNK_BYTES and after.arrived_bytes == taken
        assert after.take_missing(9) == ChunkSpan(2, 3) and after.take_missing(9) is None
        assert sorted(after.journalled()) == [0, 1, 3]

    def test_from_another_file_the_chunks_are_copied(self, make: Make) -> None:
        before = make("a")
        put_all(before)
        flip(before.path, 0)
        after = make("b")
        with before.path.open("rb") as source:
            taken = after.resume(source.fileno(), before.journalled(), {})

        assert taken == SIZE - CHUNK_BYTES and after.prefix_bytes == 0
        assert after.path.read_bytes()[CHUNK_BYTES:] == CONTENT[CHUNK_BYTES:]
        assert after.digests[32:] == digests_of(CONTENT)[32:]

    def test_what_a_journal_claims_of_bytes_that_are_not_there_counts_nothing(self, make: Make) -> None:
        pieces = {0: Piece(5, b"x" * 32), 1: Piece(CHUNK_BYTES, b"x" * 32), 3: Piece(7, b"x" * 32)}
        partial = make()

        assert partial.resume_from_itself(pieces, {}) == 0
        assert partial.arrived_bytes == 0 and partial.journalled() == {}

    @pytest.mark.parametrize("is_copied", [False, True])
    def test_the_beginning_of_a_chunk_is_gone_on_from(
        self, make: Make, tmp_path: Path, is_copied: bool
    ) -> None:
        before, first, second = make("a"), chunk_of(CONTENT, 0), chunk_of(CONTENT, 1)
        for start in (0, 1000, 70_000):
            before.put(0, first[start : 1000 if start == 0 else 70_000 if start == 1000 else 90_000])
        before.put(1, second[:5])
        flip(before.path, CHUNK_BYTES + 4)
        after = make("b", part="" if is_copied else "a")
        with before.path.open("rb") as source:
            taken = after.resume(source.fileno(), before.journalled(), {})

        assert taken == after.arrived_bytes == after.prefix_bytes == after.begun_bytes(0) == 90_000
        assert after.begun_bytes(1) == 0 and after.journalled() == {0: before.journalled()[0]}
        assert after.read(0, 90_000) == first[:90_000]
        after.put(0, first[90_000:])
        assert after.journalled() == {0: pieces_of(CONTENT)[0]}

    def test_a_source_that_was_cut_gives_what_is_left_of_it(self, make: Make, tmp_path: Path) -> None:
        before = make("a")
        put_all(before)
        (tmp_path / "cut").write_bytes(CONTENT[: 2 * CHUNK_BYTES + 100])
        after = make("b")
        with (tmp_path / "cut").open("rb") as source:
            assert after.resume(source.fileno(), before.journalled(), {}) == 2 * CHUNK_BYTES

    def test_what_is_resumed_is_not_told_as_an_arrival(self, make: Make) -> None:
        before, heard = make("a"), list[int]()
        put_all(before)
        after = make("b", part="a", heard=heard)
        after.resume_from_itself(before.journalled(), {})

        assert heard == [] and after.is_complete

    def test_a_file_that_was_longer_is_cut_to_its_size(self, make: Make, tmp_path: Path) -> None:
        (tmp_path / "a.part").write_bytes(b"x" * 1000)

        assert make("a", size=10).path.stat().st_size == 10


class TestVersions:
    def test_another_version_in_the_middle_is_refused_and_both_names_are_said(self, make: Make) -> None:
        partial = make()
        partial.check_version("origin", '"v1"')
        partial.check_version("origin", '"v1"')
        partial.check_version("cdn", '"else"')
        with pytest.raises(Corrupt, match=r'origin.*"v1" became "v2"'):
            partial.check_version("origin", '"v2"')

    def test_the_version_outlives_the_process(self, make: Make) -> None:
        before = make("a")
        before.check_version("origin", "v1")
        before.put(0, chunk_of(CONTENT, 0))
        found = read_journal(before.path.with_suffix(".journal"))
        assert found is not None and found.etags == {"origin": "v1"}
        after = make("b", part="a")
        after.resume_from_itself(found.pieces, found.etags)

        with pytest.raises(Corrupt, match="v1 became v2"):
            after.check_version("origin", "v2")

    def test_a_taken_over_version_is_written_down_again(self, make: Make) -> None:
        before = make("a")
        before.check_version("origin", "v1")
        before.put(0, chunk_of(CONTENT, 0))
        after = make("b", part="a")
        after.resume_from_itself(before.journalled(), {"origin": "v1"})
        after.put(1, chunk_of(CONTENT, 1))
        found = read_journal(after.path.with_suffix(".journal"))

        assert found is not None and found.etags == {"origin": "v1"}


class TestRefusals:
    def test_without_room_for_the_whole_file_it_is_not_begun(self, make: Make, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "a.journal", Header("org/name", "f", SIZE, "d"))
        before = open_descriptors()
        with files_limited_to(CHUNK_BYTES), pytest.raises(OSError) as caught:
            Partial(tmp_path / "a.part", SIZE, journal, lambda count: None)
        after = open_descriptors()
        journal.close()

        assert caught.value.errno in (errno.EFBIG, errno.ENOSPC) and after == before

    def test_a_chunk_that_cannot_be_written_is_no_room_and_has_not_arrived(self, make: Make) -> None:
        heard: list[int] = []
        partial = make(heard=heard)
        with files_limited_to(CHUNK_BYTES), pytest.raises(NoRoom, match=r"writing a\.part"):
            partial.put(2, chunk_of(CONTENT, 2))

        assert partial.arrived_bytes == 0 and heard == [] and partial.journalled() == {}
        partial.put(2, chunk_of(CONTENT, 2))
        assert partial.arrived_bytes == CHUNK_BYTES

    def test_a_piece_is_in_the_file_and_in_the_journal_when_it_counts(self, make: Make) -> None:
        partial, chunk = make(), chunk_of(CONTENT, 0)
        for start in range(0, CHUNK_BYTES, 1_000_000):
            partial.put(0, chunk[start : start + 1_000_000])
            end = partial.prefix_bytes
            assert end == min(start + 1_000_000, CHUNK_BYTES)
            assert partial.read(start, end - start) == chunk[start:end]
            assert partial.journalled() == {0: Piece(end, blake3(chunk[:end]).digest())}

    def test_a_piece_that_cannot_be_written_makes_its_chunk_begin_anew(self, make: Make) -> None:
        partial, chunk = make(), chunk_of(CONTENT, 2)
        partial.put(2, chunk[:1000])
        with files_limited_to(CHUNK_BYTES), pytest.raises(NoRoom):
            partial.put(2, chunk[1000:2000])
        assert partial.begun_bytes(2) == 0
        partial.put(2, chunk)

        assert partial.journalled()[2] == pieces_of(CONTENT)[2]


class TestTheEnd:
    def test_closing_keeps_both_files_and_frees_both_descriptors(self, make: Make) -> None:
        before = open_descriptors()
        partial = make()
        partial.close()

        assert open_descriptors() == before
        assert partial.path.exists() and partial.path.with_suffix(".journal").exists()

    def test_deleting_takes_both_also_twice_and_after_a_rename(self, make: Make, tmp_path: Path) -> None:
        partial = make()
        os.rename(partial.path, tmp_path / "blob")
        partial.delete()
        partial.delete()

        assert [path.name for path in tmp_path.iterdir()] == ["blob"]

    def test_a_reader_goes_on_after_rename_and_close(self, make: Make, tmp_path: Path) -> None:
        partial = make()
        put_all(partial)
        reader = partial.open_reader()
        try:
            assert partial.sync() == partial.path.stat().st_mtime_ns
            os.rename(partial.path, tmp_path / "blob")
            partial.close()
            assert os.pread(reader, SIZE, 0) == CONTENT
        finally:
            os.close(reader)
