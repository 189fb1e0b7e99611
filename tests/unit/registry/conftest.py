# SPDX-License-Identifier: Apache-2.0
"""Tables of both kinds: as one process has them for itself, and as if several processes shared them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.tables import SharedMemoryTable, open_shared_sqlite

from modelexpress.registry import Table
from modelexpress.registry.memory import MemoryTable
from modelexpress.registry.sqlite import open_table
from modelexpress.testing.clock import FakeClock


@pytest.fixture(params=["memory", "sqlite"])
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Table]:
    """A table that several sessions may use."""
    is_memory = request.param == "memory"
    table: Table = SharedMemoryTable() if is_memory else await open_shared_sqlite(tmp_path / "registry.db")
    yield table
    await table.close()


@pytest.fixture(params=["memory", "sqlite"])
async def exclusive(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Table]:
    """A table that no other process can be using."""
    table: Table = MemoryTable() if request.param == "memory" else await open_table(tmp_path / "own.db")
    yield table
    await table.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
