# SPDX-License-Identifier: Apache-2.0
"""One file on its way: counted for its watchers, and hashed in order a few chunks behind its arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from modelexpress.domain.chunks import DIGEST_BYTES, chunk_span, count_chunks
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry
from modelexpress.domain.tasks import finish, run_bounded
from modelexpress.store.digests import DigestList
from modelexpress.store.disk import DiskPool
from modelexpress.store.journal import Piece
from modelexpress.store.offers import Offer
from modelexpress.store.partial import Partial
from modelexpress.store.proof import STEP_BYTES, Prover, opened

_UNKNOWN = Digest(DigestKind.LOCAL_SHA256, "0" * 64)

Room = Callable[[int], AbstractAsyncContextManager[Callable[[int], None]]]
Fill = Callable[[FileEntry, Partial], Awaitable[None]]


def _ignore(count: int) -> None:
    pass


async def _go_on() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Watch:
    """Who wants to know. `on_bytes`: bytes that count as done; `on_disk`: bytes of the disk that are taken.

    Both are negative when something is thrown away. `offer`: what readers see of the file. `room`: sets
    bytes aside for a file that was to be here already, and has to be fetched after all. `wait_owned`: until
    it is on record whose the file will be; it is not put in its place before.
    """

    on_bytes: Callable[[int], None] = _ignore
    on_disk: Callable[[int], None] = _ignore
    offer: Offer | None = None
    room: Room | None = None
    wait_owned: Callable[[], Awaitable[object]] = _go_on


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that stands damaged at `path`, and the list of what its chunks were when it was proven."""

    path: Path
    known: DigestList


class Arriving:
    """A partial file and the proof that grows with it. Belongs to one event loop; `hear` to any thread.

    `bytes_kept` were not fetched but found in the damaged file that this one is to replace.
    """

    partial: Partial

    def __init__(
        self, pool: DiskPool, entry: FileEntry, watch: Watch, damaged: Damaged | None = None
    ) -> None:
        self.entry = entry
        self.fetched = 0
        self.bytes_kept = 0
        self._damaged = damaged
        self._pool = pool
        self.watch = watch
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._counted = 0
        self._on_disk = 0
        self._prover = self._new_prover()

    @property
    def hexdigest(self) -> str:
        """The digest of the whole file, once it has been hashed."""
        return self._prover.hexdigest()

    def hear(self, count: int) -> None:
        """`count` bytes have come; called in the thread that brought them."""
        if self.watch.offer is not None:
            self.watch.offer.changed()
        self._loop.call_soon_threadsafe(self._arrived, count)

    async def begin(self, partial: Partial) -> None:
        """The file is open: what it holds already counts."""
        self.partial = partial
        if self.watch.offer is not None and partial.continues is not None:
            move = self.watch.offer.move_note
            await finish(self._pool.run(self._what, move, partial.continues, partial))
        self._count(partial.arrived_bytes)
        self._take_disk(partial.bytes_allocated)
        if self.watch.offer is not None:
            self.watch.offer.become(partial)

    async def keep_undamaged(self) -> None:
        """Copy the chunks of the damaged file that are as its list says."""
        if self._damaged is None:
            return
        known = self._damaged.known
        async with opened(self._pool, self._damaged.path) as source:
            if isinstance(source, str):
                return
            differing = known.find_differing(self.partial.digests)
            wrong = [i for i in differing if self.partial.has_arrived(i) or self.partial.begun_bytes(i)]
            if wrong:  # in what was gone on with
                await self.forget(wrong)
            for index in differing:
                right = {index: Piece(chunk_span(index, self.entry.size).length, known.of_chunk(index))}
                taken = await finish(self._pool.run(self._what, self.partial.resume, source, right, {}))
                self.bytes_kept += taken
                self._take_in(taken)

    async def prove(self) -> None:
        """All of it is right: let readers have it, who need not wait for the disk."""
        offer = self.watch.offer
        if offer is None:
            return
        # What was lost now would be fetched and proven again.
        offer.prove(DigestList(self.entry.size, self.partial.digests).root)
        if offer.is_noted(self.partial) or self.partial.continues is not None:
            await finish(self._pool.run(self._what, offer.erase_note, self.partial))

    def end(self, is_kept: bool) -> None:
        """It did not become a proven file: take back what was counted, and the disk unless it is kept."""
        self._count(-self._counted)
        if not is_kept:
            self._take_disk(-self._on_disk)
        if self.watch.offer is not None and self.watch.offer.state is self.partial:
            self.watch.offer.become(None)

    async def forget(self, indices: Iterable[int]) -> None:
        """These chunks are wrong and missing again."""
        if self.watch.offer is not None:  # before there are right bytes that could be added to wrong ones
            await finish(self._pool.run(self._what, self.watch.offer.note_wrong))
        for index in indices:
            here = chunk_span(index, self.entry.size).length
            if not self.partial.has_arrived(index):
                here = self.partial.begun_bytes(index)
            self.partial.forget(index)
            self._count(-here)
        if self.watch.offer is not None:
            self.watch.offer.changed()  # readers who cannot throw bytes away must leave

    async def bring_and_hash(self, fill: Fill) -> str | None:
        """Let `fill` bring the file and hash it on the way; what is wrong with it, None: it is proven."""
        jobs: list[Callable[[], Awaitable[None]]] = [lambda: fill(self.entry, self.partial), self._follow]
        await run_bounded(len(jobs), jobs, lambda job: job())
        if self.entry.digest is None:
            return self._prover.find_length_problem()
        return self._prover.find_problem()

    async def bring_again(self, indices: list[int], fill: Fill) -> str | None:
        """Fetch these chunks again and hash the whole file again; what is wrong with it then."""
        await self.forget(indices)
        self._prover = self._new_prover()
        return await self.bring_and_hash(fill)

    async def find_damaged(self) -> list[int]:
        """The chunks that are not on the disk as they arrived, or did not arrive as a list knows them."""
        known = self.partial.digests
        damaged = [] if self._damaged is None else self._damaged.known.find_differing(known)
        for index in range(count_chunks(self.entry.size)):
            span = chunk_span(index, self.entry.size)
            data = await finish(self._pool.run(self._what, self.partial.read, span.start, span.length))
            if blake3(data).digest() != known[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
                damaged.append(index)
        return sorted(set(damaged))

    @property
    def _what(self) -> str:
        return f"reading {self.entry.path}"

    def _new_prover(self) -> Prover:
        # Where the origin gives no digest we take our own, to name the blob and to notice later damage.
        return Prover(self.entry if self.entry.digest else replace(self.entry, digest=_UNKNOWN))

    async def _follow(self) -> None:
        while self._prover.length < self.entry.size:
            self._changed.clear()
            if self.partial.prefix_bytes > self._prover.length:
                await finish(self._pool.run(self._what, self._hash_step))  # or the file is closed under it
            else:
                await self._changed.wait()

    def _hash_step(self) -> None:
        start = self._prover.length
        length = min(self.partial.prefix_bytes - start, STEP_BYTES)
        if length <= 0:
            return  # a write failed meanwhile, and what had come of its chunk counts no more
        self._prover.update(self.partial.read(start, length))

    def _arrived(self, count: int) -> None:
        self.fetched += count
        self._take_in(count)
        self._changed.set()

    def _take_in(self, count: int) -> None:
        self._count(count)
        if not self.partial.is_allocated:
            self._take_disk(count)
        self._changed.set()

    def _count(self, count: int) -> None:
        self._counted += count
        self.watch.on_bytes(count)

    def _take_disk(self, count: int) -> None:
        self._on_disk += count
        self.watch.on_disk(count)
