# SPDX-License-Identifier: Apache-2.0
"""Who was given wrong bytes adds no right ones to them: whatever happens to the server meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.asking import Answer, Asker
from tests.support.house import open_house
from tests.support.proxy import closed_port
from tests.support.served import Place, serving

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository

NAME, FILE = "demo/large", "model.safetensors"
PATH = f"/{NAME}/resolve/main/{FILE}"
CONTENT = random.Random(9).randbytes(3 * CHUNK_BYTES + 100_000)
HAD = 2 * CHUNK_BYTES  # what a reader has when the server dies
RATE = 12_000_000


@asynccontextmanager
async def open_hub(rate: int = RATE) -> AsyncIterator[LocalHub]:
    repository = Repository(NAME)
    repository.commit({FILE: CONTENT})
    async with LocalHub([repository], HubOptions(total_rate=rate)) as hub:
        yield hub


def lie(hub: LocalHub, times: int | None = None) -> None:
    hub.faults.add(Fault("wrong_bytes", "body", FILE, times=times, after=100))


async def read_some(port: int, count: int) -> bytes:
    """The first bytes of the file, by a reader who is cut off then or loses his server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return await reader.readexactly(count)
    finally:
        writer.close()


async def go_on(endpoint: str, start: int = HAD) -> Answer:
    return await Asker(endpoint).get(PATH, Range=f"bytes={start}-")


def assert_whole(answer: Answer) -> None:
    assert (answer.status, len(answer.body)) == (200, len(CONTENT)) and answer.body == CONTENT


async def test_a_restart_forgets_no_false_start(tmp_path: Path) -> None:
    async with open_hub() as hub:
        lie(hub)
        async with open_house(hub, tmp_path) as house:
            first = await Asker(house.hub_endpoint).get(PATH)
            await house.settle()
        assert first.is_cut and first.body[:200] != CONTENT[:200]
        hub.faults.clear()

        async with open_house(hub, tmp_path) as house:
            assert_whole(await go_on(house.hub_endpoint, len(first.body)))
            await house.settle()
            assert_whole(await go_on(house.hub_endpoint, len(first.body)))
            # A day later he has it, or has given up.
            for note in (house.root / ".mx/given").glob("*/*"):
                os.utime(note, (1, 1))
            resumed = await go_on(house.hub_endpoint, len(first.body))
            assert (resumed.status, resumed.body) == (206, CONTENT[len(first.body) :])


async def test_a_file_that_was_read_and_proven_leaves_no_note(tmp_path: Path) -> None:
    async with open_hub() as hub, open_house(hub, tmp_path) as house:
        reading = asyncio.create_task(Asker(house.hub_endpoint).get(PATH))
        await read_some(house.data_port or 0, HAD)
        assert list((house.root / ".mx/given").glob("*/*"))
        assert (await reading).body == CONTENT
        await house.settle()

        assert not list((house.root / ".mx/given").iterdir())
        assert (await go_on(house.hub_endpoint)).status == 206


async def test_a_reader_that_nothing_unproven_was_given_to_is_no_false_start(tmp_path: Path) -> None:
    async with open_hub() as hub, open_house(hub, tmp_path) as house:
        lie(hub)
        async with house.client(tmp_path / "theirs") as client:
            with pytest.raises(Exception, match="arrived wrong"):
                await client.pull(NAME)
        hub.faults.clear()

        await Asker(house.hub_endpoint).get(PATH)
        assert (await go_on(house.hub_endpoint)).status == 206


class TestKilledBeforeTheProof:
    @pytest.fixture
    async def hub(self) -> AsyncIterator[LocalHub]:
        async with open_hub(6_000_000) as hub:
            yield hub

    @pytest.fixture
    def place(self, hub: LocalHub, tmp_path: Path) -> Place:
        return Place(tmp_path, hub.endpoint)

    async def begin_and_kill(self, place: Place) -> bytes:
        """What a reader had before the server was killed."""
        port = closed_port()
        async with serving(place, server__data_port=port) as served:
            had = await read_some(port, HAD)
            served.process.kill()
        [part] = (place.cache / ".mx/partials").glob("*.part")
        assert part.stat().st_size == len(CONTENT)
        return had

    @asynccontextmanager
    async def risen(self, place: Place, hub: LocalHub) -> AsyncIterator[str]:
        hub.faults.clear()
        port = closed_port()
        async with serving(place, server__data_port=port):
            yield f"http://127.0.0.1:{port}"

    async def test_who_has_the_bytes_that_are_still_here_goes_on(self, place: Place, hub: LocalHub) -> None:
        had = await self.begin_and_kill(place)

        async with self.risen(place, hub) as endpoint:
            answer = await go_on(endpoint)
            assert answer.status == 206 and had + answer.body == CONTENT
            assert not list((place.cache / ".mx/given").iterdir())
        assert hub.log.bytes_sent < len(CONTENT) * 1.5

    @pytest.mark.parametrize("loss", ["a chunk", "the journal", "the file"])
    async def test_who_has_bytes_that_are_no_longer_here_begins_anew(
        self, place: Place, hub: LocalHub, loss: str
    ) -> None:
        lie(hub)
        had = await self.begin_and_kill(place)
        assert had != CONTENT[:HAD]
        [part] = (place.cache / ".mx/partials").glob("*.part")
        if loss == "a chunk":  # the very one that was wrong, so that the file that comes now is right
            with part.open("r+b") as file:
                file.write(bytes(1000))
        else:
            (part if loss == "the file" else part.with_suffix(".journal")).unlink()

        async with self.risen(place, hub) as endpoint:
            assert_whole(await go_on(endpoint))
            assert_whole(await go_on(endpoint))

    async def test_who_has_wrong_bytes_that_are_still_here_is_cut_off_and_begins_anew(
        self, place: Place, hub: LocalHub
    ) -> None:
        lie(hub, times=1)
        had = await self.begin_and_kill(place)

        async with self.risen(place, hub) as endpoint:
            resumed = await go_on(endpoint)
            assert resumed.is_cut or resumed.status == 200, "the file was made of wrong and of right bytes"
            assert had != CONTENT[:HAD]
            assert_whole(await go_on(endpoint, HAD + len(resumed.body)))
