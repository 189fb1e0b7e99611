# SPDX-License-Identifier: Apache-2.0
"""Telling watchers in this process which keys changed: bounded, and losing rather than waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MOST_WAITING = 256


class _Watcher:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.keys: deque[str] = deque(maxlen=_MOST_WAITING)
        self.has_news = asyncio.Event()


class Watchers:
    """The watches of one table; for one event loop."""

    def __init__(self) -> None:
        self._watchers: set[_Watcher] = set()
        self._is_closed = False

    def tell(self, key: str) -> None:
        """Say that `key` changed."""
        for watcher in self._watchers:
            if key.startswith(watcher.prefix):
                watcher.keys.append(key)
                watcher.has_news.set()

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[str]]:
        """Changed keys under `prefix` while the body runs; they end when the table is closed."""
        watcher = _Watcher(prefix)
        self._watchers.add(watcher)
        try:
            yield self._follow(watcher)
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """End every watch."""
        self._is_closed = True
        for watcher in self._watchers:
            watcher.has_news.set()

    async def _follow(self, watcher: _Watcher) -> AsyncIterator[str]:
        while not self._is_closed:
            await watcher.has_news.wait()
            watcher.has_news.clear()
            while watcher.keys:
                yield watcher.keys.popleft()
