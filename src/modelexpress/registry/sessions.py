# SPDX-License-Identifier: Apache-2.0
"""Sessions: one row for each living process, and the only heartbeat there is."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Busy, MxError
from modelexpress.registry.port import Row, Table
from modelexpress.registry.rows import scan_all

RENEW_SECONDS = 5.0
LOST_AFTER_SECONDS = 15.0
DEAD_AFTER_SECONDS = 30.0
FORMAT = 1
_PREFIX = "session/"

_log = logging.getLogger(__name__)


class Liveness:
    """Who is alive, by what this observer has seen with its own monotonic clock. Pure.

    A session is dead when its row's version has stood unchanged for DEAD_AFTER_SECONDS under our
    eyes; wall clocks and what others say about time play no part.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}

    def observe(self, session_id: str, version: str, now: float) -> None:
        """Note the version that a session's row has now."""
        known = self._seen.get(session_id)
        if known is None or known[0] != version:
            self._seen[session_id] = (version, now)

    def is_dead(self, session_id: str, now: float) -> bool:
        """True when the session has been seen, and for long enough without a heartbeat."""
        known = self._seen.get(session_id)
        return known is not None and now - known[1] >= DEAD_AFTER_SECONDS

    def forget(self, session_id: str) -> None:
        """Drop what is known of a session."""
        self._seen.pop(session_id, None)


class Session:
    """This process's own session. `lost` is set when its heartbeat failed for too long: then stop."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.lost = asyncio.Event()


class Sessions:
    """Opens this process's session and judges those of others."""

    def __init__(self, table: Table, clock: Clock, node: str) -> None:
        self._table = table
        self._clock = clock
        self._node = node
        self._liveness = Liveness()
        self._mine: Session | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        """A session that is renewed while the body runs and gone after it."""
        session = Session(secrets.token_hex(8))
        row = await self._table.put(_PREFIX + session.id, self._value(0), None)
        if row is None:
            raise Busy(f"session id {session.id} is taken already; start again")
        self._mine = session
        renewing = asyncio.create_task(self._renew(session, row), name="session heartbeat")
        try:
            yield session
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._leave(session)
            self._mine = None

    async def is_dead(self, session_id: str) -> bool:
        """True when the session cannot be alive: no row, silent for long, or the table is ours alone."""
        if self._mine is not None and session_id == self._mine.id:
            return False
        row = await self._table.get(_PREFIX + session_id)
        if row is None or self._table.is_exclusive:
            return True
        now = self._clock.monotonic()
        self._liveness.observe(session_id, row.version, now)
        return self._liveness.is_dead(session_id, now)

    async def find_dead(self) -> list[str]:
        """The ids of the sessions that are dead and not yet buried."""
        return [row.key.removeprefix(_PREFIX) for row in await self._dead_rows()]

    async def bury(self) -> list[str]:
        """Delete the rows of dead sessions; their ids. What they left must be dealt with before."""
        buried = []
        for row in await self._dead_rows():
            session_id = row.key.removeprefix(_PREFIX)
            if await self._table.delete(row.key, row.version):
                self._liveness.forget(session_id)
                buried.append(session_id)
        return buried

    async def _dead_rows(self) -> list[Row]:
        rows = [row async for row in scan_all(self._table, _PREFIX)]
        return [row for row in rows if await self.is_dead(row.key.removeprefix(_PREFIX))]

    async def _renew(self, session: Session, row: Row) -> None:
        renewed_at, beat = self._clock.monotonic(), 0
        while not session.lost.is_set():
            await self._clock.sleep(RENEW_SECONDS)
            beat += 1
            try:
                row = await self._beat(session, row, beat)
                renewed_at = self._clock.monotonic()
            except MxError as error:
                _log.warning("session %s could not be renewed: %s", session.id, error)
                if self._clock.monotonic() - renewed_at >= LOST_AFTER_SECONDS:
                    session.lost.set()

    async def _beat(self, session: Session, row: Row, beat: int) -> Row:
        renewed = await self._table.put(row.key, self._value(beat), row.version)
        if renewed is None:
            session.lost.set()  # somebody buried us: what we claim may be another's by now
            raise Busy(f"session {session.id} was taken for dead by another process")
        return renewed

    async def _leave(self, session: Session) -> None:
        try:
            row = await self._table.get(_PREFIX + session.id)
            if row is not None:
                await self._table.delete(row.key, row.version)
        except MxError as error:
            _log.warning("session %s could not sign off and will be taken for dead: %s", session.id, error)

    def _value(self, beat: int) -> bytes:
        content = {
            "format": FORMAT,
            "node": self._node[:200],
            "pid": os.getpid(),
            "written_at": self._clock.wall(),
            "beat": beat,
        }
        return json.dumps(content).encode()
