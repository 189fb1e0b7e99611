# SPDX-License-Identifier: Apache-2.0
"""Our cache service: space, plans of evictions, explanations and pins on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from modelexpress.domain.pins import Pin
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.space import EvictionPlan, Explained, Kept, VolumeUse
from modelexpress.wire import cache_pb2
from modelexpress.wire.held import from_plan, from_snapshot, to_plan, to_snapshot
from modelexpress.wire.transfer import from_ref


def from_eviction(plan: EvictionPlan) -> cache_pb2.EvictionPlan:
    """A plan, or what came of it, as a message."""
    use = plan.use
    return cache_pb2.EvictionPlan(
        use=cache_pb2.VolumeUse(
            used=use.used,
            removable=use.removable,
            arriving=use.arriving,
            leftovers=use.leftovers,
            free=use.free,
            kept_free=use.kept_free,
            promised=use.promised,
            room=use.room,
            budget=use.budget,
        ),
        removal=from_plan(plan.removal),
        kept=[
            cache_pb2.Kept(provider=k.provider, name=k.name, commit=k.commit, bytes=k.bytes, reason=k.reason)
            for k in plan.kept
        ],
        missing=plan.missing,
    )


def to_eviction(message: cache_pb2.EvictionPlan) -> EvictionPlan:
    """A plan from the wire."""
    use = message.use
    return EvictionPlan(
        use=VolumeUse(
            used=use.used,
            removable=use.removable,
            arriving=use.arriving,
            leftovers=use.leftovers,
            free=use.free,
            kept_free=use.kept_free,
            promised=use.promised,
            room=use.room,
            budget=use.budget if use.HasField("budget") else None,
        ),
        removal=to_plan(message.removal),
        kept=tuple(Kept(k.provider, k.name, k.commit, k.bytes, k.reason) for k in message.kept),
        missing=message.missing,
    )


def from_explained(explained: Explained) -> cache_pb2.Explained:
    """An explanation as a message."""
    return cache_pb2.Explained(
        held=from_snapshot(explained.held),
        bytes_alone=explained.bytes_alone,
        rank=explained.rank,
        fate=explained.fate,
        pins=[_from_pin(pin) for pin in explained.pins],
        readers=explained.readers,
        leases=[cache_pb2.PathLease(holder=holder, until=until) for holder, until in explained.leases],
    )


def to_explained(message: cache_pb2.Explained) -> Explained:
    """An explanation from the wire."""
    return Explained(
        held=to_snapshot(message.held),
        bytes_alone=message.bytes_alone,
        rank=message.rank if message.HasField("rank") else None,
        fate=message.fate,
        pins=tuple(_to_pin(pin) for pin in message.pins),
        readers=tuple(message.readers),
        leases=tuple((lease.holder, lease.until) for lease in message.leases),
    )


def from_pins(pins: Sequence[Pin]) -> cache_pb2.Pins:
    """Pins as a message."""
    return cache_pb2.Pins(pins=[_from_pin(pin) for pin in pins])


def to_pins(message: cache_pb2.Pins) -> list[Pin]:
    """Pins from the wire."""
    return [_to_pin(pin) for pin in message.pins]


def evict_request(
    refs: Sequence[ModelRef], wanted: int, is_dry_run: bool, is_forced: bool
) -> cache_pb2.EvictRequest:
    """Ask for an eviction."""
    models = [from_ref(ref) for ref in refs]
    return cache_pb2.EvictRequest(models=models, wanted=wanted, is_dry_run=is_dry_run, is_forced=is_forced)


def _from_pin(pin: Pin) -> cache_pb2.PinnedPattern:
    return cache_pb2.PinnedPattern(pattern=pin.pattern, created_at=pin.created_at, until=pin.until)


def _to_pin(message: cache_pb2.PinnedPattern) -> Pin:
    return Pin(message.pattern, message.created_at, message.until if message.HasField("until") else None)
