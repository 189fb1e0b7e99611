# SPDX-License-Identifier: Apache-2.0
"""The pull: list, promise, fetch, publish; one pass, no step looks back."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelexpress.cache.access import Access, get_provider, is_outage
from modelexpress.cache.flights import PullState
from modelexpress.cache.leases import Lease
from modelexpress.cache.marks import is_open
from modelexpress.cache.parts import CacheParts
from modelexpress.cache.space import Needs, OnSpend
from modelexpress.domain.caller import STRANGER, Caller
from modelexpress.domain.errors import Corrupt, Internal, MxError, NoRoom, NotFound, StorageFailed
from modelexpress.domain.held import Pulled
from modelexpress.domain.manifest import FileEntry, Manifest, Proof
from modelexpress.domain.progress import Phase, Progress, format_bytes
from modelexpress.domain.refs import ModelRef, shown
from modelexpress.domain.selection import Selection, is_ancillary
from modelexpress.domain.spans import ByteSpan
from modelexpress.domain.tasks import finish, run_bounded
from modelexpress.providers import OnVersion, Provider
from modelexpress.store.arriving import Room, Watch
from modelexpress.store.blobs import Obtained, Source
from modelexpress.store.offers import Offer
from modelexpress.store.publish import Publication, Vanished
from modelexpress.store.records import CompleteSelection, HeldEntry, Owned, SnapshotRecord
from modelexpress.store.survey import Finding, Presence, survey

_ATTEMPTS = 3  # while another program takes away what was brought

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to pull: a resolved commit and the selection of its files, for whom.

    `single`: this one file alone, whatever else the commit has; it makes no selection complete.
    `is_of_mirror`: only a mirror has said what it is.
    """

    ref: ModelRef
    commit: str
    selection: Selection
    caller: Caller
    is_stale: bool
    single: FileEntry | None = None
    is_of_mirror: bool = False

    def choose(self, files: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """The files that are wanted."""
        if self.single is None:
            return self.selection.choose(files)
        return tuple(entry for entry in files if entry.path == self.single.path)


class OriginReader:
    """The bytes of a manifest's files, read at its origin."""

    def __init__(self, provider: Provider, manifest: Manifest, caller: Caller) -> None:
        self._provider = provider
        self._manifest = manifest
        self._caller = caller

    def read(self, entry: FileEntry, span: ByteSpan, on_version: OnVersion) -> AsyncIterator[bytes]:
        """The bytes of `span` of `entry`, in order."""
        return self._provider.read(self._manifest, entry, span, self._caller, on_version)


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told what the files of a pull become: readers, by path, and the space that was promised.

    `wait_owned`: until it is on record which of them are going to be ours.
    """

    offers: Mapping[str, Offer]
    spend: OnSpend
    room: Room
    wait_owned: Callable[[], Awaitable[object]]


class Pull:
    """One run of the use case; keeps what its steps found."""

    def __init__(
        self,
        parts: CacheParts,
        request: PullRequest,
        state: PullState,
        lease: Lease,
        access: Access,
        tell: Callable[[SnapshotRecord], SnapshotRecord],
    ) -> None:
        self._parts = parts
        self._access = access
        self._tell = tell  # adds what the origin has said of the commit
        self._lease = lease
        self._request = request
        self._state = state
        self._provider = get_provider(parts.providers, request.ref)
        self._repository = parts.layout.repository(request.ref)
        self._obtained: dict[str, Obtained] = {}
        self._stood: dict[str, HeldEntry] = {}
        self._missing: list[str] = []
        self._lost: frozenset[str] = frozenset()  # recorded as held, and found gone
        self._owned: dict[str, Owned] = {}
        self._started = parts.clock.monotonic()
        self._fetched = 0
        self._is_listed = False  # whether the manifest is the origin's, with all files of the commit
        self._is_open = False  # whether the origin lets this caller have what proves it: see `_find_open`
        self._known: SnapshotRecord | None = None  # what was here of the commit, whoever brought it
        self._refused: set[str] = set()  # whom the origin has refused since this pull began
        self._begun: list[FileEntry] = []  # the files that were asked of the origin
        self._resumed: set[str] = set()  # those of which another pull has left some

    async def run(self) -> Pulled:
        """List, promise, fetch, publish. Raises the domain error of the step that failed."""
        try:
            with self._access.marks.watching(self._request.ref.repository) as self._refused:
                return await self._run()
        except (Corrupt, NoRoom, StorageFailed):
            await self._drop_begun()
            raise

    async def _run(self) -> Pulled:
        single = self._request.single
        ref, commit = self._request.ref, self._request.commit
        is_of_mirror = self._request.is_of_mirror
        manifest = await self._list() if single is None else Manifest(ref, commit, (single,), is_of_mirror)
        chosen = self._request.choose(manifest.files)
        if not chosen:
            raise NotFound(f"no file of {self._request.ref} matches the selection; check include and exclude")
        for _ in range(_ATTEMPTS):
            try:
                return await self._bring(manifest, chosen)
            except Vanished as error:
                self._lost |= error.paths
                _log.warning("%s: another program takes files away here (%s)", self._request.ref, error)
        raise StorageFailed(
            f"{self._request.ref}: {shown(min(self._lost))} was taken away while the model was pulled, "
            f"{_ATTEMPTS} times; let no other program remove files in {self._parts.layout.root}"
        )

    async def _bring(self, manifest: Manifest, chosen: Sequence[FileEntry]) -> Pulled:
        self._obtained, self._stood, self._missing = {}, {}, []
        what = f"looking at {self._request.ref}"
        findings, wanted = await self._parts.pool.run(what, self._survey_blocking, manifest, chosen)
        needs = Needs(self._lease, self._needed_blobs(findings))
        if needs.blobs:
            # An older revision that goes for room leaves them here: they must not be nobody's meanwhile.
            await self._save_ownership(manifest, findings)
        async with self._parts.space.promise(str(self._request.ref), wanted, needs) as spend:
            self._begin_counting(chosen)
            here = {f.entry.path for f in findings if f.presence is Presence.PROVEN}
            with self._parts.offers.pulled(self._repository.name, manifest.commit, chosen, here) as offers:
                self._state.list(manifest, manifest.only(entry.path for entry in chosen))
                room = functools.partial(self._parts.space.promise, str(self._request.ref), needs=needs)
                owned = asyncio.Event()
                watching = Watching(offers, spend, room, owned.wait)
                await self._save_and_fetch(manifest, findings, watching, owned)
                return await self._publish(manifest, chosen)

    async def _save_and_fetch(
        self, manifest: Manifest, findings: Iterable[Finding], watching: Watching, owned: asyncio.Event
    ) -> None:
        """Both at once: a disk that is slow to take the record keeps nobody from his first byte."""

        async def save() -> None:
            await self._save_ownership(manifest, findings)
            owned.set()

        async def fetch() -> None:
            await self._fetch(manifest, findings, watching)

        await run_bounded(2, (save, fetch), lambda job: job())

    def _needed_blobs(self, findings: Iterable[Finding]) -> frozenset[Path]:
        """Files of this model that are here, and need not be fetched for this commit."""
        here = (f.entry.digest for f in findings if f.presence is not Presence.ABSENT)
        return frozenset(self._repository.blob(digest) for digest in here if digest is not None)

    async def _list(self) -> Manifest:
        known = await self._find_record()
        if known is not None and known.is_listed_by_origin and self._may_see(known):
            self._is_listed = True
            return known.manifest
        request = self._request
        try:
            manifest = await self._provider.list_files(request.ref, request.commit, request.caller)
        except MxError as error:
            if known is None or request.selection.key not in known.selections or not is_outage(error):
                raise
            return known.manifest  # as complete as its record says
        if manifest.is_of_mirror:
            return manifest if known is None else replace(known.joined(manifest).manifest, is_of_mirror=True)
        self._is_listed = True
        if known is not None:
            await self._relist(manifest)
        return manifest

    def _may_see(self, record: SnapshotRecord) -> bool:
        """Whether the listing is this caller's to see; one with a token was asked about before."""
        caller = self._request.caller
        if caller.hub_token is not None:
            return True
        return is_open(record, caller)

    async def _relist(self, manifest: Manifest) -> None:
        """Put the origin's listing in place of one that was made of what is here, and may lack files."""
        async with self._parts.turns.of(self._repository.name):
            record = await self._find_record()
            if record is not None and not record.is_listed_by_origin:
                await self._save(self._relisted(record, manifest))

    def _relisted(self, record: SnapshotRecord, manifest: Manifest) -> SnapshotRecord:
        """The record with the origin's listing, where this pull has one and the record has none.

        Or else with what this pull was told beside it: of one file, or by a mirror.
        """
        is_single, paths = self._request.single is not None, {entry.path for entry in record.manifest.files}
        if record.is_listed_by_origin and (not is_single or paths.issuperset(e.path for e in manifest.files)):
            return record
        if is_single or manifest.is_of_mirror:
            return record.joined(manifest)
        if not self._is_listed:
            return record
        said = {entry.path: entry.digest for entry in record.manifest.files}
        same = {entry.path for entry in manifest.files if said.get(entry.path) == entry.digest}
        return replace(
            record,
            manifest=self._new_record(manifest).manifest,
            is_listed_by_origin=True,
            of_mirror=frozenset(),
            held={path: held for path, held in record.held.items() if path in same},
            selections={},
        )

    async def _save(self, record: SnapshotRecord) -> None:
        # To its end even when cancelled: whoever removes the model waits for us, not for a thread.
        await finish(
            self._parts.pool.run(
                f"saving the record of {self._request.ref}", self._parts.records.save, record
            )
        )

    async def _find_record(self) -> SnapshotRecord | None:
        ref, commit = self._request.ref, self._request.commit
        return await self._parts.pool.run(
            f"reading the record of {ref}", self._parts.records.find, ref, commit
        )

    def _survey_blocking(self, manifest: Manifest, chosen: Sequence[FileEntry]) -> tuple[list[Finding], int]:
        """What there is of the files, and how many bytes of the disk the rest will take."""
        records = self._parts.records.find_all(self._request.ref)
        findings = survey(self._repository, manifest, chosen, records)
        held = (record for record in records if record.held)
        self._known = next((one for one in held if one.manifest.commit == self._request.commit), None)
        absent = [f.entry for f in findings if f.presence is Presence.ABSENT]
        # Interrupted pulls have taken some from the disk already, for these very files.
        partials = self._parts.blobs.partials
        taken = {entry.path: partials.allocated_bytes(self._repository, [entry]) for entry in absent}
        self._resumed |= {path for path, size in taken.items() if size}
        return findings, sum(entry.size for entry in absent) - sum(taken.values())

    async def _save_ownership(self, manifest: Manifest, findings: Iterable[Finding]) -> None:
        """Say what is going to be ours before it exists, so that no crash makes it nobody's."""
        for finding in findings:
            before = self._owned.get(finding.entry.path, Owned())
            now = finding.owned
            # Once ours it stays ours, though another program has removed the record that said so.
            self._owned[finding.entry.path] = Owned(before.blob or now.blob, before.link or now.link)
        owned = self._owned
        async with self._parts.turns.of(self._repository.name):
            found = await self._find_record() or self._new_record(manifest)
            record = self._relisted(found, manifest)
            if record is found and all(record.owned.get(path) == claim for path, claim in owned.items()):
                return
            await self._save(replace(record, owned={**record.owned, **owned}))

    def _new_record(self, manifest: Manifest) -> SnapshotRecord:
        return SnapshotRecord(
            Manifest(manifest.ref.repository, manifest.commit, manifest.files),
            is_listed_by_origin=self._request.single is None and not manifest.is_of_mirror,
            is_read_by_server=False,
            of_mirror=frozenset(e.path for e in manifest.files) if manifest.is_of_mirror else frozenset(),
        )

    def _begin_counting(self, chosen: Sequence[FileEntry]) -> None:
        total = sum(entry.size for entry in chosen)
        self._state.progress = Progress(Phase.DOWNLOADING, 0, total, 0, len(chosen))

    async def _fetch(self, manifest: Manifest, findings: Iterable[Finding], watching: Watching) -> None:
        source = self._parts.make_source(self._provider, manifest, self._request.caller)

        async def obtain(finding: Finding) -> None:
            await self._obtain(finding, source, watching)

        # The largest first, so that none of them is still running alone at the end.
        ordered = sorted(findings, key=lambda finding: -finding.entry.size)
        await run_bounded(self._parts.rules.parallel_files, ordered, obtain)

    async def _obtain(self, finding: Finding, source: Source, watching: Watching) -> None:
        path, blobs = finding.entry.path, self._parts.blobs
        is_absent = finding.presence is Presence.ABSENT
        spend = watching.spend if is_absent else _ignore
        offer, wait_owned = watching.offers[path], watching.wait_owned
        watch = Watch(self._count, spend, offer, watching.room, wait_owned)
        if finding.presence is Presence.PROVEN:
            blobs.stand(finding.entry, finding.path, finding.mtime_ns, watch)
            if finding.entry.digest is not None:
                self._stood[path] = HeldEntry(finding.entry.digest.proof, finding.mtime_ns)
            self._count(finding.entry.size)
            self._file_done()
            return
        self._begun.append(finding.entry)
        try:
            self._obtained[path] = await blobs.obtain(self._repository, finding, source, watch)
        except NotFound as error:
            if self._request.single is not None or not is_ancillary(path):
                said = NotFound(f"{self._request.ref}: file {shown(path)} cannot be had: {error}")
                said.hub_status, said.hub_code = error.hub_status, error.hub_code
                raise said from error
            _log.warning(
                "%s: the origin lists %s but does not have it; going on", self._request.ref, shown(path)
            )
            self._missing.append(path)
            watching.offers[path].become(error)
        fetched = self._obtained[path].bytes_fetched if path in self._obtained else 0
        self._fetched += fetched
        # Of a gated model everybody may read the description: that proves nothing about the rest.
        self._is_open |= fetched > 0 and not is_ancillary(path)
        self._file_done()

    def _count(self, count: int) -> None:
        now = self._state.progress
        done = now.bytes_done + count
        seconds = max(self._parts.clock.monotonic() - self._started, 1e-3)
        self._state.progress = replace(now, bytes_done=done, bytes_per_second=done / seconds)

    def _file_done(self) -> None:
        now = self._state.progress
        self._state.progress = replace(now, files_done=now.files_done + 1)

    async def _publish(self, manifest: Manifest, chosen: Sequence[FileEntry]) -> Pulled:
        self._state.progress = replace(self._state.progress, phase=Phase.PUBLISHING)
        self._is_open = self._is_open or await self._find_open(chosen)
        async with self._parts.turns.of(self._repository.name):
            found = await self._find_record() or self._new_record(manifest)
            record = self._completed(self._relisted(found, manifest), chosen)
            names = self._state.revisions if self._request.single is None else ()
            publication = Publication(self._repository, record, frozenset(names))
            # Not to be torn by a cancellation: it is short, and safe to find half done only after a crash.
            await finish(
                self._parts.pool.run(
                    f"publishing {self._request.ref}", self._parts.publisher.publish, publication
                )
            )
        await self._parts.remember(record)
        await self._join_twins()
        seconds = self._parts.clock.monotonic() - self._started
        name = f"{self._repository.name}@{manifest.commit[:12]}"
        size, single = format_bytes(self._fetched), self._request.single
        what = f"{len(chosen)} files" if single is None else shown(single.path)
        _log.info("%s: %s, %s fetched in %.1f s", name, what, size, seconds)
        self._parts.meter.count(
            "mx_origin_bytes_total", self._fetched, provider=self._request.ref.provider.value
        )
        return describe(self._parts, record, self._request, was_hit=False, bytes_fetched=self._fetched)

    async def _drop_begun(self) -> None:
        """Nobody is going to go on from these; what other pulls left is theirs."""
        what, partials = f"removing partial files of {self._request.ref}", self._parts.blobs.partials
        begun = [entry for entry in self._begun if entry.path not in self._resumed]
        await finish(self._parts.pool.run(what, partials.delete_of, self._repository, begun))

    async def _find_open(self, chosen: Iterable[FileEntry]) -> bool:
        """Whether the origin lets this caller, who has no token, read the repository, though it sent nothing.

        Files that others brought, or another tool, say nothing of him, and a record nothing of another
        commit: it is asked, unless it has said yes since they were here.
        """
        ref, caller = self._request.ref, self._request.caller
        if caller.hub_token is not None or all(is_ancillary(entry.path) for entry in chosen):
            return False
        if self._known is not None and is_open(self._known, caller):
            return True
        try:
            since = None if self._known is None else self._started
            return await self._access.is_allowed(caller, ref, since)
        except MxError as error:
            if not is_outage(error):
                raise
            return False

    def _is_anybody(self) -> bool:
        request, is_refused = self._request, STRANGER.fingerprint in self._refused
        return not is_refused and self._access.is_anybody(request.caller, request.ref)

    async def _join_twins(self) -> None:
        """Let the same bytes in other repositories be one file with those that were proven now."""
        for obtained in self._obtained.values():
            digest, saved = obtained.entry.digest, 0
            if digest is None:
                continue
            for twin in obtained.twins:
                what, blob = f"joining {shown(obtained.entry.path)}", self._repository.blob(digest)
                async with self._parts.turns.of(twin.ref.name):
                    saved += await self._parts.pool.run(what, self._parts.blobs.twins.join, twin, blob)
            if saved:
                others = ", ".join(twin.ref.name for twin in obtained.twins)
                _log.info("%s: %s were in %s too", self._repository.name, format_bytes(saved), others)

    def _completed(self, record: SnapshotRecord, chosen: Sequence[FileEntry]) -> SnapshotRecord:
        kept = {path: held for path, held in record.held.items() if path not in self._lost}
        held = {**kept, **self._stood, **{path: o.held for path, o in self._obtained.items()}}
        selections = {k: s for k, s in record.selections.items() if not self._lost}
        digests = {path: o.entry for path, o in self._obtained.items()}
        files = tuple(digests.get(entry.path, entry) for entry in record.manifest.files)
        if self._request.single is not None:
            single = {} if self._lost else dict(record.selections)
            return self._recorded(record, files, held, single)
        done = CompleteSelection(self._parts.clock.wall(), tuple(sorted(self._missing)))
        lost = [e.path for e in chosen if e.path not in held and e.path not in done.missing]
        if lost:
            raise Internal(f"{self._request.ref}: {shown(lost[0])} was not obtained and not reported missing")
        return self._recorded(record, files, held, {**selections, self._request.selection.key: done})

    def _recorded(
        self,
        record: SnapshotRecord,
        files: tuple[FileEntry, ...],
        held: Mapping[str, HeldEntry],
        selections: Mapping[str, CompleteSelection],
    ) -> SnapshotRecord:
        caller = self._request.caller
        # What another caller's token brought is not the server's because somebody without one asks; and the
        # origin's last word counts, which was perhaps a no while the bytes came.
        is_open = caller.hub_token is None and self._is_open and caller.fingerprint not in self._refused
        # Strangers may have been shown the commit before there was a record to say so.
        is_shown = self._access.has_shown(STRANGER, self._request.ref.repository, self._request.commit)
        recorded = replace(
            record,
            manifest=Manifest(record.manifest.ref, record.manifest.commit, files),
            is_read_by_server=record.is_read_by_server or is_open or is_shown,
            is_public=record.is_public or is_shown or (is_open and self._is_anybody()),
            held=held,
            # Saved before the first byte; but another program may have removed the record meanwhile.
            owned={**{p: Owned() for p in self._obtained}, **self._owned, **record.owned},
            selections=selections,
        )
        return self._tell(recorded)


def _ignore(count: int) -> None:
    pass


def describe(
    parts: CacheParts, record: SnapshotRecord, request: PullRequest, was_hit: bool, bytes_fetched: int = 0
) -> Pulled:
    """What a caller is told of a complete selection."""
    done = record.selections.get(request.selection.key, CompleteSelection(0.0))
    chosen = request.choose(record.manifest.files)
    present = record.manifest.only(e.path for e in chosen if e.path in record.held)
    grades = {record.held[entry.path].proof for entry in present.files}
    return Pulled(
        manifest=present,
        path=str(parts.layout.repository(request.ref).snapshot(request.commit)),
        volume=parts.volume,
        proof=Proof.TRANSPORT if Proof.TRANSPORT in grades else Proof.DIGEST,
        was_hit=was_hit,
        is_stale=request.is_stale,
        missing=done.missing,
        bytes_fetched=bytes_fetched,
    )
