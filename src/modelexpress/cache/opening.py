# SPDX-License-Identifier: Apache-2.0
"""Opening a cache directory: its volume, its owner, what crashes left, what the registry should know."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelexpress.cache.access import Access, AccessRules
from modelexpress.cache.freshness import FreshnessRules
from modelexpress.cache.leases import Leases
from modelexpress.cache.ledger import Limits
from modelexpress.cache.model_cache import ModelCache
from modelexpress.cache.parts import CacheParts, EvictionOptions, MakeSource, PullRules
from modelexpress.cache.pull import OriginReader
from modelexpress.cache.space import Space
from modelexpress.domain.caller import Caller
from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Busy, MxError
from modelexpress.domain.manifest import Manifest
from modelexpress.domain.meter import Meter
from modelexpress.domain.refs import ProviderKind
from modelexpress.providers import Provider
from modelexpress.providers.pace import Pace
from modelexpress.registry import Claims, Holdings, Session, Sessions, Table
from modelexpress.store.blobs import Blobs, Source
from modelexpress.store.disk import DiskPool
from modelexpress.store.given import GivenOut
from modelexpress.store.layout import Layout
from modelexpress.store.leases import PathLeases
from modelexpress.store.offers import Offers
from modelexpress.store.pins import Pins
from modelexpress.store.publish import Publisher
from modelexpress.store.records import Records
from modelexpress.store.removal import finish_removals
from modelexpress.store.volume import Ownership, open_volume, sweep
from modelexpress.store.window import RangedSource, Slots

_REGISTRY_ID_KEY = "registry/id"

_FIRST_CONNECTIONS = 8  # small files are bound by the time that asking takes: that many begin at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Where a cache is and how it behaves. `is_owner`: this process accounts for the volume's space."""

    root: Path
    node: str
    is_owner: bool
    pull: PullRules = PullRules()
    access: AccessRules = AccessRules()
    freshness: FreshnessRules = FreshnessRules()
    limits: Limits = field(default_factory=Limits)
    eviction: EvictionOptions = field(default_factory=EvictionOptions)
    path_lease_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a cache is given: origins, a registry table, time and a meter."""

    providers: Mapping[ProviderKind, Provider]
    table: Table
    clock: Clock
    meter: Meter
    make_source: MakeSource | None = None
    """How bytes come from these providers; None: by ranges, proven by each file's own digest."""


@asynccontextmanager
async def open_cache(options: CacheOptions, around: Surroundings) -> AsyncIterator[ModelCache]:
    """A usable cache in the body; everything it started has ended when the body is left.

    Raises StorageFailed when the directory cannot be used, Invalid when a newer version wrote it,
    Busy when another server with another registry owns it.
    """
    async with AsyncExitStack() as stack:
        sessions = Sessions(around.table, around.clock, options.node)
        session = await stack.enter_async_context(sessions.open())
        pool = DiskPool()
        stack.callback(pool.close)
        layout = Layout(options.root)
        records = Records(layout, session.id)
        volume = await pool.run(f"opening {options.root}", open_volume, layout, session.id)
        claims = Claims(around.table, session, sessions, around.clock)
        dead: frozenset[str] = frozenset()
        if options.is_owner:
            dead = frozenset(await sessions.find_dead())
            await stack.enter_async_context(_owning(layout, around, session, pool))
        await pool.run("finishing removals", finish_removals, layout, dead, records)
        freed = await pool.run("sweeping leftovers", sweep, layout, dead, around.clock.wall())
        if options.is_owner:
            # Only now: whoever dies in between must leave its successor the names of the dead.
            await sessions.bury()
            await claims.bury()
        if freed:
            _log.info("removed %d bytes that interrupted pulls had left in %s", freed, options.root)
        parts = _make_parts(options, around, claims, pool, records, volume)
        cache = ModelCache(parts, Access(parts, options.access), options.freshness, session)
        stack.push_async_callback(cache.close)
        await cache.rebuild_holdings()
        if options.is_owner:
            await stack.enter_async_context(cache.evicting())
        yield cache


def _make_parts(
    options: CacheOptions,
    around: Surroundings,
    claims: Claims,
    pool: DiskPool,
    records: Records,
    volume: str,
) -> CacheParts:
    layout, owner = Layout(options.root), claims.session_id
    offers = Offers(GivenOut(layout, around.clock.wall))
    blobs = Blobs(layout, pool, claims, records, owner)
    return CacheParts(
        providers=around.providers,
        layout=layout,
        pool=pool,
        records=records,
        publisher=Publisher(layout, records, owner),
        blobs=blobs,
        offers=offers,
        make_source=around.make_source or _by_ranges(options.pull, pool, around.clock),
        space=Space(layout, pool, options.limits, blobs.partials.in_use, around.meter),
        leases=Leases(PathLeases(layout, owner), offers, pool, around.clock, options.eviction.grace_seconds),
        pins=Pins(layout, owner),
        holdings=Holdings(around.table, options.node, around.clock),
        clock=around.clock,
        meter=around.meter,
        volume=volume,
        owner=owner,
        node=options.node,
        rules=options.pull,
        eviction=options.eviction,
        path_lease_seconds=options.path_lease_seconds,
        is_offline=options.freshness.is_offline,
    )


def _by_ranges(rules: PullRules, pool: DiskPool, clock: Clock) -> MakeSource:
    pace = Pace(rules.connections, initial=min(rules.connections, _FIRST_CONNECTIONS))
    slots = Slots(lambda: pace.allowed, pace, clock)

    def make(provider: Provider, manifest: Manifest, caller: Caller) -> Source:
        reader = OriginReader(provider, manifest, caller)
        return RangedSource(reader, pool, slots, clock, owner=caller.fingerprint)

    return make


@asynccontextmanager
async def _owning(
    layout: Layout, around: Surroundings, session: Session, pool: DiskPool
) -> AsyncIterator[None]:
    ownership = Ownership(layout, await _registry_id(around.table), session.id)
    what = f"taking {layout.root}"
    if not await pool.run(what, ownership.take):
        await _wait_for_silence(layout, ownership, around.clock, pool)
    renewing = asyncio.create_task(_renew(ownership, around.clock, pool))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await pool.run(f"leaving {layout.root}", ownership.leave)


async def _wait_for_silence(layout: Layout, ownership: Ownership, clock: Clock, pool: DiskPool) -> None:
    """The owner was on a machine we cannot look into: only its silence, by our own clock, tells."""
    _log.warning(
        "%s has an owner elsewhere; waiting %d s for a sign of life", layout.root, Ownership.STALE_SECONDS
    )
    before = await pool.run("looking at the owner", ownership.beat)
    await clock.sleep(Ownership.STALE_SECONDS)
    if await pool.run("looking at the owner", ownership.beat) != before:
        raise Busy(
            f"cache directory {layout.root} belongs to a server on another machine with another registry; "
            "give both the same registry, or give this one another cache.directory"
        )
    await pool.run("taking the volume", ownership.renew)


async def _renew(ownership: Ownership, clock: Clock, pool: DiskPool) -> None:
    while True:
        await clock.sleep(Ownership.RENEW_SECONDS)
        try:
            await pool.run("renewing the owner mark", ownership.renew)
        except MxError as error:
            _log.warning("the owner mark of the cache could not be renewed: %s", error)


async def _registry_id(table: Table) -> str:
    """The table's own id, made up by whoever opens it first; lost and new with the table."""
    row = await table.get(_REGISTRY_ID_KEY)
    if row is None:
        row = await table.put(_REGISTRY_ID_KEY, secrets.token_hex(16).encode(), None)
    if row is None:
        row = await table.get(_REGISTRY_ID_KEY)
    if row is None:
        raise Busy("the registry's id keeps changing; is another process deleting its rows?")
    return row.value.decode("ascii")
