# SPDX-License-Identifier: Apache-2.0
"""What a branch means when the origin is away: what it was said to mean last, as far as that is here."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.support.asking import Asker
from tests.support.house import House, open_house
from tests.support.venvs import GENERATIONS, run_in_venv

from modelexpress.domain.errors import Busy
from modelexpress.domain.refs import ModelRef
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_model

NAME, LARGE, SMALL = "demo/moving", "model.safetensors", "config.json"
OLD, NEW = b"old weights " * 500, b"new weights " * 500


@pytest.fixture
def moving() -> Repository:
    made = Repository(NAME)
    made.commit({LARGE: OLD, SMALL: b"1", "third.json": b"3"})
    return made


@pytest.fixture
async def hub(moving: Repository) -> AsyncIterator[LocalHub]:
    async with LocalHub([moving]) as hub:
        yield hub


def path_of(file: str = LARGE, revision: str = "main") -> str:
    return f"/{NAME}/resolve/{revision}/{quote(file)}"


async def read(house: House, *paths: str) -> list[str]:
    """The commits of these files, each read to its end and on record."""
    commits = []
    for path in paths:
        answer = await Asker(house.hub_endpoint).get(path)
        assert answer.status == 200, (path, answer.headers)
        await house.settle()
        commits.append(answer.headers["x-repo-commit"])
    return commits


async def warm_by_commit(house: House) -> str:
    """What every client does to have it all: one question what `main` is, then all files by commit."""
    ask = Asker(house.hub_endpoint)
    said = json.loads((await ask.get(f"/api/models/{NAME}/revision/main")).body)
    await read(house, *(path_of(row["rfilename"], said["sha"]) for row in said["siblings"]))
    commit: str = said["sha"]
    return commit


@asynccontextmanager
async def offline(hub: LocalHub, tmp_path: Path) -> AsyncIterator[Asker]:
    hub.log.clear()
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        yield Asker(house.hub_endpoint)
    assert not hub.log.requests


def records(root: Path) -> list[Path]:
    return sorted((root / ".mx" / "records").rglob("*.json"))


async def test_a_model_that_was_brought_by_commit_is_known_by_its_branch(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house:
        commit = await warm_by_commit(house)
        hub.faults.add(Fault("reset", "any", times=None))
        alone = await Asker(house.hub_endpoint).get(path_of())
        assert (alone.status, alone.body, alone.headers["mx-stale"]) == (200, OLD, "true")
    hub.faults.clear()

    async with offline(hub, tmp_path) as ask:
        found = await ask.get(path_of())
        refs = json.loads((await ask.get(f"/api/models/{NAME}/refs")).body)
    assert (found.status, found.body, found.headers["x-repo-commit"]) == (200, OLD, commit)
    assert [(row["name"], row["targetCommit"]) for row in refs["branches"]] == [("main", commit)]


async def test_a_model_all_of_which_was_brought_by_commit_is_described_offline(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house:
        commit = await warm_by_commit(house)

    async with offline(hub, tmp_path) as ask:
        for path in ("", "/revision/main", f"/revision/{commit}"):
            said = json.loads((await ask.get(f"/api/models/{NAME}{path}")).body)
            assert (said["sha"], said["private"], len(said["siblings"])) == (commit, False, 3)
        listed = await ask.get(f"/api/models/{NAME}/tree/{commit}?recursive=true&expand=false")
        assert [row["path"] for row in json.loads(listed.body)] == [SMALL, LARGE, "third.json"]
        for revision in ("main", commit):
            assert (await ask.head(path_of("nothing", revision))).code == "EntryNotFound"


@pytest.mark.parametrize("is_described_again", [True, False])
async def test_a_model_is_whole_once_the_origin_has_named_the_files_that_are_here(
    hub: LocalHub, moving: Repository, tmp_path: Path, is_described_again: bool
) -> None:
    commit, files = moving.branches["main"], [LARGE, SMALL, "third.json"]
    async with open_house(hub, tmp_path) as house:
        await read(house, *(path_of(file, commit) for file in files[: 3 if is_described_again else 2]))
    async with open_house(hub, tmp_path) as house:
        assert (await Asker(house.hub_endpoint).get(f"/api/models/{NAME}/revision/{commit}")).status == 200
        await house.settle()

    async with offline(hub, tmp_path) as ask:
        described = await ask.get(f"/api/models/{NAME}/revision/{commit}")
        assert described.status == (200 if is_described_again else 504)
        absent = await ask.head(path_of("nothing", commit))
        assert absent.status == (404 if is_described_again else 504)


@pytest.mark.parametrize("is_listed", [True, False])
async def test_an_empty_file_that_clients_only_ask_about_is_kept(
    hub: LocalHub, moving: Repository, tmp_path: Path, is_listed: bool
) -> None:
    commit = moving.commit({"empty.bin": b""})
    async with open_house(hub, tmp_path) as house:
        ask = Asker(house.hub_endpoint)
        if is_listed:
            assert (await ask.get(f"/api/models/{NAME}/tree/{commit}?recursive=true")).status == 200
        for _ in range(2):
            answer = await ask.head(path_of("empty.bin", commit))
            assert (answer.status, answer.headers["content-length"]) == (200, "0")
            await house.settle()
        assert all(request.method == "HEAD" for request in hub.log.of("body")), "there is nothing to fetch"
        hub.faults.add(Fault("reset", "any", times=None))
        assert (await ask.get(path_of("empty.bin", commit))).status == 200
    hub.faults.clear()

    async with offline(hub, tmp_path) as ask:
        for answer in (
            await ask.head(path_of("empty.bin", commit)),
            await ask.get(path_of("empty.bin", commit)),
        ):
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_file_that_there_is_not_is_known_not_to_be_after_a_restart(
    hub: LocalHub, moving: Repository, tmp_path: Path, is_first: bool
) -> None:
    commit = moving.branches["main"]
    async with open_house(hub, tmp_path) as house:
        ask = Asker(house.hub_endpoint)
        if not is_first:
            await read(house, path_of(SMALL))
        for file in ("adapter_config.json", "long/" * 60 + "x"):
            assert (await ask.head(path_of(file))).code == "EntryNotFound"
        await house.settle()
        await read(house, path_of(LARGE))
        [record] = records(house.root)
        before = record.stat()
        assert (await ask.head(path_of("adapter_config.json", commit))).code == "EntryNotFound"
        await house.settle()
        after = record.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    async with open_house(hub, tmp_path) as house:
        hub.log.clear()
        assert (await Asker(house.hub_endpoint).head(path_of("adapter_config.json"))).status == 404
        assert len(hub.log.requests) == 1, "who can be asked is asked"
    async with offline(hub, tmp_path) as ask:
        for revision in ("main", commit):
            assert (await ask.head(path_of("adapter_config.json", revision))).code == "EntryNotFound"
        assert (await ask.head(path_of("long/" * 60 + "x"))).status == 504


async def test_files_that_there_are_not_are_written_so_often_and_no_more(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house:
        [commit] = await read(house, path_of())
        ask = Asker(house.hub_endpoint)
        await asyncio.gather(*(ask.head(path_of(f"no{number}", commit)) for number in range(70)))
        await house.settle()
        [record] = records(house.root)
        assert len(json.loads(record.read_text())["absent"]) == 64


async def test_a_tag_that_is_said_of_what_is_here_is_known_too(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    moving.tags["v1"] = moving.branches["main"]
    async with open_house(hub, tmp_path) as house:
        [commit] = await read(house, path_of(revision=moving.tags["v1"]))
        assert (await Asker(house.hub_endpoint).head(path_of(revision="v1"))).status == 200
        await house.settle()

    async with offline(hub, tmp_path) as ask:
        assert (await ask.get(path_of(revision="v1"))).headers["x-repo-commit"] == commit
        assert (await ask.get(f"/api/models/{NAME}/refs")).status == 200, "no branch is known"
        assert (await ask.get(path_of())).status == 404


@pytest.mark.parametrize("case", ["pulled before", "old commit read later", "taken back", "clock set back"])
async def test_a_branch_is_what_the_origin_said_last(
    hub: LocalHub, moving: Repository, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = moving.branches["main"]
    async with open_house(hub, tmp_path) as house:
        if case == "pulled before":
            async with house.client(tmp_path / "mine") as client:
                await client.pull(NAME)
        await read(house, path_of())
        last = moving.commit({LARGE: NEW, SMALL: b"2"})
        if case == "clock set back":
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now - 5_000)
        await read(house, path_of())
        if case == "old commit read later":
            await read(house, path_of("third.json", first))
        if case == "taken back":
            moving.branches["main"] = last = first
            await read(house, path_of())
        hub.faults.add(Fault("reset", "any", times=None))
        assert await read(house, path_of()) == [last]
    hub.faults.clear()

    async with offline(hub, tmp_path) as ask:
        assert (await ask.get(path_of())).headers["x-repo-commit"] == last


async def test_what_was_said_of_a_branch_before_it_moved_is_not_said_again(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    first, files, api = moving.branches["main"], [SMALL, LARGE, "third.json"], f"/api/models/{NAME}"

    async def described() -> list[Any]:
        said = [json.loads((await ask.get(f"{api}{path}")).body) for path in ("/revision/main", "")]
        rows = json.loads((await ask.get(f"{api}/tree/main")).body)
        return [*(one["sha"] for one in said), sorted(row["path"] for row in rows)]

    async with open_house(hub, tmp_path) as house:
        ask = Asker(house.hub_endpoint)
        assert await described() == [first, first, files]
        await read(house, *(path_of(file, first) for file in files))
        last = moving.commit({LARGE: NEW}, delete=["third.json"])
        # Others are told, who ask for single files.
        assert await read(house, path_of(), path_of(SMALL)) == [last, last]
        await ask.get(f"{api}/revision/{last}")
        await house.settle()
        hub.faults.add(Fault("reset", "any", times=None))
        assert await described() == [last, last, files[:2]]
    hub.faults.clear()
    newest = moving.commit({"fourth.json": b"4"})
    async with open_house(hub, tmp_path) as house:
        ask = Asker(house.hub_endpoint)
        assert (await described())[:2] == [newest, newest]
        hub.faults.add(Fault("reset", "any", times=None))
        assert (await described())[:2] == [newest, newest], "nothing of it is here"


async def test_a_clock_that_was_set_back_brings_no_older_commit_back(
    hub: LocalHub, moving: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 5_000)
    async with open_house(hub, tmp_path) as house:
        await warm_by_commit(house)
    monkeypatch.setattr(time, "time", now)
    moving.commit({LARGE: NEW, SMALL: b"2"})
    async with open_house(hub, tmp_path) as house:
        last = await warm_by_commit(house)

    async with offline(hub, tmp_path) as ask:
        assert (await ask.get(path_of())).headers["x-repo-commit"] == last


async def test_a_branch_that_was_taken_back_is_so_over_grpc_too(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    first = moving.branches["main"]
    async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
        await client.pull(NAME)
        moving.commit({LARGE: NEW})
        await read(house, path_of())
        moving.branches["main"] = first
        await client.pull(NAME)  # which finds all here, and the ref as it is to be
        await house.settle()
        hub.faults.add(Fault("reset", "any", times=None))
        assert await read(house, path_of()) == [first]


async def test_a_branch_that_moves_while_its_old_commit_is_pulled_has_moved(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
        slow = hub.faults.add(Fault("hang", "body", LARGE))
        pull = asyncio.create_task(client.pull(NAME))
        async with asyncio.timeout(5.0):
            while not any(request.file == LARGE for request in hub.log.of("body")):
                await asyncio.sleep(0.01)
        last = moving.commit({LARGE: NEW, SMALL: b"2"})
        assert (await Asker(house.hub_endpoint).get(path_of(SMALL))).headers["x-repo-commit"] == last
        slow.release()
        await pull
        await house.settle()
        hub.faults.add(Fault("reset", "any", times=None))
        assert await read(house, path_of(SMALL)) == [last]


async def test_a_branch_that_moves_without_a_change_to_the_file_has_moved(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house:
        await read(house, path_of())
        last = moving.commit({SMALL: b"2"})
        await read(house, path_of())

    async with offline(hub, tmp_path) as ask:
        assert (await ask.get(path_of())).headers["x-repo-commit"] == last


@pytest.mark.parametrize("is_later", [True, False])
async def test_what_another_tool_says_of_a_branch_counts_when_it_says_it_later(
    hub: LocalHub, moving: Repository, tmp_path: Path, is_later: bool
) -> None:
    first = moving.branches["main"]
    async with open_house(hub, tmp_path) as house:
        await read(house, path_of())
        last = moving.commit({LARGE: NEW})
        await read(house, path_of())
        ref = house.root / "models--demo--moving/refs/main"
        ref.parent.mkdir()
        ref.write_text(first)
        said_at = time.time() + (10 if is_later else -10)
        os.utime(ref, (said_at, said_at))

    async with offline(hub, tmp_path) as ask:
        assert (await ask.get(path_of())).headers["x-repo-commit"] == (first if is_later else last)


async def test_nothing_is_written_again_as_long_as_nothing_is_new(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path) as house:
        await warm_by_commit(house)
        await read(house, path_of())
        [record] = records(house.root)
        before = record.stat()
        for path in (path_of(), path_of(SMALL)):
            await read(house, path)
        assert (await Asker(house.hub_endpoint).get(f"/api/models/{NAME}")).status == 200
        await house.settle()
        assert record.stat() == before


async def test_names_of_what_is_not_here_leave_nothing(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path) as house:
        ask = Asker(house.hub_endpoint)
        assert (await ask.head(path_of())).status == 200
        assert (await ask.get(f"/api/models/{NAME}/revision/main")).status == 200
        await house.settle()
        assert not records(house.root)


async def test_a_name_goes_with_its_record(hub: LocalHub, moving: Repository, tmp_path: Path) -> None:
    first = moving.branches["main"]
    async with open_house(hub, tmp_path) as house:
        await read(house, path_of())
        last = moving.commit({LARGE: NEW})
        await read(house, path_of())
        await house.cache.remove([ModelRef.parse(NAME, revision=last)], is_dry_run=False)

    async with offline(hub, tmp_path) as ask:
        assert (await ask.get(path_of())).headers["x-repo-commit"] == first


async def test_a_name_that_only_a_record_says_can_be_listed_pinned_and_removed(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    first, main = moving.branches["main"], ModelRef.parse(f"{NAME}@main")
    async with open_house(hub, tmp_path) as house:
        await read(house, path_of())
        last = moving.commit({LARGE: NEW})
        await read(house, path_of(), path_of(revision=last[:8]))
        assert {one.commit: one.refs for one in await house.cache.list_held()} == {first: (), last: ("main",)}

        pinned = await house.cache.pin(f"{NAME}@main", None, is_dry_run=False)
        assert [one.commit for one in pinned] == [last]
        with pytest.raises(Busy, match="pinned"):
            await house.cache.remove([main], is_dry_run=False)
        kept = (await house.cache.plan(1 << 50)).kept
        assert [one.reason for one in kept if one.commit == last] == [f"pinned as {NAME}@main"]

        await house.cache.unpin([f"{NAME}@main"], is_dry_run=False)
        gone = await house.cache.remove([main], is_dry_run=False)
        assert [removal.commit for removal in gone.removals] == [last]
        assert [one.commit for one in await house.cache.list_held()] == [first]


async def test_a_commit_that_a_branch_means_now_is_not_pruned(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
        first = (await client.pull(NAME)).commit
        left = moving.commit({LARGE: b"neither"})
        await read(house, path_of(revision=left))
        last = moving.commit({LARGE: NEW})
        await read(house, path_of())

        plan = await house.cache.prune(is_dry_run=False)

        assert [removal.commit for removal in plan.removals] == [left]
        assert {record.stem for record in records(house.root)} == {first, last}


async def test_a_disk_that_takes_no_name_keeps_nobody_from_reading(
    hub: LocalHub, moving: Repository, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path) as house:
        [commit] = await read(house, path_of(revision=moving.branches["main"]))
        [record] = records(house.root)
        content: dict[str, Any] = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "format": 1_000}))  # a newer version's: it stays
        assert (await Asker(house.hub_endpoint).head(path_of())).status == 200
        await house.settle()
        assert json.loads(record.read_text())["format"] == 1_000

        record.write_text(json.dumps(content))
        assert await read(house, path_of()) == [commit]
        assert "main" in json.loads(record.read_text())["names"], "it goes on with what comes after"


async def test_names_that_an_older_version_kept_are_still_known(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path) as house:
        [commit] = await read(house, path_of())
        [record] = records(house.root)
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "names": ["main"]}))

    async with offline(hub, tmp_path) as ask:
        assert (await ask.get(path_of())).headers["x-repo-commit"] == commit


# What is read of the snapshot is what came, not what the client says of it.
DOWNLOAD = """
import hashlib, json
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
snapshot = Path(snapshot_download("demo/tiny"))
one = Path(hf_hub_download("demo/tiny", "config.json", force_download=True))
files = sorted(path for path in snapshot.rglob("*") if path.is_file())
print(json.dumps([snapshot.name, one.parent.name, HfApi().model_info("demo/tiny").sha,
    [ref.name for ref in HfApi().list_repo_refs("demo/tiny").branches],
    [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]]))
"""


@pytest.mark.packages
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_what_a_real_client_downloaded_a_fresh_one_has_offline(
    python_of: Callable[[str], Path], tmp_path: Path, generation: str
) -> None:
    python = python_of(generation)

    async def download(house: House, who: str) -> Any:
        env = {"HOME": str(tmp_path / who), "HF_ENDPOINT": house.hub_endpoint}
        return await asyncio.to_thread(run_in_venv, python, DOWNLOAD, **env)

    async with LocalHub([tiny_model("demo/tiny")]) as hub:
        async with open_house(hub, tmp_path) as house:
            expected = await download(house, "first")
            await house.settle()
        hub.log.clear()
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            found = await download(house, "second")
        assert not hub.log.requests
    assert found == expected and found[3] == ["main"]
    assert found[0] == found[1] == found[2] and len(found[4]) == 10
