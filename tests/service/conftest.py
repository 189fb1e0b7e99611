# SPDX-License-Identifier: Apache-2.0
"""What most service tests begin with: a Hub with one small model, a server over it, a channel to it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc.aio
import pytest
from tests.support.calls import connected
from tests.support.house import House, open_house
from tests.support.venvs import make_client_venv

from modelexpress import compose
from modelexpress.client.remote_control import RemoteControl
from modelexpress.domain.control import CacheControl
from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import tiny_model

_LONG_SECONDS = 100.0  # less than the limit of a test


@pytest.fixture(autouse=True)
def _stuck_tasks_are_told() -> Iterator[None]:
    """A test that hangs says what its tasks wait for: the stacks of its threads do not show that."""

    def tell() -> None:
        for task in list(asyncio.tasks._all_tasks):  # type: ignore[attr-defined]
            # Not print_stack: it fails at the frames of gRPC.
            for frame in [] if task.done() else task.get_stack():
                where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
                print(f"{task.get_name()} waits in {where}", file=sys.__stderr__)

    timer = threading.Timer(_LONG_SECONDS, tell)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    """A Hub with `demo/tiny`."""
    async with LocalHub([tiny_model("demo/tiny")]) as hub:
        yield hub


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    """A server over `hub`, in this process."""
    async with open_house(hub, tmp_path) as house:
        yield house


@pytest.fixture
async def channel(house: House) -> AsyncIterator[grpc.aio.Channel]:
    """A plain channel to `house`."""
    async with connected(house.port) as channel:
        yield channel


@pytest.fixture(params=["local", "remote"])
async def control(request: pytest.FixtureRequest, house: House) -> AsyncIterator[CacheControl]:
    """The verbs of `modelexpress cache` on the directory of `house`, and at its server."""
    if request.param == "remote":
        async with house.connection() as connection:
            yield RemoteControl(connection)
    else:
        loaded = compose.load_settings("client", {"cache.directory": str(house.root)}, house.env)
        async with compose.open_local(loaded, house.env) as local:
            yield local


@pytest.fixture
def python_of(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, outer_environment: dict[str, str]
) -> Callable[[str], Path]:
    """The interpreter of a generation of Hub clients. Its environment is large and so is kept."""
    cache = getattr(pytestconfig, "cache", None)
    base = tmp_path_factory.getbasetemp()
    folder = base if cache is None else cache.mkdir("conformance-venvs")
    return lambda generation: make_client_venv(folder, generation, outer_environment)
