# SPDX-License-Identifier: Apache-2.0
"""vLLM and transformers, told nothing but another HF_ENDPOINT, load by name what they load from a disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.support.engines import need_gpu, run_engine
from tests.support.house import House, tree

from modelexpress.testing.hub import LocalHub

pytestmark = [pytest.mark.engines, pytest.mark.timeout(700)]

NAME = "demo/llama"
# One process, so that what it takes goes with it; no word to its makers.
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}


@pytest.fixture(scope="module")
def generated(llama: Path) -> Any:
    """What vLLM generates from the directory of the model."""
    return run_engine("vllm_generate", llama, HF_HUB_OFFLINE="1", **VLLM)


async def load(program: str, endpoint: str, home: Path, *arguments: str, **variables: str) -> Any:
    """What the program writes when it loads the model by name from `endpoint`, its own cache empty."""
    return await asyncio.to_thread(
        run_engine, program, NAME, *arguments, HF_ENDPOINT=endpoint, HF_HOME=str(home), **variables
    )


def sizes(llama: Path) -> dict[str, int]:
    """How many bytes a Hub sends that sends each file once."""
    return {f"{NAME}/{path.name}": path.stat().st_size for path in llama.iterdir()}


async def test_vllm_generates_from_a_hub_what_it_generates_from_a_disk(
    endpoint: str, hub: LocalHub, llama: Path, generated: Any, tmp_path: Path
) -> None:
    assert await load("vllm_generate", endpoint, tmp_path / "hf", **VLLM) == generated
    assert hub.log.bytes_by_file() == sizes(llama)


async def test_a_second_vllm_costs_the_origin_no_byte(
    house: House, hub: LocalHub, llama: Path, generated: Any, tmp_path: Path
) -> None:
    assert await load("vllm_generate", house.hub_endpoint, tmp_path / "first", **VLLM) == generated
    await house.settle()
    [held] = await house.cache.list_held()
    assert (held.name, held.files, held.bytes) == (NAME, len(tree(llama)), sum(sizes(llama).values()))
    hub.log.clear()

    assert await load("vllm_generate", house.hub_endpoint, tmp_path / "second", **VLLM) == generated
    assert hub.log.bytes_sent == 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
async def test_transformers_load_from_a_hub_what_they_load_from_a_disk(
    endpoint: str, hub: LocalHub, llama: Path, device: str, tmp_path: Path
) -> None:
    if device == "cuda":
        need_gpu()
    told = await load("transformers_load", endpoint, tmp_path / "hf", device)

    assert told == run_engine("transformers_load", llama, device, HF_HUB_OFFLINE="1")
    assert told["device"] == device
    assert told["layers"] == 2 and len(told["weights"]) == 21
    assert hub.log.bytes_by_file() == sizes(llama)
