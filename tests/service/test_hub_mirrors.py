# SPDX-License-Identifier: Apache-2.0
"""Mirrors behind the Hub endpoint: they have bytes and names, and no say in who may read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.asking import Answer, Asker
from tests.support.house import House, Origin, open_house

from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

GATED, OPEN = "demo/gated", "demo/tiny"
LARGE, SMALL = "model.safetensors", "config.json"
FILES = tiny_files()


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    gated = Repository(GATED, is_gated=True)
    gated.commit(FILES)
    async with LocalHub([gated, tiny_model(OPEN)]) as hub:
        hub.grant("hf_member", GATED)
        yield hub


@pytest.fixture
async def mirror() -> AsyncIterator[LocalHub]:
    """A mirror in one's own network, which asks nobody for a token."""
    copy = Repository(GATED)
    copy.commit(FILES)
    async with LocalHub([copy, tiny_model(OPEN)]) as mirror:
        yield mirror


@pytest.fixture
async def house(hub: LocalHub, mirror: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    settings = {"origin__revalidate": 60, "access__granted_ttl": 0, "access__denied_ttl": 0}
    origin = Origin(mirrors=(mirror.endpoint,))
    async with open_house(hub, tmp_path, origin=origin, **settings) as house:
        yield house


async def read(house: House, name: str, token: str | None, file: str = LARGE) -> Answer:
    return await Asker(house.hub_endpoint, token).get(f"/{name}/resolve/main/{file}")


def fail(hub: LocalHub, path: str = "*") -> None:
    hub.faults.add(Fault("status", status=500, path=path, times=None))


async def test_trouble_with_one_file_does_not_make_a_mirror_decide(house: House, mirror: LocalHub) -> None:
    await read(house, GATED, "hf_member")
    await house.settle()
    fail(house.hub, "README.md")
    assert (await read(house, OPEN, None, "README.md")).status == 502
    mirror.log.clear()

    for file in (LARGE, SMALL):
        refused = await read(house, GATED, None, file)
        assert (refused.status, refused.code) == (401, "GatedRepo")
    assert mirror.log.requests == []


async def test_trouble_with_many_files_does_not_let_a_mirror_decide_either(
    house: House, mirror: LocalHub
) -> None:
    await read(house, GATED, "hf_member")
    await house.settle()
    house.hub.revoke("hf_member")
    fail(house.hub, "evil*")
    for number in range(4):
        assert (await read(house, OPEN, None, f"evil{number}")).status == 502
    mirror.log.clear()

    for file in (LARGE, SMALL):
        assert (await read(house, GATED, "hf_member", file)).status == 401
    assert mirror.log.requests == []


async def test_in_an_outage_a_mirror_stands_in_for_those_alone_whom_the_origin_allowed(
    house: House, mirror: LocalHub
) -> None:
    await read(house, GATED, "hf_member")
    await read(house, OPEN, None)
    await house.settle()
    mirror.log.clear()
    fail(house.hub)

    for token in (None, "hf_other"):
        for file in (LARGE, SMALL):
            assert (await read(house, GATED, token, file)).status == 502
    assert mirror.log.requests == []
    for name, token in ((GATED, "hf_member"), (OPEN, None), (OPEN, "hf_other")):
        assert (await read(house, name, token, SMALL)).body == FILES[SMALL]
    assert {request.token for request in mirror.log.requests} == {None}


async def test_what_a_mirror_says_is_no_permission_afterwards(house: House, mirror: LocalHub) -> None:
    """Neither that of the origin, nor one that counts in its next outage."""
    await read(house, GATED, "hf_member")
    await house.settle()
    fail(house.hub)
    assert (await read(house, GATED, "hf_member", SMALL)).status == 200
    await house.settle()
    house.hub.faults.clear()
    house.hub.revoke("hf_member")

    assert (await read(house, GATED, "hf_member", SMALL)).status == 401


async def test_a_limited_token_is_not_let_in_by_a_mirror(house: House, mirror: LocalHub) -> None:
    await read(house, GATED, "hf_member")
    await house.settle()
    mirror.log.clear()
    limits = {"Retry-After": "60"}
    house.hub.faults.add(Fault("status", status=429, headers=limits, times=None, token="hf_member"))

    assert (await read(house, GATED, "hf_member", SMALL)).status == 429
    assert mirror.log.requests == []


async def test_of_what_is_here_no_mirror_says_otherwise(tmp_path: Path) -> None:
    """Neither what a file of a commit is, nor what a branch means; over gRPC too."""
    old, later = {LARGE: b"old " * 999, SMALL: b"1"}, {LARGE: b"new " * 999, SMALL: b"2"}
    ours, lagging = Repository(OPEN), Repository(OPEN)
    before, _ = ours.commit(old), lagging.commit(old)
    assert lagging.branches["main"] == before
    async with LocalHub([ours]) as hub, LocalHub([lagging]) as mirror:
        rules = {"origin__revalidate": 0, "access__granted_ttl": 0}
        async with open_house(hub, tmp_path, origin=Origin(mirrors=(mirror.endpoint,)), **rules) as house:
            await read(house, OPEN, None)
            commit = ours.commit(later)
            # The mirror is wrong about this one: it has other files for it.
            lagging._commits[commit] = lagging._commits[before]
            for file in (LARGE, SMALL):
                await read(house, OPEN, None, file)
            await house.settle()
            fail(hub)
            for revision in ("main", commit):
                answer = await Asker(house.hub_endpoint).get(f"/{OPEN}/resolve/{revision}/{LARGE}")
                assert (answer.body, answer.headers["mx-stale"]) == (later[LARGE], "true")
                assert answer.headers["x-repo-commit"] == commit
            house.cache._freshness.forget(ModelRef.parse(OPEN))
            flight = await house.cache.begin(ModelRef.parse(OPEN), Selection(include=(SMALL,)), ANONYMOUS)
            assert flight.commit == commit
            assert not any("/resolve/" in request.path for request in mirror.log.requests)


@pytest.mark.parametrize("is_whole", [False, True], ids=["a file over HTTP", "a pull"])
async def test_what_only_a_mirror_said_of_a_file_counts_until_the_origin_can_be_asked(
    tmp_path: Path, is_whole: bool
) -> None:
    right, wrong = {LARGE: b"right " * 999, SMALL: b"1"}, {LARGE: b"wrong " * 999, SMALL: b"1"}
    ours, lying = Repository(OPEN), Repository(OPEN)
    commit, other = ours.commit(right), lying.commit(wrong)
    lying._commits[commit] = lying._commits[other]
    lying.branches["main"] = commit
    file = f"/{OPEN}/resolve/{commit}/{LARGE}"
    async with LocalHub([ours]) as hub, LocalHub([lying]) as mirror:
        origin = Origin(mirrors=(mirror.endpoint,))
        async with open_house(hub, tmp_path, origin=origin) as house:
            await read(house, OPEN, None, SMALL)
            await house.settle()
            fail(hub)
            for _ in range(2):
                if is_whole:
                    async with house.client(tmp_path / "in the outage") as client:
                        await client.pull(f"{OPEN}@{commit}")
                assert (await Asker(house.hub_endpoint).get(file)).body == wrong[LARGE]
                await house.settle()
        hub.faults.clear()
        async with open_house(hub, tmp_path) as house:
            await read(house, OPEN, None, SMALL)  # after which nobody has to be asked who may read
            assert (await Asker(house.hub_endpoint).get(file)).body == right[LARGE]
            await house.settle()
            async with house.client(tmp_path / "mine") as client:
                pulled = await client.pull(f"{OPEN}@{commit}")
            assert (Path(pulled.path) / LARGE).read_bytes() == right[LARGE]
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            assert (await Asker(house.hub_endpoint).get(file)).body == right[LARGE]
