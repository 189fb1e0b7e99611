# SPDX-License-Identifier: Apache-2.0
"""Claims: who may fetch. A claim saves work; it is never what makes bytes right."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import MxError
from modelexpress.domain.tasks import finish, finish_or_undo
from modelexpress.registry.port import Row, Table
from modelexpress.registry.rows import scan_all
from modelexpress.registry.sessions import Session, Sessions

FORMAT = 1
_PREFIX = "claim/"
_SHOWN = 200
_DEADLINE_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 2.0  # how long a lost hint can cost

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that this session holds."""

    name: str
    row: Row


class Claims:
    """Takes and gives back claims for one session."""

    def __init__(self, table: Table, session: Session, sessions: Sessions, clock: Clock) -> None:
        self.session_id = session.id
        self._table = table
        self._session = session
        self._sessions = sessions
        self._clock = clock

    async def acquire(self, name: str, what: str) -> Claim | None:
        """The claim, taken from nobody or from a dead session; None while a living one has it."""
        key, value = _key(name), self._value(what)
        taken = await self._table.put(key, value, None)  # one step, as nearly always nobody has it
        if taken is None:
            row = await self._table.get(key)
            if row is not None and not await self._is_free(row):
                return None
            taken = await self._table.put(key, value, row.version if row else None)
        return None if taken is None else Claim(name, taken)

    async def release(self, claim: Claim) -> None:
        """Give the claim back; one that another session has taken over is left to it."""
        await self._table.delete(claim.row.key, claim.row.version)

    async def bury(self) -> int:
        """Delete the claims of dead sessions, which nobody may ever ask for again; how many."""
        buried = 0
        async for row in scan_all(self._table, _PREFIX):
            buried += await self._is_free(row) and await self._table.delete(row.key, row.version)
        return buried

    async def is_mine(self, claim: Claim) -> bool:
        """True while nobody has taken the claim over."""
        row = await self._table.get(claim.row.key)
        return row is not None and row.version == claim.row.version

    async def wait_released(self, name: str, deadline_seconds: float) -> bool:
        """Wait until the claim changes hands or is gone; False at the deadline. May return too early."""
        key = _key(name)
        before = await self._table.get(key)
        ends_at = self._clock.monotonic() + deadline_seconds
        while self._clock.monotonic() < ends_at:
            # Watching begins before the look, so that no change falls between the two.
            async with self._table.watch(key) as changes:
                row = await self._table.get(key)
                if row is None or before is None or row.version != before.version or await self._is_free(row):
                    return True
                await self._wait_for_hint(changes)
        return False

    @asynccontextmanager
    async def held(self, name: str, what: str) -> AsyncIterator[Claim]:
        """Hold the claim in the body, waiting for as long as somebody alive has it."""
        while (claim := await finish_or_undo(self.acquire(name, what), self._release_quietly)) is None:
            await self.wait_released(name, _DEADLINE_SECONDS)
        try:
            yield claim
        finally:
            # Shielded: a cancelled fetch must not keep others waiting until we are taken for dead.
            await finish(self._release_quietly(claim))

    async def _release_quietly(self, claim: Claim | None) -> None:
        if claim is None:
            return
        try:
            await self.release(claim)
        except MxError as error:
            _log.warning("claim on %s could not be given back: %s", claim.name, error)

    async def _is_free(self, row: Row) -> bool:
        try:
            owner = str(json.loads(row.value)["session"])
        except (ValueError, KeyError, TypeError):
            return True  # not readable by us, so not to be honoured either: a claim only saves work
        return owner != self._session.id and await self._sessions.is_dead(owner)

    async def _wait_for_hint(self, changes: AsyncIterator[str]) -> None:
        hint = asyncio.ensure_future(anext(changes, None))
        pause = asyncio.ensure_future(self._clock.sleep(_LOOK_AGAIN_SECONDS))
        try:
            await asyncio.wait({hint, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (hint, pause):
                task.cancel()
            await asyncio.gather(hint, pause, return_exceptions=True)

    def _value(self, what: str) -> bytes:
        content = {
            "format": FORMAT,
            "session": self._session.id,
            "what": what[:_SHOWN],
            "since": self._clock.wall(),
        }
        return json.dumps(content).encode()


def _key(name: str) -> str:
    return _PREFIX + hashlib.sha256(name.encode()).hexdigest()
