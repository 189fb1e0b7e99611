# SPDX-License-Identifier: Apache-2.0
"""What a cache is made of, handed to each of its use cases."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property

from modelexpress.cache.leases import Leases
from modelexpress.cache.space import Space
from modelexpress.domain.caller import Caller
from modelexpress.domain.clock import Clock
from modelexpress.domain.eviction import EvictionOrder, EvictionRules, Lru
from modelexpress.domain.manifest import Manifest
from modelexpress.domain.meter import Meter
from modelexpress.domain.refs import ProviderKind
from modelexpress.domain.selection import Selection, Weights
from modelexpress.providers import Provider
from modelexpress.registry import Holding, Holdings
from modelexpress.store.blobs import Blobs, Source
from modelexpress.store.disk import DiskPool
from modelexpress.store.layout import Layout
from modelexpress.store.names import Names
from modelexpress.store.offers import Offers
from modelexpress.store.pins import Pins
from modelexpress.store.publish import Publisher
from modelexpress.store.records import Records, SnapshotRecord
from modelexpress.store.tally import tally


@dataclass(frozen=True, slots=True)
class PatternRule:
    """The selection for models whose name matches the glob `models`."""

    models: str
    selection: Selection


@dataclass(frozen=True, slots=True)
class PullRules:
    """What a pull does where its caller does not say.

    `is_prefetched`: whoever is the first to read a file through the Hub endpoint makes the whole model come.
    """

    weights: Weights = Weights.ALL
    patterns: tuple[PatternRule, ...] = ()
    parallel_files: int = 8
    connections: int = 16
    is_prefetched: bool = False

    def selection_for(self, name: str) -> Selection:
        """The selection of the first rule that matches, else everything that `weights` allows."""
        for rule in self.patterns:
            if fnmatch.fnmatchcase(name, rule.models):
                return rule.selection
        return Selection(self.weights)


@dataclass(frozen=True, slots=True)
class EvictionOptions:
    """`is_enabled` False: nothing goes on its own; plans can be made and carried out by hand.

    `grace_seconds`: so long after somebody asked for a snapshot or read from it, it counts as in use.
    """

    is_enabled: bool = False
    order: EvictionOrder = field(default_factory=Lru)
    rules: EvictionRules = field(default_factory=EvictionRules)
    check_seconds: float = 3600.0
    grace_seconds: float = 60.0


class Turns:
    """One publication or removal at a time for each repository; different ones do not wait for each other."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Wait for the turn of `name` and hold it in the body."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)


MakeSource = Callable[[Provider, Manifest, Caller], Source]
"""How the files of a manifest are brought from a provider on behalf of a caller."""


@dataclass(frozen=True)
class CacheParts:
    """Everything that the cache's use cases work with; made once for each opened cache."""

    providers: Mapping[ProviderKind, Provider]
    layout: Layout
    pool: DiskPool
    records: Records
    publisher: Publisher
    blobs: Blobs
    offers: Offers
    make_source: MakeSource
    space: Space
    leases: Leases
    pins: Pins
    holdings: Holdings
    clock: Clock
    meter: Meter
    volume: str
    owner: str
    node: str
    rules: PullRules = PullRules()
    eviction: EvictionOptions = field(default_factory=EvictionOptions)
    path_lease_seconds: float = 86_400.0
    is_offline: bool = False
    turns: Turns = field(default_factory=Turns)

    @cached_property
    def names(self) -> Names:
        """What branches and tags mean here."""
        return Names(self.layout, self.records)

    async def save(self, record: SnapshotRecord) -> None:
        """Make a record durable, and tell the registry."""
        await self.pool.run(f"saving the record of {record.manifest.ref}", self.records.save, record)
        await self.remember(record)

    async def remember(self, record: SnapshotRecord) -> None:
        """Tell the registry what this node now holds of a commit."""
        await self.holdings.put(self.holding(record))

    def holding(self, record: SnapshotRecord) -> Holding:
        """The registry's view of a record."""
        counted = tally(record)
        times = [done.completed_at for done in record.selections.values()]
        return Holding(
            provider=record.manifest.ref.provider.value,
            name=record.manifest.ref.name,
            commit=record.manifest.commit,
            selections=tuple(sorted(record.selections)),
            files=counted.files,
            bytes=counted.bytes,
            bytes_ours=counted.bytes_ours,
            last_used_at=max(times, default=self.clock.wall()),
        )
