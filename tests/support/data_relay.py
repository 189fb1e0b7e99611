# SPDX-License-Identifier: Apache-2.0
"""Between a data plane and its clients: counts what passes, holds it back, and damages bodies on demand."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from modelexpress.domain.chunks import CHUNK_BYTES, chunk_span
from modelexpress.providers.bandwidth import Bandwidth

Action = Literal["flip", "zero", "swap", "drop", "repeat", "cut"]
What = Literal["blobs", "digests"]

_PIECE = 64 * 1024
_TARGET = re.compile(rb"GET /-/(blobs|digests)/")
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_RANGE = re.compile(rb"(?i)\r\ncontent-range: *bytes ([0-9]+)-[0-9]+/([0-9]+)")


@dataclass(eq=False)
class Damage:
    """What happens to `length` bytes at `offset` of the file of `size` bytes (of a digest list: any).

    flip: one bit. zero: zeros. swap: with the bytes `length` further on. drop: they are left out, and the
    answer ends short. repeat: they come twice, so that the answer is too long. cut: the connection ends
    there. `times`: how often it applies; None: always.
    """

    action: Action
    size: int
    offset: int
    what: What = "blobs"
    length: int = 64
    times: int | None = 1
    applied: int = 0

    @property
    def chunk(self) -> int:
        """The chunk that it is in."""
        return self.offset // CHUNK_BYTES

    @property
    def cost(self) -> int:
        """The bytes of that chunk."""
        return chunk_span(self.chunk, self.size).length

    def applies_to(self, carried: Carried) -> bool:
        """Whether this answer holds the place, and it has not been damaged often enough."""
        if carried.what != self.what or (self.times is not None and self.applied >= self.times):
            return False
        if self.what == "blobs" and carried.size != self.size:
            return False
        return carried.start <= self.offset and self.offset + 2 * self.length <= carried.end

    def do(self, body: bytearray, start: int) -> bool:
        """Damage the body that begins at `start`; True: nothing can follow it on its connection."""
        self.applied += 1
        at, n = self.offset - start, self.length
        if self.action == "flip":
            body[at] ^= 1 << (self.offset % 8)
        elif self.action == "zero":
            assert any(body[at : at + n]), "zeros would change nothing"
            body[at : at + n] = bytes(n)
        elif self.action == "swap":
            first, second = body[at : at + n], body[at + n : at + 2 * n]
            assert first != second, "swapping would change nothing"
            body[at : at + 2 * n] = second + first
        elif self.action == "drop":
            del body[at : at + n]
        elif self.action == "repeat":
            body[at:at] = body[at : at + n]
        else:
            del body[at:]
        return self.action in ("drop", "repeat", "cut")


@dataclass
class Carried:
    """One answer with a body: of what, which bytes, and how many of them went to the client."""

    what: str
    size: int
    start: int
    end: int
    sent: int = 0

    @property
    def chunk(self) -> int:
        """The first chunk that it holds."""
        return self.start // CHUNK_BYTES


@dataclass
class DataRelay:
    """Runs on a thread of its own, see `relaying`. `target_port`: the data plane; 0: nobody is there.

    `rate`: bytes a second of all connections together; 0: nothing holds them back. `refusals`: what
    (`blobs`, `digests`) is answered with which statuses before anything is passed on.
    """

    target_port: int = 0
    rate: int = 0
    port: int = 0
    damages: list[Damage] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    refusals: dict[str, list[int]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _bandwidth: Bandwidth | None = None

    def bytes_sent(self, since: int = 0) -> int:
        """File bytes that went to clients, from the answer number `since` on."""
        return sum(one.sent for one in self.carried[since:] if one.what == "blobs")

    @property
    def is_quiet(self) -> bool:
        """True when no connection is open, so that nothing more is sent."""
        return not self._tasks

    def clear(self) -> None:
        """Forget all damages and counts."""
        self.damages.clear()
        self.carried.clear()
        self.refused.clear()
        self.refusals.clear()

    async def run(self, started: threading.Event, stopping: asyncio.Event) -> None:
        self._bandwidth = Bandwidth(self.rate) if self.rate else None
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=2 * _PIECE)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if self.target_port:
                    here, there = await asyncio.open_connection(
                        "127.0.0.1", self.target_port, limit=2 * _PIECE
                    )
                    await self._exchange_all(reader, writer, here, there)
        finally:
            self._tasks.discard(task)
            writer.close()
            if there is not None:
                there.close()

    async def _exchange_all(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        here: asyncio.StreamReader,
        there: asyncio.StreamWriter,
    ) -> None:
        """Request and answer in turn, until a side has had enough: ours ends when the other does."""
        while True:
            request = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
            gone = asyncio.ensure_future(here.read(1))  # the data plane hangs up between two requests
            try:
                await asyncio.wait({request, gone}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
            finally:
                for task in (gone, request):
                    task.cancel()
                await asyncio.gather(gone, request, return_exceptions=True)
            asked = request.result()
            kind = _TARGET.match(asked)
            refusals = self.refusals.get(kind[1].decode() if kind else "", [])
            if refusals:
                self.refused.append(refusals.pop(0))
                writer.write(f"HTTP/1.1 {self.refused[-1]} No\r\nContent-Length: 0\r\n\r\n".encode())
                continue
            there.write(asked)
            if not await self._answer(asked, here, reader, writer):
                return

    async def _answer(
        self,
        asked: bytes,
        here: asyncio.StreamReader,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass one answer on; False: the connection is over. A client that leaves ends the waiting."""
        answering = asyncio.ensure_future(self._pass_on(asked, here, writer))
        leaving = asyncio.ensure_future(_wait_eof(reader))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else False
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _pass_on(self, asked: bytes, here: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await here.readuntil(b"\r\n\r\n")
        length = int(_found(_LENGTH.search(head))[1])
        status = int(_found(_STATUS.match(head))[1])
        kind = _TARGET.match(asked)
        is_file = kind is not None and status in (200, 206)
        if not is_file:
            self.refused.append(status)
        place = _RANGE.search(head)
        start, size = (int(place[1]), int(place[2])) if place else (0, length)
        what = _found(kind)[1].decode() if is_file else "other"
        carried = Carried(what, size, start, start + length)
        self.carried.append(carried)
        writer.write(head)
        damages = [damage for damage in self.damages if damage.applies_to(carried)]
        if damages:
            return await self._send_damaged(damages, carried, here, writer)
        while length:
            piece = await here.read(min(length, self._piece_bytes))
            if not piece:
                return False
            length -= len(piece)
            await self._send(piece, carried, writer)
        return True

    async def _send_damaged(
        self,
        damages: list[Damage],
        carried: Carried,
        here: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        body, is_over, left = bytearray(), False, carried.end - carried.start
        while left:
            piece = await here.read(min(left, 1024 * 1024))
            if not piece:
                is_over = True
                break
            body += piece
            left -= len(piece)
        # From the back, so that what is left out or doubled moves no other place; if all of it came.
        for damage in sorted(damages, key=lambda one: -one.offset) if not left else []:
            is_over |= damage.do(body, carried.start)
        for first in range(0, len(body), self._piece_bytes):
            await self._send(bytes(body[first : first + self._piece_bytes]), carried, writer)
        return not is_over

    @property
    def _piece_bytes(self) -> int:
        return _PIECE if self._bandwidth is None else min(self._bandwidth.piece_bytes, _PIECE)

    async def _send(self, piece: bytes, carried: Carried, writer: asyncio.StreamWriter) -> None:
        if self._bandwidth is not None:
            await asyncio.sleep(self._bandwidth.take(len(piece), asyncio.get_running_loop().time()))
        carried.sent += len(piece)
        writer.write(piece)
        await writer.drain()


async def _wait_eof(reader: asyncio.StreamReader) -> None:
    """Return when the client has hung up; it says nothing while it is answered."""
    while not reader.at_eof():
        try:
            await reader.readuntil(b"\0never\0")
        except asyncio.IncompleteReadError:
            return


def _found(match: re.Match[bytes] | None) -> re.Match[bytes]:
    assert match is not None, "an answer that no data plane gives"
    return match


@contextmanager
def relaying(rate: int = 0) -> Iterator[DataRelay]:
    """A relay that listens while the body runs."""
    relay = DataRelay(rate=rate)
    loop, started, stopping = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(relay.run(started, stopping))
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=run, name="data-relay", daemon=True)
    thread.start()
    started.wait()
    try:
        yield relay
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stopping.set)
        thread.join()
        assert not failures, failures
