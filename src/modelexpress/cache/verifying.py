# SPDX-License-Identifier: Apache-2.0
"""Proving snapshots again from their bytes: each file is read once, several at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from modelexpress.cache.parts import CacheParts
from modelexpress.cache.repairing import Repair
from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import MxError, NoRoom, StorageFailed
from modelexpress.domain.held import Damage, Flaw, OnProgress, Verified
from modelexpress.domain.inventory import SnapshotKey
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.progress import Phase, Progress
from modelexpress.domain.refs import shown
from modelexpress.domain.tasks import run_bounded
from modelexpress.store.digests import DigestList
from modelexpress.store.flaws import find_flaw
from modelexpress.store.proof import Reading, read_whole
from modelexpress.store.records import SnapshotRecord
from modelexpress.store.survey import place_of

_FILES_AT_ONCE = 3  # the disk pool has one worker more, for everybody else

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A snapshot to be proven again, and the files that should be there."""

    record: SnapshotRecord
    entries: tuple[FileEntry, ...]


class Verification:
    """One run over some snapshots. `is_repair` False: what is damaged is only told."""

    def __init__(
        self, parts: CacheParts, suspects: Sequence[Suspect], on_progress: OnProgress, is_repair: bool
    ) -> None:
        self._parts = parts
        self._suspects = suspects
        self._counter = _Counter([e for s in suspects for e in s.entries], on_progress, parts.clock)
        self._repair = Repair(parts, on_progress) if is_repair else None

    async def run(self) -> list[Verified]:
        """What was found of each snapshot, and repaired."""
        found = []
        for suspect in self._suspects:
            async with self._parts.leases.held(SnapshotKey.of(suspect.record.manifest).model, "verified"):
                found.append(await self._verify(suspect.record, suspect.entries))
        return found

    async def _verify(self, record: SnapshotRecord, entries: Sequence[FileEntry]) -> Verified:
        readings = await self._read(record, entries)
        problems = {path: reading.problem for path, reading in readings.items()}
        damages = tuple(Damage(e.path, problem) for e in entries if (problem := problems[e.path]) is not None)
        await self._settle(record, readings)
        fetched = 0
        if damages and self._repair is not None:
            damages, fetched = await self._repair.run(record, damages)
        damaged = {damage.path for damage in damages if not damage.is_repaired}
        manifest = record.manifest
        return Verified(
            provider=manifest.ref.provider,
            name=manifest.ref.name,
            commit=manifest.commit,
            files=len(entries),
            bytes=sum(entry.size for entry in entries),
            unproven=sum(entry.digest is None and problems[entry.path] is None for entry in entries),
            damages=damages,
            flaws=await self._find_flaws(record, [e for e in entries if e.path not in damaged]),
            bytes_fetched=fetched,
        )

    async def _read(self, record: SnapshotRecord, entries: Sequence[FileEntry]) -> dict[str, Reading]:
        repository = self._parts.layout.repository(record.manifest.ref)
        readings: dict[str, Reading] = {}

        async def read(entry: FileEntry) -> None:
            with self._counter.file(entry) as on_bytes:
                try:
                    path = place_of(repository, record, entry)
                    reading = await read_whole(self._parts.pool, path, entry, on_bytes)
                except StorageFailed as error:  # one bad place on a disk must not hide the next
                    reading = Reading(error.message)
                what = f"looking for the digest list of {entry.path}"
                problem = await self._parts.pool.run(what, self._compare, entry, reading)
                readings[entry.path] = replace(reading, problem=problem)

        # The largest first, so that none of them is still running alone at the end.
        await run_bounded(_FILES_AT_ONCE, sorted(entries, key=lambda entry: -entry.size), read)
        return readings

    def _compare(self, entry: FileEntry, reading: Reading) -> str | None:
        """What is wrong, and which chunks, where a list says; of a sound file one is recorded. Blocking."""
        lists, digest = self._parts.blobs.lists, entry.digest
        if digest is None or entry.size <= CHUNK_BYTES or not reading.digests:
            return reading.problem
        known = lists.find(digest, entry.size)
        found = DigestList(entry.size, reading.digests)
        differing = [] if known is None else known.find_differing(reading.digests)
        try:
            if reading.problem is None and found != known:
                lists.save(digest, found)
            elif reading.problem is not None and found == known:
                lists.forget(digest)  # it vouches for wrong bytes
        except OSError as error:
            _log.warning("the digest list of %s could not be kept: %s", shown(entry.path), error)
        if reading.problem is None or known is None or not differing:
            return reading.problem
        verb = "differs" if len(differing) == 1 else "differ"
        return f"{known.describe(differing)} {verb}: {reading.problem}"

    async def _settle(self, record: SnapshotRecord, readings: Mapping[str, Reading]) -> None:
        """Let the record say what was found: damaged files count no more, others as they stand now."""
        changed = {
            path: reading
            for path, reading in readings.items()
            if path in record.held
            and (reading.problem is not None or reading.mtime_ns != record.held[path].mtime_ns)
        }
        if not changed:
            return
        try:
            await self._save_changed(record, changed)
        except (NoRoom, StorageFailed) as error:  # what was found is worth more than what is kept of it
            _log.warning("%s: what was found could not be recorded: %s", record.manifest.ref, error)

    async def _save_changed(self, record: SnapshotRecord, changed: Mapping[str, Reading]) -> None:
        ref, commit = record.manifest.ref, record.manifest.commit
        async with self._parts.turns.of(ref.name):
            now = await self._parts.pool.run(f"reading {ref}", self._parts.records.find, ref, commit)
            if now is None:
                return
            held = dict(now.held)
            for path, reading in changed.items():
                if held.get(path) != record.held[path]:
                    continue  # a pull has brought it meanwhile
                if reading.problem is None:
                    held[path] = replace(held[path], mtime_ns=reading.mtime_ns)
                else:
                    del held[path]
            await self._parts.save(replace(now, held=held))
        damaged = sum(reading.problem is not None for reading in changed.values())
        if damaged:
            _log.warning("%s: %d damaged files no longer count; the next pull brings them", ref, damaged)

    async def _find_flaws(self, record: SnapshotRecord, entries: Iterable[FileEntry]) -> tuple[Flaw, ...]:
        repository = self._parts.layout.repository(record.manifest.ref)
        listed = frozenset(entry.path for entry in record.manifest.files)
        flaws = []
        for entry in entries:  # one by one: a header can be large
            what = f"reading the header of {entry.path}"
            try:
                path = place_of(repository, record, entry)
                flaw = await self._parts.pool.run(what, find_flaw, path, entry.path, listed)
            except MxError as error:
                _log.warning("%s: %s", record.manifest.ref, error)
                continue
            if flaw is not None:
                flaws.append(Flaw(entry.path, flaw))
        return tuple(flaws)


class _Counter:
    """Progress over several snapshots, chunk by chunk."""

    def __init__(self, entries: Sequence[FileEntry], on_progress: OnProgress, clock: Clock) -> None:
        self._now = Progress(Phase.VERIFYING, 0, sum(entry.size for entry in entries), 0, len(entries))
        self._on_progress = on_progress
        self._clock = clock
        self._started = clock.monotonic()

    @contextmanager
    def file(self, entry: FileEntry) -> Iterator[Callable[[int], None]]:
        """One file, read in the body; what was not read of it counts at its end, for it is judged then."""
        left = entry.size

        def on_bytes(count: int) -> None:
            nonlocal left
            left -= count
            self._add(count)

        yield on_bytes
        self._now = replace(self._now, files_done=self._now.files_done + 1)
        self._add(left)

    def _add(self, count: int) -> None:
        done = self._now.bytes_done + count
        seconds = max(self._clock.monotonic() - self._started, 1e-3)
        self._now = replace(self._now, bytes_done=done, bytes_per_second=done / seconds)
        self._on_progress(self._now)
