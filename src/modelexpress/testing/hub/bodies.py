# SPDX-License-Identifier: Apache-2.0
"""Sending a file's bytes: ranges, and the faults that happen on the way."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator

from aiohttp import web

from modelexpress.testing.hub.content import HubFile
from modelexpress.testing.hub.faults import Fault
from modelexpress.testing.hub.log import Request

_PIECE = 64 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def send_file(
    request: web.Request, file: HubFile, headers: dict[str, str], fault: Fault | None, entry: Request
) -> web.StreamResponse:
    """Answer `request` with the bytes of `file`, whole or in the range asked for."""
    span = (0, file.size)
    wanted = request.headers.get("Range")
    if wanted and not (fault and fault.action == "ignore_range"):
        found = parse_range(wanted, file.size)
        if found is None:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{file.size}"})
        span = found
    is_partial = span != (0, file.size) or (
        wanted is not None and not (fault and fault.action == "ignore_range")
    )
    if is_partial:
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{file.size}"
    if fault is not None and fault.action == "etag":
        headers["ETag"] = '"' + "f" * 64 + '"'
    response = web.StreamResponse(status=206 if is_partial else 200, headers=headers)
    response.content_length = span[1] - span[0]
    await response.prepare(request)
    if request.method != "HEAD":
        await _send_body(request, response, file, span, fault, entry)
    return response


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Start and end (excluded) of a Range header; None when it cannot be satisfied."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match.groups() == ("", ""):
        return (0, size)
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    return (start, end) if start < end else None


async def _send_body(
    request: web.Request,
    response: web.StreamResponse,
    file: HubFile,
    span: tuple[int, int],
    fault: Fault | None,
    entry: Request,
) -> None:
    position = span[0]
    async for piece in _pieces(file, span, fault):
        if fault is not None and fault.action in ("reset", "truncate", "hold"):
            before = max(fault.after - position, 0)
            if before < len(piece):
                await _write(response, piece[:before], entry)
                if fault.action != "hold":
                    _cut(request, is_reset=fault.action == "reset")
                    return
                await fault.released.wait()
                position, piece = position + before, piece[before:]
                fault = None
        await _write(response, piece, entry)
        position += len(piece)
    await response.write_eof()


async def _write(response: web.StreamResponse, piece: bytes, entry: Request) -> None:
    if piece:
        with contextlib.suppress(ConnectionResetError):
            await response.write(piece)
            entry.bytes_sent += len(piece)


async def _pieces(file: HubFile, span: tuple[int, int], fault: Fault | None) -> AsyncIterator[bytes]:
    rate = fault.rate if fault is not None and fault.action == "throttle" else 0
    step = min(_PIECE, max(rate // 20, 1)) if rate else _PIECE
    for start in range(span[0], span[1], step):
        end = min(start + step, span[1])
        piece = _slice(file, start, end)
        if fault is not None and fault.action == "wrong_bytes" and start <= fault.after < end:
            at = fault.after - start
            piece = piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]
        if rate:
            await asyncio.sleep((end - start) / rate)
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
