# SPDX-License-Identifier: Apache-2.0
"""Whether the server can do its work, looked at regularly and told to whoever asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelexpress.domain.errors import MxError
from modelexpress.server.port import ServedCache

_LOOK_SECONDS = 5.0
_DEADLINE_SECONDS = 10.0
_STOPPING = "stopping"

_log = logging.getLogger(__name__)


class Readiness:
    """`problem` is None while the cache and the registry work and the server is not stopping."""

    def __init__(self, cache: ServedCache, look_seconds: float = _LOOK_SECONDS) -> None:
        self._cache = cache
        self._look_seconds = look_seconds
        self.problem: str | None = "starting"
        self.changed = asyncio.Event()
        """Set at the next change of `problem`, and then replaced by a new one."""

    @property
    def is_stopping(self) -> bool:
        """True from `drain` on, for good."""
        return self.problem == _STOPPING

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look once, then regularly while the body runs; after it the server counts as stopping."""
        await self._look()
        looking = asyncio.create_task(self._look_on(), name="readiness")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    def drain(self) -> None:
        """Say that the server is stopping."""
        self._set(_STOPPING)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            await self._look()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                await self._cache.check()
        except MxError as error:
            self._set(error.message)
        except TimeoutError:
            self._set(f"the cache or the registry did not answer in {_DEADLINE_SECONDS:.0f} s")
        else:
            self._set(None)

    def _set(self, problem: str | None) -> None:
        if problem == self.problem or self.is_stopping:
            return
        if problem is not None:
            level = logging.INFO if problem == _STOPPING else logging.WARNING
            _log.log(level, "not ready: %s", problem)
        self.problem = problem
        self.changed.set()
        self.changed = asyncio.Event()
