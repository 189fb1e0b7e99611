# SPDX-License-Identifier: Apache-2.0
"""A server that others take for dead stops, so that no two do the same work."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.house import QUICK, server_settings

from modelexpress.cache import Surroundings, open_cache
from modelexpress.compose.parts import cache_options, memory_table
from modelexpress.domain.errors import Busy
from modelexpress.domain.meter import NO_METER
from modelexpress.domain.refs import ProviderKind
from modelexpress.providers.huggingface import HubOptions, make_provider
from modelexpress.registry.rows import scan_all
from modelexpress.server.app import ServerOptions
from modelexpress.server.run import run_server
from modelexpress.testing.clock import FakeClock
from modelexpress.testing.hub import LocalHub


async def test_a_server_whose_session_was_buried_stops_and_says_why(tmp_path: Path) -> None:
    async with LocalHub() as hub:
        loaded, env = server_settings(hub, tmp_path)
        clock, table = FakeClock(), memory_table()
        provider = make_provider(HubOptions(hub.endpoint, (), 5.0, QUICK), env)
        around = Surroundings({ProviderKind.HUGGING_FACE: provider}, table, clock, NO_METER)
        async with open_cache(cache_options(loaded.settings, env, is_owner=True), around) as cache:
            options = ServerOptions("127.0.0.1", 0, 1.0, "1.0.0")
            serving = asyncio.create_task(run_server(cache, options, NO_METER, clock))
            for _ in range(5):
                await clock.advance(5.0)
                await asyncio.sleep(0.01)
            assert not serving.done()

            async for row in scan_all(table, "session/"):
                await table.delete(row.key, row.version)
            while not serving.done():
                await clock.advance(5.0)
                await asyncio.sleep(0.01)

            with pytest.raises(Busy, match="takes this server for dead"):
                await serving
