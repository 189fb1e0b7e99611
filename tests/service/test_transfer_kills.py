# SPDX-License-Identifier: Apache-2.0
"""Server and client killed at any point of a transfer: it ends bit-exact, and what had arrived comes once."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from tests.support.arrivals import wait_until
from tests.support.caches import unfinished
from tests.support.data_relay import Carried, DataRelay, relaying
from tests.support.proxy import closed_port
from tests.support.served import Place, Served, Strike
from tests.support.transfers import (
    Chunks,
    Files,
    Pulling,
    all_chunks,
    coordination_rows,
    held_chunks,
    model_tree,
    start_pull,
    start_server,
)

from modelexpress.domain.chunks import CHUNK_BYTES, count_chunks
from modelexpress.testing.hub import HubOptions, LocalHub, Repository
from modelexpress.testing.hub.log import Request

NAME = "demo/killed"
RATE = 80_000_000  # bytes a second, from the origin as from the data plane
LANES = 4  # connections of a client to the data plane
BUFFERS = 2 * 1024 * 1024  # what a connection may hold on its way besides the chunk that is being received
# Changes of its cache directory by a client from its start to the end of a cold pull of our model.
LAST_STEP = 91
VICTIMS = ("server", "client", "both")
LOST_SERVER = {"Unreachable", "Cancelled"}


def make_repository() -> Repository:
    chance = random.Random(11)
    repository = Repository(NAME)
    repository.commit(
        {
            "a.safetensors": chance.randbytes(2 * CHUNK_BYTES + 600_000),
            "b.safetensors": chance.randbytes(3 * CHUNK_BYTES + 1),
            "c.bin": chance.randbytes(5 * CHUNK_BYTES + CHUNK_BYTES // 2),
            "tokenizer.json": chance.randbytes(300_000),
            "config.json": b'{"model_type": "llama"}',
            "empty.txt": b"",
        }
    )
    return repository


REPOSITORY = make_repository()
FILES: Files = REPOSITORY.files(REPOSITORY.branches["main"])
TOTAL = sum(file.size for file in FILES.values())
# As many ranges as may be read at once, each with a chunk under way.
RANGES = sum(min(4, count_chunks(file.size)) for file in FILES.values())


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub([REPOSITORY], HubOptions(total_rate=RATE)) as hub:
        yield hub


@pytest.fixture
def relay() -> Iterator[DataRelay]:
    with relaying(rate=RATE) as relay:
        yield relay


@pytest.fixture
async def expected(tmp_path: Path) -> dict[str, bytes | str]:
    """The layout that huggingface_hub makes."""
    async with LocalHub([REPOSITORY]) as fast:
        root = tmp_path / "theirs"
        await asyncio.to_thread(snapshot_download, NAME, cache_dir=root, endpoint=fast.endpoint, token=False)
    return model_tree(root, NAME)


@dataclass
class Life:
    """What one process had at its start and, once it is dead, at its end; `first`: its first request."""

    first: int
    before: Chunks
    last: int = 0
    after: Chunks = field(default_factory=Chunks)


@dataclass
class Ledger:
    """Every life at one of the two ends, and what was sent to it."""

    root: Path
    sent: Callable[[], list[int]]
    lives: list[Life] = field(default_factory=list)

    def born(self) -> None:
        """A process begins, on what others have left."""
        self.lives.append(Life(len(self.sent()), self.look()))

    def died(self) -> None:
        """It has ended, and this is what it leaves."""
        life = self.lives[-1]
        life.last, life.after = len(self.sent()), self.look()

    def look(self) -> Chunks:
        return held_chunks(self.root, NAME, FILES)

    def lost_bytes(self, life: Life) -> int:
        """What was sent to it and is not kept."""
        assert life.before.is_in(life.after), "what was kept is lost"
        return sum(self.sent()[life.first : life.last]) - (life.after.bytes - life.before.bytes)

    def check(self, in_flight: int) -> list[int]:
        """What each death cost; the last life fetched what was missing at its start and no byte more."""
        *dead, last = self.lives
        costs = [self.lost_bytes(life) for life in dead]
        assert all(0 <= cost <= in_flight for cost in costs), f"{costs}, at most {in_flight}"
        assert last.after == all_chunks(FILES) and self.lost_bytes(last) == 0
        assert sum(self.sent()) == TOTAL + sum(costs)
        return costs


@dataclass
class Scene:
    """A server and a client with their directories, alive or not."""

    hub: LocalHub
    relay: DataRelay
    place: Place
    is_without_locks: bool
    server: Served | None = None
    client: Pulling | None = None

    def __post_init__(self) -> None:
        self.root = self.place.root / "client-cache"
        self.at_server = Ledger(self.place.cache, lambda: [r.bytes_sent for r in self._requests()])
        self.at_client = Ledger(self.root, lambda: [c.sent for c in self._answers()])

    def _requests(self) -> list[Request]:
        return self.hub.log.of("body")

    def _answers(self) -> list[Carried]:
        return [one for one in self.relay.carried if one.what == "blobs"]

    async def live(self, strike: Strike | None = None) -> None:
        """Start what is not running, and a pull."""
        if self.server is None:
            self.at_server.born()
            here, there = f"http://127.0.0.1:{self.relay.port}", closed_port()
            self.server = await start_server(
                self.place, self.is_without_locks, server__advertise_url=here, server__data_port=there
            )
            self.relay.target_port = there
        self.at_client.born()
        self.client = start_pull(self.server, NAME, self.root, self.is_without_locks, strike)

    async def end(self, victims: str, order: random.Random) -> str | None:
        """Kill the victims; what the client said if it was left alone and failed."""
        names = ["server", "client"] if victims == "both" else [victims]
        order.shuffle(names)
        for name in names:
            await self.kill(name)
        return (await self.wait_client()).get("code")

    async def wait_client(self) -> dict[str, str]:
        """What the client said at its end, when nothing more is sent to it."""
        assert self.client is not None
        said = await self.client.wait()
        await wait_until(lambda: self.relay.is_quiet)
        self.at_client.died()
        return said

    async def kill(self, name: str) -> None:
        if name == "client" and self.client is not None:
            self.client.kill()
        if name == "server" and self.server is not None:
            self.relay.target_port = 0
            self.server.process.kill()
            self.server.process.wait()
            runner = self.hub._runner
            assert runner is not None
            await wait_until(lambda: runner.server is None or not runner.server.connections)
            self.at_server.died()
            self.server = None

    async def finish(self) -> None:
        """Let the client end, and stop the server."""
        said = await self.wait_client()
        assert "path" in said, said
        self.at_server.died()
        assert self.server is not None
        assert await self.server.stop() == 0, self.server.said
        assert "Traceback" not in self.server.said
        self.server = None

    def close(self) -> None:
        """Nothing survives a test that failed."""
        self.relay.target_port = 0
        for process in (self.server and self.server.process, self.client and self.client.process):
            if process is not None:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Moment:
    """When to strike: once `chunks` are kept at the `observed` end, and a little later."""

    observed: str
    chunks: int
    pause_seconds: float

    @classmethod
    def choose(cls, chance: random.Random) -> Moment:
        most = len(all_chunks(FILES))
        return cls(chance.choice(["server", "client"]), chance.randint(1, most), chance.uniform(0, 0.04))

    async def wait(self, scene: Scene) -> None:
        """Return when it has come, or the client has ended before."""
        ledger = scene.at_server if self.observed == "server" else scene.at_client
        assert scene.client is not None
        async with asyncio.timeout(20):
            while len(ledger.look()) < self.chunks and scene.client.process.poll() is None:
                await asyncio.sleep(0.003)
        await asyncio.sleep(self.pause_seconds)


async def check_end(scene: Scene, expected: dict[str, bytes | str]) -> None:
    """Both ends are bit-exact, as huggingface_hub would have them, and nothing else is left."""
    for root in (scene.place.cache, scene.root):
        assert model_tree(root, NAME) == expected
        assert not unfinished(root), root
    assert not coordination_rows(scene.place)


async def play(scene: Scene, chance: random.Random, victims: str, expected: dict[str, bytes | str]) -> None:
    for victim in [victims, *chance.choices(VICTIMS, k=chance.randrange(2))]:
        moment = Moment.choose(chance)
        await scene.live()
        await moment.wait(scene)
        code = await scene.end(victim, chance)
        assert code is None or code in LOST_SERVER, code
    await scene.live()
    async with asyncio.timeout(20):
        await scene.finish()
    await check_end(scene, expected)
    scene.at_server.check(RANGES * (CHUNK_BYTES + BUFFERS))
    scene.at_client.check(LANES * (CHUNK_BYTES + BUFFERS))


@pytest.mark.prove
@pytest.mark.parametrize("is_without_locks", [False, True], ids=["locks", "no locks"])
async def test_killed_in_the_middle_of_a_transfer_both_ends_go_on_at_their_chunks(
    hub: LocalHub,
    relay: DataRelay,
    tmp_path: Path,
    expected: dict[str, bytes | str],
    proof_count: Callable[[int], int],
    is_without_locks: bool,
) -> None:
    costs: list[int] = []
    for seed in range(int(is_without_locks), proof_count(3), 2):
        chance, victims = random.Random(seed), VICTIMS[seed % 3]
        hub.log.clear()
        relay.clear()
        (tmp_path / str(seed)).mkdir()
        scene = Scene(hub, relay, Place(tmp_path / str(seed), hub.endpoint), is_without_locks)
        try:
            await play(scene, chance, victims, expected)
        except BaseException as error:
            error.add_note(f"seed {seed}: {victims}")
            raise
        finally:
            scene.close()
        for ledger in (scene.at_server, scene.at_client):
            costs += [ledger.lost_bytes(life) for life in ledger.lives[:-1]]
        shutil.rmtree(scene.place.root)
    print(f"{len(costs)} deaths cost {max(costs)} bytes at most, {sum(costs) // len(costs)} on average")


@pytest.mark.prove
async def test_a_client_killed_before_any_step_on_its_disk_goes_on_from_there(
    relay: DataRelay,
    tmp_path: Path,
    expected: dict[str, bytes | str],
    proof_count: Callable[[int], int],
) -> None:
    """One death or two in a row, each right before a change in its cache directory."""
    async with LocalHub([REPOSITORY]) as hub:
        place = Place(tmp_path, hub.endpoint)
        scene = Scene(hub, relay, place, is_without_locks=False)
        try:
            await scene.live()  # the server has it all from here on
            assert "path" in await scene.wait_client()
            for seed in range(proof_count(2)):
                await die_at_steps(scene, seed, tmp_path / f"mine-{seed}", expected)
        finally:
            scene.close()


async def die_at_steps(scene: Scene, seed: int, root: Path, expected: dict[str, bytes | str]) -> None:
    chance = random.Random(seed)
    steps = [chance.randrange(1, LAST_STEP + 1) for _ in range(1 + seed % 2)]
    scene.relay.clear()
    scene.root = scene.at_client.root = root
    scene.at_client.lives.clear()
    try:
        for step in steps:
            await scene.live(Strike(step, signal.SIGKILL))
            await scene.wait_client()
            assert model_tree(root, NAME).items() <= expected.items()
        await scene.live()
        assert "path" in await scene.wait_client()
        assert model_tree(root, NAME) == expected
        assert not unfinished(root)
        scene.at_client.check(LANES * (CHUNK_BYTES + BUFFERS))
    except BaseException as error:
        error.add_note(f"seed {seed}: killed before steps {steps}")
        raise
    shutil.rmtree(root)
