# SPDX-License-Identifier: Apache-2.0
"""A server killed at any step of a pull that makes room leaves a cache that keeps to its budget."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.service.test_budget_proofs import find_loose
from tests.support.caches import unfinished
from tests.support.house import tree
from tests.support.served import Place, Served, Strike, serving

from modelexpress.client.remote_control import RemoteControl
from modelexpress.client.rpc import Connection, Target
from modelexpress.domain.errors import MxError
from modelexpress.store.layout import Layout
from modelexpress.store.usage import measure_usage
from modelexpress.testing.hub import LocalHub, Repository

pytestmark = pytest.mark.prove

MIB = 1024 * 1024
BUDGET, SLACK = 7 * MIB, 256 * 1024
SETTINGS = {"cache__max_size_bytes": BUDGET, "cache__eviction__grace": 0}
# Of a server's changes of the cache directory: when it has started, and at the end of such a pull.
FIRST_STEP, LAST_STEP = 10, 90


def make_repositories() -> list[Repository]:
    made = []
    for letter in "abc":
        repository = Repository(f"demo/{letter}")
        weights = {f"model-{n}.bin": random.Random(f"{letter}{n}").randbytes(MIB * 3 // 2) for n in (1, 2)}
        repository.commit({"config.json": letter.encode(), **weights})
        made.append(repository)
    return made


async def ensure(served: Served, folder: Path, name: str) -> None:
    async with served.client(folder) as client:
        await client.ensure(name)


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Place]:
    """Where a server has pulled two models, of which one is pinned, and has stopped."""
    async with LocalHub(make_repositories()) as hub:
        place = Place(tmp_path / "full", hub.endpoint)
        place.root.mkdir()
        async with serving(place, **SETTINGS) as served:
            for name in ("demo/a", "demo/b"):
                await ensure(served, place.root / "mine", name)
            async with control_of(served) as control:
                await control.pin("demo/b", None, is_dry_run=False)
            await served.stop()
        yield place


@asynccontextmanager
async def control_of(served: Served) -> AsyncIterator[RemoteControl]:
    async with Connection(Target("127.0.0.1", served.port, "")) as connection:
        yield RemoteControl(connection)


async def test_a_server_killed_while_it_makes_room_keeps_its_budget_and_its_pins(
    full: Place, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    kept = tree(full.cache / "models--demo--b")
    for seed in range(proof_count(3)):
        where = f"seed {seed}"
        place = Place(tmp_path / str(seed), full.origin)
        shutil.copytree(full.root, place.root, symlinks=True)
        step = random.Random(seed).randrange(FIRST_STEP, LAST_STEP + 1)

        async with serving(place, Strike(step, signal.SIGKILL), **SETTINGS) as served:
            try:
                await ensure(served, place.root / "mine", "demo/c")
            except MxError:
                assert await served.wait_ended() == -signal.SIGKILL, where
        assert measure_usage(Layout(place.cache)).total <= BUDGET + SLACK, where

        async with serving(place, **SETTINGS) as served:
            await ensure(served, place.root / "mine", "demo/c")
            async with control_of(served) as control:
                held, plan = await control.list_held(), await control.plan()
                assert all(one.is_sound for one in await control.verify(None, lambda progress: None)), where
            await served.stop()
        assert [one.name for one in held] == ["demo/b", "demo/c"], where
        assert all(one.bytes_ours == one.bytes for one in held), where
        assert (plan.use.promised, plan.use.arriving) == (0, 0), where
        assert measure_usage(Layout(place.cache)).total <= BUDGET + SLACK, where
        assert tree(place.cache / "models--demo--b") == kept, where
        assert find_loose(place.cache) == [] and unfinished(place.cache) == [], where
        shutil.rmtree(place.root)
