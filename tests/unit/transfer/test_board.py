# SPDX-License-Identifier: Apache-2.0
"""Which lane brings what next, without a thread or a byte."""

from __future__ import annotations

from tests.support.sinks import LoggedSink

from modelexpress.domain.chunks import CHUNK_BYTES, ChunkSpan
from modelexpress.domain.errors import Busy
from modelexpress.transfer.board import MOST_CHUNKS, Board, Errand


def errand(chunks: int, ended: list[int] | None = None) -> Errand:
    log: list[int] = [] if ended is None else ended
    # The map alone is looked at; a sink of this size would take the memory.
    sink = LoggedSink(chunks * CHUNK_BYTES) if chunks < 9 else LargeSink(chunks)
    return Errand("/f", (), sink, lambda: log.append(chunks))


class LargeSink(LoggedSink):
    def __init__(self, chunks: int) -> None:
        super().__init__(0)
        self.size = chunks * CHUNK_BYTES
        self._taken = 0

    def take_missing(self, most: int) -> ChunkSpan | None:
        start = self._taken
        self._taken = min(start + most, self.size // CHUNK_BYTES)
        return ChunkSpan(start, self._taken) if start < self._taken else None


def test_spans_grow_short_towards_the_end() -> None:
    board = Board(4)
    board.add(errand(256))
    lengths = []
    while (job := board.take(0, 0.0)) is not None:
        lengths.append(len(job.span))
    assert lengths[0] == MOST_CHUNKS and lengths[-1] == 1
    assert lengths == sorted(lengths, reverse=True) and sum(lengths) == 256
    assert len(lengths) < 48


def test_a_file_ends_when_nothing_is_missing_and_nobody_works_on_it() -> None:
    ended: list[int] = []
    board, one = Board(1), errand(1, ended)
    board.add(one)
    job = board.take(0, 0.0)
    assert job is not None and board.take(1, 0.0) is None and not ended
    one.sink.give_back(job.span)
    board.leave(0, one)
    assert not ended
    assert board.take(1, 0.0) == job
    one.sink.put(0, memoryview(bytes(CHUNK_BYTES)))
    board.leave(1, one)
    assert board.take(1, 0.0) is None and ended == [1] and one.error is None


def test_a_lane_that_rests_for_one_file_helps_another_and_others_go_on() -> None:
    board, first, second = Board(2), errand(2), errand(3)
    board.add(first)
    board.add(second)
    first.note_failure(0).rests_until = 5.0
    job = board.take(0, 1.0)
    assert job is not None and job.errand is second
    other = board.take(1, 1.0)
    assert other is not None and other.errand is first
    assert board.find_wake(0, 1.0) == 5.0 and board.find_wake(1, 1.0) is None
    again = board.take(0, 5.0)
    assert again is not None and again.errand is first and board.find_wake(0, 5.0) is None


def test_failures_in_a_row_are_counted_until_something_arrives() -> None:
    one = errand(3)
    assert [one.note_failure(0).tries, one.note_failure(0).tries, one.note_failure(1).tries] == [1, 2, 1]
    one.arrived += 1
    assert [one.note_failure(0).tries, one.note_failure(0).tries, one.note_failure(1).tries] == [1, 2, 1]


def test_a_stopped_file_ends_with_its_last_lane() -> None:
    ended: list[int] = []
    board, one, error = Board(2), errand(2, ended), Busy("now")
    board.add(one)
    assert board.take(0, 0.0) and board.take(1, 0.0)
    assert board.stop(one, error) == {0, 1} and board.stop(one) == set()
    board.leave(0, one)
    assert not ended
    board.leave(1, one)
    assert ended == [2] and one.error is error and board.take(0, 0.0) is None


def test_stopping_all_ends_what_nobody_works_on_at_once() -> None:
    ended: list[int] = []
    board = Board(1)
    board.add(errand(1, ended))
    board.add(errand(2, ended))
    board.stop_all(Busy("now"))
    assert ended == [1, 2]


def test_a_ticket_is_not_shown() -> None:
    assert "/f" not in repr(errand(1))
