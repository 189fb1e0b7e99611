# SPDX-License-Identifier: Apache-2.0
"""Filling a partial file from a source that is read by ranges: a window that slides from the front.

Several ranges of a file at once, several files at once, and one bound on all of them together; in
memory there is one chunk for each range.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Protocol, cast

from modelexpress.domain.chunks import CHUNK_BYTES, ChunkSpan, chunk_span, count_chunks
from modelexpress.domain.clock import SYSTEM_CLOCK, Clock
from modelexpress.domain.errors import Corrupt, Limited, Unreachable, Unsupported
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import shown
from modelexpress.domain.spans import ByteSpan
from modelexpress.domain.tasks import finish, run_bounded
from modelexpress.providers import OnVersion
from modelexpress.store.disk import DiskPool
from modelexpress.store.partial import Partial

_FIRST_CHUNKS = 4  # of a range: 16 MiB
_MOST_CHUNKS = 32
_RANGE_SECONDS = 2.0  # a range is made so long that asking for it costs little, and losing it too
_MOST_RANGES = 4  # of one file


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
        """The origin is asked for too much, or has gone."""
        ...


class Slots:
    """How many ranges are read at once, of all files together; first come, first served.

    `limit` says how many now; `pacing` hears what they bring.
    """

    def __init__(
        self, limit: Callable[[], int], pacing: Pacing | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._limit = limit
        self._pacing = pacing or _Deaf()
        self._clock = clock
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot in the body, waiting for it as long as it takes."""
        await self._take()
        self._pacing.note_open(self._clock.monotonic())
        try:
            yield
        except (Limited, Unreachable):
            self._pacing.note_trouble(self._clock.monotonic())
            raise
        finally:
            self._used -= 1
            self._pacing.note_done(self._clock.monotonic())
            self._wake()

    def note_bytes(self, count: int) -> None:
        """Bytes have come through one of the slots."""
        self._pacing.note_bytes(count, self._clock.monotonic())
        self._wake()  # the limit may have risen

    async def _take(self) -> None:
        """A slot is handed over by who wakes us, so that no newcomer can get in between."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:
                self._used -= 1
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._used < self._limit():
            turn = self._waiting.popleft()
            if turn.cancelled():
                self._waiting.appendleft(turn)  # its owner takes it away in a moment
                return
            self._used += 1
            turn.set_result(None)

    def __repr__(self) -> str:
        return f"<Slots {self._used} of {self._limit()} used, {len(self._waiting)} waiting>"


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


class RangedSource:
    """A store Source over a Reader: the file's own digest has to vouch for what it brings."""

    vouches_chunks = False

    def __init__(self, reader: Reader, pool: DiskPool, slots: Slots, clock: Clock = SYSTEM_CLOCK) -> None:
        self._reader = reader
        self._pool = pool
        self._slots = slots
        self._clock = clock

    async def fill(self, entry: FileEntry, partial: Partial) -> None:
        """Bring every missing chunk. Raises what the reader raises, Corrupt for a body of another length."""
        try:
            await self._fill_in_ranges(entry, partial)
        except Unsupported:
            await self._fill_whole(entry, partial)

    async def _fill_in_ranges(self, entry: FileEntry, partial: Partial) -> None:
        async def work(number: int) -> None:
            await self._work(entry, partial)

        workers = min(_MOST_RANGES, -(-count_chunks(entry.size) // _FIRST_CHUNKS))
        if workers:
            await run_bounded(workers, range(workers), work)

    async def _work(self, entry: FileEntry, partial: Partial) -> None:
        buffer = memoryview(bytearray(min(CHUNK_BYTES, entry.size)))
        length = _FIRST_CHUNKS
        while True:
            async with self._slots.one():
                span = partial.take_missing(length)
                if span is None:
                    return
                started = self._clock.monotonic()
                try:
                    await self._bring(entry, partial, span, buffer)
                finally:
                    partial.give_back(span)
                seconds = max(self._clock.monotonic() - started, 1e-3)
                length = max(_FIRST_CHUNKS, min(int(len(span) * _RANGE_SECONDS / seconds), _MOST_CHUNKS))

    async def _fill_whole(self, entry: FileEntry, partial: Partial) -> None:
        buffer = memoryview(bytearray(min(CHUNK_BYTES, entry.size)))
        async with self._slots.one():
            await self._bring(entry, partial, ChunkSpan(0, count_chunks(entry.size)), buffer)

    async def _bring(self, entry: FileEntry, partial: Partial, chunks: ChunkSpan, buffer: memoryview) -> None:
        span, index, filled = chunks.bytes_of(entry.size), chunks.first, 0
        reading = self._reader.read(entry, span, partial.check_version)
        # Closed by us, not by the collector: its connection is free when we leave.
        async with aclosing(cast("AsyncGenerator[bytes, None]", reading)):
            async for piece in reading:
                self._slots.note_bytes(len(piece))
                rest = memoryview(piece)
                while rest:
                    if index == chunks.end:
                        raise _wrong_length(entry, f"more than the {span.length} bytes of its range")
                    due = chunk_span(index, entry.size).length
                    count = min(len(rest), due - filled)
                    buffer[filled : filled + count] = rest[:count]
                    rest, filled = rest[count:], filled + count
                    if filled == due and partial.has_arrived(index):
                        index, filled = index + 1, 0  # of a body that had to be taken whole
                    elif filled == due:
                        what = f"writing {entry.path}"
                        # To its end even when cancelled: the thread writes from this buffer, into this file.
                        await finish(self._pool.run(what, partial.put, index, buffer[:due]))
                        index, filled = index + 1, 0
        if index < chunks.end:
            arrived = (index - chunks.first) * CHUNK_BYTES + filled
            raise _wrong_length(entry, f"{arrived} bytes instead of {span.length}")


def _wrong_length(entry: FileEntry, problem: str) -> Corrupt:
    return Corrupt(f"file {shown(entry.path)} arrived wrong: {problem}")
