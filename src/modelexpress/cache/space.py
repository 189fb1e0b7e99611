# SPDX-License-Identifier: Apache-2.0
"""The volume's space: measures the disk, makes room, holds the promises, gives them back on every exit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from modelexpress.cache.leases import Lease
from modelexpress.cache.ledger import Ledger, Limits
from modelexpress.domain.errors import NoRoom
from modelexpress.domain.meter import NO_METER, Meter
from modelexpress.store.disk import DiskPool
from modelexpress.store.layout import Layout
from modelexpress.store.usage import Usage, measure_usage
from modelexpress.store.volume import free_bytes

OnSpend = Callable[[int], None]

_BY_HAND = "make room with 'modelexpress cache prune' or 'modelexpress cache rm MODEL'"


@dataclass(frozen=True, slots=True)
class Needs:
    """Who asks for room. `lease`: his own does not keep an older revision of the same model from going.

    `blobs`: files of his model that are here and that he needs; they stay whatever goes. `is_forced`: he
    wants it gone though it is in use.
    """

    lease: Lease | None = None
    blobs: frozenset[Path] = frozenset()
    is_forced: bool = False


NOTHING, FORCED = Needs(), Needs(is_forced=True)

MakeRoom = Callable[[int, Needs], Awaitable[str]]
"""Frees so many bytes if that is possible, else nothing; what is in the way of it, for people."""


class Space:
    """Room on the cache's volume. One admission at a time, so that two never count on the same bytes.

    `in_use`: the partial files of this process, at any moment; what they lack is promised.
    """

    make_room: MakeRoom | None = None

    def __init__(
        self,
        layout: Layout,
        pool: DiskPool,
        limits: Limits,
        in_use: Collection[Path] = (),
        meter: Meter = NO_METER,
    ) -> None:
        self._layout = layout
        self._pool = pool
        self._meter = meter
        self._in_use = in_use
        self._shown: dict[str, int] = {}
        self._ledger = Ledger(limits)
        self._lock = asyncio.Lock()

    @property
    def ledger(self) -> Ledger:
        """The account, as it was last measured."""
        return self._ledger

    @asynccontextmanager
    async def promise(self, what: str, wanted: int, needs: Needs = NOTHING) -> AsyncIterator[OnSpend]:
        """Set `wanted` bytes aside for the body, which reports what it has written.

        Makes room where something may go. Raises NoRoom before the body when that is not enough, having
        removed nothing.
        """
        async with self._lock:
            number = await self._admit(what, wanted, needs)
        try:
            yield lambda count: self._ledger.spend(number, count)
        finally:
            self._ledger.give_back(number)

    async def look(self) -> Usage:
        """Measure everything anew."""
        before, what = self._ledger.written, f"measuring {self._layout.root}"
        usage = await self._pool.run(what, measure_usage, self._layout, frozenset(self._in_use))
        free = await self._free()
        self._ledger.measure(usage.total + max(self._ledger.written - before, 0), free)
        self._show("mx_cache_used_bytes", usage.total)
        self._show("mx_cache_free_bytes", self._ledger.free)
        return usage

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        """Nothing is promised while the body runs."""
        async with self._lock:
            yield

    async def _admit(self, what: str, wanted: int, needs: Needs) -> int:
        if wanted > 0 and self._ledger.limits.budget is not None:
            await self.look()  # others may have written since
        else:
            self._ledger.measure(None, await self._free())
        if not self._ledger.missing(wanted):
            return self._ledger.promise(what, wanted)
        # A second look: a file that was begun during the first may have been counted twice.
        await self.look()
        missing = self._ledger.missing(wanted)
        advice = _BY_HAND
        if missing and self.make_room is not None:
            advice = await self.make_room(missing, needs)
            await self.look()
        if self._ledger.missing(wanted):
            raise NoRoom(f"{self._ledger.describe(what, wanted)}; {advice}")
        return self._ledger.promise(what, wanted)

    def _show(self, name: str, value: int) -> None:
        self._meter.gauge(name, value - self._shown.get(name, 0))
        self._shown[name] = value

    async def _free(self) -> int:
        return await self._pool.run(f"measuring {self._layout.root}", free_bytes, self._layout.root)
