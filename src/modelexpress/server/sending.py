# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a file get into a connection, and how one that takes none is ended."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from asyncio.exceptions import SendfileNotAvailableError
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import Protocol, TypeVar

from aiohttp import web

from modelexpress.domain.errors import Busy

STEP_BYTES = 4 * 1024 * 1024
"""The most that one call of `send` is given."""

PIECE_BYTES = 64 * 1024
"""Of what is held in memory: what is not longer goes out at once."""

_COPY_BYTES = 256 * 1024
_SWEEPS = 5  # within the time limit
_INFO_BYTES = 128
_ACKED_AT = 120  # tcpi_bytes_acked in Linux's struct tcp_info
T = TypeVar("T")

_NO_LINGER = struct.pack("ii", 1, 0)


class CutShort(Exception):
    """The rest of a body cannot be sent; the connection has to end before its announced length."""


class Sender(Protocol):
    """Sends to one connection, whose headers are out already; one call at a time."""

    async def send(self, file: FileIO, offset: int, count: int) -> None:
        """Send exactly these bytes of `file`, whose position is not used.

        Raises ConnectionError or TimeoutError when the client has gone or takes nothing, CutShort or
        OSError when the file does not give them.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes that are in memory, as the client takes them. Raises like `send`."""
        ...


class StallWatch:
    """Ends connections whose clients acknowledge no byte for `seconds` while something is being sent.

    Not the kernel's TCP_USER_TIMEOUT: that ends slow readers too, whose window opens by less than what
    waits to be sent [seen on Linux 6.18 at 10 KB/s]. Belongs to one loop.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sending: dict[int, _Sending] = {}

    @contextmanager
    def watching(self, sock: socket.socket) -> Iterator[None]:
        """Something is being sent while the body runs."""
        sending = _Sending(sock, asyncio.get_running_loop().time())
        self._sending[id(sending)] = sending
        try:
            yield
        finally:
            del self._sending[id(sending)]

    async def run(self) -> None:
        """Look around until cancelled."""
        while True:
            await asyncio.sleep(self._seconds / _SWEEPS)
            now = asyncio.get_running_loop().time()
            for sending in self._sending.values():
                sending.look(now, self._seconds)


@dataclass(slots=True)
class _Sending:
    socket: socket.socket
    moved_at: float
    acked: bytes = b""

    def look(self, now: float, seconds: float) -> None:
        with suppress(OSError):  # it is closed already
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            acked = info[_ACKED_AT:_INFO_BYTES]
            if acked != self.acked or not acked:
                self.acked, self.moved_at = acked, now
            elif now - self.moved_at >= seconds:
                # Whoever waits for the socket gets an error; what is in it is thrown away on closing.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                self.socket.shutdown(socket.SHUT_RDWR)


class HeldTexts:
    """How much of memory waits for readers of long texts, within a bound. A text of many readers counts once.

    Who reads slowly may do so for ever: beyond the bound, up to half as much again, there is room for hosts
    that hold little. Belongs to one loop.
    """

    def __init__(self, most_bytes: int = 128 * 1024 * 1024) -> None:
        self._most_bytes = most_bytes
        self._readers = Counter[int]()
        self._hosts = Counter[str]()  # bytes that wait for each
        self._bytes = 0

    @contextmanager
    def reading(self, text: bytes, host: str | None = None) -> Iterator[None]:
        """One more reads it while the body runs. Raises Busy when there is no room for it.

        `host`: where he is; None: on this machine, where a proxy speaks for everybody.
        """
        key, size = id(text), len(text)  # nobody else's while it is held here
        if not self._has_readers(key) and not self._has_room(size, host):
            raise Busy("too many long answers are waiting for their readers; ask again")
        self._bytes += 0 if self._has_readers(key) else size
        _change(self._readers, key, 1)
        _change(self._hosts, host or "", size)
        try:
            yield
        finally:
            _change(self._readers, key, -1)
            _change(self._hosts, host or "", -size)
            self._bytes -= 0 if self._has_readers(key) else size

    def _has_readers(self, key: int) -> bool:
        return key in self._readers

    def _has_room(self, size: int, host: str | None) -> bool:
        held = 0 if host is None else self._hosts[host]
        is_little = not held or held + size <= self._most_bytes // 8
        return self._bytes + size <= self._most_bytes * (3 if is_little else 2) // 2


def _change(counter: Counter[T], key: T, count: int) -> None:
    """Count, and forget what comes to nothing."""
    counter[key] += count
    if not counter[key]:
        del counter[key]


class SendfileSender:
    """From the page cache to the socket without a copy; plain connections only."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, watch: StallWatch) -> None:
        self._request = request
        self._response = response
        self._watch = watch
        self._loop = asyncio.get_running_loop()

    async def send(self, file: FileIO, offset: int, count: int) -> None:
        """Wait for the socket and not in it, so that a slow reader holds neither thread nor memory."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        with self._watch.watching(transport.get_extra_info("socket")):
            try:
                sent = await self._loop.sendfile(transport, file, offset, count, fallback=False)
            except SendfileNotAvailableError:  # nothing was sent: no sendfile here, or a real error
                await self._copy(file, offset, count)
            else:
                if sent != count:
                    raise CutShort("the file became shorter while it was sent")

    async def write(self, data: bytes) -> None:
        """Piece by piece: whatever is given to a connection is copied, and stays until its client reads."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        view = memoryview(data)
        with self._watch.watching(transport.get_extra_info("socket")), _unbuffered(transport):
            for start in range(0, len(data), PIECE_BYTES):
                await self._response.write(view[start : start + PIECE_BYTES])
                await self._request.writer.drain()

    async def _copy(self, file: FileIO, offset: int, count: int) -> None:
        end = offset + count
        while offset < end:
            data = os.pread(file.fileno(), min(_COPY_BYTES, end - offset), offset)
            if not data:
                raise CutShort("the file became shorter while it was sent")
            await self._response.write(data)
            offset += len(data)


@contextmanager
def _unbuffered(transport: asyncio.Transport) -> Iterator[None]:
    """Who waits for `transport` waits until the kernel has all of it."""
    transport.set_write_buffer_limits(high=0)
    try:
        yield
    finally:
        transport.set_write_buffer_limits()
