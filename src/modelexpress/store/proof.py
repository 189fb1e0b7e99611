# SPDX-License-Identifier: Apache-2.0
"""Proving a file against what its origin vouches for."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from modelexpress.domain.chunks import CHUNK_BYTES, chunk_span, count_chunks
from modelexpress.domain.errors import Cancelled
from modelexpress.domain.manifest import DigestKind, FileEntry
from modelexpress.domain.spans import ByteSpan
from modelexpress.domain.tasks import finish, finish_or_undo
from modelexpress.store.disk import DiskPool

STEP_BYTES = 4 * 1024 * 1024  # one job of the pool: short enough that others get their turn

MISSING = "missing"
"""The problem of a file that is not there."""

_NO_FILE = {
    errno.ENOENT: MISSING,
    errno.ENOTDIR: MISSING,
    errno.ELOOP: "a link that leads to itself",
    errno.ENXIO: "not a regular file",
}


def _ignore(count: int) -> None:
    pass


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class Prover:
    """Hashes one file in order and says how far it is proven. Not for several threads at once."""

    def __init__(self, entry: FileEntry) -> None:
        self._entry = entry
        self._hash = _hash_for(entry)
        self.length = 0

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""
        self.length += len(piece)
        if self._hash is not None:
            self._hash.update(piece)

    def find_problem(self) -> str | None:
        """What is wrong with the bytes taken so far as a whole file; None if they are proven."""
        digest = self._entry.digest
        if self.length != self._entry.size or self._hash is None or digest is None:
            return self.find_length_problem()
        found = self._hash.hexdigest()
        return None if found == digest.value else f"{digest.kind.value} {found} instead of {digest.value}"

    def find_length_problem(self) -> str | None:
        """What is wrong with the number of bytes taken so far; None if it is the entry's."""
        if self.length == self._entry.size:
            return None
        return f"{self.length} bytes instead of {self._entry.size}"

    def hexdigest(self) -> str:
        """The digest of the bytes taken so far, of the entry's kind; empty for an entry without a digest."""
        return "" if self._hash is None else self._hash.hexdigest()


def _hash_for(entry: FileEntry) -> _Hash | None:
    if entry.digest is None:
        return None
    if entry.digest.kind is DigestKind.GIT_BLOB:
        return hashlib.sha1(f"blob {entry.size}\0".encode(), usedforsecurity=False)
    return hashlib.sha256()


async def find_damage(pool: DiskPool, path: Path, entry: FileEntry) -> str | None:
    """Read the whole file at `path` and say what is wrong with it; None if it is what `entry` says.

    Raises StorageFailed when there is a file that cannot be read.
    """
    async with opened(pool, path) as descriptor:
        if isinstance(descriptor, str):
            return descriptor
        prover = Prover(entry)
        # Each step to its end even when cancelled: the file must not be closed under it.
        while await finish(pool.run(f"reading {entry.path}", _take_step, descriptor, prover)):
            if prover.length > entry.size:
                break
        return prover.find_problem()


async def prove_chunks(pool: DiskPool, path: Path, entry: FileEntry) -> bytes | str:
    """The BLAKE3 of every chunk of the file at `path`, 32 bytes each; or what is wrong with the file.

    In the same reading it is proven to be what `entry` says: a list of wrong bytes would vouch for them.
    """
    reading = await read_whole(pool, path, entry)
    return reading.digests if reading.problem is None else reading.problem


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of a file found: its `problem` (None: it is proven), and the BLAKE3 of its chunks.

    `digests` is empty for a file that was not read because it is not there, or has another size.
    `mtime_ns` is the time that the file had before it was read.
    """

    problem: str | None
    digests: bytes = b""
    mtime_ns: int = 0


async def read_whole(
    pool: DiskPool, path: Path, entry: FileEntry, on_bytes: Callable[[int], None] = _ignore
) -> Reading:
    """Read the file at `path` once, for the digest of `entry` and those of all chunks.

    `on_bytes` hears of each chunk. Raises StorageFailed when there is a file that cannot be read.
    """
    what = f"reading {entry.path}"
    async with opened(pool, path) as descriptor:
        if isinstance(descriptor, str):
            return Reading(descriptor)
        status = await pool.run(what, os.fstat, descriptor)
        if status.st_size != entry.size:
            return Reading(f"{status.st_size} bytes instead of {entry.size}")
        prover, digests = Prover(entry), bytearray()
        buffer = memoryview(bytearray(min(CHUNK_BYTES, entry.size)))
        for index in range(count_chunks(entry.size)):
            span = chunk_span(index, entry.size)
            # Each step to its end even when cancelled: the file must not be closed under it.
            digests += await finish(pool.run(what, _take_chunk, descriptor, span, prover, buffer))
            on_bytes(span.length)
        return Reading(prover.find_problem(), bytes(digests), status.st_mtime_ns)


@asynccontextmanager
async def opened(pool: DiskPool, path: Path) -> AsyncIterator[int | str]:
    """A descriptor of the regular file at `path` for the body, or why there is none to be had."""
    what = f"reading {path.name}"

    async def close(descriptor: int | str) -> None:
        if isinstance(descriptor, int):
            try:
                await pool.run(what, os.close, descriptor)
            except Cancelled:  # whoever is torn away last at a stop finds the pool closed
                os.close(descriptor)

    descriptor = await finish_or_undo(pool.run(what, _open, path), close)
    try:
        yield descriptor
    finally:
        await finish(close(descriptor))


def _take_chunk(descriptor: int, span: ByteSpan, prover: Prover, buffer: memoryview) -> bytes:
    data = buffer[: os.preadv(descriptor, [buffer[: span.length]], span.start)]
    with suppress(OSError):  # the disk brings the next one while this one is hashed
        os.posix_fadvise(descriptor, span.end, CHUNK_BYTES, os.POSIX_FADV_WILLNEED)
    prover.update(data)
    return blake3(data).digest()


def _open(path: Path) -> int | str:
    """A descriptor, or why there is none to be had."""
    try:
        # Whatever stands here by mistake, a pipe say, must not keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            return _NO_FILE[error.errno]
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return "not a regular file"


def _take_step(descriptor: int, prover: Prover) -> bool:
    piece = os.read(descriptor, STEP_BYTES)
    prover.update(piece)
    return bool(piece)
