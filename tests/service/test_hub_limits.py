# SPDX-License-Identifier: Apache-2.0
"""An origin that asks to slow down: who is meant hears it at once, and nobody else hears of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.asking import Answer, Asker
from tests.support.house import House, Origin, open_house

from modelexpress.providers.retry import RetryPolicy
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME, OTHER, PRIVATE = "demo/tiny", "demo/other", "demo/private"
LARGE, SMALL = "model.safetensors", "config.json"
FILES = tiny_files()
LIMITS = {"RateLimit": '"resolvers";r=0;t=60', "RateLimit-Policy": '"fixed window";"resolvers";q=5000;w=300'}
SLOW_DOWN = {"Retry-After": "60", **LIMITS}
AT_ONCE_SECONDS = 5.0  # clients give a question up after 10
STRANGERS = ""


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub([tiny_model(NAME), tiny_model(OTHER)]) as hub:
        hub.grant("hf_greedy")
        hub.grant("hf_other")
        yield hub


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    """A server as patient with its origin as a real one."""
    origin = Origin(retry=RetryPolicy())
    async with open_house(hub, tmp_path, origin=origin, origin__revalidate=60) as house:
        yield house


def limit(hub: LocalHub, token: str, times: int | None = 1) -> None:
    hub.faults.add(Fault("status", times=times, status=429, headers=SLOW_DOWN, token=token))


def path_of(name: str, file: str = LARGE) -> str:
    return f"/{name}/resolve/main/{file}"


async def ask_all(ask: Asker) -> list[Answer]:
    """How the questions of all kinds are answered to one client."""
    asked = (ask.head(path_of(OTHER, SMALL)), ask.get(path_of(OTHER)), ask.get(f"/api/models/{OTHER}"))
    async with asyncio.timeout(AT_ONCE_SECONDS):
        return await asyncio.gather(*asked)


@pytest.mark.parametrize("token", ["hf_greedy", STRANGERS], ids=["a token", "nobody's"])
async def test_who_has_used_up_his_requests_hears_it_at_once_and_nobody_else(
    house: House, token: str
) -> None:
    limit(house.hub, token)
    greedy = Asker(house.hub_endpoint, token or None)
    async with asyncio.timeout(AT_ONCE_SECONDS):
        first = await greedy.head(path_of(NAME))
    assert (first.status, first.headers["retry-after"]) == (429, "60")
    house.hub.log.clear()

    for refused in await ask_all(greedy):
        assert refused.status == 429, "the origin is left in peace by whom it limits"
        assert 50 <= int(refused.headers["retry-after"]) <= 60
        reset = re.fullmatch(r'"resolvers";r=0;t=([0-9]+)', refused.headers["ratelimit"])
        assert reset and 50 <= int(reset[1]) <= 60
        assert refused.headers["ratelimit-policy"] == LIMITS["RateLimit-Policy"]
    assert house.hub.log.requests == []
    for other in ("hf_other", "hf_greedy" if token == STRANGERS else None):
        assert [answer.status for answer in await ask_all(Asker(house.hub_endpoint, other))] == [200] * 3


async def test_a_last_request_that_is_granted_silences_nobody_else(house: House) -> None:
    commit = house.hub._repositories[NAME].branches["main"]
    granted = {**LIMITS, "X-Repo-Commit": commit, "ETag": f'"{"a" * 40}"'}
    house.hub.faults.add(Fault("status", status=200, headers=granted, token="hf_greedy"))
    greedy = Asker(house.hub_endpoint, "hf_greedy")
    assert (await greedy.head(path_of(NAME, SMALL))).status == 200

    assert {answer.status for answer in await ask_all(greedy)} == {429}
    assert {answer.status for answer in await ask_all(Asker(house.hub_endpoint, "hf_other"))} == {200}


async def test_who_waits_for_a_file_is_told_to_come_back(house: House) -> None:
    ask = Asker(house.hub_endpoint)
    assert (await ask.head(path_of(NAME))).status == 200
    house.hub.faults.add(Fault("status", "body", status=429, headers=SLOW_DOWN))

    async with asyncio.timeout(AT_ONCE_SECONDS):
        refused = await ask.get(path_of(NAME))

    assert (refused.status, refused.headers["retry-after"]) == (429, "60")
    assert refused.headers["ratelimit"].startswith('"resolvers";r=0;t=')


async def test_what_is_refused_by_an_error_counts_as_what_it_was(house: House) -> None:
    house.hub.faults.add(Fault("status", times=None, status=429, headers={"Retry-After": "60"}))
    ask = Asker(house.hub_endpoint)
    for path in (f"/{NAME}/resolve/main/x", f"/{NAME}/raw/main/x", f"/api/models/{NAME}", "/-x/y"):
        await ask.get(path)

    counted = house.metrics.registry.get_sample_value
    kinds = (("resolve", "429"), ("raw", "429"), ("api", "429"), ("other", "404"))
    for kind, code in kinds:
        assert counted("mx_hub_requests_total", {"kind": kind, "code": code}) == 1, kind


async def test_a_short_wait_is_waited_out(house: House) -> None:
    house.hub.faults.add(Fault("status", status=429, headers={"Retry-After": "1"}))

    assert (await Asker(house.hub_endpoint).get(path_of(NAME))).body == FILES[LARGE]


async def test_a_pull_that_waits_for_a_limited_token_keeps_nobody_from_his_bytes(
    house: House, tmp_path: Path
) -> None:
    of_bytes = Fault("status", "resolve", times=None, status=429, headers=SLOW_DOWN, token="hf_greedy")
    house.hub.faults.add(of_bytes)
    async with house.client(tmp_path / "mine", hub_token="hf_greedy") as client:
        pulling = asyncio.create_task(client.ensure(NAME))
        while not any(asked.status == 429 for asked in house.hub.log.requests):
            await asyncio.sleep(0.01)

        async with asyncio.timeout(AT_ONCE_SECONDS):
            assert (await Asker(house.hub_endpoint).get(path_of(OTHER))).body == FILES[LARGE]
        assert not pulling.done(), "it waits as long as it is told to"
        pulling.cancel()
        await house.cache.interrupt()
        await asyncio.gather(pulling, return_exceptions=True)


async def test_questions_that_wait_for_a_limited_token_keep_nobody_from_his_answer(house: House) -> None:
    short = {"Retry-After": "2"}
    house.hub.faults.add(Fault("status", times=None, status=429, headers=short, token="hf_greedy"))
    greedy = Asker(house.hub_endpoint, "hf_greedy")
    limited = [asyncio.create_task(greedy.get(f"/api/models/{OTHER}?full={n}")) for n in range(20)]
    while len(house.hub.log.requests) < 16:
        await asyncio.sleep(0.01)

    async with asyncio.timeout(1):
        assert (await Asker(house.hub_endpoint).get(f"/api/models/{NAME}")).status == 200
    assert not any(task.done() for task in limited)
    await house.cache.interrupt()
    for task in limited:
        task.cancel()


async def test_a_short_wait_is_no_outage(hub: LocalHub, tmp_path: Path) -> None:
    settings = {"origin__revalidate": 60, "access__granted_ttl": 0, "access__denied_ttl": 0}
    hub.add(Repository(PRIVATE, is_private=True))
    hub._repositories[PRIVATE].commit(FILES)
    hub.grant("hf_member", PRIVATE)
    member_paths = [path_of(PRIVATE), f"/api/models/{PRIVATE}/tree/main"]
    async with open_house(hub, tmp_path, origin=Origin(retry=RetryPolicy()), **settings) as house:
        member, stranger = Asker(house.hub_endpoint, "hf_member"), Asker(house.hub_endpoint)
        for path in member_paths:
            assert (await member.get(path)).status == 200
        assert (await stranger.get(path_of(NAME))).status == 200
        await house.settle()
        hub.revoke("hf_member")
        for token in ("hf_member", "hf_greedy"):
            wait = {"Retry-After": "1"}
            hub.faults.add(Fault("status", times=None, status=429, headers=wait, token=token))

        for path in member_paths:
            assert (await member.get(path)).status == 429, "he may have lost his permission"
        greedy = await Asker(house.hub_endpoint, "hf_greedy").head(path_of(NAME))
        assert (greedy.status, greedy.headers["mx-stale"]) == (200, "true")
        assert "mx-stale" not in (await stranger.head(path_of(NAME))).headers


async def test_an_address_that_names_its_time_is_left_alone_till_then_and_no_other(house: House) -> None:
    ask, busy = Asker(house.hub_endpoint), {"Retry-After": "60"}
    house.hub.faults.add(Fault("status", times=None, status=503, headers=busy, path=LARGE))
    async with asyncio.timeout(AT_ONCE_SECONDS):
        answers = [await ask.head(path_of(NAME)) for _ in range(3)]

    assert {answer.status for answer in answers} == {502}
    assert all(50 < int(answer.headers["retry-after"]) <= 60 for answer in answers)
    assert len(house.hub.log.requests) == 1
    assert (await ask.head(path_of(NAME, SMALL))).status == 200
    assert (await Asker(house.hub_endpoint, "hf_other").head(path_of(NAME))).status == 502
    assert len(house.hub.log.of("resolve", method="HEAD")) >= 3, "what one is told holds for nobody else"
