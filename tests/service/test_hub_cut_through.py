# SPDX-License-Identifier: Apache-2.0
"""huggingface_hub 1.x and 2.x read files that still arrive here: right bytes, or an error of theirs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.house import House, open_house
from tests.support.hub_door import HubDoor, open_hub_door
from tests.support.venvs import make_venv, run_in_venv

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository

pytestmark = [pytest.mark.packages, pytest.mark.timeout(0 if "PROOF_COUNT" in os.environ else 180)]

NAME = "demo/through"
LARGE, SMALL = "model.safetensors", "config.json"
CONTENT = {
    LARGE: random.Random(3).randbytes(3 * CHUNK_BYTES + 700_000),
    "second.safetensors": random.Random(4).randbytes(CHUNK_BYTES + 5),
    SMALL: b'{"model_type": "llama"}',
}
RIGHT = {path: hashlib.sha256(content).hexdigest() for path, content in CONTENT.items()}

# What it takes for whole is what a model loader would open; nothing else in its cache counts.
DOWNLOAD = """
import hashlib, json, sys
from pathlib import Path
from huggingface_hub import snapshot_download
name, endpoint, cache = sys.argv[1:]
error = ""
try:
    snapshot_download(name, endpoint=endpoint, cache_dir=cache, max_workers=3)
except Exception as caught:
    error = f"{type(caught).__name__}: {caught}"
files = {
    path.relative_to(snapshot).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
    for snapshot in Path(cache).glob("models--*/snapshots/*")
    for path in snapshot.rglob("*") if path.is_file()
}
print(json.dumps([error, files]))
"""


@pytest.fixture(params=["huggingface_hub>=1,<2", "huggingface_hub>=2,<3"])
def python(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    outer_environment: dict[str, str],
) -> Path:
    return make_venv(tmp_path_factory.getbasetemp() / "venvs", str(request.param), outer_environment)


@asynccontextmanager
async def open_door(tmp_path: Path, rate: int = 0) -> AsyncIterator[tuple[House, HubDoor, str]]:
    repository = Repository(NAME)
    repository.commit(CONTENT)
    async with (
        LocalHub([repository], HubOptions(total_rate=rate)) as hub,
        open_house(hub, tmp_path) as house,
        open_hub_door(house, NAME) as (door, endpoint),
    ):
        yield house, door, endpoint


async def download(python: Path, endpoint: str, cache: Path) -> Any:
    """What it says went wrong, and the digest of every file that it has then."""
    return await asyncio.to_thread(
        run_in_venv, python, DOWNLOAD, NAME, endpoint, cache,
        HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DOWNLOAD_TIMEOUT="20",
    )  # fmt: skip


async def test_it_reads_while_the_server_still_receives_and_the_origin_gives_each_byte_once(
    python: Path, tmp_path: Path
) -> None:
    async with open_door(tmp_path, rate=20_000_000) as (house, door, endpoint):
        error, files = await download(python, endpoint, tmp_path / "theirs")

        assert (error, files) == ("", RIGHT) and door.redirected >= len(CONTENT)
        assert house.hub.log.bytes_by_file() == {f"{NAME}/{path}": len(c) for path, c in CONTENT.items()}


@pytest.mark.prove
async def test_wrong_bytes_from_the_origin_never_become_a_file_of_theirs(
    python: Path, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    ended_well = 0
    for seed in range(proof_count(3)):
        chance, folder = random.Random(seed), tmp_path / f"{seed}"
        folder.mkdir()
        async with open_door(folder, rate=chance.choice([0, 30_000_000])) as (house, _, endpoint):
            path = chance.choice([LARGE, LARGE, "second.safetensors", SMALL])
            after = chance.randrange(len(CONTENT[path]))
            action = chance.choice(["wrong_bytes", "wrong_bytes", "reset", "truncate"])
            times = chance.choice([1, 1, 2, None])
            house.hub.faults.add(Fault(action, "body", path, times=times, after=after))
            error, files = await download(python, endpoint, folder / "theirs")

        assert files.items() <= RIGHT.items(), f"seed {seed}: {action} at {after} of {path}"
        assert error or files == RIGHT, f"seed {seed}: it says that all is well, and lacks a file"
        ended_well += not error
    assert ended_well, "it never got a model at all: the door is broken"
