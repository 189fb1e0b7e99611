# SPDX-License-Identifier: Apache-2.0
"""Bytes received and thrown away: the least that any client must do, over as many connections as ours."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

BUFFER_BYTES = 4 * 1024 * 1024
SPAN_BYTES = 16 * BUFFER_BYTES  # of one request, as ours

_END_OF_HEAD = b"\r\n\r\n"
_MOST_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a file at a raw server."""

    target: str
    first: int
    end: int


def spans_of(files: Sequence[tuple[str, int]]) -> list[Span]:
    """All of the files, in ranges."""
    return [
        Span(target, first, min(first + SPAN_BYTES, size))
        for target, size in files
        for first in range(0, size, SPAN_BYTES)
    ]


class Receiver:
    """Receives spans over `connections` connections, a blocking thread and one buffer for each."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._buffers = [memoryview(bytearray(BUFFER_BYTES)) for _ in range(connections)]
        self._errors: list[BaseException] = []

    def receive(self, spans: Sequence[Span]) -> None:
        """Return when everything has come. Raises what went wrong in any thread."""
        queue: SimpleQueue[Span] = SimpleQueue()
        for span in spans:
            queue.put(span)
        threads = [threading.Thread(target=self._work, args=(queue, buffer)) for buffer in self._buffers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self, queue: SimpleQueue[Span], buffer: memoryview) -> None:
        try:
            with connect(self._port) as line:
                while True:
                    receive(line, queue.get_nowait(), buffer)
        except Empty:
            return
        except OSError as error:
            self._errors.append(error)


def connect(port: int) -> socket.socket:
    """A connection to a server on this machine."""
    line = socket.create_connection(("127.0.0.1", port))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def receive(line: socket.socket, span: Span, buffer: memoryview) -> None:
    """Ask for a span and throw it away."""
    line.sendall(request(span))
    left = span.end - span.first - receive_head(line, buffer)
    while left:
        count = line.recv_into(buffer[: min(left, len(buffer))])
        if count == 0:
            raise ConnectionError(f"{span.target} ended {left} bytes short")
        left -= count


def request(span: Span, extra: str = "") -> bytes:
    """A ranged GET."""
    return (
        f"GET {span.target} HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes={span.first}-{span.end - 1}\r\n"
        f"{extra}\r\n"
    ).encode()


def receive_head(line: socket.socket, buffer: memoryview) -> int:
    """Receive the head of an answer; how many bytes of the body came with it."""
    have = 0
    while (end := bytes(buffer[:have]).find(_END_OF_HEAD)) < 0:
        count = line.recv_into(buffer[have:_MOST_HEAD_BYTES])
        if count == 0:
            raise ConnectionError("the answer ended within its head")
        have += count
    status = bytes(buffer[:12])
    if status[9:10] != b"2":
        raise ConnectionError(f"refused: {status!r}")
    return have - end - len(_END_OF_HEAD)


def time_first_byte(line: socket.socket, span: Span, buffer: memoryview, extra: str = "") -> float:
    """Seconds from asking for a span to the first byte of its body; the rest is received after the clock."""
    started = time.perf_counter()
    line.sendall(request(span, extra))
    early = receive_head(line, buffer)
    got = early or line.recv_into(buffer[: span.end - span.first])
    seconds = time.perf_counter() - started
    left = span.end - span.first - got
    while left:
        count = line.recv_into(buffer[: min(left, len(buffer))])
        if count == 0:
            raise ConnectionError(f"{span.target} ended {left} bytes short")
        left -= count
    return seconds
