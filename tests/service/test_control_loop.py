# SPDX-License-Identifier: Apache-2.0
"""However busy the data plane is, the rest of the server answers."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

import pytest
from tests.support import readers
from tests.support.arrivals import content_of
from tests.support.served import Place, Served, serving

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import ALL_FILES
from modelexpress.testing.hub import LocalHub, Repository

NAME = "demo/busy"
CONTENT = content_of(16 * CHUNK_BYTES)
FAST, TIMES, IDLE = 50, 2, 500
MOST_SECONDS = 0.05  # of the median; machines of others make single answers late


async def measure_health(served: Served, root: Path, reading: asyncio.subprocess.Process) -> list[float]:
    """How long the server took to say that it is well, again and again until the readers have ended."""
    seconds = []
    async with served.client(root) as client:
        await client.health()
        while reading.returncode is None:
            began = time.monotonic()
            assert (await client.health()).status == "ok"
            seconds.append(time.monotonic() - began)
            await asyncio.sleep(0.005)
    return sorted(seconds)


async def find_file(served: Served, root: Path) -> tuple[int, str]:
    """The port of the data plane, and where the file is there."""
    async with served.client(root) as client:
        commit = (await client.ensure(NAME)).commit
        offered = await (await client._connect()).find_offered(ModelRef.parse(NAME), commit, ALL_FILES)
    assert offered is not None
    return offered.port, f"/-/blobs/{offered.tickets['model.safetensors']}"


@pytest.mark.alone
async def test_fifty_fast_readers_a_slow_one_and_five_hundred_idle_ones_do_not_hold_up_the_rest(
    tmp_path: Path,
) -> None:
    repository = Repository(NAME)
    repository.commit({"model.safetensors": CONTENT})
    async with LocalHub([repository]) as hub, serving(Place(tmp_path, hub.endpoint)) as served:
        port, path = await find_file(served, tmp_path / "mine")
        asked = {"port": port, "path": path, "size": len(CONTENT), "fast": FAST, "times": TIMES, "idle": IDLE}
        reading = await asyncio.create_subprocess_exec(
            sys.executable, readers.__file__, json.dumps(asked), stdout=asyncio.subprocess.PIPE
        )
        waiting = asyncio.create_task(reading.communicate())
        seconds = await measure_health(served, tmp_path / "mine", reading)
        said = json.loads((await waiting)[0])

    median, late = statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
    rate = FAST * TIMES * len(CONTENT) / said["longest_seconds"] / 1e9
    print(f"{len(seconds)} answers: median {median * 1e3:.1f} ms, p99 {late * 1e3:.1f} ms; {rate:.2f} GB/s")
    assert said["fast"] == FAST and 0 < said["slow_bytes"] < 20_000 * (said["longest_seconds"] + 5)
    assert len(seconds) > 20
    assert median <= MOST_SECONDS
