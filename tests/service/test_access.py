# SPDX-License-Identifier: Apache-2.0
"""Who may read what: bytes that one caller's token brought are not everybody's."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.asking import Asker
from tests.support.house import House, Origin, open_house

from modelexpress.cache import access
from modelexpress.client import AsyncClient
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.errors import Forbidden, MxError, NotFound, Unauthenticated, Unreachable
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection
from modelexpress.providers.retry import RetryPolicy
from modelexpress.store.records import SnapshotRecord
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

OPEN = "demo/tiny"
PRIVATE = "demo/private"
GATED = "demo/gated"
FILES = tiny_files(1)


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


SILENCES = [
    Fault("reset", "any", times=None),
    Fault("hang", "any", times=None),
    Fault("status", "any", status=503, times=None),
    Fault("status", "any", status=429, times=None),
]


@pytest.mark.parametrize("silence", SILENCES, ids=["reset", "hang", "503", "429"])
async def test_a_silent_origin_keeps_no_client_from_showing_its_token(
    hub: LocalHub, tmp_path: Path, silence: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_UNKNOWN_AFTER_SECONDS", 0.2)
    async with open_house(hub, tmp_path, origin=Origin(retry=RetryPolicy())) as house:
        async with house.client(tmp_path / "member", hub_token="hf_member") as member:
            commit = (await member.pull(PRIVATE)).commit
        hub.faults.add(silence)
        for wanted in (f"{PRIVATE}@{commit}", PRIVATE):
            async with house.client(tmp_path / "nobody") as nobody:
                with pytest.raises(Unauthenticated, match="not known now"):
                    await nobody.pull(wanted)
            async with user(house, tmp_path / wanted, "hf_member") as member:
                assert (await member.pull(wanted)).commit == commit


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


LISTED = "demo/listed"  # gated, with a listing for everybody


@pytest.fixture(params=["is pulling", "was interrupted", "has failed"])
async def begun(
    hub: LocalHub, house: House, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[str]:
    """A commit of which a member's pull has brought all but one file, and which goes on at the end."""
    listed = Repository(LISTED, is_gated=True)
    listed.open_paths = frozenset({"tree"})
    commit = listed.commit(FILES)
    hub.add(listed)
    hub.grant("hf_member", LISTED)
    action = "status" if request.param == "has failed" else "hold"
    held = hub.faults.add(Fault(action, "body", "model.safetensors", after=1000, status=503, times=None))
    async with house.client(tmp_path / "member", hub_token="hf_member") as member:
        pulling = asyncio.create_task(member.ensure(LISTED))
        blobs = house.root / "models--demo--listed" / "blobs"
        # The one that fails may be faster than some that come.
        while not pulling.done() and not (held.applied and len(list(blobs.glob("*"))) >= len(FILES) - 1):
            await asyncio.sleep(0.01)
        if request.param != "is pulling":
            if request.param == "was interrupted":
                await house.cache.interrupt()
            with pytest.raises(MxError):
                await pulling
        yield commit
        hub.faults.clear()
        held.release()
        await (pulling if request.param == "is pulling" else member.ensure(LISTED))


async def test_what_a_members_pull_has_brought_so_far_is_nobody_elses(
    begun: str, house: House, tmp_path: Path
) -> None:
    chosen = Selection(include=("config.json", "pytorch_model.bin"))
    async with house.client(tmp_path / "nobody") as nobody:
        with pytest.raises((Forbidden, Unauthenticated)):
            await nobody.pull(f"{LISTED}@{begun}", chosen)
    async with house.client(tmp_path / "unknown", hub_token="hf_unknown") as unknown:
        with pytest.raises((Forbidden, Unauthenticated)):
            await unknown.pull(f"{LISTED}@{begun}", chosen)

    for name in ("nobody", "unknown"):
        assert not list((tmp_path / name).glob("models--*/snapshots/*/*"))
    records = house.cache._parts.records.find_all(ModelRef.parse(LISTED))
    assert records and not any(record.is_read_by_server or record.is_public for record in records)


GONE = {"X-Error-Code": "RepoNotFound"}


def kept_bytes(house: House) -> int:
    """Of the disk, for interrupted pulls to go on from."""
    return sum(path.stat().st_blocks * 512 for path in (house.root / ".mx/partials").glob("*.part"))


@pytest.mark.parametrize("who", ["nobody", "may not", "asks for what is not there", "was revoked"])
async def test_who_fails_takes_nothing_from_those_whose_pull_was_interrupted(
    hub: LocalHub, house: House, tmp_path: Path, who: str
) -> None:
    large = Repository("demo/large", is_gated=True)
    large.open_paths = frozenset({"tree"})
    commit = large.commit({"model.safetensors": random.Random(1).randbytes(12_000_000), "config.json": b"{}"})
    hub.add(large)
    hub.grant("hf_member", "demo/large")
    hub.grant("hf_second", "demo/large")
    held = hub.faults.add(Fault("hold", "body", "model.safetensors", after=4_500_000, times=None))
    async with house.client(tmp_path / "member", hub_token="hf_member") as member:
        pulling = asyncio.create_task(member.ensure("demo/large"))
        while not held.applied or kept_bytes(house) < 4_500_000:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await house.cache.interrupt()
        with pytest.raises(MxError):
            await pulling
        hub.faults.clear()
        held.release()
        kept = kept_bytes(house)

        token = {"nobody": None, "may not": "hf_other"}.get(who, "hf_second")
        chosen = Selection(include=("*.nothing",)) if who == "asks for what is not there" else None
        async with house.client(tmp_path / "other", hub_token=token) as other:
            if who == "was revoked":  # for whom there is no such repository any more, which is not known here
                await other.ensure("demo/large", Selection(include=("config.json",)))
                gone = Fault("status", "resolve", status=404, token=token, headers=GONE, times=None)
                hub.faults.add(gone)
            with pytest.raises((Forbidden, Unauthenticated, NotFound)):
                await other.ensure(f"demo/large@{commit}", chosen)
        # The disk itself takes a block more or less for where the others are.
        assert kept_bytes(house) == pytest.approx(kept, abs=100_000) and kept > 4_000_000

        hub.log.clear()
        await member.ensure("demo/large")
    assert hub.log.bytes_sent < 12_000_000


def turn_gated(hub: LocalHub, name: str) -> str:
    """A public model gets another commit, and is gated from then on."""
    gated = Repository(name, is_gated=True)
    commit = gated.commit({**FILES, "model.safetensors": b"new weights " * 1000})
    hub.add(gated)
    hub.grant("hf_member", name)
    return commit


def records_of(house: House, name: str) -> dict[str, SnapshotRecord]:
    return {
        record.manifest.commit: record for record in house.cache._parts.records.find_all(ModelRef.parse(name))
    }


@pytest.mark.parametrize("token", [None, "hf_other"])
async def test_that_one_commit_was_everybodys_opens_no_other(
    hub: LocalHub, tmp_path: Path, token: str | None
) -> None:
    never = {"access__granted_ttl": 0, "access__denied_ttl": 0}
    async with open_house(hub, tmp_path, **never) as house:
        async with house.client(tmp_path / "first") as nobody:
            await nobody.pull(OPEN)
        commit = turn_gated(hub, OPEN)
        async with house.client(tmp_path / "member", hub_token="hf_member") as member:
            await member.ensure(OPEN)
        async with house.client(tmp_path / "late", hub_token=token) as late:
            for wanted in (OPEN, f"{OPEN}@{commit}"):
                with pytest.raises((Forbidden, Unauthenticated)):
                    await late.pull(wanted)
        assert not records_of(house, OPEN)[commit].is_read_by_server


async def test_what_is_open_by_its_record_costs_no_question(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "nobody") as nobody:
        commit = (await nobody.pull(OPEN)).commit
        house.hub.log.clear()
        await nobody.ensure(f"{OPEN}@{commit}")

    assert house.hub.log.requests == []


async def test_the_origins_yes_to_the_server_is_kept_with_the_commit(hub: LocalHub, tmp_path: Path) -> None:
    rules = {"origin__revalidate": 60, "access__granted_ttl": 0}
    async with open_house(hub, tmp_path, **rules) as house, house.client(tmp_path / "nobody") as nobody:
        async with house.client(tmp_path / "other", hub_token="hf_other") as other:
            commit = (await other.ensure(OPEN)).commit
        await nobody.ensure(OPEN)
        assert records_of(house, OPEN)[commit].is_read_by_server
        hub.faults.add(Fault("reset", "any", times=None))
        await nobody.ensure(OPEN)


async def test_a_no_to_the_server_closes_every_commit_of_the_model(hub: LocalHub, tmp_path: Path) -> None:
    hub.grant("hf_server", GATED)
    rules = {"origin__revalidate": 60, "access__granted_ttl": 0, "access__denied_ttl": 0}
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(hub, tmp_path, {"HF_TOKEN": "hf_server"}, **rules))
        nobody = await stack.enter_async_context(house.client(tmp_path / "nobody"))
        before = (await nobody.ensure(GATED)).commit
        hub.revoke("hf_server")
        turn_gated(hub, GATED)
        house.cache._freshness.forget(ModelRef.parse(GATED))
        member = await stack.enter_async_context(house.client(tmp_path / "member", hub_token="hf_member"))
        await member.ensure(GATED)
        with pytest.raises(Forbidden):
            await nobody.ensure(GATED)
        assert not any(record.is_read_by_server for record in records_of(house, GATED).values())
        with pytest.raises(Forbidden):
            await nobody.ensure(f"{GATED}@{before}")


async def test_a_server_without_a_token_is_refused_what_strangers_are_refused(
    hub: LocalHub, tmp_path: Path
) -> None:
    commit = hub._repositories[OPEN].branches["main"]
    rules = {"access__granted_ttl": 0, "access__denied_ttl": 0}
    async with open_house(hub, tmp_path, **rules) as house:
        async with house.client(tmp_path / "before") as nobody:
            await nobody.pull(f"{OPEN}@{commit}")
        hub._repositories[OPEN].is_private = True
        refused = await Asker(house.hub_endpoint).head(f"/{OPEN}/resolve/{commit}/model.safetensors")
        assert refused.status == 401
        assert not any(record.is_read_by_server for record in records_of(house, OPEN).values())
        async with house.client(tmp_path / "after") as nobody:
            with pytest.raises(Forbidden):
                await nobody.pull(f"{OPEN}@{commit}")


async def test_what_a_server_without_a_token_is_refused_is_closed_to_strangers(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, access__granted_ttl=0, access__denied_ttl=0) as house:
        async with house.client(tmp_path / "before") as nobody:
            await nobody.pull(OPEN)
        hub._repositories[OPEN].is_private = True
        assert not await house.cache._access.is_allowed(ANONYMOUS, ModelRef.parse(OPEN))
        hub.faults.add(Fault("reset", "any", times=None))
        alone = await Asker(house.hub_endpoint).head(f"/{OPEN}/resolve/main/model.safetensors")
        assert alone.status == 502


async def test_what_a_private_branch_means_is_told_to_nobody_without_a_right(
    hub: LocalHub, tmp_path: Path
) -> None:
    ref = ModelRef.parse(f"{PRIVATE}@main")
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        member = Asker(house.hub_endpoint, "hf_member")
        assert (await member.head(f"/{PRIVATE}/resolve/main/model.safetensors")).status == 200
        hub.log.clear()
        assert house.cache._freshness.recall(ref, None) is not None
        with pytest.raises(Unauthenticated):
            await house.cache.begin(ref, None, ANONYMOUS)
        assert [request.path for request in hub.log.requests] == [f"/api/models/{PRIVATE}/revision/main"]


async def test_what_the_server_was_told_of_a_branch_is_asked_once(hub: LocalHub, tmp_path: Path) -> None:
    hub.faults.add(Fault("status", "body", "model.safetensors", status=404, times=None))
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        for _ in range(3):
            flight = await house.cache.begin(ModelRef.parse(OPEN), None, ANONYMOUS)
            with pytest.raises(MxError):
                await flight.result()

    asked = [request for request in hub.log.requests if request.path.endswith("/revision/main")]
    assert len(asked) == 1
