# SPDX-License-Identifier: Apache-2.0
"""Obtaining one file: what is here is proven, what is not is fetched once, proven, and put in place."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from modelexpress.domain.errors import Corrupt
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Proof
from modelexpress.domain.refs import shown
from modelexpress.domain.spans import ByteSpan
from modelexpress.domain.tasks import finish, finish_or_undo
from modelexpress.store.disk import DiskPool, make_directory, put_in_place, unique_name
from modelexpress.store.layout import Layout, Repository
from modelexpress.store.proof import Prover, find_damage
from modelexpress.store.records import HeldEntry
from modelexpress.store.survey import Finding, Presence

_WRITE_BYTES = 1024 * 1024  # one hand-over to the disk pool costs as much as hashing 100 KB
_READINGS = 2  # a failed first proof costs one more reading of that file, then it is the origin's fault

_log = logging.getLogger(__name__)

OnBytes = Callable[[int], None]


class Source(Protocol):
    """Where the bytes of a file come from: an origin, or a server that has them."""

    def read(self, entry: FileEntry, span: ByteSpan) -> AsyncIterator[bytes]:
        """The bytes of `span`, in order, exactly that many, or an MxError."""
        ...


class ClaimKeeper(Protocol):
    """Who may fetch: entered when nobody else alive is fetching the same thing."""

    def held(self, name: str, what: str) -> AbstractAsyncContextManager[object]:
        """Hold the claim `name` in the body."""
        ...


@dataclass(frozen=True, slots=True)
class Obtained:
    """A proven file. `entry` has a digest even where the origin gave none (see DigestKind.LOCAL_SHA256)."""

    entry: FileEntry
    held: HeldEntry
    bytes_fetched: int


class Blobs:
    """Makes single files present and proven. One fetch at a time for the same bytes of a repository."""

    def __init__(self, layout: Layout, pool: DiskPool, claims: ClaimKeeper, owner: str) -> None:
        self._layout = layout
        self._pool = pool
        self._claims = claims
        self._owner = owner

    async def obtain(
        self, repository: Repository, finding: Finding, source: Source, on_bytes: OnBytes
    ) -> Obtained:
        """The file of `finding`, proven: as it stands on disk, or fetched from `source`.

        `on_bytes` hears each number of bytes that counts as done, negative when a reading is thrown
        away. Raises Corrupt when the origin's bytes are wrong twice; leaves no file on any error.
        """
        entry = finding.entry
        if finding.presence is not Presence.ABSENT and await self._is_proven_now(finding):
            on_bytes(entry.size)
            return await self._as_it_stands(entry, finding.path)
        name = f"{repository.name}/{entry.digest or entry.path}"
        async with self._claims.held(name, f"{repository.name}: {entry.path}"):
            return await self._fetch_unless_here(repository, entry, source, on_bytes)

    async def _is_proven_now(self, finding: Finding) -> bool:
        if finding.entry.digest is None:
            return False  # nothing vouches for a file that somebody else left here
        problem = await find_damage(self._pool, finding.path, finding.entry)
        if problem is not None:
            _log.warning("%s is damaged (%s) and will be fetched again", finding.path, problem)
        return problem is None

    async def _as_it_stands(self, entry: FileEntry, path: Path) -> Obtained:
        status = await self._pool.run(f"looking at {entry.path}", os.stat, path)
        return Obtained(entry, HeldEntry(_proof_of(entry), status.st_mtime_ns), bytes_fetched=0)

    async def _fetch_unless_here(
        self, repository: Repository, entry: FileEntry, source: Source, on_bytes: OnBytes
    ) -> Obtained:
        # Somebody may have brought it while we waited for the claim; the same bytes under two paths too.
        if entry.digest is not None:
            blob = repository.blob(entry.digest)
            if await find_damage(self._pool, blob, entry) is None:
                on_bytes(entry.size)
                return await self._as_it_stands(entry, blob)
        for reading in range(1, _READINGS + 1):
            counted = _Counted(on_bytes)
            try:
                return await self._fetch(repository, entry, source, counted)
            except Corrupt as error:
                counted.take_back()
                if reading == _READINGS:
                    raise
                _log.warning("%s of %s: %s; reading it once more", shown(entry.path), repository.name, error)
        raise AssertionError("unreachable: the last reading returns or raises")

    async def _fetch(
        self, repository: Repository, entry: FileEntry, source: Source, counted: _Counted
    ) -> Obtained:
        partial = await _Partial.create(
            self._pool, self._layout.partials / unique_name(self._owner, ".part"), entry
        )
        try:
            async for piece in source.read(entry, ByteSpan(0, entry.size)):
                await partial.append(piece)
                counted.add(len(piece))
            proven, held = await partial.prove(repository.name)
            assert proven.digest is not None
            await self._pool.run(f"storing {entry.path}", _move, partial.path, repository.blob(proven.digest))
            return Obtained(proven, held, entry.size)
        finally:
            # A cancelled pull must not leave its file behind either.
            await finish(partial.discard())


class _Counted:
    """Bytes reported as done by one reading, so that a failed one can take them back."""

    def __init__(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        self._count = 0

    def add(self, count: int) -> None:
        self._count += count
        self._on_bytes(count)

    def take_back(self) -> None:
        self._on_bytes(-self._count)
        self._count = 0


class _Partial:
    """A file that is arriving under a name nobody else uses, hashed as it is written."""

    def __init__(self, pool: DiskPool, path: Path, entry: FileEntry, descriptor: int) -> None:
        self.path = path
        self._pool = pool
        self._entry = entry
        self._descriptor = descriptor
        # Where the origin gives no digest we take our own, to name the blob and to notice later damage.
        self._prover = Prover(entry if entry.digest else replace(entry, digest=_UNKNOWN))
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    @classmethod
    async def create(cls, pool: DiskPool, path: Path, entry: FileEntry) -> _Partial:
        async def undo(descriptor: int) -> None:
            await pool.run(f"closing {entry.path}", _close_and_remove, descriptor, path)

        creating = pool.run(f"creating a file for {entry.path}", _create, path)
        return cls(pool, path, entry, await finish_or_undo(creating, undo))

    async def append(self, piece: bytes) -> None:
        self._pending.append(piece)
        self._pending_bytes += len(piece)
        if self._pending_bytes >= _WRITE_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        pieces, self._pending, self._pending_bytes = self._pending, [], 0
        await self._pool.run(f"writing {self._entry.path}", self._write, pieces)

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._prover.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(self._descriptor, view) :]

    async def prove(self, repository_name: str) -> tuple[FileEntry, HeldEntry]:
        await self._flush()
        entry = self._entry
        if entry.digest is None:
            entry = replace(entry, digest=Digest(DigestKind.LOCAL_SHA256, self._prover.hexdigest()))
            problem = self._prover.find_length_problem()
        else:
            problem = self._prover.find_problem()
        if problem is not None:
            raise Corrupt(f"{repository_name}: file {shown(entry.path)} arrived wrong: {problem}")
        mtime_ns = await self._pool.run(f"storing {entry.path}", _make_durable, self._descriptor)
        return entry, HeldEntry(_proof_of(entry), mtime_ns)

    async def discard(self) -> None:
        await self._pool.run(f"closing {self._entry.path}", _close_and_remove, self._descriptor, self.path)


_UNKNOWN = Digest(DigestKind.LOCAL_SHA256, "0" * 64)


def _proof_of(entry: FileEntry) -> Proof:
    return Proof.TRANSPORT if entry.digest is None else entry.digest.proof


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _make_durable(descriptor: int) -> int:
    os.fsync(descriptor)
    return os.fstat(descriptor).st_mtime_ns


def _move(partial: Path, blob: Path) -> None:
    make_directory(blob.parent)
    put_in_place(partial, blob)


def _close_and_remove(descriptor: int, path: Path) -> None:
    os.close(descriptor)
    path.unlink(missing_ok=True)
