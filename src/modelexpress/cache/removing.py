# SPDX-License-Identifier: Apache-2.0
"""Carrying out a removal, past readers who are in the middle; the space is given back after the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from modelexpress.cache.leases import Lease
from modelexpress.cache.parts import CacheParts
from modelexpress.domain.errors import MxError
from modelexpress.domain.inventory import ModelKey, SnapshotKey
from modelexpress.domain.tasks import finish
from modelexpress.store.offers import Offer, Standing
from modelexpress.store.records import SnapshotRecord
from modelexpress.store.removal import RepositoryRemoval, carry_out, note_removal, trash_of
from modelexpress.store.volume import remove_tree

_LOOK_SECONDS = 0.25  # between two looks at whether the last reader has gone
_LINGER_SECONDS = 5.0  # a client that reads file by file is between two of them for so long at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Users:
    """Who may be reading what is removed. `ignored`: the lease of somebody who does not.

    `expects_readers` False: it was looked, and nobody is.
    """

    ignored: Lease | None = None
    expects_readers: bool = True


EVERYBODY = Users()


@dataclass(frozen=True, slots=True)
class Aside:
    """A removed snapshot that is still read: what it was, and where its directory is now."""

    record: SnapshotRecord
    folder: Path


class Remover:
    """Removes snapshots of one cache. What is still read is moved aside, and deleted afterwards."""

    def __init__(self, parts: CacheParts) -> None:
        self._parts = parts
        self._aside: dict[SnapshotKey, Aside] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    async def carry_out(
        self,
        plan: RepositoryRemoval,
        may_go: Callable[[], bool] = lambda: True,
        users: Users = EVERYBODY,
    ) -> bool:
        """Do what the plan says, to the end also when cancelled; the caller has the turn of its model.

        `may_go` is asked at the last moment, after which nobody can begin to use the model; False: nothing
        was done.
        """
        parts, what = self._parts, f"removing {plan.ref.name}"
        records = await parts.pool.run(what, self._find_records, plan)
        if not may_go():
            return False
        moved = _Moved(plan, records, parts, users)
        with parts.leases.removing(moved.model):
            await finish(self._carry_out(moved, what))
        _log.info("removed %s: %d files", plan.ref.name, len(plan.blobs))
        return True

    async def _carry_out(self, moved: _Moved, what: str) -> None:
        parts, plan = self._parts, moved.plan
        noted = await parts.pool.run(what, note_removal, parts.layout, parts.owner, plan)
        trash = trash_of(parts.layout, noted)
        # Told before the first file moves: whoever opens one looks at both places.
        self._aside.update(moved.tell(trash))
        try:
            await parts.pool.run(what, carry_out, parts.layout, noted, plan, parts.records, moved.has_readers)
            for key in moved.keys:
                await parts.holdings.remove(plan.ref.provider.value, plan.ref.name, key.commit)
                await parts.leases.forget(key)
        finally:
            if moved.has_readers:
                task = asyncio.create_task(self._delete_later(moved, trash, what), name=what)
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
            else:
                await self._delete(trash, what)

    async def close(self) -> None:
        """Wait for no reader any more."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    def find_aside(self, key: SnapshotKey) -> Aside | None:
        """A snapshot that was removed while somebody read it, for as long as he does."""
        return self._aside.get(key)

    def _find_records(self, plan: RepositoryRemoval) -> list[SnapshotRecord]:
        found = (self._parts.records.find(plan.ref, commit) for commit in plan.commits)
        return [record for record in found if record is not None]

    async def _delete_later(self, moved: _Moved, trash: Path, what: str) -> None:
        try:
            read_at = self._parts.clock.monotonic()
            while self._parts.clock.monotonic() - read_at < _LINGER_SECONDS:
                await self._parts.clock.sleep(_LOOK_SECONDS)
                if moved.is_read(trash):
                    read_at = self._parts.clock.monotonic()
        finally:
            for key in moved.keys:
                if key in self._aside and self._aside[key].folder.is_relative_to(trash):
                    del self._aside[key]
            # Also when this process stops: who has a file open keeps it.
            await finish(self._delete(trash, what))

    async def _delete(self, trash: Path, what: str) -> None:
        try:
            await self._parts.pool.run(what, remove_tree, trash)
        except MxError as error:
            _log.warning("%s could not be deleted; it is tried again at the next start: %s", trash, error)


class _Moved:
    """What is removed, and those who were reading it."""

    def __init__(
        self, plan: RepositoryRemoval, records: list[SnapshotRecord], parts: CacheParts, users: Users
    ) -> None:
        self.plan = plan
        self.model = ModelKey.of(plan.ref.provider, plan.ref.name)
        self.keys = [SnapshotKey(self.model, commit) for commit in plan.commits]
        self._records = {SnapshotKey.of(record.manifest): record for record in records}
        self._leases = parts.leases
        running = {lease for key in self.keys for lease in parts.leases.running(key)}
        self._running = [lease for lease in running if lease is not users.ignored]
        self._offers = parts.offers.of_all([record.manifest for record in records])
        self.has_readers = users.expects_readers and (
            bool(self._running)
            or any(offer.count_readers(0.0) for offer in self._offers)
            or any(parts.leases.is_expected(record.manifest) for record in records)
        )

    def tell(self, trash: Path) -> dict[SnapshotKey, Aside]:
        """Let the readers know where everything is going to be; the snapshots as they can be found there."""
        if not self.has_readers:
            return {}
        top, going = self.plan.repository.path, {*self.plan.links, *self.plan.blobs}
        for key in self.keys:
            for lease in self._running:
                lease.moved[key.commit] = self._folder(trash, key)
        for offer in self._offers:
            state = offer.state
            if isinstance(state, Standing) and state.path in going:
                offer.become(replace(state, aside=trash / state.path.relative_to(top)))
        return {key: Aside(record, self._folder(trash, key)) for key, record in self._records.items()}

    def is_read(self, trash: Path) -> bool:
        """Whether somebody reads it at this moment, who came before it was moved or since."""
        folders = {self._folder(trash, key) for key in self.keys}
        leases = (lease for key in self.keys for lease in self._leases.running(key))
        if any(not folders.isdisjoint(lease.moved.values()) for lease in leases):
            return True
        return any(_is_in(offer, trash) and offer.count_readers(_LOOK_SECONDS) for offer in self._offers)

    def _folder(self, trash: Path, key: SnapshotKey) -> Path:
        return trash / self.plan.repository.snapshot(key.commit).relative_to(self.plan.repository.path)


def _is_in(offer: Offer, trash: Path) -> bool:
    state = offer.state
    return isinstance(state, Standing) and any(path.is_relative_to(trash) for path in state.places)
