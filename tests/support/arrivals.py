# SPDX-License-Identifier: Apache-2.0
"""What tests of arriving files share: cheap content, origins that count, pools that can be held."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from modelexpress.domain.chunks import CHUNK_BYTES, DIGEST_BYTES, chunk_span, count_chunks
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion
from modelexpress.store.arriving import Watch
from modelexpress.store.blobs import Blobs
from modelexpress.store.disk import DiskPool
from modelexpress.store.layout import Layout
from modelexpress.store.offers import Offer
from modelexpress.store.records import Records
from modelexpress.store.survey import Finding, Presence
from modelexpress.store.volume import Process
from modelexpress.store.window import RangedSource, Slots

REF = ModelRef.parse("org/name")
PIECE_BYTES = 1024 * 1024


@functools.lru_cache(maxsize=16)
def content_of(size: int, seed: int = 0) -> bytes:
    """`size` bytes of which no two chunks are the same; cheap to make."""
    return b"".join(
        bytes([1 + (index + 31 * seed) % 251]) * chunk_span(index, size).length
        for index in range(count_chunks(size))
    )


@functools.lru_cache(maxsize=32)
def entry_of(content: bytes, path: str = "model.safetensors") -> FileEntry:
    """The listing of a file with this content."""
    digest = Digest(DigestKind.SHA256, hashlib.sha256(content).hexdigest())
    return FileEntry(path, len(content), digest, "b" * 40)


def absent(layout: Layout, entry: FileEntry) -> Finding:
    """What a survey says of a file that is not here."""
    repository = layout.repository(REF)
    path = repository.path / "nowhere" if entry.digest is None else repository.blob(entry.digest)
    return Finding(entry, Presence.ABSENT, path, owned=None)  # type: ignore[arg-type]


def digests_of(content: bytes) -> bytes:
    """The BLAKE3 of each chunk, by hand."""
    starts = range(0, len(content), CHUNK_BYTES)
    return b"".join(blake3(content[start : start + CHUNK_BYTES]).digest() for start in starts)


def chunk_of(content: bytes, index: int) -> memoryview:
    """The bytes of one chunk."""
    return memoryview(content)[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


class OneClaim:
    """A claim keeper for a single process: one holder of a name at a time."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    def held(self, name: str, what: str) -> AbstractAsyncContextManager[object]:
        return self._locks.setdefault(name, asyncio.Lock())


BeforePiece = Callable[[int], Awaitable[None]]


async def _no_wait(offset: int) -> None:
    pass


class Origin:
    """A Reader over bytes in memory that counts what it gives; `before_piece` may wait, flip or raise."""

    def __init__(self, content: bytes, before_piece: BeforePiece = _no_wait) -> None:
        self.content = content
        self.before_piece = before_piece
        self.bytes_read = 0
        self.spans: list[ByteSpan] = []
        self.reading = 0
        self.most_reading = 0
        self.etag = "v1"
        self.piece_bytes = PIECE_BYTES

    async def read(self, entry: FileEntry, span: ByteSpan, on_version: OnVersion) -> AsyncIterator[bytes]:
        self.spans.append(span)
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        try:
            on_version("origin.test", self.etag)
            for start in range(span.start, span.end, self.piece_bytes):
                await self.before_piece(start)
                piece = self.content[start : min(start + self.piece_bytes, span.end)]
                self.bytes_read += len(piece)
                yield piece
        finally:
            self.reading -= 1


class Vouching(RangedSource):
    """A source that knows the list of the right chunks."""

    vouches_chunks = True

    def __init__(self, origin: Origin, pool: DiskPool, truth: bytes) -> None:
        super().__init__(origin, pool, Slots(lambda: 4))
        self.truth = digests_of(truth)
        self.asked = 0

    async def find_differing(self, entry: FileEntry, digests: bytes) -> list[int]:
        self.asked += 1
        n = DIGEST_BYTES
        pairs = range(count_chunks(entry.size))
        return [i for i in pairs if digests[i * n : i * n + n] != self.truth[i * n : i * n + n]]


@dataclass
class Gate:
    """Jobs of a pool that are held: `reached` by the first of them, and let go by `release`."""

    prefix: str
    times: int
    reached: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    async def wait_reached(self) -> None:
        """Return when a job stands at the gate."""
        assert await asyncio.to_thread(self.reached.wait, 20), f"no job {self.prefix!r} came"

    def release(self) -> None:
        """Let them go on."""
        self._released.set()

    def pass_through(self) -> None:
        """Called by the jobs themselves."""
        self.reached.set()
        assert self._released.wait(20), f"the gate of {self.prefix!r} was never opened"


class GatedPool(DiskPool):
    """A pool of which some jobs can be held before they begin, and that knows what runs and what ran."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: list[Gate] = []
        self.started: list[str] = []
        self.running = 0
        self._lock = threading.Lock()

    def hold(self, prefix: str, times: int = 1) -> Gate:
        """Hold the next `times` jobs whose description begins with `prefix`."""
        gate = Gate(prefix, times)
        self.gates.append(gate)
        return gate

    async def run(self, what: str, job: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().run(what, self._run_job, what, job, *args, **kwargs)

    def _run_job(self, what: str, job: Any, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self.running += 1
            gate = next((g for g in self.gates if g.times > 0 and what.startswith(g.prefix)), None)
            if gate is not None:
                gate.times -= 1
        try:
            if gate is not None:
                gate.pass_through()
            with self._lock:
                self.started.append(what)
            return job(*args, **kwargs)
        finally:
            with self._lock:
                self.running -= 1

    def close(self) -> None:
        for gate in self.gates:
            gate.release()
        super().close()


class Heard:
    """A Watch that keeps what it was told."""

    def __init__(self, size: int = 0) -> None:
        self.bytes: list[int] = []
        self.disk: list[int] = []
        self.offer = Offer("o" * 40, size)

    @property
    def watch(self) -> Watch:
        return Watch(self.bytes.append, self.disk.append, self.offer)


@dataclass
class Bench:
    """One cache directory and one session that obtains files in it."""

    layout: Layout
    pool: GatedPool
    blobs: Blobs

    def successor(self, owner: str) -> Bench:
        """Another session on the same directory."""
        return Bench(
            self.layout,
            self.pool,
            Blobs(self.layout, self.pool, OneClaim(), Records(self.layout, owner), owner),
        )

    def source(self, origin: Origin) -> RangedSource:
        return RangedSource(origin, self.pool, Slots(lambda: 4))

    async def obtain(self, entry: FileEntry, source: Any, heard: Heard | None = None) -> Any:
        watch = Watch() if heard is None else heard.watch
        return await self.blobs.obtain(self.layout.repository(REF), absent(self.layout, entry), source, watch)

    def parts(self) -> list[Path]:
        return sorted(self.layout.partials.iterdir())

    def blob(self, entry: FileEntry) -> Path:
        assert entry.digest is not None
        return self.layout.repository(REF).blob(entry.digest)


def rewrite_writer(layout: Layout, **changes: object) -> None:
    """Let every journal here say that another process wrote it."""
    for journal in layout.partials.glob("*.journal"):
        head, _, rest = journal.read_bytes().partition(b"\n")
        row = json.loads(head)
        row["process"].update(changes)
        journal.write_bytes(json.dumps(row).encode() + b"\n" + rest)


def bury_writers(layout: Layout) -> None:
    """As if the processes that wrote the files here had been killed: their numbers are others' now."""
    rewrite_writer(layout, started="1")


def move_writers_away(layout: Layout) -> None:
    """As if the files here were written on a machine that nobody here can look into."""
    rewrite_writer(layout, host="far-away", boot="another boot")


def flip(path: Path, offset: int) -> None:
    """Damage one byte in place, as a disk does: through no descriptor of the writer."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(descriptor, 1, offset)
        os.pwrite(descriptor, bytes([byte[0] ^ 1]), offset)
    finally:
        os.close(descriptor)


def current_process() -> Process:
    """This process, as journals name it."""
    return Process.current()


def open_descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Return when `is_so`; fails after a while."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.001)
