# SPDX-License-Identifier: Apache-2.0
"""A server killed at any point of a cold pull leaves nothing that counts and nothing that is stuck."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from tests.support.caches import unfinished, useless
from tests.support.house import tree
from tests.support.served import Place, Served, Strike, serving, start

from modelexpress.client import Strategy
from modelexpress.client.remote_control import RemoteControl
from modelexpress.client.rpc import Connection, Target
from modelexpress.domain.errors import Cancelled, MxError, Unreachable
from modelexpress.domain.held import HeldSnapshot
from modelexpress.registry.ownership import APPLICATION_ID
from modelexpress.store.disk import DiskPool
from modelexpress.store.layout import Layout
from modelexpress.store.proof import find_damage
from modelexpress.store.records import Records
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files

NAME = "demo/killed"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
POINTS = (
    "mid-file",
    "writing",
    "listing",
    "throttled",
    "first bytes",
    "streaming",
    "redirecting",
    "resolving",
)
BIG = 3_000_000  # partial files are written in steps of 1 MiB
PROMPTLY_SECONDS = 15.0  # far below the 30 s after which a silent session is taken for dead
# Changes of the cache directory by a server from its start to the end of a cold pull of our model.
FIRST_PULLING, FIRST_PUBLISHING, LAST_STEP = 17, 90, 127

Tree = dict[str, bytes | str]


def make_repository() -> Repository:
    repository = Repository(NAME)
    repository.commit({**tiny_files(), "big.bin": random.Random(7).randbytes(BIG)})
    return repository


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub([make_repository()]) as hub:
        yield hub


@pytest.fixture
async def expected(hub: LocalHub, tmp_path: Path) -> Tree:
    """The layout that huggingface_hub makes."""
    root = tmp_path / "theirs"
    await asyncio.to_thread(snapshot_download, NAME, cache_dir=root, endpoint=hub.endpoint, token=False)
    return repository_tree(root)


def repository_tree(root: Path) -> Tree:
    found = tree(root / ("models--" + NAME.replace("/", "--")))
    return {
        path: content
        for path, content in found.items()
        if path.split("/")[0] in ("blobs", "snapshots", "refs")
    }


@dataclass(frozen=True)
class Point:
    """Where to strike: once `has_come` says so and a moment later, or where the server strikes itself."""

    strike: Strike | None = None
    has_come: Callable[[], bool] = field(default=lambda: False)
    pause_seconds: float = 0.0


def choose_point(name: str, number: int, chance: random.Random, hub: LocalHub, place: Place) -> Point:
    """The point `name`, somewhere else at each seed; the hub is made to hold the pull there."""
    pause = chance.uniform(0.0, 0.05)
    if name == "writing":
        return Point(Strike(chance.randrange(FIRST_PULLING, LAST_STEP + 1), number))
    if name == "streaming":
        return Point(None, lambda: any(place.root.glob("client-*/.mx/partials/*")), pause)
    if name == "throttled":
        pause = chance.uniform(0.0, 0.6)
    file = chance.choice(["big.bin", "big.bin", "model.safetensors", "config.json", "onnx/model.onnx"])
    files = make_repository().files(make_repository().branches["main"])
    faults = {
        "resolving": Fault("hang", "api", times=None),
        "listing": Fault("hang", "tree", times=None),
        "redirecting": Fault("hang", "resolve", file, times=None),
        "first bytes": Fault("hold", "body", file, times=None, after=chance.randrange(2)),
        "mid-file": Fault("hold", "body", file, times=None, after=chance.randrange(files[file].size)),
        "throttled": Fault("throttle", "body", times=None, rate=chance.randrange(2, 8) * 1_000_000),
    }
    fault = hub.faults.add(faults[name])
    return Point(None, lambda: fault.applied > 0, pause)


async def pull(served: Served, root: Path) -> MxError | None:
    """The cause why it failed; None if it did not."""
    async with served.client(root) as client:
        try:
            await client.pull(NAME, strategy=Strategy.SERVER_ONLY)
        except MxError as error:
            return error
    return None


def strike_from_outside(served: Served, point: Point, number: int) -> None:
    ends_at = time.monotonic() + 10
    while not point.has_come() and time.monotonic() < ends_at:
        time.sleep(0.001)
    time.sleep(point.pause_seconds)
    served.process.send_signal(number)


async def pull_until_struck(
    served: Served, point: Point, number: int, roots: list[Path]
) -> list[MxError | None]:
    """Several clients pull, the server is struck: how each pull ended."""
    pulls = [asyncio.create_task(pull(served, root)) for root in roots]
    if point.strike is None:
        await asyncio.to_thread(strike_from_outside, served, point, number)
    status = await served.wait_ended()
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0), served.said
    return await asyncio.wait_for(asyncio.gather(*pulls), 5)


async def check_nothing_counts_that_is_not(root: Path, expected: Tree) -> None:
    """Every file that stands is right; a snapshot is whole or absent, for huggingface_hub and for us."""
    found = repository_tree(root)
    assert found.items() <= expected.items()
    linked = {path for path in found if path.startswith("snapshots/")}
    assert not linked or linked == {path for path in expected if path.startswith("snapshots/")}
    try:
        path = Path(snapshot_download(NAME, cache_dir=root, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    else:
        assert {f"snapshots/{path.name}/{name}" for name in tree(path)} == linked and linked
    layout, pool = Layout(root), DiskPool()
    for record in Records(layout, "test").scan():
        folder = layout.repository(record.manifest.ref).snapshot(record.manifest.commit)
        for entry in record.manifest.files if record.selections else record.entries_held():
            assert await find_damage(pool, folder / entry.path, entry) is None
    pool.close()


def proven_blobs(root: Path) -> set[str]:
    return {path.name for path in root.glob("models--*/blobs/*")}


def coordination_rows(place: Place) -> list[str]:
    """Sessions and claims in the registry of a server that has ended."""
    with closing(sqlite3.connect(place.registry)) as database:
        rows = database.execute("SELECT key FROM rows WHERE key LIKE 'session/%' OR key LIKE 'claim/%'")
        return [str(key) for (key,) in rows]


async def check_a_new_server(hub: LocalHub, place: Place, expected: Tree, clients: int) -> None:
    """It is ready, says nothing false, and pulls promptly; what was proven is not fetched again."""
    hub.faults.clear()
    hub.log.clear()
    proven = proven_blobs(place.cache)
    async with serving(place) as served:
        assert not useless(place.cache)
        async with served.client(place.root / "asking") as client:
            assert (await client.health()).status == "ok"
            whole = sum(path.startswith("snapshots/") for path in expected)
            assert all(not held.selections or held.files == whole for held in await client.list_held())
        roots = [place.root / f"after-{number}" for number in range(clients)]
        async with asyncio.timeout(PROMPTLY_SECONDS):
            assert await asyncio.gather(*(pull(served, root) for root in roots)) == [None] * clients
        for root in (place.cache, *roots):
            assert repository_tree(root) == expected
            assert not unfinished(root)
        async with Connection(Target("127.0.0.1", served.port, "")) as connection:
            verified = await RemoteControl(connection).verify(None, lambda progress: None)
        assert verified and not any(one.damages for one in verified)
        assert await served.stop() == 0
    assert not coordination_rows(place) and not unfinished(place.cache)
    repository = make_repository()
    files = repository.files(repository.branches["main"])
    assert not [request.file for request in hub.log.of("body") if files[request.file].etag in proven]


async def play(seed: int, hub: LocalHub, root: Path, expected: Tree) -> None:
    """One kill: at the point and with the signal that the seed says."""
    chance = random.Random(seed)
    number, name = SIGNALS[seed % len(SIGNALS)], POINTS[seed % len(POINTS)]
    root.mkdir()
    place, clients = Place(root, hub.endpoint), [root / f"client-{n}" for n in range(chance.randrange(1, 5))]
    point = choose_point(name, number, chance, hub, place)
    async with serving(place, point.strike, server__drain_seconds=chance.randrange(2)) as served:
        causes = await pull_until_struck(served, point, number, clients)
    for cache in (place.cache, *clients):
        await check_nothing_counts_that_is_not(cache, expected)
    for cause, cache in zip(causes, clients, strict=True):
        assert not useless(cache) and (cause is not None or not unfinished(cache))
        assert cause is None or isinstance(cause, Unreachable | Cancelled), repr(cause)
        assert cause is not None or repository_tree(cache) == expected
    if number != signal.SIGKILL:
        assert not useless(place.cache) and not coordination_rows(place)
        assert "Traceback" not in served.said
    await check_a_new_server(hub, place, expected, clients=2)


@pytest.mark.prove
async def test_killed_at_any_point_nothing_false_counts_and_nothing_is_stuck(
    hub: LocalHub, tmp_path: Path, expected: Tree, proof_count: Callable[[int], int]
) -> None:
    for seed in range(proof_count(3)):
        try:
            await play(seed, hub, tmp_path / str(seed), expected)
        except BaseException as error:
            error.add_note(f"seed {seed}: {SIGNALS[seed % 3].name} at {POINTS[seed % len(POINTS)]}")
            raise


@pytest.mark.prove
async def test_killed_before_any_step_on_the_disk_the_next_server_goes_on_from_there(
    hub: LocalHub, tmp_path: Path, expected: Tree, proof_count: Callable[[int], int]
) -> None:
    """One death or two in a row, each right before a change in the cache directory."""
    for seed in range(proof_count(2)):
        chance = random.Random(seed)
        place = Place(tmp_path / str(seed), hub.endpoint)
        place.root.mkdir()
        first = chance.choice([1, FIRST_PULLING, FIRST_PUBLISHING, FIRST_PUBLISHING])
        steps = [chance.randrange(first, LAST_STEP + 1), chance.randrange(1, LAST_STEP + 1)][: 1 + seed % 2]
        try:
            for step in steps:
                async with start(place, Strike(step, signal.SIGKILL)) as served:
                    if await served.has_come_up():
                        await pull(served, place.root / "client-0")
                await check_nothing_counts_that_is_not(place.cache, expected)
            await check_a_new_server(hub, place, expected, clients=1)
        except BaseException as error:
            error.add_note(f"seed {seed}: killed before steps {steps}")
            raise


async def wait_until(has_come: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not has_come():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_whoever_watches_a_pull_when_the_server_stops_hears_why(
    hub: LocalHub, tmp_path: Path, number: signal.Signals
) -> None:
    held = hub.faults.add(Fault("hold", "body", "big.bin", times=None, after=BIG // 2))
    async with serving(Place(tmp_path, hub.endpoint), server__drain_seconds=0) as served:
        pulls = [asyncio.create_task(pull(served, tmp_path / f"c{n}")) for n in range(3)]
        await wait_until(lambda: held.applied)
        assert await served.stop(number) == 0
        causes = await asyncio.gather(*pulls)
    assert all(isinstance(cause, Cancelled) and "the server is stopping" in str(cause) for cause in causes)
    assert "Traceback" not in served.said


async def test_a_pull_that_ends_in_time_is_no_victim_of_the_stop(
    hub: LocalHub, tmp_path: Path, expected: Tree
) -> None:
    held = hub.faults.add(Fault("hold", "body", "big.bin", times=None, after=BIG // 2))
    place = Place(tmp_path, hub.endpoint)
    async with serving(place, server__drain_seconds=20) as served:
        async with served.client(tmp_path / "mine") as client:
            ensuring = asyncio.create_task(client.ensure(NAME))
            await wait_until(lambda: held.applied)
            served.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: "not ready: stopping" in served.said)
            held.release()
            assert (await ensuring).commit
        assert await served.wait_ended() == 0
    assert repository_tree(place.cache) == expected


async def test_a_second_signal_does_not_wait(hub: LocalHub, tmp_path: Path) -> None:
    held = hub.faults.add(Fault("hold", "body", "big.bin", times=None, after=BIG // 2))
    place = Place(tmp_path, hub.endpoint)
    async with serving(place, server__drain_seconds=600) as served:
        pulling = asyncio.create_task(pull(served, tmp_path / "mine"))
        await wait_until(lambda: held.applied)
        served.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: "not ready: stopping" in served.said)
        assert await served.stop(signal.SIGINT) == 0
        cause = await pulling
    assert isinstance(cause, Cancelled) and "the server is stopping" in str(cause)
    assert not useless(place.cache) and not coordination_rows(place)
    assert "second signal" in served.said and "Traceback" not in served.said


async def held_by(served: Served, root: Path) -> list[HeldSnapshot]:
    async with served.client(root) as client:
        return await client.list_held()


async def check_a_warm_pull(hub: LocalHub, served: Served, root: Path) -> None:
    hub.log.clear()
    async with served.client(root, is_shared=True) as client:
        assert (await client.pull(NAME)).was_hit
    assert not hub.log.of("body")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_registry_that_was_deleted_is_rebuilt_from_the_cache(
    hub: LocalHub, tmp_path: Path, number: signal.Signals
) -> None:
    place = Place(tmp_path, hub.endpoint)
    async with serving(place) as served:
        assert await pull(served, tmp_path / "client-0") is None
        before = await held_by(served, tmp_path / "asking")
        await served.stop(number)
    for path in place.registry.parent.iterdir():
        path.unlink()
    async with serving(place) as served:
        after = await held_by(served, tmp_path / "asking")
        assert before and after == [
            replace(h, last_used_at=a.last_used_at) for h, a in zip(before, after, strict=True)
        ]
        await check_a_warm_pull(hub, served, place.cache)
        assert await served.stop() == 0
    with closing(sqlite3.connect(place.registry)) as database:
        assert database.execute("SELECT count(*) FROM rows WHERE key LIKE 'holding/%'").fetchone() == (1,)


@pytest.mark.parametrize("damage", ["cut", "overwritten pages", "emptied"])
async def test_a_damaged_registry_is_set_aside_and_rebuilt(
    hub: LocalHub, tmp_path: Path, damage: str
) -> None:
    place = Place(tmp_path, hub.endpoint)
    async with serving(place) as served:
        assert await pull(served, tmp_path / "client-0") is None
        before = await held_by(served, tmp_path / "asking")
        assert await served.stop() == 0
    content = place.registry.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "overwritten pages": content[:100] + b"\xff" * (len(content) - 100),
        "emptied": b"",
    }[damage]
    place.registry.write_bytes(damaged)
    async with serving(place) as served:
        assert len(await held_by(served, tmp_path / "asking")) == len(before) == 1
        await check_a_warm_pull(hub, served, place.cache)
        assert await served.stop() == 0
    if damage != "emptied":  # an empty file is an empty database
        aside = place.registry.with_name(place.registry.name + ".corrupt-1")
        assert aside.read_bytes() == damaged and str(aside) in served.said


async def test_a_registry_that_is_no_database_any_more_is_left_alone_and_rebuilt_once_it_is_moved_away(
    hub: LocalHub, tmp_path: Path
) -> None:
    place = Place(tmp_path, hub.endpoint)
    async with serving(place) as served:
        assert await pull(served, tmp_path / "client-0") is None
        before = await held_by(served, tmp_path / "asking")
        assert await served.stop() == 0
    place.registry.write_bytes(b"my notes")
    async with start(place) as served:
        assert await served.wait_ended() == 1
    assert served.said.startswith("Invalid: ") and "move this one away" in served.said
    assert place.registry.read_bytes() == b"my notes" and "Traceback" not in served.said
    place.registry.rename(tmp_path / "notes")
    async with serving(place) as served:
        assert len(await held_by(served, tmp_path / "asking")) == len(before) == 1


async def test_a_registry_of_a_newer_format_is_refused_and_left_alone(hub: LocalHub, tmp_path: Path) -> None:
    place = Place(tmp_path, hub.endpoint)
    place.registry.parent.mkdir(parents=True)
    with closing(sqlite3.connect(place.registry)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("PRAGMA user_version = 99")
        database.execute("CREATE TABLE things (name TEXT)")
        database.commit()
    content = place.registry.read_bytes()
    async with start(place) as served:
        assert await served.wait_ended() == 1
    assert served.said.startswith("Invalid: ") and "newer version (format 99" in served.said
    assert place.registry.read_bytes() == content and "Traceback" not in served.said
