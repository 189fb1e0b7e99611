# SPDX-License-Identifier: Apache-2.0
"""Repairing damaged files of ours: brought as a pull brings them, of known chunks only those that differ."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from modelexpress.cache.access import get_provider, is_outage
from modelexpress.cache.parts import CacheParts
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.errors import Forbidden, MxError, NotFound, Unreachable
from modelexpress.domain.held import Damage, OnProgress
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.progress import Phase, Progress, format_bytes
from modelexpress.domain.tasks import finish
from modelexpress.store.arriving import Watch
from modelexpress.store.blobs import Obtained, Source
from modelexpress.store.partial import Partial
from modelexpress.store.publish import Publication, Vanished
from modelexpress.store.records import Owned, SnapshotRecord
from modelexpress.store.survey import Finding, Presence, survey

_OURS = Owned(blob=True, link=True)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Wreck:
    """A damaged file. `is_to_be_fetched` False: its link alone may be what is wrong."""

    finding: Finding
    is_ours: bool
    is_to_be_fetched: bool


class _NoSource:
    """Stands for an origin that is not to be had."""

    vouches_chunks = False

    def __init__(self, reason: MxError) -> None:
        self.reason = reason

    async def fill(self, entry: FileEntry, partial: Partial) -> None:
        """Raise why."""
        raise self.reason


class Repair:
    """One run over the damages of some snapshots; after an outage the origin is not asked again.

    The origin is read with this process's own credentials.
    """

    def __init__(self, parts: CacheParts, on_progress: OnProgress) -> None:
        self._parts = parts
        self._on_progress = on_progress
        self._outage: MxError | None = None

    async def run(
        self, record: SnapshotRecord, damages: tuple[Damage, ...]
    ) -> tuple[tuple[Damage, ...], int]:
        """Each damage with what became of it, and the bytes that were fetched.

        A damaged file stays where it is until a proven one takes its place.
        """
        ref, paths = record.manifest.ref, frozenset(damage.path for damage in damages)
        wrecks = await self._parts.pool.run(f"looking at {ref}", self._survey, record, paths)
        source = self._find_source(record)
        progress = _Progress([wreck.finding.entry for wreck in wrecks], self._on_progress)
        obtained: dict[str, Obtained] = {}
        obstacles: dict[str, str] = {}
        for wreck in wrecks:
            path = wreck.finding.entry.path
            try:
                obtained[path] = await self._obtain(record, wreck, source, progress)
            except MxError as error:
                obstacles[path] = error.message
                if is_outage(error):
                    self._outage = error
                    source = _NoSource(error)
        obstacles |= await self._publish(record, obtained)
        repaired = obtained.keys() - obstacles.keys()
        fetched = sum(one.bytes_fetched for one in obtained.values())
        self._parts.meter.count("mx_origin_bytes_total", fetched, provider=ref.provider.value)
        if repaired:
            _log.info("%s: %d files repaired, %s fetched", ref, len(repaired), format_bytes(fetched))
        return tuple(_told(damage, repaired, obstacles) for damage in damages), fetched

    def _survey(self, record: SnapshotRecord, paths: frozenset[str]) -> list[_Wreck]:
        manifest = record.manifest
        repository = self._parts.layout.repository(manifest.ref)
        records = self._parts.records.find_all(manifest.ref)
        now = next((r for r in records if r.manifest.commit == manifest.commit), None)
        owned = {} if now is None else now.owned
        entries = [entry for entry in manifest.files if entry.path in paths]
        folder = repository.snapshot(manifest.commit)
        return [
            _Wreck(finding, owned.get(finding.entry.path) == _OURS, _is_to_be_fetched(finding, folder))
            for finding in survey(repository, manifest, entries, records)
        ]

    def _find_source(self, record: SnapshotRecord) -> Source:
        if self._outage is not None:
            return _NoSource(self._outage)
        if self._parts.is_offline:
            return _NoSource(Unreachable("this process is offline; repair it once online"))
        try:
            provider = get_provider(self._parts.providers, record.manifest.ref)
        except MxError as error:
            return _NoSource(error)
        return self._parts.make_source(provider, record.manifest, ANONYMOUS)

    async def _obtain(
        self, record: SnapshotRecord, wreck: _Wreck, source: Source, progress: _Progress
    ) -> Obtained:
        finding = wreck.finding
        if not wreck.is_ours or finding.entry.digest is None:
            raise Forbidden("another tool wrote it, so it stays; remove it and pull the model")
        if wreck.is_to_be_fetched and isinstance(source, _NoSource):
            raise source.reason  # before anything is copied
        wanted = finding.entry.size if wreck.is_to_be_fetched else 0
        repository = self._parts.layout.repository(record.manifest.ref)
        async with self._parts.space.promise(f"repairing {record.manifest.ref}", wanted) as spend:
            watch = Watch(progress.add, spend)
            obtained = await self._parts.blobs.obtain(repository, finding, source, watch)
        progress.file_done()
        return obtained

    async def _publish(self, record: SnapshotRecord, obtained: Mapping[str, Obtained]) -> dict[str, str]:
        """Let links and record say what was obtained; why not, by path."""
        if not obtained:
            return {}
        try:
            await self._publish_held(record, obtained)
        except (MxError, Vanished) as error:
            return dict.fromkeys(obtained, str(error))
        return {}

    async def _publish_held(self, record: SnapshotRecord, obtained: Mapping[str, Obtained]) -> None:
        ref, parts = record.manifest.ref, self._parts
        async with parts.turns.of(ref.name):
            now = await parts.pool.run(f"reading {ref}", parts.records.find, ref, record.manifest.commit)
            if now is None:
                raise NotFound(f"{ref} was removed while it was repaired")
            held = {**now.held, **{path: one.held for path, one in obtained.items()}}
            mended = replace(now, held=held)
            publication = Publication(parts.layout.repository(ref), mended, frozenset())
            await finish(parts.pool.run(f"publishing {ref}", parts.publisher.publish, publication))
        await parts.remember(mended)


class _Progress:
    """The bytes of damaged files, fetched or found again."""

    def __init__(self, entries: Iterable[FileEntry], on_progress: OnProgress) -> None:
        sizes = [entry.size for entry in entries]
        self._now = Progress(Phase.DOWNLOADING, 0, sum(sizes), 0, len(sizes))
        self._on_progress = on_progress

    def add(self, count: int) -> None:
        self._now = replace(self._now, bytes_done=self._now.bytes_done + count)
        self._on_progress(self._now)

    def file_done(self) -> None:
        self._now = replace(self._now, files_done=self._now.files_done + 1)
        self._on_progress(self._now)


def _is_to_be_fetched(finding: Finding, folder: Path) -> bool:
    """False where the bytes may be sound and only the snapshot's name for them is not."""
    read = os.path.realpath(folder / finding.entry.path)
    return finding.presence is Presence.ABSENT or os.path.realpath(finding.path) == read


def _told(damage: Damage, repaired: Iterable[str], obstacles: Mapping[str, str]) -> Damage:
    return replace(damage, is_repaired=damage.path in repaired, obstacle=obstacles.get(damage.path, ""))
