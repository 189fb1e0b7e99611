# SPDX-License-Identifier: Apache-2.0
"""Our cache service: what is held, and plans and results, on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from modelexpress.domain.held import Damage, Flaw, HeldSnapshot, Removal, RemovalPlan, Verified
from modelexpress.domain.refs import ModelRef
from modelexpress.wire import cache_pb2
from modelexpress.wire.transfer import from_ref, to_provider


def from_snapshot(held: HeldSnapshot) -> cache_pb2.HeldSnapshot:
    """A held snapshot as a message."""
    return cache_pb2.HeldSnapshot(
        provider=held.provider.value,
        name=held.name,
        commit=held.commit,
        refs=held.refs,
        selections=held.selections,
        files=held.files,
        bytes=held.bytes,
        bytes_added=held.bytes_added,
        bytes_ours=held.bytes_ours,
        path=held.path,
        last_used_at=held.last_used_at,
        is_recorded=held.is_recorded,
        is_adopted=held.is_adopted,
        bytes_on_disk=held.bytes_on_disk,
        bytes_shared=held.bytes_shared,
        bytes_on_disk_added=held.bytes_on_disk_added,
        pins=held.pins,
        readers=held.readers,
    )


def to_snapshot(message: cache_pb2.HeldSnapshot) -> HeldSnapshot:
    """A held snapshot from the wire."""
    return HeldSnapshot(
        provider=to_provider(message.provider),
        name=message.name,
        commit=message.commit,
        refs=tuple(message.refs),
        selections=tuple(message.selections),
        files=message.files,
        bytes=message.bytes,
        bytes_added=message.bytes_added,
        bytes_ours=message.bytes_ours,
        path=message.path,
        last_used_at=message.last_used_at if message.HasField("last_used_at") else None,
        is_recorded=message.is_recorded,
        is_adopted=message.is_adopted,
        bytes_on_disk=message.bytes_on_disk,
        bytes_shared=message.bytes_shared,
        bytes_on_disk_added=message.bytes_on_disk_added,
        pins=tuple(message.pins),
        readers=message.readers,
    )


def from_plan(plan: RemovalPlan) -> cache_pb2.RemovalPlan:
    """A removal plan as a message."""
    removals = [
        cache_pb2.Removal(
            provider=removal.provider.value,
            name=removal.name,
            commit=removal.commit,
            bytes_freed=removal.bytes_freed,
            files_removed=removal.files_removed,
            files_kept=removal.files_kept,
            reason=removal.reason,
        )
        for removal in plan.removals
    ]
    return cache_pb2.RemovalPlan(
        removals=removals,
        leftovers=plan.leftovers,
        leftover_bytes=plan.leftover_bytes,
        notes=plan.notes,
    )


def to_plan(message: cache_pb2.RemovalPlan) -> RemovalPlan:
    """A removal plan from the wire."""
    removals = tuple(
        Removal(
            to_provider(r.provider),
            r.name,
            r.commit,
            r.bytes_freed,
            r.files_removed,
            r.files_kept,
            r.reason,
        )
        for r in message.removals
    )
    return RemovalPlan(removals, message.leftovers, message.leftover_bytes, tuple(message.notes))


def from_verified(verified: Verified) -> cache_pb2.Verified:
    """A verification as a message."""
    return cache_pb2.Verified(
        provider=verified.provider.value,
        name=verified.name,
        commit=verified.commit,
        files=verified.files,
        bytes=verified.bytes,
        unproven=verified.unproven,
        damages=[
            cache_pb2.Damage(path=d.path, problem=d.problem, is_repaired=d.is_repaired, obstacle=d.obstacle)
            for d in verified.damages
        ],
        flaws=[cache_pb2.Flaw(path=flaw.path, problem=flaw.problem) for flaw in verified.flaws],
        bytes_fetched=verified.bytes_fetched,
    )


def to_verified(message: cache_pb2.Verified) -> Verified:
    """A verification from the wire."""
    return Verified(
        provider=to_provider(message.provider),
        name=message.name,
        commit=message.commit,
        files=message.files,
        bytes=message.bytes,
        unproven=message.unproven,
        damages=tuple(Damage(d.path, d.problem, d.is_repaired, d.obstacle) for d in message.damages),
        flaws=tuple(Flaw(flaw.path, flaw.problem) for flaw in message.flaws),
        bytes_fetched=message.bytes_fetched,
    )


def remove_request(refs: Sequence[ModelRef], is_dry_run: bool) -> cache_pb2.RemoveRequest:
    """Ask for the removal of models."""
    return cache_pb2.RemoveRequest(models=[from_ref(ref) for ref in refs], is_dry_run=is_dry_run)


def verify_request(ref: ModelRef | None, is_repair: bool) -> cache_pb2.VerifyRequest:
    """Ask for a verification, and a repair; None: of everything."""
    return cache_pb2.VerifyRequest(model=None if ref is None else from_ref(ref), is_repair=is_repair)


def adopt_request(ref: ModelRef | None, is_dry_run: bool) -> cache_pb2.AdoptRequest:
    """Ask for an adoption; None: of everything."""
    return cache_pb2.AdoptRequest(model=None if ref is None else from_ref(ref), is_dry_run=is_dry_run)
