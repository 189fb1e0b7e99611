# SPDX-License-Identifier: Apache-2.0
"""Opening a cache: what the dead left goes before their names are forgotten."""

from __future__ import annotations

from pathlib import Path

from modelexpress.cache import CacheOptions, Surroundings, open_cache
from modelexpress.domain.meter import NO_METER
from modelexpress.registry.memory import MemoryTable
from modelexpress.store.layout import Layout
from modelexpress.testing.clock import FakeClock

DEAD = "0123456789abcdef"


class Watched(MemoryTable):
    """A table that notes what stood in `folder` whenever a session was forgotten."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.seen: dict[str, list[str]] = {}
        self._folder = folder

    async def delete(self, key: str, version: str) -> bool:
        self.seen[key] = sorted(path.name for path in self._folder.iterdir())
        return await super().delete(key, version)


async def test_a_dead_session_is_forgotten_only_when_nothing_of_it_is_left(tmp_path: Path) -> None:
    partials = Layout(tmp_path).partials
    partials.mkdir(parents=True)
    (partials / f"{DEAD}.1.part").write_bytes(b"half")
    (partials / "fedcba9876543210.1.part").write_bytes(b"another process, maybe alive")
    table, clock = Watched(partials), FakeClock(partials.stat().st_mtime)
    await table.put(f"session/{DEAD}", b"{}", None)
    around = Surroundings({}, table, clock, NO_METER)
    async with open_cache(CacheOptions(tmp_path, "node", is_owner=True), around):
        pass

    assert table.seen[f"session/{DEAD}"] == ["fedcba9876543210.1.part"]
