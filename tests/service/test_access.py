# SPDX-License-Identifier: Apache-2.0
"""Who may read what: bytes that one caller's token brought are not everybody's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.house import House, open_house

from modelexpress.client import AsyncClient
from modelexpress.domain.errors import Forbidden, MxError, Unauthenticated, Unreachable
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

OPEN = "demo/tiny"
PRIVATE = "demo/private"
GATED = "demo/gated"


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    private, gated = Repository(PRIVATE, is_private=True), Repository(GATED, is_gated=True)
    for repository in (private, gated):
        repository.commit(tiny_files(1))
    async with LocalHub([tiny_model(OPEN), private, gated]) as hub:
        hub.grant("hf_member", PRIVATE, GATED)
        hub.grant("hf_other")
        yield hub


def user(house: House, root: Path, token: str | None) -> AsyncClient:
    """A client of a person with a token in the environment, as the settings make it."""
    client = house.client(root)
    client._target = replace(client._target, find_hub_token=lambda: token)
    return client


def tokens_seen(house: House) -> set[str]:
    return {request.token for request in house.hub.log.requests if request.token is not None}


@pytest.mark.parametrize("name", [PRIVATE, GATED])
async def test_the_users_token_is_sent_when_the_model_needs_one(
    house: House, tmp_path: Path, name: str
) -> None:
    async with user(house, tmp_path / "mine", "hf_member") as client:
        model = await client.pull(name)
        again = await client.ensure(name)

    assert (model.path / "model.safetensors").read_bytes() == tiny_files(1)["model.safetensors"]
    assert again.was_hit and tokens_seen(house) == {"hf_member"}


async def test_the_users_token_stays_here_when_the_model_needs_none(house: House, tmp_path: Path) -> None:
    async with user(house, tmp_path / "mine", "hf_member") as client:
        await client.pull(OPEN)

    assert tokens_seen(house) == set()


async def test_a_token_that_may_not_is_sent_once_and_refused(house: House, tmp_path: Path) -> None:
    async with user(house, tmp_path / "mine", "hf_other") as client:
        for _ in range(2):
            with pytest.raises(Forbidden):
                await client.pull(GATED)
    async with user(house, tmp_path / "mine", None) as client:
        with pytest.raises((Unauthenticated, Forbidden)):
            await client.pull(GATED)

    assert not list(house.root.glob("models--*/blobs/*"))


@pytest.mark.parametrize("name", [PRIVATE, GATED])
@pytest.mark.parametrize("token", [None, "hf_other", "hf_unknown"])
async def test_who_joins_a_running_pull_of_somebody_else_gets_nothing_of_it(
    house: House, tmp_path: Path, name: str, token: str | None
) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=1000))
    async with (
        house.client(tmp_path / "member", hub_token="hf_member") as member,
        house.client(tmp_path / "stranger", hub_token=token) as stranger,
    ):
        theirs = asyncio.create_task(member.pull(name))
        while not held.applied:
            await asyncio.sleep(0.01)
        joined = asyncio.create_task(stranger.pull(name))
        await asyncio.sleep(0.1)
        held.release()
        results = await asyncio.gather(theirs, joined, return_exceptions=True)

    assert not isinstance(results[0], BaseException)
    assert isinstance(results[1], MxError) and results[1].code in ("Forbidden", "Unauthenticated", "NotFound")
    assert not list((tmp_path / "stranger").glob("models--*/snapshots/*/*"))


@pytest.mark.parametrize("is_stranger_first", [True, False])
async def test_who_may_read_hears_no_refusal_of_who_may_not(
    house: House, tmp_path: Path, is_stranger_first: bool
) -> None:
    async with (
        house.client(tmp_path / "member", hub_token="hf_member") as member,
        house.client(tmp_path / "nobody") as nobody,
    ):
        pulls = [nobody.pull(GATED), member.pull(GATED)]
        ended = await asyncio.gather(*(pulls if is_stranger_first else pulls[::-1]), return_exceptions=True)
        refused, served = ended if is_stranger_first else ended[::-1]
        assert isinstance(refused, Forbidden | Unauthenticated) and not isinstance(served, BaseException)
        with pytest.raises((Forbidden, Unauthenticated)):
            await nobody.pull(GATED)


async def test_callers_with_tokens_of_their_own_cost_the_origin_one_download(
    house: House, tmp_path: Path
) -> None:
    tokens = [f"hf_member_{number}" for number in range(6)]
    for token in tokens:
        house.hub.grant(token, PRIVATE)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(house.client(tmp_path / token, hub_token=token))
            for token in tokens
        ]
        await asyncio.gather(*(client.ensure(PRIVATE) for client in clients))

    fetched = Counter(request.file for request in house.hub.log.of("body"))
    assert set(fetched.values()) == {1} and "model.safetensors" in fetched


async def test_a_crowd_without_tokens_costs_the_origin_one_question(house: House, tmp_path: Path) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=1000))
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(house.client(tmp_path / f"{n}")) for n in range(8)]
        pulls = [asyncio.create_task(client.pull(OPEN)) for client in clients]
        while not held.applied:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # all have asked what is on its way
        held.release()
        await asyncio.gather(*pulls)

    asked = [request for request in house.hub.log.requests if "auth-check" in request.path]
    assert len(asked) == 1


async def test_an_attempt_without_a_token_does_not_open_what_a_token_brings_later(
    house: House, tmp_path: Path
) -> None:
    async with house.client(tmp_path / "none") as nobody:
        # The listing of a gated model is public: this gets as far as the first file.
        with pytest.raises((Unauthenticated, Forbidden)):
            await nobody.pull(GATED)
        async with house.client(tmp_path / "member", hub_token="hf_member") as member:
            await member.pull(GATED)
        with pytest.raises(Forbidden):
            await nobody.pull(GATED)


async def test_no_unproven_token_opens_a_model_while_the_origin_is_away(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "nobody") as nobody:
        await nobody.pull(OPEN)
    async with house.client(tmp_path / "member", hub_token="hf_member") as member:
        await member.pull(PRIVATE)
        house.hub.faults.add(Fault("status", "any", status=503, times=None))
        assert (await member.ensure(PRIVATE)).is_stale
    async with house.client(tmp_path / "none", hub_token="hf_made_up") as stranger:
        with pytest.raises(Unreachable):
            await stranger.pull(PRIVATE)
        # Nobody needs a token for this one.
        await stranger.pull(OPEN)


async def test_what_the_server_read_itself_is_served_without_asking_about_tokens(
    house: House, tmp_path: Path
) -> None:
    async with house.client(tmp_path / "none") as nobody:
        await nobody.pull(OPEN)
    house.hub.log.clear()
    async with house.client(tmp_path / "other", hub_token="hf_other") as other:
        await other.ensure(OPEN)

    assert [request.kind for request in house.hub.log.requests] == ["api"]  # what main is now, and no more


async def test_a_server_that_refuses_its_own_token_asks_everybody_for_theirs(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, access__server_token="refuse") as house:
        async with house.client(tmp_path / "none") as nobody:
            with pytest.raises(Unauthenticated, match="x-hf-token"):
                await nobody.pull(OPEN)
        async with user(house, tmp_path / "mine", "hf_other") as other:
            assert (await other.pull(OPEN)).path.is_dir()
            with pytest.raises((Forbidden, Unauthenticated)):
                await other.pull(PRIVATE)
