# SPDX-License-Identifier: Apache-2.0
"""Sending a file's bytes: ranges, and the faults that happen on the way."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.providers.bandwidth import Bandwidth
from modelexpress.testing.hub.content import HubFile
from modelexpress.testing.hub.faults import Fault
from modelexpress.testing.hub.log import Request

_PIECE = 64 * 1024
_BINARY = "application/octet-stream"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Line:
    """What all bodies of a hub go through together: `rate` bytes a second; 0: as fast as they can."""

    def __init__(self, rate: int) -> None:
        self._bandwidth = Bandwidth(rate) if rate else None

    @property
    def piece_bytes(self) -> int:
        """How much to send at once."""
        return _PIECE if self._bandwidth is None else min(self._bandwidth.piece_bytes, _PIECE)

    async def wait_turn(self, count: int) -> None:
        """Return when `count` bytes may leave."""
        if self._bandwidth is not None:
            await SYSTEM_CLOCK.sleep(self._bandwidth.take(count, SYSTEM_CLOCK.monotonic()))


@dataclass(frozen=True, slots=True)
class Sending:
    """How the bytes of one answer go out: what goes wrong, through which line, and where it is noted."""

    fault: Fault | None
    line: Line
    entry: Request


async def send_file(
    request: web.Request, file: HubFile, headers: dict[str, str], sending: Sending
) -> web.StreamResponse:
    """Answer `request` with the bytes of `file`, whole or in the range asked for.

    They are no text unless `headers` say so.
    """
    fault, entry = sending.fault, sending.entry
    is_ignoring = fault is not None and fault.action == "ignore_range"
    wanted = None if is_ignoring else find_range(request.headers.get("Range", ""), file.size)
    start, end = wanted or (0, file.size)
    if wanted is not None:
        if start >= end:
            entry.status = 416
            return web.Response(status=416, headers={"Content-Range": f"bytes */{file.size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    if fault is not None and fault.action == "etag":
        headers["ETag"] = '"' + "f" * 64 + '"'
    entry.status = 200 if wanted is None else 206
    response = web.StreamResponse(status=entry.status, headers={"Content-Type": _BINARY, **headers})
    response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        # A client that has gone is no error of ours.
        with contextlib.suppress(ConnectionResetError):
            await _send_body(request, response, _Body(file, start, end, sending))
    return response


def find_range(text: str, size: int) -> tuple[int, int] | None:
    """Start and end (excluded) of the one range that a Range header names, empty if it cannot be
    satisfied; None where there is none, or none that counts: the whole file is sent then.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


@dataclass(frozen=True, slots=True)
class _Body:
    """The bytes of `file` from `start` to `end` (excluded), with what goes wrong on their way."""

    file: HubFile
    start: int
    end: int
    sending: Sending

    def stop(self) -> int | None:
        """Where sending is to be cut or held, if it is."""
        fault = self.sending.fault
        if fault is None or fault.action not in ("reset", "truncate", "hold"):
            return None
        return max(fault.after, self.start)


async def _send_body(request: web.Request, response: web.StreamResponse, body: _Body) -> None:
    position, stop = body.start, body.stop()
    fault, entry = body.sending.fault, body.sending.entry
    async for piece in _pieces(body):
        before = piece if stop is None else piece[: stop - position]
        await _write(response, before, entry)
        if fault is not None and stop is not None and len(before) < len(piece):
            if fault.action != "hold":
                _cut(request, is_reset=fault.action == "reset")
                return
            await fault.wait_released()
            stop = None
            await _write(response, piece[len(before) :], entry)
        position += len(piece)
    await response.write_eof()


async def _write(response: web.StreamResponse, piece: bytes, entry: Request) -> None:
    # Counted first: whoever has read a byte finds it counted.
    entry.bytes_sent += len(piece)
    try:
        if piece:
            await response.write(piece)
    except ConnectionResetError:
        entry.bytes_sent -= len(piece)
        raise


async def _pieces(body: _Body) -> AsyncIterator[bytes]:
    fault, line = body.sending.fault, body.sending.line
    rate = fault.rate if fault is not None and fault.action == "throttle" else 0
    step = min(line.piece_bytes, max(rate // 20, 1)) if rate else line.piece_bytes
    for start in range(body.start, body.end, step):
        end = min(start + step, body.end)
        piece = _slice(body.file, start, end)
        if fault is not None and fault.action == "wrong_bytes" and start <= fault.after < end:
            at = fault.after - start
            piece = piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]
        if rate:
            await asyncio.sleep((end - start) / rate)
        await line.wait_turn(end - start)
        yield piece


def _slice(file: HubFile, start: int, end: int) -> bytes:
    if isinstance(file.content, bytes):
        return file.content[start:end]
    with file.content.open("rb") as opened:
        opened.seek(start)
        return opened.read(end - start)


def _cut(request: web.Request, is_reset: bool) -> None:
    transport = request.transport
    if transport is None:
        return
    if is_reset:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Lingering for no time makes the close a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


def cut_before_answer(request: web.Request) -> None:
    """Reset the connection without a word."""
    _cut(request, is_reset=True)
