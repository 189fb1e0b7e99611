# SPDX-License-Identifier: Apache-2.0
"""Tables that several sessions share, tables that fail on demand, and time that passes over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from modelexpress.domain.errors import Unreachable
from modelexpress.registry import Row, Table
from modelexpress.registry.memory import MemoryTable
from modelexpress.registry.rows import scan_all
from modelexpress.registry.sqlite import SqliteTable
from modelexpress.testing.clock import FakeClock


class SharedMemoryTable(MemoryTable):
    is_exclusive = False


class SharedSqliteTable(SqliteTable):
    is_exclusive = False


async def open_shared_sqlite(path: Path) -> SharedSqliteTable:
    table = SharedSqliteTable(path)
    await table.open()
    return table


class FaultyTable:
    """Another table behind faults: unreachable, slow by `turns` of the loop, or without hints."""

    def __init__(self, table: Table, *, turns: int = 0, has_hints: bool = True) -> None:
        self.is_exclusive = table.is_exclusive
        self.is_unreachable = False
        self._table = table
        self._turns = turns
        self._has_hints = has_hints

    async def get(self, key: str) -> Row | None:
        await self._meet_fault()
        return await self._table.get(key)

    async def put(self, key: str, value: bytes, expected: str | None) -> Row | None:
        await self._meet_fault()
        row = await self._table.put(key, value, expected)
        await self._meet_fault()  # it is stored, and its writer does not know yet
        return row

    async def delete(self, key: str, expected: str) -> bool:
        await self._meet_fault()
        return await self._table.delete(key, expected)

    async def scan(self, prefix: str, after: str = "", limit: int = 500) -> list[Row]:
        await self._meet_fault()
        return await self._table.scan(prefix, after, limit)

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._table.watch(prefix) if self._has_hints else _silence()

    async def close(self) -> None:
        await self._table.close()

    async def _meet_fault(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)
        if self.is_unreachable:
            raise Unreachable("the registry does not answer")


@asynccontextmanager
async def _silence() -> AsyncIterator[AsyncIterator[str]]:
    async def never() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    yield never()


async def keys(table: Table, prefix: str) -> list[str]:
    return [row.key async for row in scan_all(table, prefix)]


async def pass_time(table: Table, seconds: float, *clocks: FakeClock, step: float = 1.0) -> None:
    """Let time pass in steps, each with enough turns for what it wakes to reach the table and back."""
    for _ in range(round(seconds / step)):
        for clock in clocks:
            await clock.advance(step)
        for _ in range(4):
            await table.get("nothing")
            await asyncio.sleep(0)
