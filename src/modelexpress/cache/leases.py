# SPDX-License-Identifier: Apache-2.0
"""What is being read here, or was promised to stay: while anybody holds a model nothing evicts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelexpress.domain.clock import Clock
from modelexpress.domain.inventory import ModelKey, SnapshotKey
from modelexpress.domain.manifest import Manifest
from modelexpress.store.disk import DiskPool
from modelexpress.store.leases import PathLeases
from modelexpress.store.offers import Offers

_WRITE_SECONDS = 60.0


@dataclass(eq=False)
class Lease:
    """One who uses a model now. `commit` None: it is not known yet, so all of them stay.

    `moved`: where the directory of a commit is that was removed meanwhile.
    """

    model: ModelKey
    what: str
    commit: str | None = None
    moved: dict[str, Path] = field(default_factory=dict)

    def is_of(self, key: SnapshotKey) -> bool:
        """Whether it keeps that snapshot."""
        return self.model == key.model and self.commit in (None, key.commit)


@dataclass
class Leases:
    """Who holds what. Belongs to the event loop; the leases on paths are on the disk.

    `grace_seconds`: so long after its last byte, or after somebody asked for it, a snapshot still counts
    as read.
    """

    paths: PathLeases
    offers: Offers
    pool: DiskPool
    clock: Clock
    grace_seconds: float = 60.0
    _running: set[Lease] = field(default_factory=set)
    _given: dict[SnapshotKey, float] = field(default_factory=dict)
    _written: dict[tuple[SnapshotKey, str], tuple[float, float]] = field(default_factory=dict)
    _removing: dict[ModelKey, asyncio.Event] = field(default_factory=dict)

    @asynccontextmanager
    async def held(self, model: ModelKey, what: str) -> AsyncIterator[Lease]:
        """Hold a model while the body runs; what is just being removed of it has gone before that."""
        while (removing := self._removing.get(model)) is not None:
            await removing.wait()
        lease = Lease(model, what)
        self._running.add(lease)
        try:
            yield lease
        finally:
            self._running.discard(lease)

    @contextmanager
    def removing(self, model: ModelKey) -> Iterator[None]:
        """While the body removes something of a model, whoever comes for it waits. One at a time for each."""
        event = self._removing[model] = asyncio.Event()
        try:
            yield
        finally:
            del self._removing[model]
            event.set()

    def running(self, key: SnapshotKey) -> list[Lease]:
        """The leases that keep a snapshot, of those who use it now in this process."""
        return [lease for lease in self._running if lease.is_of(key)]

    def is_used(self, model: ModelKey) -> bool:
        """Whether anybody in this process uses a model now, any commit of it."""
        return any(lease.model == model for lease in self._running)

    def give_addresses(self, manifest: Manifest) -> None:
        """Somebody asked for a snapshot, or where its files are read, and will come for them at once."""
        self._given[SnapshotKey.of(manifest)] = self.clock.monotonic() + self.grace_seconds

    async def give_path(self, key: SnapshotKey, holder: str, seconds: float) -> None:
        """Keep a snapshot for `holder`, who knows its path; 0 ends that. Written once a minute at most."""
        now, wall = self.clock.monotonic(), self.clock.wall()
        written, until = self._written.get((key, holder), (float("-inf"), 0.0))
        if seconds > 0 and now - written < _WRITE_SECONDS and until >= wall + seconds - _WRITE_SECONDS:
            return
        self._written = {k: w for k, w in self._written.items() if now - w[0] < _WRITE_SECONDS}
        self._written[key, holder] = (now, wall + seconds)  # counts from here on, and not only on the disk
        try:
            what = f"noting who uses {key}"
            await self.pool.run(what, self.paths.keep, key, holder, wall + seconds, wall)
        except BaseException:
            self._written.pop((key, holder), None)
            raise

    async def forget(self, key: SnapshotKey) -> None:
        """The snapshot has gone."""
        self._given.pop(key, None)
        self._written = {k: w for k, w in self._written.items() if k[0] != key}
        await self.pool.run(f"forgetting who uses {key}", self.paths.drop, key)

    def readers(self, manifest: Manifest, ignored: Collection[Lease] = ()) -> list[str]:
        """What is being done with a snapshot in this process now, for people; empty: nothing."""
        found = [lease.what for lease in self.running(SnapshotKey.of(manifest)) if lease not in ignored]
        return sorted(found + ["read from the data plane"] * self._count_reads(manifest, 0.0))

    def is_expected(self, manifest: Manifest) -> bool:
        """Whether somebody read a snapshot, or was told where it is, so lately that he may come again."""
        key, now, wall = SnapshotKey.of(manifest), self.clock.monotonic(), self.clock.wall()
        is_given = any(k == key and until > wall for (k, _), (_, until) in self._written.items())
        return (
            is_given
            or self._given.get(key, now) > now
            or bool(self._count_reads(manifest, self.grace_seconds))
        )

    def _count_reads(self, manifest: Manifest, idle_seconds: float) -> int:
        return sum(offer.count_readers(idle_seconds) for offer in self.offers.of(manifest))
