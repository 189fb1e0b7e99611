# SPDX-License-Identifier: Apache-2.0
"""Documents of the Hub endpoint: what is kept of them, for whom, and what many questions cost."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Hashable
from pathlib import Path

import pytest
from tests.support.asking import Answer, Asker
from tests.support.house import House, open_house

from modelexpress.cache import asking, hub_documents
from modelexpress.testing.hub import Fault, LocalHub
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


class TestManyQuestions:
    async def leave(self, house: House, count: int) -> None:
        """Ask for so many different things, and leave before the answer."""
        running, seen = house.cache._asking._running, set[Hashable]()
        for number in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", house.data_port)
            path = f"/api/models/{NAME}/tree/main?cursor={number}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            while not running.keys() - seen:
                await asyncio.sleep(0.001)
            seen |= running.keys()
            writer.close()

    async def test_who_asks_and_leaves_keeps_nobody_from_the_origin(self, house: House) -> None:
        house.hub.faults.add(Fault("hang", "tree", times=None))
        await self.leave(house, 100)

        async with asyncio.timeout(5):
            head = await Asker(house.hub_endpoint).head(f"/{NAME}/resolve/main/config.json")
            while len(house.cache._asking._running) > asking._MOST_LEFT:
                await asyncio.sleep(0.01)
        assert head.status == 200
        house.hub.faults.clear()

    async def test_who_asks_and_waits_leaves_connections_for_files(self, house: House) -> None:
        house.hub.faults.add(Fault("hang", "tree", times=None))
        ask = Asker(house.hub_endpoint)
        waiting = [
            asyncio.create_task(ask.get(f"/api/models/{NAME}/tree/main?cursor={number}"))
            for number in range(80)
        ]
        async with asyncio.timeout(10):
            while len(house.cache._asking._running) < 80:
                await asyncio.sleep(0.01)
            assert (await ask.head(f"/{NAME}/resolve/main/config.json")).status == 200
        assert len(house.hub.log.of("tree")) <= hub_documents._MOST_AT_ONCE
        house.hub.faults.clear()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}

    async def test_long_questions_at_once_are_limited(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub_documents, "_MOST_ASKED_BYTES", 2 * MIB)
        held = house.hub.faults.add(Fault("hang", "api", times=None))
        tasks = [asyncio.create_task(look_up(house, f"{number}" + "x" * 900_000)) for number in range(4)]
        refused, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        held.release()
        answers = await asyncio.gather(*tasks)

        assert sorted(answer.status for answer in answers) == [200, 200, 429, 429]
        assert all(int(task.result().headers["retry-after"]) > 0 for task in refused)
        assert house.cache.hub_documents._asked_bytes == 0

    async def test_a_made_up_way_fails_nobody_elses_question(self, house: House) -> None:
        held = house.hub.faults.add(Fault("hang", "api", times=None))
        ask, path = Asker(house.hub_endpoint), f"/api/models/{NAME}"
        others = asyncio.create_task(ask.get(path, Via="1.1 " + "v" * 8_000))
        while not house.hub.log.requests:
            await asyncio.sleep(0.01)
        mine = asyncio.create_task(ask.get(path))
        await asyncio.sleep(0.05)
        held.release()

        assert (await mine).status == (await others).status == 200
        assert sorted(len(request.via or "") > 8_000 for request in house.hub.log.requests) == [False, True]
