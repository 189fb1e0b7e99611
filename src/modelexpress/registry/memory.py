# SPDX-License-Identifier: Apache-2.0
"""A table in this process: for direct pulls, tests, and servers that need no memory of themselves."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from modelexpress.domain.errors import Unreachable
from modelexpress.registry.limits import check_key, check_value
from modelexpress.registry.port import Row
from modelexpress.registry.watching import Watchers


class MemoryTable:
    """Implements Table with a dict. Lost with the process, so nobody else can be using it."""

    is_exclusive = True

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._watchers = Watchers()
        self._versions = itertools.count(1)
        self._epoch = secrets.token_hex(4)
        self._is_closed = False

    async def get(self, key: str) -> Row | None:
        """The row, or None."""
        self._check_open()
        return self._rows.get(check_key(key))

    async def put(self, key: str, value: bytes, expected: str | None) -> Row | None:
        """Store if the key's version is `expected` (None: the key is absent); None if it is not."""
        self._check_open()
        check_key(key)
        found = self._rows.get(key)
        if (found.version if found else None) != expected:
            return None
        row = Row(key, check_value(key, value), f"{self._epoch}-{next(self._versions)}")
        self._rows[key] = row
        self._watchers.tell(key)
        return row

    async def delete(self, key: str, expected: str) -> bool:
        """Remove if the key's version is `expected`; False if it is not, or the key is absent."""
        self._check_open()
        found = self._rows.get(check_key(key))
        if found is None or found.version != expected:
            return False
        del self._rows[key]
        self._watchers.tell(key)
        return True

    async def scan(self, prefix: str, after: str = "", limit: int = 500) -> list[Row]:
        """Up to `limit` rows whose key starts with `prefix`, in key order, from just behind `after`."""
        self._check_open()
        keys = sorted(key for key in self._rows if key.startswith(prefix) and key > after)
        return [self._rows[key] for key in keys[:limit]]

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Keys under `prefix` that change while the body runs; a hint."""
        self._check_open()
        return self._watchers.watch(prefix)

    async def close(self) -> None:
        """End every watch; later calls raise Unreachable."""
        self._is_closed = True
        self._watchers.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unreachable("the registry is closed; this process is stopping")
