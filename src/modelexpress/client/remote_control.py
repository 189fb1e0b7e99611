# SPDX-License-Identifier: Apache-2.0
"""The verbs of `modelexpress cache` on a server's cache."""

from __future__ import annotations

from collections.abc import Sequence

from modelexpress.client.rpc import Connection
from modelexpress.domain.held import HeldSnapshot, OnProgress, RemovalPlan, Verified
from modelexpress.domain.pins import Pin
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.space import EvictionPlan, Explained
from modelexpress.wire import cache_pb2
from modelexpress.wire import held as held_wire
from modelexpress.wire.space import evict_request, to_eviction, to_explained, to_pins
from modelexpress.wire.transfer import from_ref, to_progress

_CACHE = "/model_express.cache.CacheService"
_LONG_SECONDS = 600.0  # a removal of many files from a slow network file system


class RemoteControl:
    """CacheControl over the wire (see `domain.control.CacheControl` for the promises)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.where = connection.target.url

    async def list_held(self) -> list[HeldSnapshot]:
        """Everything in the server's cache."""
        stream = self._connection.stream(
            f"{_CACHE}/ListHeld", cache_pb2.ListHeldRequest(), cache_pb2.HeldSnapshot
        )
        return [held_wire.to_snapshot(message) async for message in stream]

    async def remove(self, refs: list[ModelRef], is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of models at the server."""
        request = held_wire.remove_request(refs, is_dry_run)
        answer = await self._connection.call(
            f"{_CACHE}/Remove", request, cache_pb2.RemovalPlan, _LONG_SECONDS
        )
        return held_wire.to_plan(answer)

    async def prune(self, is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of what nothing names at the server."""
        request = cache_pb2.PruneRequest(is_dry_run=is_dry_run)
        answer = await self._connection.call(f"{_CACHE}/Prune", request, cache_pb2.RemovalPlan, _LONG_SECONDS)
        return held_wire.to_plan(answer)

    async def verify(
        self, ref: ModelRef | None, on_progress: OnProgress, is_repair: bool = False
    ) -> list[Verified]:
        """Let the server prove its files again, and repair them."""
        found = []
        request = held_wire.verify_request(ref, is_repair)
        async for update in self._connection.stream(f"{_CACHE}/Verify", request, cache_pb2.VerifyUpdate):
            if update.HasField("progress"):
                on_progress(to_progress(update.progress))
            else:
                found.append(held_wire.to_verified(update.verified))
        return found

    async def plan(self, wanted: int = 0) -> EvictionPlan:
        """The server's space, and what would go of it now."""
        request = cache_pb2.PlanRequest(wanted=wanted)
        answer = await self._connection.call(f"{_CACHE}/Plan", request, cache_pb2.EvictionPlan, _LONG_SECONDS)
        return to_eviction(answer)

    async def evict(
        self, refs: Sequence[ModelRef], wanted: int, is_dry_run: bool, is_forced: bool = False
    ) -> EvictionPlan:
        """Let the server evict."""
        request = evict_request(refs, wanted, is_dry_run, is_forced)
        answer = await self._connection.call(
            f"{_CACHE}/Evict", request, cache_pb2.EvictionPlan, _LONG_SECONDS
        )
        return to_eviction(answer)

    async def explain(self, ref: ModelRef) -> list[Explained]:
        """Let the server explain."""
        request = cache_pb2.ExplainRequest(model=from_ref(ref))
        stream = self._connection.stream(f"{_CACHE}/Explain", request, cache_pb2.Explained)
        return [to_explained(message) async for message in stream]

    async def list_pins(self) -> list[Pin]:
        """The server's pins."""
        request = cache_pb2.ListPinsRequest()
        return to_pins(await self._connection.call(f"{_CACHE}/ListPins", request, cache_pb2.Pins))

    async def pin(self, pattern: str, until: float | None, is_dry_run: bool) -> list[HeldSnapshot]:
        """Let the server keep what matches."""
        request = cache_pb2.PinRequest(pattern=pattern, until=until, is_dry_run=is_dry_run)
        stream = self._connection.stream(f"{_CACHE}/Pin", request, cache_pb2.HeldSnapshot)
        return [held_wire.to_snapshot(message) async for message in stream]

    async def unpin(self, patterns: Sequence[str], is_dry_run: bool) -> list[Pin]:
        """Let the server end pins."""
        request = cache_pb2.UnpinRequest(patterns=patterns, is_dry_run=is_dry_run)
        return to_pins(await self._connection.call(f"{_CACHE}/Unpin", request, cache_pb2.Pins))

    async def adopt(self, ref: ModelRef | None, is_dry_run: bool) -> list[HeldSnapshot]:
        """Let the server take over snapshots that other tools wrote."""
        request = held_wire.adopt_request(ref, is_dry_run)
        stream = self._connection.stream(f"{_CACHE}/Adopt", request, cache_pb2.HeldSnapshot)
        return [held_wire.to_snapshot(message) async for message in stream]
