# SPDX-License-Identifier: Apache-2.0
"""Filling a partial file from a source that is read by ranges: a window that slides from the front.

Several ranges of a file at once, several files at once, and one bound on all of them together; in
memory there is one piece for each range that is being read, and nothing for those that wait.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from modelexpress.domain.chunks import CHUNK_BYTES, count_chunks
from modelexpress.domain.clock import SYSTEM_CLOCK, Clock
from modelexpress.domain.errors import Corrupt, Unreachable, Unsupported
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import shown
from modelexpress.domain.resting import holding
from modelexpress.domain.spans import ByteSpan
from modelexpress.domain.tasks import finish, run_bounded
from modelexpress.providers import OnVersion
from modelexpress.store.disk import DiskPool
from modelexpress.store.partial import Partial

_MOST_CHUNKS = 32  # of a range, of which the first has one
_RANGE_SECONDS = 2.0  # a range is made so long that asking for it costs little, and losing it too
_MOST_RANGES = 4  # of one file
_HEAD_START_SECONDS = 0.02  # for the first of them, unless its bytes come sooner
_PIECE_BYTES = 1024 * 1024  # what goes to the disk, and to readers, at once
_FIRST_PIECE_BYTES = 64 * 1024  # of a range: whoever waits for its first byte has it soon; they grow

K = TypeVar("K")
V = TypeVar("V")


class Reader(Protocol):
    """Something that a file's bytes can be read from."""

    def read(self, entry: FileEntry, span: ByteSpan, on_version: OnVersion) -> AsyncIterator[bytes]:
        """The bytes of `span`, in order, exactly that many, or an MxError; Unsupported: whole files only."""
        ...


class Pacing(Protocol):
    """Hears what the open ranges bring, to decide how many there may be; times are monotonic seconds."""

    def note_open(self, now: float) -> None:
        """A range is asked for."""
        ...

    def note_bytes(self, count: int, now: float) -> None:
        """Bytes have come."""
        ...

    def note_done(self, now: float) -> None:
        """A range has ended, well or not."""
        ...

    def note_trouble(self, now: float) -> None:
        """The origin fails, or has gone."""
        ...


_Turn = tuple[int, int, "asyncio.Future[None]"]
"""Rank, number, and the one who waits."""


class Slots:
    """How many ranges are read at once, of all files together.

    Owners take turns, so that nobody waits for the many pulls of another; the groups of each take turns, so
    that no pull waits for another one's end; within a group the lowest rank goes first, then who came first.
    `limit` says how many now; `pacing` hears what they bring.
    """

    def __init__(
        self, limit: Callable[[], int], pacing: Pacing | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._limit = limit
        self._pacing = pacing or _Deaf()
        self._clock = clock
        self._used = 0
        # By owner and group; the first of each is next.
        self._waiting: dict[str, dict[object, list[_Turn]]] = {}
        self._numbers = itertools.count()

    @asynccontextmanager
    async def one(self, rank: int = 0, group: object = None, owner: str = "") -> AsyncIterator[None]:
        """Hold a slot in the body, waiting for it as long as it takes; but not while the body rests."""
        await self._enter(rank, group, owner)
        is_held = True

        @asynccontextmanager
        async def give_back() -> AsyncIterator[None]:
            nonlocal is_held
            self._leave()
            is_held = False
            yield
            await self._enter(rank, group, owner)
            is_held = True

        try:
            with holding(give_back):
                yield
        except Unreachable as error:
            if not error.has_answered:  # how one asks, or how much, is not trouble of all
                self._pacing.note_trouble(self._clock.monotonic())
            raise
        finally:
            if is_held:
                self._leave()

    async def _enter(self, rank: int, group: object, owner: str) -> None:
        await self._take(rank, group, owner)
        self._pacing.note_open(self._clock.monotonic())

    def _leave(self) -> None:
        self._used -= 1
        self._pacing.note_done(self._clock.monotonic())
        self._wake()

    def note_bytes(self, count: int) -> None:
        """Bytes have come through one of the slots."""
        self._pacing.note_bytes(count, self._clock.monotonic())
        self._wake()  # the limit may have risen

    async def _take(self, rank: int, group: object, owner: str) -> None:
        """A slot is handed over by who wakes us, so that no newcomer can get in between."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns = self._waiting.setdefault(owner, {}).setdefault(group, [])
        heapq.heappush(turns, (rank, next(self._numbers), turn))
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(owner, group, turn)
            else:  # it was handed over just then
                self._used -= 1
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._used < self._limit():
            owner, groups = next(iter(self._waiting.items()))
            group, turns = next(iter(groups.items()))
            turn = heapq.heappop(turns)[-1]
            _put_last(groups, group)
            _put_last(self._waiting, owner)
            if not turn.cancelled():
                self._used += 1
                turn.set_result(None)

    def _forget(self, owner: str, group: object, turn: asyncio.Future[None]) -> None:
        groups = self._waiting.get(owner, {})
        turns = groups.get(group, [])
        turns[:] = [waiting for waiting in turns if waiting[-1] is not turn]
        heapq.heapify(turns)
        if not turns:
            groups.pop(group, None)
        if not groups:
            self._waiting.pop(owner, None)

    def __repr__(self) -> str:
        waiting = sum(len(turns) for groups in self._waiting.values() for turns in groups.values())
        return f"<Slots {self._used} of {self._limit()} used, {waiting} waiting>"


def _put_last(waiting: dict[K, V], key: K) -> None:
    """Behind all others; gone where nothing waits."""
    value = waiting.pop(key)
    if value:
        waiting[key] = value


class _Deaf:
    """Pacing for a limit that nothing changes."""

    def note_open(self, now: float) -> None:
        pass

    def note_bytes(self, count: int, now: float) -> None:
        pass

    def note_done(self, now: float) -> None:
        pass

    def note_trouble(self, now: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Filling:
    """One file and where it goes; `rank` among those that are filled. `has_begun`: some of it has come."""

    entry: FileEntry
    partial: Partial
    rank: int
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def make_buffer(self) -> memoryview:
        return memoryview(bytearray(min(_PIECE_BYTES, self.entry.size)))


class RangedSource:
    """A store Source over a Reader: the file's own digest has to vouch for what it brings.

    Of the files that it fills at once the earliest goes first, so that whoever follows a file while it
    arrives has the bytes in the order in which files are asked for; a file of one chunk waits for none.
    `owner`: for whom it reads, whose pulls have together no more turns than those of another.
    """

    vouches_chunks = False

    def __init__(
        self, reader: Reader, pool: DiskPool, slots: Slots, clock: Clock = SYSTEM_CLOCK, owner: str = ""
    ) -> None:
        self._reader = reader
        self._owner = owner
        self._pool = pool
        self._slots = slots
        self._clock = clock
        self._ranks: dict[str, int] = {}

    async def fill(self, entry: FileEntry, partial: Partial) -> None:
        """Bring every missing chunk. Raises what the reader raises, Corrupt for a body of another length."""
        # Kept for a file that is filled a second time, for the sake of a chunk.
        rank = self._ranks.setdefault(entry.path, len(self._ranks) + 1) if entry.size > CHUNK_BYTES else 0
        filling = _Filling(entry, partial, rank)
        try:
            await self._fill_in_ranges(filling)
        except Unsupported:
            await self._fill_whole(filling)

    async def _fill_in_ranges(self, filling: _Filling) -> None:
        async def work(number: int) -> None:
            if number:  # whoever waits for the first byte does not wait for four ranges to be asked for
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HEAD_START_SECONDS):
                        await filling.has_begun.wait()
            await self._work(filling)

        workers = min(_MOST_RANGES, count_chunks(filling.entry.size))
        if workers:
            await run_bounded(workers, range(workers), work)

    async def _work(self, filling: _Filling) -> None:
        entry, partial = filling.entry, filling.partial
        length = 1
        while True:
            async with self._slots.one(filling.rank, self, self._owner):
                span = partial.take_missing(length)
                if span is None:
                    return
                started = self._clock.monotonic()
                try:
                    missing = span.bytes_of(entry.size).after(partial.begun_bytes(span.first))
                    await self._bring(filling, missing)
                finally:
                    partial.give_back(span)
                seconds = max(self._clock.monotonic() - started, 1e-3)
                length = max(1, min(int(len(span) * _RANGE_SECONDS / seconds), _MOST_CHUNKS))

    async def _fill_whole(self, filling: _Filling) -> None:
        async with self._slots.one(filling.rank, self, self._owner):
            await self._bring(filling, ByteSpan(0, filling.entry.size))

    async def _bring(self, filling: _Filling, span: ByteSpan) -> None:
        entry, partial, what = filling.entry, filling.partial, f"writing {filling.entry.path}"
        buffer = memoryview(b"")
        position, filled = span.start, 0  # behind `position` there are `filled` bytes in the buffer
        reading = self._reader.read(entry, span, partial.check_version)
        # Closed by us, not by the collector: its connection is free when we leave.
        async with aclosing(cast("AsyncGenerator[bytes, None]", reading)):
            async for some in reading:
                self._slots.note_bytes(len(some))
                # Only now: any number of pulls may wait, for a slot or for what the origin limits.
                buffer = buffer or filling.make_buffer()
                rest = memoryview(some)
                while rest:
                    if position == span.end:
                        raise _wrong_length(entry, f"more than the {span.length} bytes of its range")
                    # Of a body that had to be taken whole, what is here already.
                    passed = 0 if filled else min(partial.arrived_until(position) - position, len(rest))
                    position, rest = position + passed, rest[passed:]
                    due = _piece_bytes(position, span)
                    count = min(len(rest), due - filled)
                    buffer[filled : filled + count] = rest[:count]
                    rest, filled = rest[count:], filled + count
                    if filled and filled == due:
                        index = position // CHUNK_BYTES
                        # To its end even when cancelled: the thread writes from this buffer, into this file.
                        await finish(self._pool.run(what, partial.put, index, buffer[:due]))
                        filling.has_begun.set()
                        position, filled = position + due, 0
        if position < span.end:
            arrived = position + filled - span.start
            raise _wrong_length(entry, f"{arrived} bytes instead of {span.length}")


def _piece_bytes(position: int, span: ByteSpan) -> int:
    """How many bytes from `position` on are kept together; none at the end of `span`."""
    most = min(max(_FIRST_PIECE_BYTES, position - span.start), _PIECE_BYTES)
    return min(most, CHUNK_BYTES - position % CHUNK_BYTES, span.end - position)


def _wrong_length(entry: FileEntry, problem: str) -> Corrupt:
    return Corrupt(f"file {shown(entry.path)} arrived wrong: {problem}")
