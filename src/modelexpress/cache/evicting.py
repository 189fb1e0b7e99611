# SPDX-License-Identifier: Apache-2.0
"""Eviction: look, plan, show, carry out. What is pinned, read or handed out never goes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from modelexpress.cache.collecting import collect
from modelexpress.cache.leases import Lease
from modelexpress.cache.parts import CacheParts
from modelexpress.cache.removing import Remover, Users
from modelexpress.cache.space import FORCED, NOTHING, Needs
from modelexpress.domain.errors import Busy, MxError
from modelexpress.domain.eviction import (
    Candidate,
    Choice,
    Gdsf,
    choose_for_room,
    choose_unwanted,
)
from modelexpress.domain.held import Removal, RemovalPlan
from modelexpress.domain.inventory import Inventory, ModelKey, SnapshotKey
from modelexpress.domain.pins import Pin
from modelexpress.domain.progress import format_bytes
from modelexpress.domain.space import EvictionPlan, Kept, VolumeUse
from modelexpress.registry import Holding
from modelexpress.store.records import SnapshotRecord
from modelexpress.store.removal import plan_removal
from modelexpress.store.usage import Usage, read_inventory

_SHOWN = 5  # models in a message
_ATTEMPTS = 3  # to make room, while what was chosen comes into use
_FOREIGN = "written by another tool ('modelexpress cache adopt' lets it go)"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scene:
    """All snapshots of ours at one moment: those that may go, and why the others may not."""

    inventory: Inventory
    candidates: tuple[Candidate, ...]
    kept: Mapping[SnapshotKey, str]
    records: Mapping[SnapshotKey, SnapshotRecord]

    @property
    def held_models(self) -> set[ModelKey]:
        """Models of which something has to stay."""
        return {key.model for key in self.kept}

    @property
    def removable(self) -> int:
        """Bytes that the disk gets back when everything goes that may."""
        return self.inventory.freed(candidate.key for candidate in self.candidates)


class Evictor:
    """Decides and removes. One for each opened cache; only the volume's owner lets it run by itself."""

    def __init__(self, parts: CacheParts, remover: Remover) -> None:
        self._parts = parts
        self._options = parts.eviction
        self._remover = remover

    # -- look

    async def look(self, needs: Needs = NOTHING, pins: list[Pin] | None = None) -> Scene:
        """What is here and may go; `pins` None: as they are on the disk.

        Raises Corrupt when nobody can tell what is pinned.
        """
        parts = self._parts
        if pins is None:
            pins = await parts.pool.run("reading the pins", parts.pins.read)
        holdings = {(h.provider, h.name, h.commit): h async for h in parts.holdings.list(parts.node)}
        known = await parts.pool.run(
            "reading the records", lambda: [r for r in parts.records.scan() if r.held]
        )
        what = "looking at the cache"
        inventory = await parts.pool.run(what, read_inventory, parts.layout, known, needs.blobs)
        records = {SnapshotKey.of(record.manifest): record for record in known}
        kept = await parts.pool.run("looking at what is pinned", self._find_kept, records, pins, needs)
        for key, record in records.items():
            reason = self._find_use(key, record, needs)
            if reason is not None:
                kept.setdefault(key, reason)
        everything = [self._candidate(records[key], inventory, holdings) for key in sorted(records)]
        parts.holdings.inflation = Gdsf.inflation(everything)
        candidates = [candidate for candidate in everything if candidate.key not in kept]
        return Scene(inventory, tuple(candidates), kept, records)

    def _candidate(
        self,
        record: SnapshotRecord,
        inventory: Inventory,
        holdings: Mapping[tuple[str, str, str], Holding],
    ) -> Candidate:
        key = SnapshotKey.of(record.manifest)
        # What another process has pulled into this directory is not in our registry yet.
        held = holdings.get((key.model.provider, key.model.name, key.commit)) or self._parts.holding(record)
        return Candidate(key, inventory.bytes_of(key), held.last_used_at, held.uses, held.credit)

    def _find_kept(
        self, records: Mapping[SnapshotKey, SnapshotRecord], pins: list[Pin], needs: Needs
    ) -> dict[SnapshotKey, str]:
        """Those that something on the disk keeps, and what."""
        found = {}
        for key, record in records.items():
            reason = self._find_reason(key, record, pins, needs)
            if reason is not None:
                found[key] = reason
        return found

    def _find_reason(
        self, key: SnapshotKey, record: SnapshotRecord, pins: Iterable[Pin], needs: Needs
    ) -> str | None:
        now = self._parts.clock.wall()
        if not any(owned.link or owned.blob for owned in record.owned.values()):
            return _FOREIGN
        for pin in self.pins_of(record, pins, now):
            return f"pinned as {pin.pattern}"
        holders = {} if needs.is_forced else self._parts.leases.paths.holders(key, now)
        return f"handed out to {_names(holders)}" if holders else None

    def _find_obstacle(
        self, key: SnapshotKey, record: SnapshotRecord, pins: Iterable[Pin], needs: Needs
    ) -> str | None:
        if self._parts.records.find(record.manifest.ref, key.commit) is None:
            return "gone already"
        return self._find_reason(key, record, pins, needs)

    def pins_of(self, record: SnapshotRecord, pins: Iterable[Pin], now: float) -> list[Pin]:
        """The pins that keep a snapshot now. Blocking."""
        manifest, lasting = record.manifest, [pin for pin in pins if not pin.is_over(now)]
        if not lasting:
            return []  # what every commit is called need not be looked for
        at = {n for n, c in self._parts.names.list_names(manifest.ref).items() if c == manifest.commit}
        return [pin for pin in lasting if pin.matches(manifest.ref.name, manifest.commit, at)]

    def _find_use(self, key: SnapshotKey, record: SnapshotRecord, needs: Needs) -> str | None:
        if needs.is_forced:
            return None
        ignored: Collection[Lease] = () if needs.lease is None else (needs.lease,)
        readers = self._parts.leases.readers(record.manifest, ignored)
        if readers:
            return f"in use: {readers[0]}" + (f" and {len(readers) - 1} more" if readers[1:] else "")
        return "asked for a moment ago" if self._parts.leases.is_expected(record.manifest) else None

    # -- plan

    async def plan(self, wanted: int = 0) -> EvictionPlan:
        """What goes now by the rules, and so that `wanted` bytes can be promised besides."""
        async with self._parts.space.steady():
            usage = await self._parts.space.look()
            scene = await self.look()
            choices, missing = self._choose(scene, wanted)
        return await self._describe(scene, usage, choices, missing)

    def _choose(self, scene: Scene, wanted: int) -> tuple[list[Choice], int]:
        """What goes, by the rules and for room; and what is missing of the room even then."""
        options, now = self._options, self._parts.clock.wall()
        choices = []
        if options.is_enabled:
            choices = choose_unwanted(scene.candidates, scene.held_models, options.rules, options.order, now)
        going = [choice.key for choice in choices]
        missing = max(wanted - self._parts.space.ledger.room, 0)
        chosen = choose_for_room(scene.inventory, scene.candidates, options.order, going, missing)
        if chosen is None:
            return choices, missing - scene.removable
        return choices + chosen, 0

    async def _describe(
        self, scene: Scene, usage: Usage, choices: Iterable[Choice], missing: int
    ) -> EvictionPlan:
        ledger = self._parts.space.ledger
        use = VolumeUse(
            used=usage.total,
            removable=scene.removable,
            arriving=usage.arriving,
            leftovers=usage.leftovers,
            free=ledger.free,
            kept_free=ledger.limits.kept_free,
            promised=ledger.promised,
            room=ledger.room,
            budget=ledger.limits.budget,
        )
        kept = [
            Kept(key.model.provider, key.model.name, key.commit, scene.inventory.bytes_of(key), reason)
            for key, reason in sorted(scene.kept.items())
        ]
        return EvictionPlan(use, RemovalPlan(_removals(scene, choices)), tuple(kept), missing)

    # -- carry out

    async def make_room(self, missing: int, needs: Needs) -> str:
        """Free `missing` bytes if what may go suffices, else nothing; what is in the way, for people."""
        if not self._options.is_enabled:
            return (
                "eviction is off (cache.eviction.enabled): make room with 'modelexpress cache evict' or "
                "'modelexpress cache rm MODEL'"
            )
        for _ in range(_ATTEMPTS):
            scene = await self.look(needs)
            choices = await self._choose_room(scene, missing, needs)
            if choices is None:
                return _obstacles(scene, missing)
            gone = await self.carry_out(scene, choices, needs)
            missing -= sum(removal.bytes_freed for removal in gone)
            if len(gone) == len(choices):
                break  # nothing of it came into use meanwhile
        return "what had been chosen to go came into use meanwhile; ask again"

    async def _choose_room(self, scene: Scene, missing: int, needs: Needs) -> list[Choice] | None:
        """What has to go; None: all that may is too little, and nothing was touched."""
        order = self._options.order
        choices = choose_for_room(scene.inventory, scene.candidates, order, (), missing)
        if choices is not None:
            return choices
        # What a dead process had begun is worth less than a refusal, and more than a whole model.
        own = None if needs.lease is None else needs.lease.model.name
        partials, what = self._parts.blobs.partials, "looking at partial files"
        left = missing - await self._parts.pool.run(what, partials.dead_bytes, own)
        choices = choose_for_room(scene.inventory, scene.candidates, order, (), max(left, 0))
        if choices is not None:
            await self._parts.pool.run("dropping partial files", partials.delete_dead, own)
        return choices

    async def carry_out(
        self, scene: Scene, choices: Iterable[Choice], needs: Needs = NOTHING
    ) -> list[Removal]:
        """Remove what was chosen, except what has come into use since; what went."""
        gone: list[Removal] = []
        going = scene.inventory.going()
        for choice in choices:
            record, before = scene.records[choice.key], going.freed
            if await self._evict(record, choice, needs):
                going.add(choice.key)
                gone.append(_removal(record, choice, going.freed - before))
                self._report(gone[-1])
        return gone

    def _report(self, removal: Removal) -> None:
        provider, freed = removal.provider.value, removal.bytes_freed
        self._parts.meter.count("mx_evictions_total", provider=provider)
        self._parts.meter.count("mx_evicted_bytes_total", freed, provider=provider)
        name = f"{removal.name}@{removal.commit[:12]}"
        _log.info("evicted %s (%s): %s", name, removal.reason, format_bytes(freed))

    async def _evict(self, record: SnapshotRecord, choice: Choice, needs: Needs) -> bool:
        """Remove it; False: something keeps it now."""
        parts, key, ref = self._parts, choice.key, record.manifest.ref
        what = f"evicting {key}"
        async with parts.turns.of(ref.name):
            pins = await parts.pool.run(what, parts.pins.read)
            if await parts.pool.run(what, self._find_obstacle, key, record, pins, needs):
                return False
            commits = frozenset({key.commit})
            plan = await parts.pool.run(
                what,
                plan_removal,
                parts.layout,
                replace(ref, revision=None),
                parts.records,
                commits,
                choice.reason,
                needs.blobs,
            )
            is_used = functools.partial(self._find_use, key, record, needs)
            users = Users(needs.lease, expects_readers=needs.is_forced)
            return await self._remover.carry_out(plan, lambda: is_used() is None, users)

    async def evict(self, wanted: int, is_dry_run: bool) -> EvictionPlan:
        """Carry out what `plan` says, or only say it."""
        if is_dry_run:
            return await self.plan(wanted)
        parts = self._parts
        async with parts.space.steady():
            usage = await parts.space.look()
            scene = await self.look()
            choices, missing = self._choose(scene, wanted)
            gone = await self.carry_out(scene, choices)
        plan = await self._describe(scene, usage, choices, missing)
        return replace(plan, removal=RemovalPlan(tuple(gone)))

    async def evict_these(
        self, keys: Iterable[SnapshotKey], is_dry_run: bool, is_forced: bool = False
    ) -> EvictionPlan:
        """Evict what was named. Raises Busy, removing nothing, where one is kept.

        `is_forced`: also what is in use or was handed out; pinned ones and other tools' stay.
        """
        needs = FORCED if is_forced else NOTHING
        async with self._parts.space.steady():
            usage = await self._parts.space.look()
            scene = await self.look(needs)
            choices = [Choice(key, "asked for") for key in keys]
            for choice in choices:
                reason = scene.kept.get(choice.key, None if choice.key in scene.records else _FOREIGN)
                if reason is not None:
                    raise Busy(f"{choice.key} is kept: {reason}")
            gone = [] if is_dry_run else await self.carry_out(scene, choices, needs)
        if is_dry_run:
            return await self._describe(scene, usage, choices, 0)
        if len(gone) < len(choices):
            went = {removal.commit for removal in gone}
            stayed = next(choice.key for choice in choices if choice.key.commit not in went)
            raise Busy(f"{stayed} came into use or was removed meanwhile; ask again")
        plan = await self._describe(scene, usage, choices, 0)
        return replace(plan, removal=RemovalPlan(tuple(gone)))

    # -- by itself

    async def run(self) -> None:
        """Keep to the rules and the limits, now and every `check_seconds`, until cancelled."""
        while True:
            try:
                await self._keep_to_rules()
            except MxError as error:
                self._parts.meter.count("mx_errors_total", code=error.code)
                _log.warning("eviction was left out this time: %s", error)
            except Exception as error:  # noqa: BLE001 - a task has nobody above it, and goes on
                _log.error("defect in eviction", exc_info=error)
            await self._parts.clock.sleep(self._options.check_seconds)

    async def _keep_to_rules(self) -> None:
        count, freed = await collect(self._parts)
        if count:
            _log.info("removed %d leftovers, %s", count, format_bytes(freed))
        if self._options.is_enabled:
            plan = await self.evict(0, is_dry_run=False)
            if plan.missing:
                _log.warning(
                    "the cache exceeds its limits, without all that may go still by %s: it stays",
                    format_bytes(plan.missing),
                )


def _removals(scene: Scene, choices: Iterable[Choice]) -> tuple[Removal, ...]:
    """The choices with what each of them frees besides those before it."""
    going, found = scene.inventory.going(), []
    for choice in choices:
        before = going.freed
        going.add(choice.key)
        found.append(_removal(scene.records[choice.key], choice, going.freed - before))
    return tuple(found)


def _removal(record: SnapshotRecord, choice: Choice, freed: int) -> Removal:
    ref, files = record.manifest.ref, len(record.held)
    return Removal(ref.provider, ref.name, choice.key.commit, freed, files, 0, choice.reason)


def _obstacles(scene: Scene, missing: int) -> str:
    kept = sorted(scene.kept.items(), key=lambda item: -scene.inventory.bytes_of(item[0]))
    said = [
        f"{key} ({format_bytes(scene.inventory.bytes_of(key))}): {reason}" for key, reason in kept[:_SHOWN]
    ]
    more = [f"and {len(kept) - _SHOWN} more"] if kept[_SHOWN:] else []
    freed = f"{format_bytes(scene.removable)} of {format_bytes(missing)}"
    could = f"evicting everything that may go would free {freed}"
    return could + ("" if not kept else "; kept are " + ", ".join(said + more))


def _names(holders: Mapping[str, float]) -> str:
    names = sorted(holders)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if names[2:] else "")
