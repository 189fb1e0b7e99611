# SPDX-License-Identifier: Apache-2.0
"""The ledger's owner: measures the disk, holds the promises, gives them back on every exit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from modelexpress.cache.ledger import Ledger
from modelexpress.store.disk import DiskPool
from modelexpress.store.volume import free_bytes

OnSpend = Callable[[int], None]


class Space:
    """Room on the cache's volume."""

    def __init__(self, root: Path, pool: DiskPool, reserve_bytes: int) -> None:
        self._root = root
        self._pool = pool
        self._ledger = Ledger(reserve_bytes)

    @asynccontextmanager
    async def promise(self, what: str, wanted: int) -> AsyncIterator[OnSpend]:
        """Set `wanted` bytes aside for the body, which reports what it has written.

        Raises NoRoom before the body when they do not fit.
        """
        free = await self._pool.run(f"measuring {self._root}", free_bytes, self._root)
        number = self._ledger.promise(what, wanted, free)
        try:
            yield lambda count: self._ledger.spend(number, count)
        finally:
            self._ledger.give_back(number)
