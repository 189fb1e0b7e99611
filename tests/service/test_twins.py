# SPDX-License-Identifier: Apache-2.0
"""The same bytes in several repositories take the disk once, and nobody may read more than before."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.caches import fill_by_huggingface_hub
from tests.support.house import House, open_house

from modelexpress.client import Strategy
from modelexpress.domain.errors import MxError
from modelexpress.domain.refs import ModelRef
from modelexpress.testing.hub import LocalHub, Repository

MIB = 1024 * 1024
WEIGHTS = random.Random(3).randbytes(3 * MIB)
NAMES = ("demo/base", "demo/tuned", "other/copy")


def repository(name: str, *, is_gated: bool = False) -> Repository:
    made = Repository(name, is_gated=is_gated)
    made.commit({"config.json": name.encode(), "model.safetensors": WEIGHTS})
    return made


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub([repository(name) for name in NAMES]) as hub:
        yield hub


async def pull(house: House, folder: Path, name: str) -> None:
    async with house.client(folder) as client:
        await client.ensure(name)


def weights_of(house: House, name: str) -> Path:
    [link] = (house.root / f"models--{name.replace('/', '--')}").glob("snapshots/*/model.safetensors")
    return link.resolve()


async def test_bytes_that_several_models_have_take_the_disk_once(house: House, tmp_path: Path) -> None:
    for name in NAMES:
        await pull(house, tmp_path / "mine", name)

    assert len({weights_of(house, name).stat().st_ino for name in NAMES}) == 1
    held = {one.name: one for one in await house.cache.list_held()}
    assert all(one.bytes_shared >= 3 * MIB for one in held.values())
    assert 3 * MIB <= sum(one.bytes_on_disk_added for one in held.values()) < 4 * MIB
    plan = await house.cache.plan()
    assert 3 * MIB <= plan.use.used < 4 * MIB
    assert [v.is_sound for v in await house.cache.verify(None, lambda progress: None)] == [True] * 3
    assert len(house.hub.log.of("body", "model.safetensors")) >= 3, "each has shown that it has them"


async def test_they_come_free_with_the_last_of_them(house: House, tmp_path: Path) -> None:
    for name in NAMES:
        await pull(house, tmp_path / "mine", name)
    freed = []
    for name in NAMES:
        plan = await house.cache.evict([ModelRef.parse(name)], 0, is_dry_run=False)
        freed.append(plan.removal.bytes_freed)

    assert [count > 3 * MIB for count in freed] == [False, False, True]
    assert (await house.cache.plan()).use.used < MIB


async def test_a_model_that_is_left_is_whole_and_a_warm_pull_fetches_nothing(
    house: House, tmp_path: Path
) -> None:
    for name in NAMES[:2]:
        await pull(house, tmp_path / "mine", name)
    house.hub.log.clear()
    await house.cache.remove([ModelRef.parse(NAMES[0])], is_dry_run=False)

    async with house.client(tmp_path / "other") as client:
        model = await client.pull(NAMES[1], strategy=Strategy.SERVER_ONLY)

    assert (model.path / "model.safetensors").read_bytes() == WEIGHTS
    assert house.hub.log.of("body") == []


async def test_what_another_tool_brought_is_joined_with_nothing(hub: LocalHub, tmp_path: Path) -> None:
    root = tmp_path / "server-cache"
    await fill_by_huggingface_hub(hub, root, NAMES[0])
    async with open_house(hub, tmp_path) as house:
        before = weights_of(house, NAMES[0]).stat()
        await pull(house, tmp_path / "mine", NAMES[1])
        after = weights_of(house, NAMES[0]).stat()

        assert (after.st_ino, after.st_nlink, after.st_ctime_ns) == (before.st_ino, 1, before.st_ctime_ns)
        assert weights_of(house, NAMES[1]).stat().st_nlink == 1


async def test_a_twin_that_was_touched_is_left_alone(house: House, tmp_path: Path) -> None:
    await pull(house, tmp_path / "mine", NAMES[0])
    touched = weights_of(house, NAMES[0])
    os.utime(touched, ns=(1, 1))
    await pull(house, tmp_path / "mine", NAMES[1])

    assert touched.stat().st_nlink == weights_of(house, NAMES[1]).stat().st_nlink == 1


async def test_a_file_system_without_hard_links_keeps_two_files(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "no hard links here")

    await pull(house, tmp_path / "mine", NAMES[0])
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    await pull(house, tmp_path / "mine", NAMES[1])

    assert weights_of(house, NAMES[0]).stat().st_nlink == weights_of(house, NAMES[1]).stat().st_nlink == 1
    assert not list(house.root.glob(".mx/staging/*"))


async def test_who_may_not_read_a_repository_gets_nothing_of_it_by_its_bytes(tmp_path: Path) -> None:
    hub = LocalHub([repository("demo/open"), repository("demo/closed", is_gated=True)])
    hub.grant("secret", "demo/closed")
    async with hub, open_house(hub, tmp_path) as house:
        async with house.client(tmp_path / "insider", hub_token="secret") as client:
            await client.pull("demo/closed", strategy=Strategy.SERVER_ONLY)
        await pull(house, tmp_path / "mine", "demo/open")
        assert weights_of(house, "demo/open").samefile(weights_of(house, "demo/closed"))

        async with house.client(tmp_path / "outsider") as client:
            with pytest.raises(MxError):
                await client.pull("demo/closed", strategy=Strategy.SERVER_ONLY)
        assert not list((tmp_path / "outsider").glob("models--*/snapshots/*/*"))
