# SPDX-License-Identifier: Apache-2.0
"""Our transfer service: pulls with selections and byte progress, and manifests."""

from __future__ import annotations

from collections.abc import AsyncIterator

from modelexpress.server.door import Call
from modelexpress.server.port import ServedCache
from modelexpress.wire import transfer_pb2
from modelexpress.wire.transfer import from_progress, from_pulled, to_page, to_ref, to_selection

_UPDATE_SECONDS = 0.5
_PAGE_FILES = 1000


class TransferService:
    """What the established wire cannot say about a pull."""

    def __init__(self, cache: ServedCache) -> None:
        self._cache = cache

    async def pull(
        self, request: transfer_pb2.PullRequest, call: Call
    ) -> AsyncIterator[transfer_pb2.PullUpdate]:
        """Progress, then one update with the result; an error is the call's status."""
        selection = to_selection(request.selection) if request.HasField("selection") else None
        pull = await self._cache.begin(to_ref(request.model), selection, call.caller)
        async for progress in pull.updates(_UPDATE_SECONDS):
            yield transfer_pb2.PullUpdate(progress=from_progress(progress))
        yield transfer_pb2.PullUpdate(pulled=from_pulled(await pull.result(), pull.selection))

    async def get_manifest(
        self, request: transfer_pb2.ManifestRequest, call: Call
    ) -> transfer_pb2.ManifestPage:
        """A page of what is recorded of a commit."""
        selection = to_selection(request.selection) if request.HasField("selection") else None
        manifest = await self._cache.held_manifest(to_ref(request.model), selection, call.caller)
        return to_page(manifest.commit, manifest.files, request.after, _PAGE_FILES)
