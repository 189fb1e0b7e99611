# SPDX-License-Identifier: Apache-2.0
"""Obtaining one file: what is here is proven, what is not is fetched once, proven, and put in place."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Corrupt, NoRoom, StorageFailed
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Proof
from modelexpress.domain.refs import shown
from modelexpress.domain.tasks import finish, finish_or_undo
from modelexpress.store.arriving import Arriving, Damaged, Watch
from modelexpress.store.digests import DigestList, DigestLists
from modelexpress.store.disk import DiskPool, make_directory, put_in_place
from modelexpress.store.layout import Layout, Repository
from modelexpress.store.offers import Standing
from modelexpress.store.partial import Partial
from modelexpress.store.partials import Partials
from modelexpress.store.proof import find_damage
from modelexpress.store.records import HeldEntry, Records
from modelexpress.store.survey import Finding, Presence
from modelexpress.store.twins import Twin, Twins

_READINGS = 2  # a failed first proof costs one more reading of that file, then it is the origin's fault
_REPAIRS = 3  # of chunks that are not what the list says, before the list counts as wrong

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where the bytes of a file come from: an origin, or a server that has them."""

    vouches_chunks: bool
    """True: it is a VouchingSource. False: the file's own digest has to prove it."""

    async def fill(self, entry: FileEntry, partial: Partial) -> None:
        """Bring every chunk that is missing, or raise an MxError."""
        ...


class VouchingSource(Source, Protocol):
    """A source that has proven the file itself, or is about to."""

    async def find_differing(self, entry: FileEntry, digests: bytes) -> list[int]:
        """Wait until the source has proven the file; the chunks whose BLAKE3 is not what it proved.

        `digests`: of every chunk in order, 32 bytes each.
        """
        ...


class ClaimKeeper(Protocol):
    """Who may fetch: entered when nobody else alive is fetching the same thing."""

    def held(self, name: str, what: str) -> AbstractAsyncContextManager[object]:
        """Hold the claim `name` in the body."""
        ...


@dataclass(frozen=True, slots=True)
class Obtained:
    """A proven file. `entry` has a digest even where the origin gave none (see DigestKind.LOCAL_SHA256).

    `twins`: the same bytes in other repositories, which can be joined with it; they have the same time.
    """

    entry: FileEntry
    held: HeldEntry
    bytes_fetched: int
    twins: tuple[Twin, ...] = ()


class Blobs:
    """Makes single files present and proven. One fetch at a time for the same bytes of a repository."""

    def __init__(
        self, layout: Layout, pool: DiskPool, claims: ClaimKeeper, records: Records, owner: str
    ) -> None:
        self._pool = pool
        self._claims = claims
        self.partials = Partials(layout, owner)
        self.lists = DigestLists(layout, owner)
        self.twins = Twins(layout, records, owner)

    async def obtain(
        self, repository: Repository, finding: Finding, source: Source, watch: Watch
    ) -> Obtained:
        """The file of `finding`, proven: as it stands on disk, or fetched from `source`.

        Of a damaged file the chunks that its recorded digest list vouches for are kept and not fetched
        again; it stays where it is until the mended one takes its place.
        Raises Corrupt when the origin's bytes are wrong twice: then no file is left. After any other error
        what has arrived is kept to be resumed, if only by others; but after NoRoom and StorageFailed only
        what others had begun.
        """
        entry = finding.entry
        if finding.presence is not Presence.ABSENT and await self._is_proven_now(finding):
            watch.on_bytes(entry.size)
            return await self._as_it_stands(entry, finding.path, watch)
        if finding.presence is Presence.ABSENT or watch.room is None:
            return await self._claim_and_fetch(repository, finding, source, watch)
        async with watch.room(entry.size) as spend:
            return await self._claim_and_fetch(repository, finding, source, replace(watch, on_disk=spend))

    async def _claim_and_fetch(
        self, repository: Repository, finding: Finding, source: Source, watch: Watch
    ) -> Obtained:
        entry = finding.entry
        name = f"{repository.name}/{entry.digest or entry.path}"
        async with self._claims.held(name, f"{repository.name}: {entry.path}"):
            return await self._fetch_unless_here(repository, finding, source, watch)

    def stand(self, entry: FileEntry, path: Path, mtime_ns: int, watch: Watch) -> None:
        """Offer a proven file to readers."""
        if watch.offer is not None and entry.digest is not None:
            watch.offer.become(Standing(path, mtime_ns, self.lists.path(entry.digest)))

    async def _is_proven_now(self, finding: Finding) -> bool:
        if finding.entry.digest is None:
            return False  # nothing vouches for a file that somebody else left here
        problem = await find_damage(self._pool, finding.path, finding.entry)
        if problem is not None:
            _log.warning("%s is damaged (%s) and will be fetched again", finding.path, problem)
        return problem is None

    async def _as_it_stands(self, entry: FileEntry, path: Path, watch: Watch) -> Obtained:
        status = await self._pool.run(f"looking at {entry.path}", os.stat, path)
        self.stand(entry, path, status.st_mtime_ns, watch)
        return Obtained(entry, HeldEntry(_proof_of(entry), status.st_mtime_ns), bytes_fetched=0)

    async def _fetch_unless_here(
        self, repository: Repository, finding: Finding, source: Source, watch: Watch
    ) -> Obtained:
        entry = finding.entry
        what = f"looking for {entry.path}"
        blob, damaged = await self._pool.run(what, self._look_again, repository, finding)
        if blob is not None and await find_damage(self._pool, blob, entry) is None:
            watch.on_bytes(entry.size)
            return await self._as_it_stands(entry, blob, watch)
        for reading in range(1, _READINGS + 1):
            # In the second reading nothing is believed: the list itself may be what is wrong.
            arriving = Arriving(self._pool, entry, watch, damaged if reading == 1 else None)
            try:
                # What turned out to be wrong is not gone on from, whoever else left it here.
                partial = await self._open(repository, entry, arriving, is_resumed=reading == 1)
                return await self._fetch(repository, arriving, partial, source)
            except Corrupt as error:
                if reading == _READINGS:
                    raise
                _log.warning("%s of %s: %s; reading it once more", shown(entry.path), repository.name, error)
        raise AssertionError("unreachable: the last reading returns or raises")

    def _look_again(self, repository: Repository, finding: Finding) -> tuple[Path | None, Damaged | None]:
        """The blob, if there is one: somebody may have brought it while we waited for the claim.

        And what its chunks are, if there is a list of that, with the file that stands damaged at its place.
        """
        entry = finding.entry
        if entry.digest is None:
            return None, None
        blob, damaged = repository.blob(entry.digest), None
        if entry.size > CHUNK_BYTES:  # one that has gone may be known too, from an earlier proof
            known = self.lists.find(entry.digest, entry.size)
            damaged = None if known is None else Damaged(finding.path, known)
        return blob if blob.exists() else None, damaged

    async def _fetch(
        self, repository: Repository, arriving: Arriving, partial: Partial, source: Source
    ) -> Obtained:
        entry, is_kept = arriving.entry, False
        try:
            await arriving.begin(partial)
            await arriving.keep_undamaged()
            proven = await self._prove(repository, arriving, source)
            assert proven.digest is not None
            await arriving.prove()
            await arriving.watch.wait_owned()
            blob, what = repository.blob(proven.digest), f"looking for equals of {entry.path}"
            twins = await self._pool.run(what, self.twins.find, repository, proven.digest, entry.size)
            mtime_ns = await finish(self._pool.run(f"storing {entry.path}", _store, partial, blob, twins))
            self.stand(proven, blob, mtime_ns, arriving.watch)
            return Obtained(proven, HeldEntry(_proof_of(entry), mtime_ns), arriving.fetched, twins)
        except BaseException as error:
            is_kept = _is_wanted_after(error, partial) and _is_worth_keeping(
                entry, partial, arriving.bytes_kept
            )
            arriving.end(is_kept)
            raise
        finally:
            # A cancelled pull must not leave an open file behind either.
            await finish(self._pool.run(f"closing {entry.path}", self.partials.release, partial, is_kept))

    async def _open(
        self, repository: Repository, entry: FileEntry, arriving: Arriving, is_resumed: bool
    ) -> Partial:
        async def undo(partial: Partial) -> None:
            is_kept = _is_worth_keeping(entry, partial)
            await self._pool.run(f"closing {entry.path}", self.partials.release, partial, is_kept)

        what = f"creating a file for {entry.path}"
        opening = self._pool.run(what, self.partials.open, repository, entry, arriving.hear, is_resumed)
        return await finish_or_undo(opening, undo)

    async def _prove(self, repository: Repository, arriving: Arriving, source: Source) -> FileEntry:
        """Bring the file and prove it; the entry with the digest that it has."""
        entry, partial = arriving.entry, arriving.partial
        if source.vouches_chunks and entry.digest is not None:
            await self._bring_by_list(repository, arriving, source)  # type: ignore[arg-type]
            return entry
        problem = await arriving.bring_and_hash(source.fill)
        if problem is not None and (damaged := await arriving.find_damaged()):
            # Our own disk did that, or a list knows them: those chunks alone are fetched again.
            _log.warning("%s: chunks %s of %s are wrong", repository.name, damaged, shown(entry.path))
            problem = await arriving.bring_again(damaged, source.fill)
        if problem is not None:
            raise Corrupt(f"{repository.name}: file {shown(entry.path)} arrived wrong: {problem}")
        if entry.digest is None:
            return replace(entry, digest=Digest(DigestKind.LOCAL_SHA256, arriving.hexdigest))
        await self._save_list(entry, partial)
        return entry

    async def _save_list(self, entry: FileEntry, partial: Partial) -> None:
        if entry.digest is not None and entry.size > CHUNK_BYTES:  # of one chunk it is made faster than read
            found = DigestList(entry.size, partial.digests)
            await finish(self._pool.run(f"recording {entry.path}", self.lists.save, entry.digest, found))

    async def _bring_by_list(
        self, repository: Repository, arriving: Arriving, source: VouchingSource
    ) -> None:
        entry, partial = arriving.entry, arriving.partial
        for _ in range(_REPAIRS):
            await source.fill(entry, partial)
            differing = await source.find_differing(entry, partial.digests)
            if not differing:
                await self._save_list(entry, partial)
                return
            _log.warning(
                "%s: %d chunks of %s are not what the server proved; fetching those again",
                repository.name, len(differing), shown(entry.path),
            )  # fmt: skip
            await arriving.forget(differing)
        raise Corrupt(
            f"{repository.name}: file {shown(entry.path)} does not become what the server proved, "
            f"after {_REPAIRS} attempts"
        )


def _is_wanted_after(error: BaseException, partial: Partial) -> bool:
    # How this caller was refused says nothing about the bytes, which others want, and may have brought.
    if isinstance(error, NoRoom | StorageFailed):
        return partial.is_taken_over
    return not isinstance(error, Corrupt)


def _is_worth_keeping(entry: FileEntry, partial: Partial, bytes_elsewhere: int = 0) -> bool:
    # Bytes that nothing vouches for are never mixed with those of another day.
    return entry.digest is not None and partial.arrived_bytes > bytes_elsewhere


def _proof_of(entry: FileEntry) -> Proof:
    return Proof.TRANSPORT if entry.digest is None else entry.digest.proof


def _store(partial: Partial, blob: Path, twins: tuple[Twin, ...]) -> int:
    mtime_ns = partial.sync()
    make_directory(blob.parent)
    put_in_place(partial.path, blob)
    if not twins:
        return mtime_ns
    # One file has one time, and theirs is on record. Not earlier: an old partial file is swept.
    os.utime(blob, ns=(twins[0].mtime_ns, twins[0].mtime_ns))
    return twins[0].mtime_ns
