# SPDX-License-Identifier: Apache-2.0
"""huggingface_hub reads at the Hub endpoint what still arrives there: right bytes, or an error of theirs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.house import House, open_house
from tests.support.proxy import closed_port
from tests.support.served import Place, Served
from tests.support.transfers import start_server
from tests.support.venvs import run_in_venv

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository

pytestmark = [pytest.mark.packages, pytest.mark.timeout(0 if "PROOF_COUNT" in os.environ else 180)]

NAME = "demo/through"
LARGE, SECOND, SMALL = "model.safetensors", "second.safetensors", "config.json"
CONTENT = {
    LARGE: random.Random(3).randbytes(3 * CHUNK_BYTES + 700_000),
    SECOND: random.Random(4).randbytes(CHUNK_BYTES + 5),
    SMALL: b'{"model_type": "llama"}',
}
RIGHT = {path: hashlib.sha256(content).hexdigest() for path, content in CONTENT.items()}
TOTAL = sum(map(len, CONTENT.values()))

# What it takes for whole is what a model loader would open; nothing else in its cache counts. The client
# stays, as a job does that is started again: what it has of a file it goes on from.
DOWNLOAD = """
import hashlib, json, sys, time
from pathlib import Path
from huggingface_hub import snapshot_download
name, endpoint, cache, tries = sys.argv[1:]
for number in range(int(tries)):
    error = ""
    try:
        snapshot_download(name, endpoint=endpoint, cache_dir=cache, max_workers=3)
        break
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
        time.sleep(0.3)
files = {
    path.relative_to(snapshot).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
    for snapshot in Path(cache).glob("models--*/snapshots/*")
    for path in snapshot.rglob("*") if path.is_file()
}
print(json.dumps([error, files]))
"""


# Many at once: each thread is a client with a cache of its own, all begin together.
CROWD = """
import hashlib, json, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from huggingface_hub import snapshot_download
name, endpoint, folder, count = sys.argv[1:]
gate = threading.Barrier(int(count))
def download(number):
    gate.wait()
    return Path(snapshot_download(name, endpoint=endpoint, cache_dir=f"{folder}/{number}", max_workers=2))
with ThreadPoolExecutor(int(count)) as pool:
    snapshots = list(pool.map(download, range(int(count))))
print(json.dumps([
    {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in snapshot.iterdir()} for snapshot in snapshots
]))
"""


@pytest.fixture(params=["1", "2"])
def python(request: pytest.FixtureRequest, python_of: Callable[[str], Path]) -> Path:
    return python_of(str(request.param))


def make_hub(rate: int = 0) -> LocalHub:
    repository = Repository(NAME)
    repository.commit(CONTENT)
    return LocalHub([repository], HubOptions(total_rate=rate))


@asynccontextmanager
async def open_endpoint(tmp_path: Path, rate: int = 0) -> AsyncIterator[House]:
    async with make_hub(rate) as hub, open_house(hub, tmp_path) as house:
        yield house


async def download(python: Path, endpoint: str, cache: Path, tries: int = 1) -> Any:
    """What it says went wrong, and the digest of every file that it has then."""
    return await asyncio.to_thread(
        run_in_venv, python, DOWNLOAD, NAME, endpoint, cache, str(tries),
        HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DOWNLOAD_TIMEOUT="20",
    )  # fmt: skip


async def test_it_reads_while_the_server_still_receives_and_the_origin_gives_each_byte_once(
    python: Path, tmp_path: Path
) -> None:
    async with open_endpoint(tmp_path, rate=20_000_000) as house:
        error, files = await download(python, house.hub_endpoint, tmp_path / "theirs")

        assert (error, files) == ("", RIGHT)
        assert house.hub.log.bytes_by_file() == {f"{NAME}/{path}": len(c) for path, c in CONTENT.items()}


async def test_a_server_that_was_restarted_knows_who_has_wrong_bytes(
    python_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of an old client, which keeps what it has of a file when its process ends."""
    python, theirs = python_of("0.36"), tmp_path / "theirs"
    async with make_hub(20_000_000) as hub:
        hub.faults.add(Fault("wrong_bytes", "body", LARGE, times=None, after=100))
        async with open_house(hub, tmp_path) as house:
            error, files = await download(python, house.hub_endpoint, theirs)
            await house.settle()
        assert error and LARGE not in files
        assert [path for path in theirs.rglob("*.incomplete") if path.stat().st_size], "they had no start"
        hub.faults.clear()

        async with open_house(hub, tmp_path) as house:
            assert await download(python, house.hub_endpoint, theirs) == ["", RIGHT]


async def test_sixty_four_cold_clients_cost_the_origin_what_one_costs(
    python_of: Callable[[str], Path], tmp_path: Path
) -> None:
    python, requests = python_of("2"), dict[int, int]()
    content = {path: CONTENT[path] for path in (SECOND, SMALL)}
    right = {path: RIGHT[path] for path in content}
    for processes, threads in ((1, 1), (8, 8)):
        folder, repository = tmp_path / f"{processes}", Repository(NAME)
        repository.commit(content)
        async with LocalHub([repository]) as hub, open_house(hub, folder, origin__revalidate=60) as house:

            def run(number: int, house: House = house, theirs: Path = folder, count: int = threads) -> Any:
                place = theirs / f"theirs-{number}"
                patience = {"HF_HUB_DOWNLOAD_TIMEOUT": "100", "HF_HUB_ETAG_TIMEOUT": "100"}
                return run_in_venv(python, CROWD, NAME, house.hub_endpoint, place, str(count), **patience)

            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(processes) as pool:  # the loop's own threads are the server's
                crowds = await asyncio.gather(*(loop.run_in_executor(pool, run, n) for n in range(processes)))
        assert [files for crowd in crowds for files in crowd] == [right] * (processes * threads)
        assert hub.log.bytes_by_file() == {f"{NAME}/{path}": len(c) for path, c in content.items()}
        requests[processes] = len(hub.log.requests)
    # How many ranges a file comes in depends on how fast it comes; nothing depends on who reads it.
    assert requests[8] <= requests[1] + 2 * len(content), requests


def damage(hub: LocalHub, chance: random.Random) -> str:
    """Let the origin do something wrong with a body; what, for people."""
    path = chance.choice([LARGE, LARGE, SECOND, SMALL])
    after = chance.randrange(len(CONTENT[path]))
    action = chance.choice(["wrong_bytes", "wrong_bytes", "reset", "truncate"])
    times = chance.choice([1, 1, 2, None])
    hub.faults.add(Fault(action, "body", path, times=times, after=after))  # type: ignore[arg-type]
    return f"{action} at {after} of {path}"


@pytest.mark.prove
async def test_wrong_bytes_from_the_origin_never_become_a_file_of_theirs(
    python: Path, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    ended_well = 0
    for seed in range(proof_count(3)):
        chance, folder = random.Random(seed), tmp_path / f"{seed}"
        folder.mkdir()
        async with open_endpoint(folder, rate=chance.choice([0, 30_000_000])) as house:
            done = damage(house.hub, chance)
            error, files = await download(python, house.hub_endpoint, folder / "theirs")

        assert files.items() <= RIGHT.items(), f"seed {seed}: {done}"
        assert error or files == RIGHT, f"seed {seed}: it says that all is well, and lacks a file"
        ended_well += not error
    assert ended_well, "it never got a model at all: the endpoint is broken"


@dataclass
class Mortal:
    """A server process that comes back at the same address after each death."""

    place: Place
    port: int
    served: Served | None = None

    async def start(self) -> None:
        self.served = await start_server(self.place, False, server__data_port=self.port)

    @property
    def has_failed_a_proof(self) -> bool:
        return self.served is not None and "reading it once more" in self.served.said

    def kill(self) -> None:
        if self.served is not None:
            self.served.process.kill()
            self.served.process.wait()


@pytest.mark.prove
async def test_a_server_that_is_killed_while_they_read_gives_them_no_wrong_file(
    python: Path, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    """Once or twice in a download, at any byte; in every other story the origin gives wrong bytes too.

    In half of those the first death comes right after the proof has failed, when they are about to resume.
    """
    for seed in range(proof_count(2)):
        chance, folder = random.Random(seed), tmp_path / f"{seed}"
        folder.mkdir()
        async with make_hub(chance.choice([20_000_000, 60_000_000])) as hub:
            if seed % 2:
                after = chance.randrange(len(CONTENT[LARGE]))
                hub.faults.add(Fault("wrong_bytes", "body", LARGE, times=1, after=after))
            mortal = Mortal(Place(folder, hub.endpoint), closed_port())
            try:
                await mortal.start()
                endpoint = f"http://127.0.0.1:{mortal.port}"
                reading = asyncio.create_task(download(python, endpoint, folder / "theirs", tries=400))
                deaths = 1 + seed % 3 // 2
                places = sorted(chance.randrange(1, TOTAL) for _ in range(deaths))
                for number, place in enumerate(places):
                    is_waited = seed % 4 == 1 and number == 0
                    while not reading.done() and not (
                        mortal.has_failed_a_proof if is_waited else hub.log.bytes_sent >= place
                    ):
                        await asyncio.sleep(0.002)
                    mortal.kill()
                    await mortal.start()
                error, files = await reading
                assert (error, files) == ("", RIGHT)
                assert hub.log.bytes_sent <= TOTAL * (1 + deaths + seed % 2)
            except BaseException as problem:
                problem.add_note(f"seed {seed}")
                raise
            finally:
                mortal.kill()
