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

    async def adopt(
        self, request: cache_pb2.AdoptRequest, call: Call
    ) -> AsyncIterator[cache_pb2.HeldSnapshot]:
        """Take over snapshots that other tools wrote."""
        await call.send_headers()
        ref = to_ref(request.model) if request.HasField("model") else None
        for held in await self._cache.adopt(ref, request.is_dry_run):
            yield from_snapshot(held)
