# SPDX-License-Identifier: Apache-2.0
"""What the origin has said of who may read counts while it does not answer, and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.asking import Asker
from tests.support.house import Origin, open_house

from modelexpress.domain.errors import MxError
from modelexpress.providers.retry import RetryPolicy
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME, PRIVATE = "demo/tiny", "demo/private"
LARGE = "model.safetensors"
FILES = tiny_files()
SLOW_DOWN = {"Retry-After": "60"}


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    private = Repository(PRIVATE, is_private=True)
    private.commit(FILES)
    async with LocalHub([tiny_model(NAME), private]) as hub:
        hub.grant("hf_member", PRIVATE)
        yield hub


def path_of(name: str, file: str = LARGE, revision: str = "main") -> str:
    return f"/{name}/resolve/{revision}/{file}"


@pytest.mark.parametrize("token", [None, "hf_member"], ids=["without a token", "with a token"])
async def test_what_a_pull_brought_without_a_token_is_everybodys(
    hub: LocalHub, tmp_path: Path, token: str | None
) -> None:
    outgoing = {} if token is None else {"HF_TOKEN": token}
    async with open_house(hub, tmp_path, outgoing) as house, house.client(tmp_path / "mine") as client:
        await client.pull(NAME)
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        read = await Asker(house.hub_endpoint).get(path_of(NAME))

    assert read.status == (200 if token is None else 403), (
        "with the server's token it may be the server's alone"
    )


async def test_a_description_that_says_so_opens_a_model_to_everybody(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path, {"HF_TOKEN": "hf_member"}) as house:
        async with house.client(tmp_path / "mine") as client:
            await client.pull(NAME)
        assert (await Asker(house.hub_endpoint, "hf_member").get(f"/api/models/{NAME}")).status == 200
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        read = await Asker(house.hub_endpoint).get(path_of(NAME))

    assert (read.status, read.body) == (200, FILES[LARGE])


@pytest.mark.parametrize("who", [None, "hf_member"], ids=["stranger", "member"])
async def test_a_description_that_says_so_closes_a_model_to_strangers(
    hub: LocalHub, tmp_path: Path, who: str | None
) -> None:
    hub.grant("hf_member", NAME)
    async with open_house(hub, tmp_path, access__granted_ttl=0) as house:
        stranger, member = Asker(house.hub_endpoint), Asker(house.hub_endpoint, "hf_member")
        assert (await stranger.get(path_of(NAME))).status == 200
        await house.settle()
        hub._repositories[NAME].is_gated = True
        said = await Asker(house.hub_endpoint, who).get(f"/api/models/{NAME}")
        assert (said.status, b'"gated": "manual"' in said.body) == (200, True)
        assert (await member.get(path_of(NAME))).status == 200
        hub.faults.add(Fault("reset", "any", times=None))
        assert (await stranger.get(path_of(NAME))).status == 502
        assert (await member.get(path_of(NAME))).status == 200
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await Asker(house.hub_endpoint).get(path_of(NAME))).status == 403
    hub.faults.clear()
    hub._repositories[NAME].is_gated = False
    async with open_house(hub, tmp_path) as house:
        assert (await Asker(house.hub_endpoint, "hf_member").get(f"/api/models/{NAME}")).status == 200
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await Asker(house.hub_endpoint).get(path_of(NAME))).status == 200


async def test_a_readme_that_was_everybodys_is_not_when_the_model_was_refused_since(
    hub: LocalHub, tmp_path: Path
) -> None:
    commit = hub._repositories[NAME].branches["main"]
    readme, weights = (path_of(NAME, file, commit) for file in ("README.md", LARGE))
    async with open_house(hub, tmp_path, access__denied_ttl=0) as house:
        ask = Asker(house.hub_endpoint)
        assert (await ask.get(readme)).status == 200
        hub._repositories[NAME].is_private = True
        assert [(await ask.get(path)).status for path in (weights, readme)] == [401, 401]


async def test_who_is_limited_keeps_what_he_was_allowed_for_its_time_and_no_longer(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, access__granted_ttl=2) as house:
        member, paths = Asker(house.hub_endpoint, "hf_member"), [path_of(PRIVATE), f"/api/models/{PRIVATE}"]
        for path in paths:
            assert (await member.get(path)).status == 200
        await house.settle()
        hub.faults.add(Fault("status", times=None, status=429, headers=SLOW_DOWN, token="hf_member"))
        assert [(await member.get(path)).status for path in paths] == [200, 200]
        await asyncio.sleep(2)
        assert [(await member.get(path)).status for path in paths] == [429, 429]


async def test_over_grpc_an_earlier_yes_counts_in_an_outage_too(hub: LocalHub, tmp_path: Path) -> None:
    origin, commit = Origin(retry=RetryPolicy()), hub._repositories[PRIVATE].branches["main"]
    pinned = f"{PRIVATE}@{commit}"
    async with open_house(hub, tmp_path, origin=origin, access__granted_ttl=0) as house:
        async with house.client(tmp_path / "first", hub_token="hf_member") as client:
            await client.pull(pinned)
        hub.faults.add(Fault("hang", times=None))
        async with asyncio.timeout(8), house.client(tmp_path / "member", hub_token="hf_member") as client:
            assert (await client.pull(pinned)).commit == commit
        async with house.client(tmp_path / "other", hub_token="hf_other") as client:
            waiting = asyncio.create_task(client.pull(pinned))
            await asyncio.wait({waiting}, timeout=3)
            assert not waiting.done() or isinstance(waiting.exception(), MxError)
            hub.faults.clear()
            with pytest.raises(MxError):
                await waiting


async def test_documents_too_wait_for_a_silent_origin_only_at_first(hub: LocalHub, tmp_path: Path) -> None:
    paths = [f"/api/models/{NAME}", f"/api/models/{NAME}/tree/main"]
    async with open_house(hub, tmp_path, origin=Origin(retry=RetryPolicy())) as house:
        ask = Asker(house.hub_endpoint)
        for path in paths:
            assert (await ask.get(path)).status == 200
        hub.faults.add(Fault("hang", times=None))
        for path in paths:
            assert (await ask.get(path)).headers["mx-stale"] == "true"
        hub.log.clear()
        for path in paths:
            async with asyncio.timeout(1.5):
                assert (await ask.get(path)).headers["mx-stale"] == "true"
        assert hub.log.requests == []


async def test_what_strangers_are_shown_while_a_token_brings_it_is_everybodys_later(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house:
        held = hub.faults.add(Fault("hold", "body", path=LARGE, after=50_000))
        bringing = asyncio.create_task(Asker(house.hub_endpoint, "hf_member").get(path_of(NAME)))
        while not held.applied:
            await asyncio.sleep(0.01)
        assert (await Asker(house.hub_endpoint).head(path_of(NAME))).status == 200
        held.release()
        assert (await bringing).status == 200
        await house.settle()
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await Asker(house.hub_endpoint).get(path_of(NAME))).body == FILES[LARGE]


async def test_a_yes_to_an_earlier_question_than_was_refused_since_is_no_news(
    hub: LocalHub, tmp_path: Path
) -> None:
    api, model = f"/api/models/{NAME}", hub._repositories[NAME]
    file = path_of(NAME, revision=model.branches["main"])
    async with open_house(hub, tmp_path, origin__revalidate=60, access__denied_ttl=0) as house:
        assert (await Asker(house.hub_endpoint).get(file)).status == 200
        await house.settle()
    async with open_house(hub, tmp_path, origin__revalidate=60, access__denied_ttl=0) as house:
        ask = Asker(house.hub_endpoint)
        slow = hub.faults.add(Fault("hang", "api"))
        asking = asyncio.create_task(ask.get(api))
        while not slow.applied:
            await asyncio.sleep(0.01)
        model.is_private = True
        assert (await ask.get(file)).status == 401
        model.is_private = False  # so that the question is answered as when it began
        slow.release()
        assert (await asking).status == 200
        model.is_private = True
        assert [(await ask.get(path)).status for path in (file, api)] == [401, 401]
        hub.faults.add(Fault("reset", "any", times=None))
        assert (await ask.get(file)).status == 502


async def test_a_token_that_nobody_has_takes_nothing_from_strangers(hub: LocalHub, tmp_path: Path) -> None:
    """Also where the Hub says 'no such repository' to such a token."""
    said = {"X-Error-Code": "RepoNotFound"}
    async with open_house(hub, tmp_path, access__granted_ttl=0) as house:
        ask, junk = Asker(house.hub_endpoint), Asker(house.hub_endpoint, "hf_junk")
        assert (await ask.get(path_of(NAME))).status == 200
        await house.settle()
        hub.faults.add(Fault("status", status=401, headers=said, token="hf_junk", times=None))
        for path in (path_of(NAME), f"/api/models/{NAME}"):
            assert (await junk.get(path)).status == 401
        hub.faults.add(Fault("reset", "any", times=None))
        assert (await ask.get(path_of(NAME))).status == 200
