# SPDX-License-Identifier: Apache-2.0
"""Documents of the Hub endpoint: what is kept of them, for whom, and what many questions cost."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.asking import Answer, Asker
from tests.support.house import House, open_house

from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import tiny_files

NAME = "demo/tiny"
FILES = tiny_files()
MIB = 1024 * 1024


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        yield house


async def look_up(house: House, *paths: str) -> Answer:
    said, kind = json.dumps({"paths": paths}), {"Content-Type": "application/json"}
    return await Asker(house.hub_endpoint).ask("POST", f"/api/models/{NAME}/paths-info/main", kind, said)


class TestMemory:
    async def test_long_questions_are_not_kept_with_their_answers(self, house: House) -> None:
        await look_up(house, "x")
        tracemalloc.start()
        try:
            for number in range(20):
                assert (await look_up(house, f"{number:08}" + "x" * 1_000_000)).body == b"[]"
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 5 * MIB

    async def test_a_long_question_that_was_asked_is_not_asked_again(self, house: House) -> None:
        long = [f"{number:06}" for number in range(9_000)]
        first = await look_up(house, "config.json", *long)
        house.hub.log.clear()

        assert (await look_up(house, "config.json", *long)).body == first.body
        assert json.loads(first.body)[0]["path"] == "config.json" and house.hub.log.requests == []
        assert (await look_up(house, "config.jsom", *long)).body == b"[]"
