# SPDX-License-Identifier: Apache-2.0
"""What the engine tests share: a model that really runs, a Hub that has it, and the server before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.engines import need, run_engine
from tests.support.house import House, open_house

from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import from_directory

NAME = "demo/llama"


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small Llama."""
    need("vllm")
    folder = tmp_path_factory.mktemp("models") / "llama"
    run_engine("make_llama", folder)
    return folder


@pytest.fixture
async def hub(llama: Path) -> AsyncIterator[LocalHub]:
    """A Hub with the Llama as `demo/llama`."""
    async with LocalHub([from_directory(NAME, llama)]) as hub:
        yield hub


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    """A server over `hub`, in this process."""
    async with open_house(hub, tmp_path) as house:
        yield house


@pytest.fixture(params=["the-origin-itself", "our-server"])
def endpoint(request: pytest.FixtureRequest, hub: LocalHub) -> str:
    """What the engine is given as HF_ENDPOINT."""
    if request.param == "the-origin-itself":
        return hub.endpoint
    house: House = request.getfixturevalue("house")
    return house.hub_endpoint
