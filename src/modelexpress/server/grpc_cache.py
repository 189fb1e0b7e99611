# SPDX-License-Identifier: Apache-2.0
"""Our cache service: what is held, and the verbs on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modelexpress.domain.progress import Progress
from modelexpress.server.door import Call
from modelexpress.server.port import ServedCache
from modelexpress.wire import cache_pb2
from modelexpress.wire.held import from_plan, from_snapshot, from_verified
from modelexpress.wire.space import from_eviction, from_explained, from_pins
from modelexpress.wire.transfer import from_progress, to_ref

_UPDATE_SECONDS = 0.5


class CacheService:
    """The verbs of `modelexpress cache` for clients elsewhere."""

    def __init__(self, cache: ServedCache) -> None:
        self._cache = cache

    async def list_held(
        self, request: cache_pb2.ListHeldRequest, call: Call
    ) -> AsyncIterator[cache_pb2.HeldSnapshot]:
        """Everything in the cache."""
        await call.send_headers()
        for held in await self._cache.list_held():
            yield from_snapshot(held)

    async def remove(self, request: cache_pb2.RemoveRequest, call: Call) -> cache_pb2.RemovalPlan:
        """Plan (and carry out) the removal of models."""
        refs = [to_ref(model) for model in request.models]
        return from_plan(await self._cache.remove(refs, request.is_dry_run))

    async def prune(self, request: cache_pb2.PruneRequest, call: Call) -> cache_pb2.RemovalPlan:
        """Plan (and carry out) the removal of what nothing names."""
        return from_plan(await self._cache.prune(request.is_dry_run))

    async def verify(
        self, request: cache_pb2.VerifyRequest, call: Call
    ) -> AsyncIterator[cache_pb2.VerifyUpdate]:
        """Progress, then what was found of each snapshot."""
        await call.send_headers()
        latest: list[Progress] = []
        ref = to_ref(request.model) if request.HasField("model") else None
        verifying = asyncio.create_task(self._cache.verify(ref, latest.append, request.is_repair))
        try:
            while not verifying.done():
                await asyncio.wait({verifying}, timeout=_UPDATE_SECONDS)
                if latest:
                    yield cache_pb2.VerifyUpdate(progress=from_progress(latest[-1]))
                    latest.clear()
            for verified in await verifying:
                yield cache_pb2.VerifyUpdate(verified=from_verified(verified))
        finally:
            verifying.cancel()
            await asyncio.gather(verifying, return_exceptions=True)

    async def plan(self, request: cache_pb2.PlanRequest, call: Call) -> cache_pb2.EvictionPlan:
        """The space, and what would go of it now."""
        return from_eviction(await self._cache.plan(request.wanted))

    async def evict(self, request: cache_pb2.EvictRequest, call: Call) -> cache_pb2.EvictionPlan:
        """Remove what may go."""
        refs = [to_ref(model) for model in request.models]
        return from_eviction(
            await self._cache.evict(refs, request.wanted, request.is_dry_run, request.is_forced)
        )

    async def explain(
        self, request: cache_pb2.ExplainRequest, call: Call
    ) -> AsyncIterator[cache_pb2.Explained]:
        """Why each snapshot of a model is here, and when it goes."""
        await call.send_headers()
        for explained in await self._cache.explain(to_ref(request.model)):
            yield from_explained(explained)

    async def list_pins(self, request: cache_pb2.ListPinsRequest, call: Call) -> cache_pb2.Pins:
        """The pins that are not over."""
        return from_pins(await self._cache.list_pins())

    async def pin(self, request: cache_pb2.PinRequest, call: Call) -> AsyncIterator[cache_pb2.HeldSnapshot]:
        """Keep what matches."""
        await call.send_headers()
        until = request.until if request.HasField("until") else None
        for held in await self._cache.pin(request.pattern, until, request.is_dry_run):
            yield from_snapshot(held)

    async def unpin(self, request: cache_pb2.UnpinRequest, call: Call) -> cache_pb2.Pins:
        """End pins."""
        return from_pins(await self._cache.unpin(list(request.patterns), request.is_dry_run))

    async def adopt(
        self, request: cache_pb2.AdoptRequest, call: Call
    ) -> AsyncIterator[cache_pb2.HeldSnapshot]:
        """Take over snapshots that other tools wrote."""
        await call.send_headers()
        ref = to_ref(request.model) if request.HasField("model") else None
        for held in await self._cache.adopt(ref, request.is_dry_run):
            yield from_snapshot(held)
