# SPDX-License-Identifier: Apache-2.0
"""A data plane in this process with files to offer, and clients of it that are plain sockets."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from modelexpress.domain.chunks import CHUNK_BYTES, chunk_span
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.tickets import Tickets
from modelexpress.observability.metrics import Metrics
from modelexpress.server.data import DataOptions, DataPlane, Offered
from modelexpress.store.given import GivenOut
from modelexpress.store.journal import Header, Journal
from modelexpress.store.layout import Layout
from modelexpress.store.offers import Offer, Offers, Standing
from modelexpress.store.partial import Partial

ACCEPT = {"MX-Unproven": "accept"}
SECONDS = 20.0


class Desk:
    """What a data plane serves in a test: files that stand, and files that arrive when the test says so."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        layout = Layout(root)
        layout.given.mkdir(parents=True)
        self.given = GivenOut(layout)
        self.offers = Offers(self.given)
        self.tickets = Tickets.with_new_key()
        self.metrics = Metrics("test", "sqlite", "")
        self.problem: str | None = None
        self.plane: DataPlane | None = None
        self._stack = stack
        self._names = iter(range(1_000_000))

    @contextmanager
    def running(self, **options: float) -> Iterator[DataPlane]:
        chosen = DataOptions("127.0.0.1", 0, **{"drain_seconds": 0.0, **options})  # type: ignore[arg-type]
        offered = Offered(self.offers, self.tickets, lambda: self.problem)
        with DataPlane(offered, chosen, self.metrics, SYSTEM_CLOCK) as self.plane:
            yield self.plane

    # -- offers

    def stand(self, data: bytes) -> Offer:
        path = self._new_path()
        path.write_bytes(data)
        return self.stand_at(path)

    def stand_at(self, path: Path) -> Offer:
        entry = FileEntry(path.name, path.stat().st_size)
        return self.offers.stand("m", "c", entry, self.standing(path))

    def standing(self, path: Path) -> Standing:
        return Standing(path, path.stat().st_mtime_ns, path.with_suffix(".list"))

    def awaited(self, size: int) -> Offer:
        entry = FileEntry(self._new_path().name, size)
        return self._stack.enter_context(self.offers.pulled("m", "c", [entry]))[entry.path]

    def arrive(self, offer: Offer) -> Partial:
        """A partial file for an offer, which it becomes."""
        path = self._new_path()
        journal = Journal(path.with_suffix(".journal"), Header("m", path.name, offer.size, ""))
        partial = Partial(path, offer.size, journal, lambda _: offer.changed())
        self._stack.callback(partial.close)
        offer.become(partial)
        return partial

    def prove(self, offer: Offer, partial: Partial) -> None:
        """Publish it by a rename, as the store does."""
        target = self._new_path()
        partial.path.rename(target)
        offer.become(self.standing(target))

    def _new_path(self) -> Path:
        return self.root / f"file-{next(self._names)}"

    # -- clients

    def ticket(self, offer: Offer, age_seconds: float = 0.0) -> str:
        return self.tickets.issue(offer.id, time.time() - age_seconds)

    def path(self, offer: Offer, what: str = "blobs") -> str:
        return f"/-/{what}/{self.ticket(offer)}"

    @contextmanager
    def line(self, receive_bytes: int = 0, segment_bytes: int = 0) -> Iterator[Line]:
        """One connection; small windows make a reader that does not read block the server soon."""
        assert self.plane is not None and self.plane.port is not None
        with socket.socket() as sock:
            sock.settimeout(SECONDS)
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            if segment_bytes:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment_bytes)
            sock.connect(("127.0.0.1", self.plane.port))
            yield Line(sock)

    def fetch(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
        """One request on a connection of its own; `_` in a header's name is `-`."""
        assert self.plane is not None and self.plane.port is not None
        connection = HTTPConnection("127.0.0.1", self.plane.port, timeout=SECONDS)
        try:
            connection.request(method, path, headers={n.replace("_", "-"): v for n, v in headers.items()})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    # -- what is left

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def wait_quiet(self, *offers: Offer) -> None:
        """Until no connection is open and no reader listens any more."""
        wait_until(lambda: self.count("mx_data_connections") == 0 and not any(o._listeners for o in offers))


class Line:
    """A client that reads as much as the test tells it to."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._rest = b""

    def ask(self, path: str, method: str = "GET", **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{n}: {v}" for n, v in headers.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._rest:
            data = self.socket.recv(65536)
            assert data, "the connection ended before the headers"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = text.decode().split("\r\n")
        return int(first.split()[1]), {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}

    def read(self, count: int) -> bytes:
        """Exactly so many bytes, or fewer when the connection ends."""
        parts = [self._rest[:count]]
        self._rest = self._rest[count:]
        left = count - len(parts[0])
        while left:
            try:
                data = self.socket.recv(min(left, 1024 * 1024))
            except ConnectionError:
                break
            if not data:
                break
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def has_more(self, seconds: float) -> bool:
        """Whether a byte comes within so long."""
        self.socket.settimeout(seconds)
        try:
            self._rest += self.socket.recv(1)
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(SECONDS)
        return bool(self._rest)


def put(partial: Partial, data: bytes, *indices: int) -> None:
    """Let these chunks of `data` arrive."""
    for index in indices:
        span = chunk_span(index, len(data))
        partial.put(index, memoryview(data)[span.start : span.end])


def chunks_of_bytes(count: int, rest: int = 0) -> bytes:
    """`count` chunks and `rest` bytes more, no two alike."""
    return random.Random(count * 1000 + rest).randbytes(count * CHUNK_BYTES + rest)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def resident_bytes() -> int:
    """The memory of this process that is its own: mapped files and shared pages do not count."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
