# SPDX-License-Identifier: Apache-2.0
"""The verbs of `modelexpress cache` on the space: plan, evict, explain, pin, unpin; and a list with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from modelexpress.cache.control import LocalControl
from modelexpress.cache.evicting import Evictor, Scene
from modelexpress.cache.parts import CacheParts
from modelexpress.domain.errors import Busy, Corrupt, Invalid, NotFound, Unsupported
from modelexpress.domain.eviction import Candidate, rank
from modelexpress.domain.held import HeldSnapshot, RemovalPlan
from modelexpress.domain.inventory import ModelKey, SnapshotKey
from modelexpress.domain.pins import Pin
from modelexpress.domain.refs import ModelRef, shown
from modelexpress.domain.space import EvictionPlan, Explained

_log = logging.getLogger(__name__)


class SpaceControl(LocalControl):
    """CacheControl on the directory itself, with what it says of space."""

    def __init__(self, parts: CacheParts) -> None:
        super().__init__(parts)
        self._evictor = Evictor(parts, self._remover)
        parts.space.make_room = self._evictor.make_room

    async def list_held(self) -> list[HeldSnapshot]:
        """Everything in the cache, with what it takes of the disk, who keeps it and who reads it."""
        try:
            pins = await self.list_pins()
        except (Corrupt, Unsupported) as error:
            _log.warning("%s", error)  # what is here can be said all the same
            pins = []
        return await self._list_in(await self._evictor.look(pins=pins), pins)

    async def _list_in(self, scene: Scene, pins: Sequence[Pin]) -> list[HeldSnapshot]:
        held = await super().list_held()
        added = scene.inventory.added(map(_key_of, held))
        return [self._with_space(one, scene, pins, added[_key_of(one)]) for one in held]

    async def plan(self, wanted: int = 0) -> EvictionPlan:
        """What would go now, by the rules and so that `wanted` bytes can be promised."""
        return await self._evictor.plan(wanted)

    async def evict(
        self, refs: Sequence[ModelRef], wanted: int, is_dry_run: bool, is_forced: bool = False
    ) -> EvictionPlan:
        """Evict these models, or without any what `plan` says. Kept ones are refused with their reason.

        `is_forced`: also what is in use or was handed out; who reads it reads on. Pins hold always.
        """
        if not is_dry_run:
            await self._check_not_served()
        if not refs and not is_forced:
            return await self._evictor.evict(wanted, is_dry_run)
        if not refs:
            raise Invalid("name the models that are to be evicted by force")
        if wanted:
            raise Invalid("give models to evict, or a size to make room for, not both")
        found = [record for ref in refs for record in await self._records_of(ref)]
        keys = list(dict.fromkeys(SnapshotKey.of(record.manifest) for record in found))
        return await self._evictor.evict_these(keys, is_dry_run, is_forced)

    async def explain(self, ref: ModelRef) -> list[Explained]:
        """Why each snapshot of a model is here, and when it goes; NotFound when there is none."""
        pins = await self.list_pins()
        scene = await self._evictor.look(pins=pins)
        held = [one for one in await self._list_in(scene, pins) if _is_of(one, ref)]
        if not held:
            raise NotFound(f"{ref} is not in the cache at {self.where}; nothing to explain")
        return [await self._explain(one, scene, pins) for one in held]

    async def list_pins(self) -> list[Pin]:
        """The pins that are not over."""
        now = self._parts.clock.wall()
        pins = await self._parts.pool.run("reading the pins", self._parts.pins.read)
        return [pin for pin in pins if not pin.is_over(now)]

    async def pin(self, pattern: str, until: float | None, is_dry_run: bool) -> list[HeldSnapshot]:
        """Keep what matches, now and later; what is here of it. A pin of the same words is replaced."""
        made = Pin(pattern, self._parts.clock.wall(), until)
        if not is_dry_run:
            await self._check_not_served()
            # Not while something is chosen to go: whoever pins it is told what is really kept.
            async with self._parts.space.steady():
                others = [pin for pin in await self.list_pins() if pin.pattern != pattern]
                await self._parts.pool.run("saving the pins", self._parts.pins.write, [*others, made])
        held = await super().list_held()
        return [one for one in held if made.matches(one.name, one.commit, one.refs)]

    async def unpin(self, patterns: Sequence[str], is_dry_run: bool) -> list[Pin]:
        """End the pins with these very words; NotFound, ending none, when there is no such pin."""
        async with self._parts.space.steady():
            pins = await self.list_pins()
            ended = [pin for pin in pins if pin.pattern in patterns]
            for pattern in patterns:
                if all(pin.pattern != pattern for pin in ended):
                    known = ", ".join(pin.pattern for pin in pins) or "none"
                    raise NotFound(f"{shown(pattern)} is not pinned; pinned are: {known}")
            if ended and not is_dry_run:
                await self._check_not_served()
                left = [pin for pin in pins if pin not in ended]
                await self._parts.pool.run("saving the pins", self._parts.pins.write, left)
        return ended

    async def remove(self, refs: list[ModelRef], is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of models. Raises Busy when one of them is pinned."""
        await self._check_not_pinned(refs)
        return await super().remove(refs, is_dry_run)

    async def _check_not_pinned(self, refs: Sequence[ModelRef]) -> None:
        """Raise Busy when one of them is pinned, though it may not be here yet."""
        pins = await self.list_pins()
        held = await super().list_held() if pins else []
        for ref in refs if pins else ():
            for pin in pins:
                if pin.matches(ref.name, "", ()):
                    raise _pinned(ref.name, pin)
            for one in held:
                pinned = [
                    pin for pin in pins if _is_of(one, ref) and pin.matches(one.name, one.commit, one.refs)
                ]
                if pinned:
                    raise _pinned(f"{one.name}@{one.commit[:12]}", pinned[0])

    def _with_space(self, held: HeldSnapshot, scene: Scene, pins: Sequence[Pin], added: int) -> HeldSnapshot:
        key = _key_of(held)
        record = scene.records.get(key)
        return replace(
            held,
            bytes_on_disk=held.bytes if record is None else scene.inventory.bytes_of(key),
            bytes_on_disk_added=held.bytes_added if record is None else added,
            bytes_shared=scene.inventory.bytes_shared(key),
            pins=tuple(pin.pattern for pin in pins if pin.matches(held.name, held.commit, held.refs)),
            readers=0 if record is None else len(self._parts.leases.readers(record.manifest)),
        )

    async def _explain(self, held: HeldSnapshot, scene: Scene, pins: Sequence[Pin]) -> Explained:
        key, now = _key_of(held), self._parts.clock.wall()
        record = scene.records.get(key)
        holders = await self._parts.pool.run(
            f"looking who uses {key}", self._parts.leases.paths.holders, key, now
        )
        ranked = enumerate(rank(scene.candidates, self._parts.eviction.order), 1)
        place, candidate = next((one for one in ranked if one[1].key == key), (None, None))
        return Explained(
            held=held,
            bytes_alone=scene.inventory.freed({key}),
            rank=place,
            fate=self._tell_fate(key, scene, candidate, place),
            pins=tuple(pin for pin in pins if pin.matches(held.name, held.commit, held.refs)),
            readers=() if record is None else tuple(self._parts.leases.readers(record.manifest)),
            leases=tuple(sorted(holders.items())),
        )

    def _tell_fate(
        self, key: SnapshotKey, scene: Scene, candidate: Candidate | None, place: int | None
    ) -> str:
        if candidate is None:
            return f"stays: {scene.kept.get(key, 'written by another tool, and not proven here')}"
        options = self._parts.eviction
        if not options.is_enabled:
            return "stays until it is removed: eviction is off (cache.eviction.enabled)"
        said = f"number {place} of {len(scene.candidates)} to go when room is needed"
        if options.rules.unused_seconds is None:
            return said
        last_day = datetime.fromtimestamp(candidate.last_used_at + options.rules.unused_seconds, UTC)
        return f"{said}; goes after {last_day:%F %R} UTC unless it is used"


def _pinned(name: str, pin: Pin) -> Busy:
    return Busy(
        f"{name} is pinned as {pin.pattern}: end that first with 'modelexpress cache unpin {pin.pattern}'"
    )


def _key_of(held: HeldSnapshot) -> SnapshotKey:
    return SnapshotKey(ModelKey.of(held.provider, held.name), held.commit)


def _is_of(held: HeldSnapshot, ref: ModelRef) -> bool:
    if (held.provider, held.name) != (ref.provider, ref.name):
        return False
    return ref.revision is None or ref.revision in held.refs or held.commit.startswith(ref.revision)
