# SPDX-License-Identifier: Apache-2.0
"""Our transfer service: pulls with selections and byte progress, manifests with tickets, proofs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Invalid
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection
from modelexpress.domain.tickets import Tickets
from modelexpress.server.door import Call
from modelexpress.server.port import RunningPull, ServedCache
from modelexpress.store.offers import offer_id_of
from modelexpress.wire import transfer_pb2
from modelexpress.wire.transfer import (
    IssueTicket,
    from_progress,
    from_pulled,
    from_selection,
    to_page,
    to_ref,
    to_selection,
)

_UPDATE_SECONDS = 0.5
_PAGE_FILES = 1000
_MOST_HOLDER_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class DataAddress:
    """Where our data plane is reached; `host` empty: where this service is. `tickets` open it.

    `bound_port` is the one on this machine.
    """

    host: str
    port: int
    bound_port: int
    tickets: Tickets


class TransferService:
    """What the established wire cannot say about a pull. `data` None: there is no data plane."""

    def __init__(self, cache: ServedCache, data: DataAddress | None, clock: Clock) -> None:
        self._cache = cache
        self._data = data
        self._clock = clock

    async def pull(
        self, request: transfer_pb2.PullRequest, call: Call
    ) -> AsyncIterator[transfer_pb2.PullUpdate]:
        """Progress, then one update with the result; an error is the call's status."""
        await call.send_headers()
        ref, selection = to_ref(request.model), _find_selection(request)
        pull = await self._cache.begin(ref, selection, call.caller)
        listing = asyncio.ensure_future(pull.wait_listed())
        try:
            while not listing.done():
                yield transfer_pb2.PullUpdate(progress=from_progress(pull.progress))
                await asyncio.wait({listing}, timeout=_UPDATE_SECONDS)
            if await listing:
                yield transfer_pb2.PullUpdate(listed=self._listed(ref, pull))
            async for progress in pull.updates(_UPDATE_SECONDS):
                yield transfer_pb2.PullUpdate(progress=from_progress(progress))
        finally:
            listing.cancel()
        yield transfer_pb2.PullUpdate(pulled=from_pulled(await pull.result(), pull.selection))

    async def get_manifest(
        self, request: transfer_pb2.ManifestRequest, call: Call
    ) -> transfer_pb2.ManifestPage:
        """A page of the files of a commit; of a selection, with tickets for the data plane."""
        ref, selection = to_ref(request.model), _find_selection(request)
        if selection is None:
            manifest = await self._cache.held_manifest(ref, None, call.caller)
            return to_page(manifest.commit, manifest.files, request.after, _PAGE_FILES)
        manifest = await self._cache.offered_manifest(_pinned(ref), selection, call.caller)
        page = to_page(manifest.commit, manifest.files, request.after, _PAGE_FILES, self._issue_for(manifest))
        if self._data is not None:
            page.data.CopyFrom(transfer_pb2.DataPlane(host=self._data.host, port=self._data.port))
        return page

    async def watch_proofs(
        self, request: transfer_pb2.ManifestRequest, call: Call
    ) -> AsyncIterator[transfer_pb2.FileProof]:
        """Each file of a selection once it is proven here."""
        await call.send_headers()
        selection = _find_selection(request)
        if selection is None:
            raise Invalid("proofs are watched for a selection; name one")
        ref = _pinned(to_ref(request.model))
        manifest = await self._cache.offered_manifest(ref, selection, call.caller)
        async for proven in self._cache.watch_proofs(manifest):
            yield transfer_pb2.FileProof(path=proven.path, size=proven.size, root=proven.root)

    async def keep_path(
        self, request: transfer_pb2.KeepPathRequest, call: Call
    ) -> transfer_pb2.KeepPathAnswer:
        """The caller reads a commit where it stands: nothing evicts it for a while."""
        ref = _pinned(to_ref(request.model))
        await self._cache.held_manifest(ref, None, call.caller)  # whether it is here, and may be read
        seconds = float(request.seconds) if request.HasField("seconds") else None
        holder = f"{request.holder[:_MOST_HOLDER_CHARACTERS] or 'a client'} at {call.peer}"
        lasting = await self._cache.give_path(ref, ref.revision or "", holder, seconds)
        return transfer_pb2.KeepPathAnswer(seconds=lasting)

    def _issue_for(self, manifest: Manifest) -> IssueTicket | None:
        if self._data is None:
            return None
        tickets, now = self._data.tickets, self._clock.wall()

        def issue(entry: FileEntry) -> str:
            return tickets.issue(offer_id_of(manifest.ref.name, manifest.commit, entry), now)

        return issue

    def _listed(self, ref: ModelRef, pull: RunningPull) -> transfer_pb2.Listed:
        return transfer_pb2.Listed(
            commit=pull.commit,
            selection=from_selection(pull.selection),
            volume=self._cache.volume,
            path=str(self._cache.snapshot_path(ref, pull.commit)),
        )


def _find_selection(request: transfer_pb2.PullRequest | transfer_pb2.ManifestRequest) -> Selection | None:
    return to_selection(request.selection) if request.HasField("selection") else None


def _pinned(ref: ModelRef) -> ModelRef:
    if not ref.is_pinned:
        raise Invalid(f"{ref} names no commit: pull it first, and ask with the commit that it has")
    return ref
