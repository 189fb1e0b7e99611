# SPDX-License-Identifier: Apache-2.0
"""Proving a file against what its origin vouches for."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Protocol

from modelexpress.domain.manifest import DigestKind, FileEntry
from modelexpress.domain.tasks import finish, finish_or_undo
from modelexpress.store.disk import DiskPool

STEP_BYTES = 4 * 1024 * 1024  # one job of the pool: short enough that others get their turn

_NO_FILE = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ELOOP: "a link that leads to itself",
    errno.ENXIO: "not a regular file",
}


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Prover:
    """Hashes one file in order and says how far it is proven. Not for several threads at once."""

    def __init__(self, entry: FileEntry) -> None:
        self._entry = entry
        self._hash = _hash_for(entry)
        self.length = 0

    def update(self, piece: bytes) -> None:
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
    what = f"reading {entry.path}"

    async def close(descriptor: int | str) -> None:
        if isinstance(descriptor, int):
            await pool.run(what, os.close, descriptor)

    descriptor = await finish_or_undo(pool.run(what, _open, path), close)
    if isinstance(descriptor, str):
        return descriptor
    try:
        prover = Prover(entry)
        while await pool.run(what, _take_step, descriptor, prover):
            if prover.length > entry.size:
                break
        return prover.find_problem()
    finally:
        await finish(close(descriptor))


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
