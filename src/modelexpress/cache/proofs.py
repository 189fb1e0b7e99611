# SPDX-License-Identifier: Apache-2.0
"""Telling readers what was proven, file by file, as soon as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress

from modelexpress.cache.parts import CacheParts
from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Corrupt, MxError, NotFound
from modelexpress.domain.held import ProvenFile
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import shown
from modelexpress.domain.selection import is_ancillary
from modelexpress.store.digests import DigestList
from modelexpress.store.offers import Offer, Standing, State, offer_id_of
from modelexpress.store.proof import MISSING, prove_chunks


class _Ready:
    """Paths whose offers have changed; the offers tell it from any thread."""

    def __init__(self, paths: set[str]) -> None:
        self._paths = paths
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._event.set()

    def hearer(self, path: str) -> Callable[[], None]:
        def hear() -> None:
            self._loop.call_soon_threadsafe(self._add, path)

        return hear

    async def take(self) -> list[str]:
        await self._event.wait()
        self._event.clear()
        taken, self._paths = sorted(self._paths), set()
        return taken

    def _add(self, path: str) -> None:
        self._paths.add(path)
        self._event.set()


async def watch_proofs(parts: CacheParts, manifest: Manifest) -> AsyncIterator[ProvenFile]:
    """Each file of `manifest` once it is proven here, in the order in which that happens.

    Raises what ended the pull, or NotFound when these files are not on offer (any more).
    """
    entries = {entry.path: entry for entry in manifest.files}
    with ExitStack() as stack:
        ready, pending = (
            _Ready(set(entries)),
            {p: _find_offer(parts, manifest, e) for p, e in entries.items()},
        )
        for path, offer in pending.items():
            stack.enter_context(offer.listened(ready.hearer(path), is_of_states=True))
        while pending:
            for path in await ready.take():
                state = pending[path].state if path in pending else None
                root = pending[path].root if path in pending else None
                if root is not None and not await _has_changed(parts, entries[path], state):
                    # Said before the file is durable: what is proven stays proven.
                    del pending[path]
                    yield ProvenFile(path, entries[path].size, root)
                elif isinstance(state, NotFound) and is_ancillary(path):
                    del pending[path]  # listed, but the origin does not have it; the pull goes on without it
                elif isinstance(state, MxError):
                    raise state
                elif isinstance(state, Standing):
                    root = await _find_root(parts, entries[path], pending.pop(path), state)
                    yield ProvenFile(path, entries[path].size, root)


def _find_offer(parts: CacheParts, manifest: Manifest, entry: FileEntry) -> Offer:
    offer = parts.offers.find(offer_id_of(manifest.ref.name, manifest.commit, entry))
    if offer is None:
        raise NotFound(
            f"{manifest.ref}: {shown(entry.path)} is not on offer here; ask for the manifest again"
        )
    return offer


async def _find_root(parts: CacheParts, entry: FileEntry, offer: Offer, standing: Standing) -> str:
    """The root of a file that stood here before anybody asked; many who ask at once cost one reading."""
    async with parts.turns.of(f"digest list {offer.id}"):
        if (
            offer.root is not None
            and offer.state is standing
            and not await _has_changed(parts, entry, standing)
        ):
            return offer.root
        try:
            found = await _find_list(parts, entry, standing)
        except Corrupt:
            now = offer.state
            if now is standing or not isinstance(now, Standing):
                raise
            found, standing = await _find_list(parts, entry, now), now  # it was just moved aside
        if offer.state is standing:
            offer.prove(found.root)
        return found.root


async def _has_changed(parts: CacheParts, entry: FileEntry, state: State) -> bool:
    """True when a file stands here that is no longer the one that was proven."""
    if not isinstance(state, Standing):
        return False

    def look() -> bool:
        for path in state.places:
            with suppress(OSError):
                return not state.is_unchanged(path.stat(), entry.size)
        return True

    return await parts.pool.run(f"looking at {entry.path}", look)


async def _find_list(parts: CacheParts, entry: FileEntry, standing: Standing) -> DigestList:
    if entry.digest is None or entry.size <= CHUNK_BYTES:
        return await _hash(parts, entry, standing)
    lists, what = parts.blobs.lists, f"reading the digest list of {entry.path}"
    async with parts.turns.of(f"digest list {entry.digest}"):  # the same bytes may be in other offers too
        found = await parts.pool.run(what, lists.find, entry.digest, entry.size)
        if found is None:
            found = await _hash(parts, entry, standing)
            await parts.pool.run(what, lists.save, entry.digest, found)
    return found


async def _hash(parts: CacheParts, entry: FileEntry, standing: Standing) -> DigestList:
    problem = MISSING
    # In this order: where it moves just now, it goes from the first to the second.
    for path in standing.places:
        digests = await prove_chunks(parts.pool, path, entry)
        if not isinstance(digests, str):
            return DigestList(entry.size, digests)
        problem = digests if problem == MISSING else problem
    raise Corrupt(
        f"file {shown(entry.path)} is not what was proven any more ({problem}); run "
        "'modelexpress cache verify' at the server, and pull the model again"
    )
