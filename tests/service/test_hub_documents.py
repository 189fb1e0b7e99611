# SPDX-License-Identifier: Apache-2.0
"""Documents of the Hub endpoint: what is kept of them, for whom, and what many questions cost."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Hashable
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web
from tests.support.asking import Answer, Asker
from tests.support.hostile_origin import HostileOrigin
from tests.support.house import House, Origin, open_house

from modelexpress.cache import asking, hub_documents, hub_known
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME, PRIVATE, GATED = "demo/tiny", "demo/private", "demo/gated"
DOCUMENTS = ("", "/tree/main", "/revision/main", "/refs", "/commits/main")
FILES = tiny_files()
MIB = 1024 * 1024
T = TypeVar("T")


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        yield house


def file_of(name: str) -> str:
    return f"/{name}/resolve/main/config.json"


async def look_up(house: House, *paths: str) -> Answer:
    said, kind = json.dumps({"paths": paths}), {"Content-Type": "application/json"}
    return await Asker(house.hub_endpoint).ask("POST", f"/api/models/{NAME}/paths-info/main", kind, said)


def _noting(make: Callable[..., T], noted: list[bool]) -> Callable[..., T]:
    """The same function, which notes each time whether it is called on a running loop."""

    def make_and_note(*arguments: object) -> T:
        noted.append(asyncio._get_running_loop() is not None)
        return make(*arguments)

    return make_and_note


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

    @pytest.mark.parametrize("token", [None, "hf_unknown"], ids=["absent", "refused"])
    async def test_long_paths_are_not_kept(self, house: House, token: str | None) -> None:
        ask, rest = Asker(house.hub_endpoint, token), "/".join(["x" * 240] * 16)
        path = f"/{NAME}/resolve/main/%F0%9F%98%80"
        await ask.head(file_of(NAME))  # now it is known that everybody may read it
        assert (await ask.head(path)).status == (401 if token else 404)
        tracemalloc.start()
        try:
            for number in range(60):  # one such letter makes four bytes of each
                assert (await ask.head(f"{path}{number:04}/{rest}")).status == (401 if token else 404)
            house.hub.log.clear()
            assert (await ask.head(f"{path}{0:04}/{rest}")).status == (401 if token else 404)
            assert house.hub.log.requests == [], "it is known"
            gc.collect()
            # Not what libraries remember of the last addresses, nor what other tests have left running.
            ours = [tracemalloc.Filter(True, f"*/{of}") for of in ("modelexpress/*", "urllib/parse.py")]
            ours.append(tracemalloc.Filter(False, "*/endpoints.py"))
            traces = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
        finally:
            tracemalloc.stop()
        assert sum(trace.size for trace in traces) < 400_000, traces[:5]

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

    async def test_made_up_tokens_together_have_no_more_turns_than_one_client(self, house: House) -> None:
        held, running = house.hub.faults.add(Fault("hang", "api", times=None)), house.cache._asking._running
        path, tasks = f"/api/models/{NAME}", list[asyncio.Task[Answer]]()
        for number in range(80):
            made_up = Asker(house.hub_endpoint, f"hf_{number}")
            tasks.append(asyncio.create_task(made_up.get(path)))
        async with asyncio.timeout(10):
            while len(running) < 80:
                await asyncio.sleep(0.01)
            honest = [
                asyncio.create_task(Asker(house.hub_endpoint).get(f"{path}?full={number}"))
                for number in range(5)
            ]
            while len(running) < 85:
                await asyncio.sleep(0.01)
        held.release()

        assert {answer.status for answer in await asyncio.gather(*honest)} == {200}
        assert {answer.status for answer in await asyncio.gather(*tasks)} == {401}
        asked = [request.token for request in house.hub.log.requests]
        last = max(number for number, token in enumerate(asked) if token is None)
        assert last < hub_documents._MOST_AT_ONCE + 20, "they take turns with all that are made up"

    async def test_long_questions_at_once_are_limited(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub_documents, "_MOST_ASKED_BYTES", 2 * MIB)
        held = house.hub.faults.add(Fault("hang", "api", times=None))
        tasks = [asyncio.create_task(look_up(house, f"{number}" + "x" * 900_000)) for number in range(4)]
        refused, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        while len(waiting) > 2:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused |= more
        monkeypatch.setattr(hub_documents, "_MOST_ASKED_BYTES", house.cache.hub_documents._asked_bytes)
        short = asyncio.create_task(look_up(house, "short"))
        while len(house.hub.log.requests) < 3 and not short.done():
            await asyncio.sleep(0.01)
        held.release()
        answers = await asyncio.gather(*tasks)

        assert sorted(answer.status for answer in answers) == [200, 200, 429, 429]
        assert (await short).status == 200, "everybody may have one"
        assert all(int(task.result().headers["retry-after"]) > 0 for task in refused)
        assert house.cache.hub_documents._asked_bytes == 0

    async def test_a_made_up_way_fails_nobody_elses_question(self, house: House) -> None:
        held = house.hub.faults.add(Fault("hang", "api", times=None))
        ask, path = Asker(house.hub_endpoint), f"/api/models/{NAME}"
        others = asyncio.create_task(ask.get(path, Via="1.1 " + "v" * 1_000))
        while not house.hub.log.requests:
            await asyncio.sleep(0.01)
        mine = asyncio.create_task(ask.get(path))
        while len(house.hub.log.requests) < 2:
            await asyncio.sleep(0.01)
        held.release()

        assert (await mine).status == (await others).status == 200
        assert sorted(len(request.via or "") > 1_000 for request in house.hub.log.requests) == [False, True]


async def test_nothing_is_learned_from_a_question_with_a_name_that_nobody_knows(
    hub: LocalHub, tmp_path: Path
) -> None:
    late, main = "b" * 40, "a" * 40

    def answer(request: web.Request) -> web.Response:
        if request.path.startswith("/api"):  # as an origin would that heeds it
            return web.json_response({"sha": late, "private": False, "gated": False, "siblings": []})
        commit = next((one for one in (late, main) if one in request.path), main)
        return web.Response(headers={"X-Repo-Commit": commit, "ETag": f'"{"c" * 40}"'}, body=b"12345")

    async with (
        HostileOrigin(answer) as origin,
        open_house(hub, tmp_path, origin=Origin(origin.endpoint), origin__revalidate=60) as house,
    ):
        ask = Asker(house.hub_endpoint)
        assert late.encode() in (await ask.get(f"/api/models/{NAME}/revision/main?revision=other")).body
        told = await ask.head(f"/{NAME}/resolve/main/x.bin")
    assert told.headers["x-repo-commit"] == main


class TestRefusals:
    PATH = f"/api/models/{NAME}/tree/main?recursive=true"

    @pytest.mark.parametrize("code", ["", "RevisionNotFound"], ids=["bare", "told"])
    async def test_what_is_about_how_one_came_is_told_to_nobody_else(self, house: House, code: str) -> None:
        house.hub.faults.add(Fault("status", "tree", status=400, headers={"X-Error-Code": code}))
        ask = Asker(house.hub_endpoint)
        way = {"Via": "1.1 somebody"} if code else {}
        assert (await ask.get(self.PATH, **way)).status == 400
        assert (await ask.get(self.PATH)).status == 200

    async def test_one_that_is_over_says_nothing_in_an_outage(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path, origin__revalidate=1, access__denied_ttl=1) as house:
            ask = Asker(house.hub_endpoint)
            assert (await ask.get(file_of(NAME))).status == 200  # so that it is known to be everybody's
            async with house.client(tmp_path / "mine") as client:
                await client.pull(NAME)
            told = {"X-Error-Code": "RevisionNotFound"}
            hub.faults.add(Fault("status", "tree", status=404, headers=told))
            assert (await ask.get(self.PATH)).status == 404
            await asyncio.sleep(1.0)
            hub.faults.add(Fault("reset", times=None))

            answer = await ask.get(self.PATH)
        assert (answer.status, answer.headers.get("mx-stale")) == (200, "true")

    async def test_a_way_that_is_too_long_is_refused_here(self, house: House) -> None:
        for path in (self.PATH, file_of(NAME)):
            answer = await Asker(house.hub_endpoint).get(path, Via="1.1 " + "v" * 8_000)
            assert answer.status == 400 and "Via" in answer.headers["x-error-message"]
        assert house.hub.log.requests == []


class TestLongDocuments:
    async def test_they_do_not_stop_everything_else(self, hub: LocalHub, tmp_path: Path) -> None:
        row = {"type": "file", "oid": "b" * 40, "size": 5, "xetHash": "c" * 64}
        body = json.dumps([{**row, "path": f"d/{number:07}"} for number in range(200_000)]).encode()
        async with (
            HostileOrigin(lambda _: web.Response(body=body)) as origin,
            open_house(hub, tmp_path, origin=Origin(origin.endpoint), origin__revalidate=60) as house,
        ):
            pause, beating = 0.0, asyncio.Event()

            async def beat() -> None:
                nonlocal pause
                while not beating.is_set():
                    began = time.monotonic()
                    await asyncio.sleep(0.001)
                    pause = max(pause, time.monotonic() - began)

            heart = asyncio.create_task(beat())
            answer = await Asker(house.hub_endpoint).get(f"/api/models/{NAME}/tree/{'a' * 40}")
            beating.set()
            await heart
        assert len(answer.body) > 15 * MIB and b"xetHash" not in answer.body
        assert pause < 0.5

    async def test_what_stands_in_for_the_origin_is_made_where_it_is_needed_and_beside_everything(
        self, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = list[bool]()
        monkeypatch.setattr(hub_documents, "list_tree", _noting(hub_documents.list_tree, made))
        ask, path = Asker(house.hub_endpoint), f"/api/models/{NAME}/tree/main"
        await ask.get(file_of(NAME))  # so that it is known to be everybody's
        async with house.client(tmp_path / "mine") as client:
            await client.pull(NAME)
        assert (await ask.get(f"{path}?x=1")).status == 200 and made == []
        house.hub.faults.add(Fault("reset", times=None))
        assert (await ask.get(f"{path}?x=2")).headers["mx-stale"] == "true"
        assert made == [False], "not on a loop"

    async def test_many_names_in_questions_send_away_nothing_that_is_kept(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub_known, "_MOST_DOCUMENTS", 3)
        ask, path = Asker(house.hub_endpoint), f"/api/models/{NAME}/tree/main"
        await ask.get(path + "?recursive=true&expand=false")
        for number in range(5):
            assert (await ask.get(f"{path}?x={number}")).status == 200
        house.hub.log.clear()
        assert (await ask.get(path + "?recursive=true&expand=false")).status == 200
        assert house.hub.log.requests == []


class TestOutage:
    """What was said before is said again only to whom a file would be given."""

    @pytest.fixture
    async def hub(self) -> AsyncIterator[LocalHub]:
        private, gated = Repository(PRIVATE, is_private=True), Repository(GATED, is_gated=True)
        for repository in (private, gated):
            repository.commit(FILES)
        async with LocalHub([private, gated, tiny_model(NAME)]) as hub:
            hub.grant("hf_member", PRIVATE, GATED)
            yield hub

    async def read_all(self, house: House, token: str | None, name: str) -> list[Answer]:
        ask = Asker(house.hub_endpoint, token)
        return [await ask.get(f"/api/models/{name}{path}") for path in DOCUMENTS]

    def begin(self, hub: LocalHub) -> None:
        hub.faults.add(Fault("status", times=None, status=500))

    @pytest.mark.parametrize("name", [PRIVATE, GATED])
    @pytest.mark.parametrize("seconds", [0, 60])
    async def test_it_counts_as_long_as_the_settings_say(
        self, hub: LocalHub, tmp_path: Path, name: str, seconds: int
    ) -> None:
        settings = {"access__granted_ttl": 0, "access__outage_ttl": seconds}
        async with open_house(hub, tmp_path, **settings) as house:
            member = Asker(house.hub_endpoint, "hf_member")
            assert {answer.status for answer in await self.read_all(house, "hf_member", name)} == {200}
            assert (await member.get(file_of(name))).status == 200
            await house.settle()
            self.begin(hub)

            answers = await self.read_all(house, "hf_member", name)
            file = await member.get(file_of(name))
        assert {answer.status for answer in answers} == {file.status} == {200 if seconds else 502}

    @pytest.mark.parametrize("refused_by", ["file", "document"])
    async def test_who_was_refused_since_is_told_nothing(
        self, hub: LocalHub, tmp_path: Path, refused_by: str
    ) -> None:
        settings = {"access__granted_ttl": 0, "access__denied_ttl": 0}
        async with open_house(hub, tmp_path, **settings) as house:
            member = Asker(house.hub_endpoint, "hf_member")
            assert (await member.get(file_of(PRIVATE))).status == 200
            assert {answer.status for answer in await self.read_all(house, "hf_member", PRIVATE)} == {200}
            await house.settle()
            hub.revoke("hf_member")
            if refused_by == "document":
                hub.grant("hf_member")  # the token lives, and may not see the repository
            path = file_of(PRIVATE) if refused_by == "file" else f"/api/models/{PRIVATE}/tree/main?limit=5"
            assert (await member.get(path)).status == (401 if refused_by == "file" else 404)
            self.begin(hub)

            for _ in range(2):
                answers = await self.read_all(house, "hf_member", PRIVATE)
                assert {answer.status for answer in answers} == {502}

    async def test_who_is_refused_hears_nothing_that_is_kept_and_a_description_once(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        async with open_house(hub, tmp_path, origin__revalidate=60) as house:
            assert {answer.status for answer in await self.read_all(house, "hf_member", PRIVATE)} == {200}
            hub.revoke("hf_member")
            assert (await Asker(house.hub_endpoint, "hf_member").get(file_of(PRIVATE))).status == 401
            assert {answer.status for answer in await self.read_all(house, "hf_member", PRIVATE)} == {401}

            # Of a gated model everybody may see it, and goes on to see it.
            stranger = Asker(house.hub_endpoint)
            assert (await stranger.get(file_of(GATED))).status == 401
            hub.log.clear()
            for _ in range(3):
                assert (await stranger.get(f"/api/models/{GATED}")).status == 200
            assert len(hub.log.requests) == 1

    async def test_a_no_ends_for_good_what_was_said_before(self, hub: LocalHub, tmp_path: Path) -> None:
        settings = {"origin__revalidate": 60, "access__denied_ttl": 0, "access__granted_ttl": 60}
        async with open_house(hub, tmp_path, **settings) as house:
            member = Asker(house.hub_endpoint, "hf_member")
            assert {answer.status for answer in await self.read_all(house, "hf_member", PRIVATE)} == {200}
            hub.revoke("hf_member")
            assert (await member.head(file_of(PRIVATE))).status == 401
            assert {answer.status for answer in await self.read_all(house, "hf_member", PRIVATE)} == {401}

    async def test_what_was_said_of_a_public_model_is_everybodys(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path) as house:
            before = await self.read_all(house, None, NAME)
            self.begin(hub)

            answers = await self.read_all(house, None, NAME)
        assert [answer.body for answer in answers] == [answer.body for answer in before]
        assert {answer.headers.get("mx-stale") for answer in answers} == {"true"}

    async def test_what_is_about_no_repository_is_nobodys(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path) as house:
            member = Asker(house.hub_endpoint, "hf_member")
            assert (await member.get("/api/whoami-v2")).status == 200
            self.begin(hub)
            assert (await member.get("/api/whoami-v2")).status == 502

    async def test_what_passes_through_of_a_model_that_is_closed_since_is_told_to_nobody(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        said = lambda _: web.json_response({"said": "once"})  # noqa: E731
        async with HostileOrigin(said) as origin:
            where = Origin(origin.endpoint)
            async with open_house(hub, tmp_path, origin=where, hub__pass_through=True) as house:
                path, ask = f"/api/models/{NAME}/discussions", Asker(house.hub_endpoint)
                assert (await ask.get(path)).status == 200
                origin._answer = lambda _: web.Response(status=500)
                assert (await ask.get(path)).status == 502
