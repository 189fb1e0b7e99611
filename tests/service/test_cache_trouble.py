# SPDX-License-Identifier: Apache-2.0
"""A cache directory in trouble: full, read-only, with records and refs that say nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.caches import (
    NAME,
    WEIGHTS,
    blob_of,
    fill_by_huggingface_hub,
    flip_a_byte,
    models_tree,
    pull,
    repository_tree,
    unfinished,
)
from tests.support.house import House, open_house
from tests.support.mounts import mounted

from modelexpress import compose
from modelexpress.domain.errors import Cancelled, Invalid, MxError, NoRoom, StorageFailed
from modelexpress.domain.refs import ModelRef
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_model

REF = ModelRef.parse(NAME)
MIB = 1024 * 1024


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub([tiny_model(NAME)]) as hub:
        yield hub


class TestFull:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        """A cache directory on a file system of 2 MiB."""
        with mounted(tmp_path / "server-cache", "-t", "tmpfs", "-o", "size=2m", "none"):
            yield tmp_path / "server-cache"

    async def test_what_does_not_fit_is_refused_before_its_first_byte(
        self, small: Path, hub: LocalHub, tmp_path: Path
    ) -> None:
        big = Repository("demo/big")
        big.commit({"model.bin": bytes(3 * MIB)})
        hub.add(big)
        async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
            with pytest.raises(NoRoom, match="everything that may go would free 0 bytes"):
                await client.pull("demo/big")
            assert hub.log.of("body") == [] and not list(small.glob("models--*")) and not unfinished(small)
            assert (await client.pull(NAME)).path.exists()  # what does fit is served as ever

    async def test_two_pulls_do_not_promise_each_other_the_same_space(
        self, small: Path, hub: LocalHub, tmp_path: Path
    ) -> None:
        for name in ("demo/one", "demo/two"):
            repository = Repository(name)
            repository.commit({f"{name[5:]}.bin": os.urandom(int(1.2 * MIB))})
            hub.add(repository)
        held = hub.faults.add(Fault("hold", "body", after=10_000))
        async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
            first = asyncio.create_task(client.pull("demo/one"))
            while not held.applied:
                await asyncio.sleep(0.01)
            with pytest.raises(NoRoom, match="promised to running pulls"):
                await client.pull("demo/two")
            held.release()
            assert (await first).path.exists()

    async def test_a_disk_that_fills_meanwhile_stops_the_pull_and_leaves_nothing(
        self, small: Path, hub: LocalHub, tmp_path: Path
    ) -> None:
        repository = Repository("demo/mid")
        repository.commit({"model.bin": os.urandom(int(1.5 * MIB)), "config.json": b"{}"})
        hub.add(repository)
        held = hub.faults.add(Fault("hold", "body", "model.bin", after=10_000))
        async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
            pulling = asyncio.create_task(client.pull("demo/mid"))
            while not held.applied:
                await asyncio.sleep(0.01)
            with contextlib.suppress(OSError), (small / "somebody-elses").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            held.release()
            with pytest.raises(NoRoom):
                await pulling
            assert not list(small.glob("models--*/snapshots")) and not unfinished(small)
            (small / "somebody-elses").unlink()
            assert (await client.pull("demo/mid")).path.exists()

    async def test_a_client_without_room_keeps_nothing_of_a_transfer(
        self, house: House, tmp_path: Path
    ) -> None:
        repository = Repository("demo/big")
        repository.commit({"model.bin": bytes(3 * MIB)})
        house.hub.add(repository)
        root = tmp_path / "mine"
        with mounted(root, "-t", "tmpfs", "-o", "size=2m", "none"):
            async with house.client(root) as client:
                with pytest.raises(NoRoom):
                    await client.pull("demo/big")
                assert not list(root.glob("models--*")) and not unfinished(root)
                assert (await client.pull(NAME)).path.is_relative_to(root)

    async def test_a_file_size_limit_is_no_room_too(self, hub: LocalHub, tmp_path: Path) -> None:
        code = (
            "import asyncio, json, os, resource, sys\n"
            "from modelexpress.compose import load_settings\n"
            "from modelexpress.compose.clients import make_async_client\n"
            "from modelexpress.client import Strategy\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
            "async def main():\n"
            "    loaded = load_settings('client', json.loads(sys.argv[1]), os.environ)\n"
            "    async with make_async_client(loaded, os.environ) as client:\n"
            "        await client.pull('demo/tiny', strategy=Strategy.DIRECT)\n"
            "try:\n"
            "    asyncio.run(main())\n"
            "except Exception as error:\n"
            "    print(type(error).__name__, error)\n"
        )
        root = tmp_path / "mine"
        flags = {"cache.directory": str(root), "origin.redirect_hosts": "localhost,127.0.0.1"}
        env = {**os.environ, "HF_ENDPOINT": hub.endpoint}
        command = [sys.executable, "-c", code, json.dumps(flags)]
        done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True)

        assert done.stdout.startswith("NoRoom") and WEIGHTS in done.stdout, done.stderr
        assert not list(root.glob("models--*/snapshots")) and not unfinished(root)


class TestReadOnly:
    async def test_a_read_only_cache_can_be_looked_at_and_used_but_not_changed(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        root = tmp_path / "server-cache"
        async with open_house(hub, tmp_path) as house:
            model = await pull(house)
        env = {"HOME": str(tmp_path), "HF_ENDPOINT": hub.endpoint, "PATH": os.environ["PATH"]}
        loaded = compose.load_settings("client", {"cache.directory": str(root)}, env)
        before = models_tree(root)
        with mounted(root, "--bind", "-o", "ro", str(root)):
            if os.access(root, os.W_OK):
                subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=True)
            async with compose.open_local(loaded, env) as control:
                [held] = await control.list_held()
                [verified] = await control.verify(None, lambda progress: None)
                assert held.commit == model.commit and verified.is_sound
                assert (await control.remove([REF], is_dry_run=True)).bytes_freed == held.bytes
                with pytest.raises(StorageFailed, match="read-only"):
                    await control.remove([REF], is_dry_run=False)
            with pytest.raises(StorageFailed, match="read-only"):
                async with open_house(hub, tmp_path):
                    pass  # a server must be able to write

        assert models_tree(root) == before

    async def test_damage_on_a_read_only_cache_is_told_all_the_same(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            model = await pull(house)
        flip_a_byte(blob_of(model.path / WEIGHTS))
        root = tmp_path / "server-cache"
        loaded = compose.load_settings("client", {"cache.directory": str(root)}, {"HOME": str(tmp_path)})
        with mounted(root, "--bind", "-o", "ro", str(root)):
            if os.access(root, os.W_OK):
                subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=True)
            async with compose.open_local(loaded, {}) as control:
                [verified] = await control.verify(REF, lambda progress: None)

        assert [damage.path for damage in verified.damages] == [WEIGHTS]

    async def test_a_directory_of_ours_that_is_a_file_is_refused_by_name(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        (tmp_path / "server-cache").mkdir()
        (tmp_path / "server-cache/.mx").write_text("")
        with pytest.raises(StorageFailed, match="server-cache"):
            async with open_house(hub, tmp_path):
                pass

    async def test_a_directory_that_vanishes_is_named_and_used_again_when_it_is_back(
        self, house: House, tmp_path: Path
    ) -> None:
        await pull(house)
        house.root.rename(tmp_path / "away")
        async with house.client(tmp_path / "mine") as client:
            with pytest.raises(MxError, match="server-cache"):
                await client.pull(NAME)
            shutil.rmtree(house.root, ignore_errors=True)
            (tmp_path / "away").rename(house.root)
            assert (await client.pull(NAME)).path.exists()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


GARBAGE: list[Callable[[Path], object]] = [
    Path.unlink,
    cut,
    lambda path: path.write_bytes(b"\xff\0garbage"),
    lambda path: path.write_text("{}"),
    lambda path: path.write_text("[" * 100_000),
    lambda path: (path.unlink(), path.mkdir()),
    lambda path: (path.unlink(), path.symlink_to("nowhere")),
]
GARBAGE_IDS = ["gone", "cut", "bytes", "empty", "deep", "directory", "dangling"]


class TestGarbage:
    @pytest.mark.parametrize("spoil", GARBAGE, ids=GARBAGE_IDS)
    async def test_without_its_record_a_model_is_proven_again_and_not_fetched(
        self, house: House, spoil: Callable[[Path], object]
    ) -> None:
        await pull(house)
        expected = repository_tree(house.root)
        [record] = house.root.glob(".mx/records/*/*/*.json")
        spoil(record)
        house.hub.log.clear()
        [held] = await house.cache.list_held()
        assert not held.is_recorded
        model = await pull(house)

        assert not model.was_hit and house.hub.log.of("body") == []
        assert repository_tree(house.root) == expected and (await pull(house)).was_hit

    @pytest.mark.parametrize("spoil", GARBAGE[:-1], ids=GARBAGE_IDS[:-1])
    async def test_a_server_starts_over_any_record(
        self, hub: LocalHub, tmp_path: Path, spoil: Callable[[Path], object]
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            await pull(house)
        [record] = (tmp_path / "server-cache").glob(".mx/records/*/*/*.json")
        spoil(record)
        async with open_house(hub, tmp_path) as house:
            assert (await pull(house)).path.exists()

    async def test_a_record_of_a_newer_version_is_not_overruled(self, house: House) -> None:
        await pull(house)
        [record] = house.root.glob(".mx/records/*/*/*.json")
        newer = record.read_text().replace('"format": 1', '"format": 99')
        record.write_text(newer)
        before = models_tree(house.root)
        plan = await house.cache.remove([REF], is_dry_run=False)
        await house.cache.prune(is_dry_run=False)

        assert plan.bytes_freed == 0 and models_tree(house.root) == before

    @pytest.mark.parametrize(
        "content", [b"", b"f" * 40, b"not a commit", b"\xff\xfe", b"../../etc", bytes(100_000)]
    )
    async def test_a_ref_that_leads_nowhere_is_set_right(self, house: House, content: bytes) -> None:
        model = await pull(house)
        ref = house.root / "models--demo--tiny/refs/main"
        ref.write_bytes(content)
        await house.cache.prune(is_dry_run=False)
        house.hub.log.clear()
        again = await pull(house)

        assert again.was_hit and again.path == model.path and house.hub.log.of("body") == []
        assert ref.read_text() == model.commit

    @pytest.mark.parametrize("name", ["refs/main", "refs", "snapshots", "blobs", "trees"])
    async def test_an_empty_thing_of_the_wrong_kind_is_named_or_mended(self, house: House, name: str) -> None:
        path = house.root / "models--demo--tiny" / name
        path.parent.mkdir(parents=True)
        path.mkdir() if name == "refs/main" else path.write_text("")
        try:
            model = await pull(house)
        except StorageFailed as error:
            assert "models--demo--tiny" in str(error)
        else:
            assert {p.name for p in model.path.iterdir()} >= {"config.json", WEIGHTS}
        assert not unfinished(house.root)

    async def test_a_cache_of_a_newer_version_is_left_alone(self, hub: LocalHub, tmp_path: Path) -> None:
        root = tmp_path / "server-cache"
        (root / ".mx").mkdir(parents=True)
        (root / ".mx/volume.json").write_text('{"format": 2, "id": "x"}')
        with pytest.raises(Invalid, match="newer version"):
            async with open_house(hub, tmp_path):
                pass


class TestInterrupted:
    @pytest.mark.prove
    async def test_removing_a_model_while_it_is_pulled_leaves_nothing_and_nothing_stuck(
        self, house: House, tmp_path: Path, proof_count: Callable[[int], int]
    ) -> None:
        for seed in range(proof_count(3)):
            held = house.hub.faults.add(Fault("hold", "body", WEIGHTS, after=10_000 * (seed % 9)))
            pulling = asyncio.create_task(pull(house))
            while not held.applied:
                await asyncio.sleep(0.001)
            await house.cache.remove([REF], is_dry_run=False)
            with pytest.raises(Cancelled):
                await pulling
            assert not list(house.root.glob("models--*")) and not unfinished(house.root)
            held.release()
            await asyncio.wait_for(pull(house), 10)
            await house.cache.remove([REF], is_dry_run=False)

    @pytest.mark.prove
    async def test_removing_and_pruning_at_once_loses_no_file_to_nobody(
        self, house: House, tmp_path: Path, proof_count: Callable[[int], int]
    ) -> None:
        names = [f"demo/m{number}" for number in range(3)]
        for name in names:
            repository = Repository(name)
            repository.commit({f"d{n % 5}/{n}.txt": f"{name} {n}".encode() for n in range(80)})
            house.hub.add(repository)
        loaded = compose.load_settings("client", {"cache.directory": str(house.root)}, house.env)
        async with compose.open_local(loaded, house.env) as control:
            for _ in range(proof_count(1)):
                await asyncio.gather(*(pull(house, name) for name in names))
                removing = [house.cache.remove([ModelRef.parse(name)], is_dry_run=False) for name in names]
                ended = asyncio.gather(*removing)
                while not ended.done():
                    await control.prune(is_dry_run=False)
                await ended
                assert not list(house.root.glob("models--*")) and not unfinished(house.root)

    async def test_a_pull_that_ends_while_it_is_adopted_keeps_what_it_brought(self, house: House) -> None:
        repository = Repository("demo/big")
        repository.commit({"big.bin": os.urandom(40 * MIB), "small.txt": b"x" * 1000})
        house.hub.add(repository)
        await fill_by_huggingface_hub(house.hub, house.root, "demo/big", ignore_patterns=["*.txt"])
        held = house.hub.faults.add(Fault("hold", "body", "small.txt", after=10))
        pulling = asyncio.create_task(pull(house, "demo/big"))
        while not held.applied or not list(house.root.glob(".mx/partials/*")):
            await asyncio.sleep(0.01)
        adopting = asyncio.create_task(house.cache.adopt(ModelRef.parse("demo/big"), is_dry_run=False))
        await asyncio.sleep(0.01)
        held.release()
        await asyncio.gather(pulling, adopting)
        [now] = await house.cache.list_held()

        assert now.is_adopted and now.selections == ("all",) and now.bytes_ours == 40 * MIB + 1000
        assert (await pull(house, "demo/big")).was_hit
