# SPDX-License-Identifier: Apache-2.0
"""A small data plane for tests: ranged GETs over real sockets with `sendfile`, and faults on demand."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from types import TracebackType

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_MOST_HEAD_BYTES = 64 * 1024
_STEP = 4 * 1024 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST


@dataclass(frozen=True)
class Asked:
    """The head of one request; header names in lower case."""

    number: int
    target: str
    headers: Mapping[str, str]

    @property
    def range(self) -> tuple[int, int]:
        """First byte and the one after the last."""
        found = _RANGE.fullmatch(self.headers["range"])
        assert found is not None
        return int(found[1]), int(found[2]) + 1


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    `only`: so many bytes of the body, then the connection ends, with a reset if `is_reset`; or, with
    a `gate`, it waits for that and goes on. `flip_at`: a byte of the file that is sent wrong.
    """

    status: int = 0
    headers: Mapping[str, str | None] = field(default_factory=dict)  # None: leave this one out
    raw_head: bytes | None = None
    before_head: threading.Event | None = None
    only: int | None = None
    is_reset: bool = False
    gate: threading.Event | None = None
    flip_at: int | None = None
    extra: bytes = b""
    ends: bool = False


Script = Callable[[Asked], Fault | None]


def in_turn(*faults: Fault | None) -> Script:
    """The first request meets the first fault, and so on; those after the last meet none."""
    return lambda asked: faults[asked.number] if asked.number < len(faults) else None


class RangedServer:
    """Serves files by target; a thread for each connection. Use it with `with`."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.script: Script = lambda asked: None
        self.asked: list[Asked] = []
        self.accepted = 0
        self._tls = tls
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_closing = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=128)
        self.host, self.port = self._listener.getsockname()[:2]

    def __enter__(self) -> RangedServer:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.drop_connections()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        for descriptor in self._files.values():
            os.close(descriptor)

    def add(self, target: str, content: bytes) -> None:
        """Serve `content` at `target`."""
        descriptor = os.memfd_create("ranged")
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        self._files[target] = descriptor

    def add_path(self, target: str, path: str | os.PathLike[str]) -> None:
        """Serve the file at `path` at `target`."""
        self._files[target] = os.open(path, os.O_RDONLY)

    def drop_connections(self) -> None:
        """Cut every connection that is open now."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _start(self, job: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=job, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._is_closing.is_set():
                connection, _ = self._listener.accept()
                self.accepted += 1
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
        with closing(connection), suppress(OSError, AssertionError):
            with self._lock:
                self._open.add(connection)
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self._is_closing.is_set() and self._answer_next(connection):
                    pass
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _answer_next(self, connection: socket.socket) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(_MOST_HEAD_BYTES)
            if not piece:
                return False
            head += piece
        with self._lock:
            asked = _parse(len(self.asked), head.decode("ascii"))
            self.asked.append(asked)
            fault = self.script(asked) or Fault()
        return self._answer(connection, asked, fault)

    def _answer(self, connection: socket.socket, asked: Asked, fault: Fault) -> bool:
        if fault.before_head is not None and not self._wait(connection, fault.before_head):
            return False
        descriptor = self._files.get(asked.target)
        status = fault.status or (404 if descriptor is None else 206)
        size = 0 if descriptor is None else os.fstat(descriptor).st_size
        start, end = asked.range
        if status not in (200, 206):
            start = end = 0
        connection.sendall(fault.raw_head or _head(status, start, end, size, fault))
        if descriptor is not None and not self._send_body(connection, descriptor, (start, end), fault):
            return False
        if fault.extra:
            connection.sendall(fault.extra)
        return not fault.ends

    def _send_body(
        self, connection: socket.socket, descriptor: int, span: tuple[int, int], fault: Fault
    ) -> bool:
        start, end = span
        middle = end if fault.only is None else min(end, start + fault.only)
        _send(connection, descriptor, start, middle, fault.flip_at)
        if fault.only is None:
            return True
        if fault.gate is None:
            if fault.is_reset:
                _wait_received(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return False
        if not self._wait(connection, fault.gate):
            return False
        _send(connection, descriptor, middle, end, fault.flip_at)
        return True

    def _wait(self, connection: socket.socket, gate: threading.Event) -> bool:
        """True when `gate` opens; False when the connection or the server ends first."""
        connection.settimeout(0.01)
        while not gate.is_set():
            try:
                if self._is_closing.is_set() or not connection.recv(1):
                    return False
            except TimeoutError:
                continue
        connection.settimeout(None)
        return True


def _wait_received(connection: socket.socket) -> None:
    """Return when the other side's system has all that was sent: a reset throws away what is on its way."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        waiting = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        if not any(waiting):
            return
        time.sleep(0.001)  # the kernel tells nobody


def _parse(number: int, head: str) -> Asked:
    first, *lines = head.split("\r\n")
    method, target, version = first.split(" ")
    assert (method, version) == ("GET", "HTTP/1.1")
    headers = (line.partition(":") for line in lines if line)
    return Asked(number, target, {name.lower(): value.strip() for name, _, value in headers})


def _head(status: int, start: int, end: int, size: int, fault: Fault) -> bytes:
    headers: dict[str, str | None] = {"Content-Length": str(end - start), "ETag": '"1"'}
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers.update(fault.headers)
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"HTTP/1.1 {status} Whatever\r\n{''.join(lines)}\r\n".encode()


def _send(connection: socket.socket, descriptor: int, start: int, end: int, flip_at: int | None) -> None:
    is_plain = not isinstance(connection, ssl.SSLSocket)
    while start < end:
        if flip_at is None and is_plain:
            start += os.sendfile(connection.fileno(), descriptor, start, min(end - start, _STEP))
            continue
        data = bytearray(os.pread(descriptor, min(end - start, _STEP), start))
        if flip_at is not None and start <= flip_at < start + len(data):
            data[flip_at - start] ^= 1
        connection.sendall(data)
        start += len(data)
