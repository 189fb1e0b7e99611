# SPDX-License-Identifier: Apache-2.0
"""Living on one directory with other tools, and with what they, disks and people leave there."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir
from tests.support.caches import (
    NAME,
    WEIGHTS,
    blob_of,
    fill_by_huggingface_hub,
    flip_a_byte,
    pull,
    repository_tree,
    requested_files,
    start_huggingface_hub,
)
from tests.support.house import House, open_house, tree

from modelexpress.client import Transfer
from modelexpress.domain.errors import Forbidden, NotFound
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import ALL_FILES, Selection, Weights
from modelexpress.testing.hub import Fault, LocalHub
from modelexpress.testing.hub.models import tiny_files, tiny_model

REF = ModelRef.parse(NAME)
SIZES = {path: len(content) for path, content in tiny_files().items() if isinstance(content, bytes)}


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub([tiny_model(NAME)]) as hub:
        yield hub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory of every server that `open_house` opens over `tmp_path`."""
    return tmp_path / "server-cache"


def drop_listings(root: Path) -> None:
    """Make it the cache of a huggingface_hub before 2.0, which kept none."""
    for path in root.glob("models--*/trees"):
        shutil.rmtree(path)


def bodies(hub: LocalHub) -> list[str]:
    return sorted(request.file for request in hub.log.of("body"))


class TestOffline:
    @pytest.mark.parametrize("has_listing", [True, False], ids=["listed", "unlisted"])
    async def test_what_another_tool_left_is_served_once_proven(
        self, hub: LocalHub, tmp_path: Path, root: Path, has_listing: bool
    ) -> None:
        path = await fill_by_huggingface_hub(hub, root)
        if not has_listing:
            drop_listings(root)
        before = repository_tree(root)
        hub.log.clear()
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            for model in (NAME, f"{NAME}@main", f"{NAME}@{path.name}"):
                found = await pull(house, model)
                assert found.was_hit and found.path == path and found.transfer is Transfer.SHARED

        assert hub.log.requests == [] and repository_tree(root) == before

    @pytest.mark.parametrize("has_listing", [True, False], ids=["listed", "unlisted"])
    async def test_a_damaged_file_of_another_tool_is_not_served(
        self, hub: LocalHub, tmp_path: Path, root: Path, has_listing: bool
    ) -> None:
        path = await fill_by_huggingface_hub(hub, root)
        flip_a_byte(blob_of(path / WEIGHTS))
        if not has_listing:
            drop_listings(root)
        hub.log.clear()
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            with pytest.raises(NotFound, match="offline"):
                await pull(house)
            light = await pull(house, selection=Selection(Weights.NONE))
            assert light.was_hit

        assert hub.log.requests == []

    async def test_a_part_is_complete_only_for_a_selection_that_lies_in_it(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        path = await fill_by_huggingface_hub(hub, root, allow_patterns=["*.json"])
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            with pytest.raises(NotFound, match="offline"):
                await pull(house)
            found = await pull(house, selection=Selection(include=("*.json",)))

        assert found.was_hit and found.path == path

    async def test_a_part_without_a_listing_is_all_there_is_until_the_origin_answers(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        path = await fill_by_huggingface_hub(hub, root, allow_patterns=["*.safetensors"])
        drop_listings(root)
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            assert (await pull(house)).was_hit
        hub.log.clear()
        async with open_house(hub, tmp_path) as house:
            whole = await pull(house)
            assert not whole.was_hit and (await pull(house)).was_hit

        assert {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} == set(tiny_files())
        assert bodies(hub) == sorted(requested_files() - {WEIGHTS})

    async def test_what_is_not_here_is_not_found_and_nobody_is_asked(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            for model in (NAME, f"{NAME}@v1", f"{NAME}@{'0' * 40}"):
                with pytest.raises(NotFound, match="offline"):
                    await pull(house, model)

        assert hub.log.requests == []

    async def test_our_own_files_with_other_times_are_proven_again_and_stay_ours(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            light = await pull(house, selection=Selection(Weights.NONE))
            model = await pull(house)
        for path in (root / "models--demo--tiny/blobs").iterdir():
            os.utime(path, (1, 1))
        hub.log.clear()
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            assert (await pull(house)).was_hit and light.path == model.path
            [held] = await house.cache.list_held()
            assert held.selections == ("all", "none") and held.bytes_ours == held.bytes
            plan = await house.cache.remove([REF], is_dry_run=False)

        assert hub.log.requests == [] and plan.bytes_freed == sum(SIZES.values())

    async def test_what_one_caller_brought_stays_his_when_it_is_proven_again(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        hub._repositories[NAME].is_private = True
        hub.grant("hf_member", NAME)
        async with (
            open_house(hub, tmp_path) as house,
            house.client(tmp_path / "mine", hub_token="hf_member") as client,
        ):
            await client.pull(NAME)
        for path in (root / "models--demo--tiny/blobs").iterdir():
            os.utime(path, (1, 1))
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            commit = hub._repositories[NAME].branches["main"]
            record = await house.cache.prove_foreign(REF, commit, ALL_FILES)
            assert record is not None and not record.is_read_by_server
            with pytest.raises(Forbidden, match="token"):
                await pull(house)

    async def test_an_offline_client_still_gets_files_from_its_server(
        self, house: House, tmp_path: Path
    ) -> None:
        house.env = {**house.env, "HF_HUB_OFFLINE": "1"}
        async with house.client(tmp_path / "mine") as client:
            model = await client.pull(NAME)

        assert model.transfer is Transfer.STREAMED
        assert repository_tree(tmp_path / "mine") == repository_tree(house.root)

    async def test_what_was_adopted_without_a_listing_is_served_while_the_origin_is_down(
        self, house: House
    ) -> None:
        path = await fill_by_huggingface_hub(house.hub, house.root)
        drop_listings(house.root)
        await house.cache.adopt(REF, is_dry_run=False)
        house.hub.faults.add(Fault("status", "any", status=503, times=None))
        for model in (NAME, f"{NAME}@{path.name}"):
            assert (await pull(house, model)).path == path


class TestPartial:
    async def test_files_that_are_missing_are_brought_and_no_other(self, house: House) -> None:
        await fill_by_huggingface_hub(house.hub, house.root, ignore_patterns=["*.safetensors", "onnx/*"])
        house.hub.log.clear()
        await pull(house)

        assert bodies(house.hub) == sorted(["onnx/deep/er/extra file ü.txt", "onnx/model.onnx", WEIGHTS])

    async def test_an_interrupted_download_of_another_tool_is_completed_beside_its_leftover(
        self, house: House, tmp_path: Path
    ) -> None:
        held = house.hub.faults.add(Fault("hold", "body", WEIGHTS, after=40_000))
        arguments = {"repo_id": NAME, "cache_dir": str(house.root), "token": False, "max_workers": 1}
        running = await start_huggingface_hub(arguments, {"HF_ENDPOINT": house.hub.endpoint})
        while not list(house.root.glob("models--*/blobs/*.incomplete")) or not held.applied:
            await asyncio.sleep(0.02)
        running.kill()
        await running.wait()
        house.hub.faults.clear()
        had = {p.name for p in (house.root / "models--demo--tiny/blobs").iterdir()}
        leftovers = {name for name in had if name.endswith(".incomplete")}
        assert leftovers
        house.hub.log.clear()
        model = await pull(house)

        assert len(bodies(house.hub)) == len(SIZES) - (len(had) - len(leftovers))
        expected = await fill_by_huggingface_hub(house.hub, tmp_path / "theirs")
        assert tree(model.path.parent) == tree(expected.parent)
        plan = await house.cache.remove([REF], is_dry_run=False)
        left = {p.name for p in (house.root / "models--demo--tiny/blobs").iterdir()}
        assert leftovers <= left and plan.bytes_freed < sum(SIZES.values())

    async def test_huggingface_hub_goes_on_where_we_have_been(self, house: House) -> None:
        await pull(house, selection=Selection(include=("*.json", "*.safetensors")))
        house.hub.log.clear()
        path = await fill_by_huggingface_hub(house.hub, house.root)
        assert WEIGHTS not in bodies(house.hub) and "README.md" in bodies(house.hub)
        house.hub.log.clear()
        model = await pull(house)

        assert model.path == path and bodies(house.hub) == []
        plan = await house.cache.remove([REF], is_dry_run=False)
        sizes = {p: s for p, s in SIZES.items() if p.endswith((".json", ".safetensors"))}
        assert plan.bytes_freed == sum(sizes.values())
        assert (path / "README.md").exists() and not (path / WEIGHTS).exists()


class TestPlainFiles:
    """A cache on a file system without links, or copied with its links followed."""

    @pytest.fixture
    async def plain(self, hub: LocalHub, root: Path) -> Path:
        arguments = {"repo_id": NAME, "cache_dir": str(root), "token": False}
        env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_SYMLINKS": "1"}
        running = await start_huggingface_hub(arguments, env)
        said = (await running.communicate())[0].decode()
        hub.log.clear()
        return Path(said.strip())

    async def test_plain_files_are_hits_once_proven(
        self, plain: Path, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        before = repository_tree(root)
        async with open_house(hub, tmp_path) as house:
            assert (await pull(house)).path == plain and bodies(hub) == []
            assert (await pull(house)).was_hit
            [held] = await house.cache.list_held()
            assert held.bytes_ours == 0
            await house.cache.remove([REF], is_dry_run=False)

        assert repository_tree(root) == before

    async def test_adopted_plain_files_are_counted_and_freed(
        self, plain: Path, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            [adopted] = await house.cache.adopt(REF, is_dry_run=False)
            plan = await house.cache.remove([REF], is_dry_run=False)

        assert adopted.bytes_ours == plan.bytes_freed == sum(SIZES.values())
        assert plan.removals[0].files_removed == len(SIZES) and not plain.exists()

    async def test_a_damaged_plain_file_is_replaced(self, plain: Path, hub: LocalHub, tmp_path: Path) -> None:
        flip_a_byte(plain / WEIGHTS)
        async with open_house(hub, tmp_path) as house:
            await pull(house)
            [verified] = await house.cache.verify(REF, lambda progress: None)

        assert bodies(hub) == [WEIGHTS] and verified.is_sound

    async def test_copies_of_every_file_beside_its_blob_are_hits(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        path = await fill_by_huggingface_hub(hub, tmp_path / "theirs")
        shutil.copytree(tmp_path / "theirs", root, symlinks=False)
        hub.log.clear()
        async with open_house(hub, tmp_path) as house:
            assert (await pull(house)).path.name == path.name and bodies(hub) == []

    async def test_names_that_share_a_file_with_another_cache_never_change_it(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        path = await fill_by_huggingface_hub(hub, tmp_path / "theirs")
        shutil.copytree(tmp_path / "theirs", root, symlinks=True, copy_function=os.link)
        flip_a_byte(blob_of(path / WEIGHTS))  # in both
        before = repository_tree(tmp_path / "theirs")
        async with open_house(hub, tmp_path) as house:
            model = await pull(house)
            assert (model.path / WEIGHTS).read_bytes() == tiny_files()[WEIGHTS]
            await house.cache.adopt(REF, is_dry_run=False)
            await house.cache.remove([REF], is_dry_run=False)

        assert repository_tree(tmp_path / "theirs") == before


class TestMoved:
    async def test_a_moved_cache_is_as_good_as_before(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            await pull(house)
        shutil.move(root, tmp_path / "elsewhere")
        async with open_house(hub, tmp_path, cache__directory=str(tmp_path / "elsewhere")) as house:
            model = await pull(house)

        assert model.was_hit and model.path.is_relative_to(tmp_path / "elsewhere")

    async def test_a_copied_cache_is_proven_again_and_nothing_is_fetched(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            await pull(house)
        shutil.copytree(root, tmp_path / "copy", symlinks=True, copy_function=shutil.copyfile)
        hub.log.clear()
        async with open_house(hub, tmp_path, cache__directory=str(tmp_path / "copy")) as house:
            model = await pull(house)
            assert not model.was_hit and bodies(hub) == []
            assert (await house.cache.remove([REF], is_dry_run=True)).bytes_freed == sum(SIZES.values())

    async def test_a_model_directory_that_is_a_link_is_used(
        self, hub: LocalHub, tmp_path: Path, root: Path
    ) -> None:
        (tmp_path / "big-disk").mkdir()
        root.mkdir()
        (root / "models--demo--tiny").symlink_to(tmp_path / "big-disk")
        async with open_house(hub, tmp_path) as house:
            await pull(house)
            assert (await pull(house)).was_hit and len(await house.cache.list_held()) == 1


class TestSharing:
    async def fill_elsewhere(self, house: House) -> Path:
        arguments: dict[str, object] = {"repo_id": NAME, "cache_dir": str(house.root), "token": False}
        running = await start_huggingface_hub(arguments, {"HF_ENDPOINT": house.hub.endpoint})
        return Path((await running.communicate())[0].decode().strip())

    @pytest.mark.prove
    async def test_both_at_once_end_with_one_sound_cache(
        self, house: House, tmp_path: Path, proof_count: Callable[[int], int]
    ) -> None:
        expected = await fill_by_huggingface_hub(house.hub, tmp_path / "theirs")
        for seed in range(proof_count(2)):
            house.hub.faults.add(Fault("throttle", "body", times=5, rate=200_000 * (seed % 4 + 1)))
            ours, theirs = await asyncio.gather(pull(house), self.fill_elsewhere(house))
            assert ours.path == theirs
            assert tree(theirs) == tree(expected)
            [verified] = await house.cache.verify(REF, lambda progress: None)
            assert verified.is_sound and verified.files == len(SIZES)
            shutil.rmtree(house.root / "models--demo--tiny")

    async def test_huggingface_hub_sees_what_we_keep(self, house: House) -> None:
        await pull(house)
        found = scan_cache_dir(house.root)
        [repository] = found.repos
        [revision] = repository.revisions

        assert (repository.repo_id, revision.refs) == (NAME, frozenset({"main"}))
        assert repository.size_on_disk == sum(SIZES.values()) and repository.nb_files == len(SIZES)
        assert all(".mx" in str(warning) for warning in found.warnings)

    async def test_what_huggingface_hub_deletes_is_pulled_again(self, house: House) -> None:
        old = await pull(house)
        house.hub._repositories[NAME].commit({"config.json": b"{}"})
        new = await pull(house)
        before = repository_tree(house.root)
        scan_cache_dir(house.root).delete_revisions(old.commit).execute()
        assert [held.commit for held in await house.cache.list_held()] == [new.commit]
        again = await pull(house, f"{NAME}@{old.commit}")
        house.hub.log.clear()

        assert not again.was_hit and (await pull(house)).was_hit
        assert {p for p in repository_tree(house.root) if p in before} == set(before)

    async def test_a_blob_that_their_snapshot_needs_stays_whoever_fetched_it(self, house: House) -> None:
        repository = house.hub._repositories[NAME]
        repository.tags["v1"] = repository.branches["main"]
        repository.commit({"config.json": b"{}"})
        await pull(house)
        theirs = await fill_by_huggingface_hub(house.hub, house.root, revision="v1")
        expected = tree(theirs)
        planned = await house.cache.remove([ModelRef.parse(NAME, revision="main")], is_dry_run=True)
        done = await house.cache.remove([ModelRef.parse(NAME, revision="main")], is_dry_run=False)

        assert planned == done and done.bytes_freed == 2
        assert tree(theirs) == expected and all(p.exists() for p in theirs.rglob("*"))
        house.hub.log.clear()
        assert await fill_by_huggingface_hub(house.hub, house.root, revision="v1") == theirs
        assert house.hub.log.of("body") == []
