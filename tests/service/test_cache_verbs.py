# SPDX-License-Identifier: Apache-2.0
"""The verbs of `modelexpress cache`, the same on a directory and at a server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
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
    requested_files,
)
from tests.support.house import House, tree_at_rest

from modelexpress.domain.control import CacheControl
from modelexpress.domain.errors import NotFound
from modelexpress.domain.held import HeldSnapshot, Verified
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef
from modelexpress.testing.hub.models import tiny_files, tiny_model

REF = ModelRef.parse(NAME)
FILES = len(tiny_files())
BYTES = sum(len(content) for content in tiny_files().values() if isinstance(content, bytes))


def ignore(progress: Progress) -> None:
    pass


def commit(house: House, files: dict[str, bytes | Path], branch: str = "main") -> str:
    return house.hub._repositories[NAME].commit(files, branch=branch)


async def list_one(control: CacheControl) -> HeldSnapshot:
    [held] = await control.list_held()
    return held


async def verify_one(control: CacheControl) -> Verified:
    [verified] = await control.verify(REF, ignore)
    return verified


class TestListing:
    async def test_an_empty_cache_holds_nothing(self, control: CacheControl) -> None:
        assert await control.list_held() == []
        assert await control.verify(None, ignore) == []
        assert await control.adopt(None, is_dry_run=False) == []
        plan = await control.prune(is_dry_run=False)
        assert (plan.removals, plan.bytes_freed) == ((), 0)

    async def test_a_pulled_model_is_listed_with_all_that_is_known(
        self, house: House, control: CacheControl
    ) -> None:
        model = await pull(house)
        held = await list_one(control)

        assert (held.name, held.commit, held.path) == (NAME, model.commit, str(model.path))
        assert (held.refs, held.selections) == (("main",), ("all",))
        assert (held.files, held.bytes, held.bytes_ours) == (FILES, BYTES, BYTES)
        assert held.is_recorded and not held.is_adopted and held.last_used_at is not None

    async def test_a_snapshot_of_another_tool_is_listed_as_not_ours(
        self, house: House, control: CacheControl
    ) -> None:
        await fill_by_huggingface_hub(house.hub, house.root)
        held = await list_one(control)

        assert (held.files, held.bytes, held.bytes_ours) == (FILES, BYTES, 0)
        assert not held.is_recorded and not held.is_adopted and held.selections == ()

    async def test_models_are_listed_by_name_and_commit_and_strange_directories_are_passed_over(
        self, house: House, control: CacheControl
    ) -> None:
        house.hub.add(tiny_model("demo/another", 2))
        await pull(house)
        commit(house, {"config.json": b"{}"})
        await pull(house)
        await pull(house, "demo/another")
        for strange in ("models--", "models--a--b--c--d", "datasets--x--y", "models--ok/snapshots/nocommit"):
            (house.root / strange).mkdir(parents=True)
        (house.root / "models--a--file").write_text("")
        held = await control.list_held()

        assert [h.name for h in held] == ["demo/another", NAME, NAME]
        assert [(h.name, h.commit) for h in held] == sorted((h.name, h.commit) for h in held)


class TestRemoving:
    async def test_a_removed_model_is_gone_with_every_trace(
        self, house: House, control: CacheControl
    ) -> None:
        await pull(house)
        plan = await control.remove([REF], is_dry_run=False)

        assert (plan.bytes_freed, plan.removals[0].files_removed, plan.notes) == (BYTES, FILES, ())
        assert models_tree(house.root) == {} and not list(house.root.glob("models--*"))
        assert await control.list_held() == []
        with pytest.raises(NotFound, match="nothing to remove"):
            await control.remove([REF], is_dry_run=False)

    async def test_a_dry_run_tells_the_same_plan_and_changes_nothing(
        self, house: House, control: CacheControl
    ) -> None:
        await pull(house)
        before = models_tree(house.root)
        planned = await control.remove([REF], is_dry_run=True)

        assert models_tree(house.root) == before
        assert await control.remove([REF], is_dry_run=False) == planned

    async def test_one_revision_goes_and_the_files_it_shares_stay(
        self, house: House, control: CacheControl
    ) -> None:
        old = await pull(house)
        commit(house, {"config.json": b"{}"})
        new = await pull(house)
        plan = await control.remove([ModelRef.parse(NAME, revision=old.commit)], is_dry_run=False)

        assert [r.commit for r in plan.removals] == [old.commit]
        assert plan.removals[0].files_removed == 1 and plan.removals[0].files_kept == FILES - 1
        assert not old.path.exists() and (new.path / WEIGHTS).exists()
        assert (await verify_one(control)).is_sound
        house.hub.log.clear()
        assert (await pull(house)).was_hit and house.hub.log.of("body") == []
        await control.remove([REF], is_dry_run=False)
        assert models_tree(house.root) == {}

    async def test_a_revision_that_is_not_here_is_not_found(
        self, house: House, control: CacheControl
    ) -> None:
        await pull(house)
        before = models_tree(house.root)
        for revision in ("v9", "0" * 40):
            with pytest.raises(NotFound):
                await control.remove([ModelRef.parse(NAME, revision=revision)], is_dry_run=False)

        assert models_tree(house.root) == before

    async def test_a_list_with_an_unknown_model_removes_nothing(
        self, house: House, control: CacheControl
    ) -> None:
        await pull(house)
        before = models_tree(house.root)
        for is_dry_run in (True, False):
            with pytest.raises(NotFound, match="demo/nothing"):
                await control.remove([REF, ModelRef.parse("demo/nothing")], is_dry_run)

        assert models_tree(house.root) == before

    async def test_a_model_named_twice_is_counted_once(self, house: House, control: CacheControl) -> None:
        await pull(house)
        refs = [REF, REF, ModelRef.parse(NAME, revision="main")]
        planned = await control.remove(refs, is_dry_run=True)

        assert planned.bytes_freed == BYTES
        assert await control.remove(refs, is_dry_run=False) == planned

    async def test_a_record_whose_files_are_gone_can_be_removed(
        self, house: House, control: CacheControl
    ) -> None:
        await pull(house)
        shutil.rmtree(house.root / "models--demo--tiny")
        plan = await control.remove([REF], is_dry_run=False)

        assert plan.bytes_freed == 0 and models_tree(house.root) == {}

    async def test_what_is_removed_is_pulled_again(self, house: House, control: CacheControl) -> None:
        before = await pull(house)
        expected = models_tree(house.root)
        await control.remove([REF], is_dry_run=False)
        after = await pull(house)

        assert not after.was_hit and after.path == before.path
        assert set(models_tree(house.root)) == set(expected)


class TestForeignRemoval:
    @pytest.mark.parametrize("is_served", [False, True], ids=["untouched", "served"])
    async def test_what_another_tool_fetched_stays_until_it_is_adopted(
        self, house: House, control: CacheControl, is_served: bool
    ) -> None:
        await fill_by_huggingface_hub(house.hub, house.root)
        before = repository_tree(house.root)
        if is_served:
            await pull(house)
        plan = await control.remove([REF], is_dry_run=False)
        assert plan.bytes_freed == 0 and "cache adopt" in plan.notes[0]
        await control.prune(is_dry_run=False)
        assert repository_tree(house.root) == before

        [adopted] = await control.adopt(REF, is_dry_run=False)
        assert adopted.is_adopted and adopted.bytes_ours == BYTES
        assert (await control.remove([REF], is_dry_run=False)).bytes_freed == BYTES
        assert not list(house.root.glob("models--demo--tiny/*/*"))

    async def test_only_our_part_of_a_shared_snapshot_goes(self, house: House, control: CacheControl) -> None:
        await fill_by_huggingface_hub(house.hub, house.root, ignore_patterns=["*.safetensors"])
        theirs = repository_tree(house.root)
        await pull(house)
        held = await list_one(control)
        size = (Path(held.path) / WEIGHTS).stat().st_size
        plan = await control.remove([REF], is_dry_run=False)

        assert held.bytes_ours == plan.bytes_freed == size and plan.notes
        assert repository_tree(house.root) == theirs


class TestPruning:
    async def test_snapshots_that_no_ref_names_go_and_named_ones_stay(
        self, house: House, control: CacheControl
    ) -> None:
        old = await pull(house)
        commit(house, {"config.json": b'{"v": 2}'})
        new = await pull(house)
        before = models_tree(house.root)
        planned = await control.prune(is_dry_run=True)
        assert models_tree(house.root) == before
        done = await control.prune(is_dry_run=False)

        assert planned == done and [r.commit for r in done.removals] == [old.commit]
        assert not old.path.exists() and (await verify_one(control)).is_sound
        assert (await list_one(control)).commit == new.commit
        assert (await control.prune(is_dry_run=False)).removals == ()

    async def test_a_tag_keeps_its_snapshot(self, house: House, control: CacheControl) -> None:
        repository = house.hub._repositories[NAME]
        repository.tags["v1"] = repository.branches["main"]
        old = await pull(house, f"{NAME}@v1")
        commit(house, {"config.json": b"{}"})
        await pull(house)

        assert (await control.prune(is_dry_run=False)).removals == () and old.path.exists()

    async def test_a_model_that_was_pulled_by_commit_alone_stays(
        self, house: House, control: CacheControl
    ) -> None:
        pinned = await pull(house, f"{NAME}@{house.hub._repositories[NAME].branches['main']}")

        assert (await control.prune(is_dry_run=False)).removals == () and pinned.path.exists()

    async def test_snapshots_of_other_tools_stay_whatever_names_them(
        self, house: House, control: CacheControl
    ) -> None:
        await fill_by_huggingface_hub(house.hub, house.root)
        commit(house, {"config.json": b"{}"})
        await fill_by_huggingface_hub(house.hub, house.root)
        before = tree_at_rest(house.root)

        assert (await control.prune(is_dry_run=False)).bytes_freed == 0
        assert tree_at_rest(house.root) == before

    async def test_leftovers_of_long_ago_are_swept_and_fresh_ones_are_not(
        self, house: House, control: CacheControl
    ) -> None:
        old, fresh = (house.root / f".mx/partials/{name}.1.part" for name in ("gone", "living"))
        for path in (old, fresh):
            path.write_bytes(b"12345")
        os.utime(old, (1, 1))
        (house.root / ".mx/trash/x").mkdir()
        (house.root / ".mx/trash/x/0").write_bytes(b"1234567")
        planned = await control.prune(is_dry_run=True)
        assert old.exists()
        done = await control.prune(is_dry_run=False)

        assert planned == done and (done.leftovers, done.leftover_bytes) == (2, 12)
        assert not old.exists() and fresh.exists() and not list((house.root / ".mx/trash").iterdir())


def cut_short(blob: Path) -> None:
    os.truncate(blob, blob.stat().st_size - 1)


def make_longer(blob: Path) -> None:
    with blob.open("ab") as file:
        file.write(b"x")


def make_a_directory(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()


def make_a_fifo(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


def link_to_itself(blob: Path) -> None:
    blob.unlink()
    blob.symlink_to(blob.name)


def link_to_nowhere(blob: Path) -> None:
    blob.unlink()
    blob.symlink_to("nowhere")


def link_outside(blob: Path) -> None:
    size = blob.stat().st_size
    outside = next(p for p in blob.parents if p.name == "server-cache").with_name("outside")
    outside.write_bytes(b"x" * size)
    blob.unlink()
    blob.symlink_to(outside)


DAMAGES: dict[str, Callable[[Path], None]] = {
    WEIGHTS: flip_a_byte,
    "config.json": cut_short,
    "README.md": make_longer,
    "pytorch_model.bin": Path.unlink,
    "empty.txt": make_a_directory,
    "onnx/model.onnx": make_a_fifo,
    "figure.png": link_to_itself,
    "tokenizer.json": link_to_nowhere,
    "onnx/deep/er/extra file ü.txt": link_outside,
}


class TestVerifying:
    async def test_sound_files_are_counted_and_progress_is_told(
        self, house: House, control: CacheControl
    ) -> None:
        await pull(house)
        heard: list[Progress] = []
        [verified] = await control.verify(None, heard.append)

        assert verified.is_sound and (verified.files, verified.unproven) == (FILES, 0)
        assert verified.bytes == BYTES and heard[-1].bytes_done == heard[-1].bytes_total == BYTES

    async def test_damaged_blobs_are_found_and_the_next_pull_brings_them_alone(
        self, house: House, control: CacheControl
    ) -> None:
        model = await pull(house)
        expected = repository_tree(house.root)
        for name, damage in DAMAGES.items():
            damage(blob_of(model.path / name))
        found = await verify_one(control)
        assert [d.path for d in found.damages] == sorted(DAMAGES) and not found.is_sound
        house.hub.log.clear()
        again = await pull(house)

        fetched = {request.file for request in house.hub.log.of("body")}
        assert fetched == set(DAMAGES) & requested_files()
        assert not again.was_hit and repository_tree(house.root) == expected
        assert (await verify_one(control)).is_sound

    async def test_damaged_links_are_found_and_mended_with_no_byte_fetched(
        self, house: House, control: CacheControl
    ) -> None:
        model = await pull(house)
        expected = repository_tree(house.root)
        broken = [
            name for name, damage in DAMAGES.items() if damage not in (flip_a_byte, cut_short, make_longer)
        ]
        for name in broken:
            DAMAGES[name](model.path / name)
        assert [d.path for d in (await verify_one(control)).damages] == sorted(broken)
        house.hub.log.clear()
        await pull(house)

        assert house.hub.log.of("body") == []
        assert repository_tree(house.root) == expected
        assert (await verify_one(control)).is_sound

    async def test_a_lost_snapshot_directory_is_damage_of_every_file(
        self, house: House, control: CacheControl
    ) -> None:
        model = await pull(house)
        shutil.rmtree(model.path)
        for ref in (REF, ModelRef.parse(NAME, revision=model.commit), None):
            [found] = await control.verify(ref, ignore)
            assert len(found.damages) == FILES and {d.problem for d in found.damages} == {"missing"}
            await pull(house)
            shutil.rmtree(model.path)

    async def test_a_snapshot_of_another_tool_is_proven_and_stays_theirs(
        self, house: House, control: CacheControl
    ) -> None:
        await fill_by_huggingface_hub(house.hub, house.root, allow_patterns=["*.json", "*.safetensors"])
        before = tree_at_rest(house.root)
        assert (await verify_one(control)).is_sound
        flip_a_byte(blob_of(next(house.root.glob(f"models--*/snapshots/*/{WEIGHTS}"))))
        found = await verify_one(control)

        assert [d.path for d in found.damages] == [WEIGHTS]
        assert set(tree_at_rest(house.root)) == set(before)

    async def test_an_unknown_model_is_not_found(self, house: House, control: CacheControl) -> None:
        await pull(house)
        for name in ("demo/nothing", f"{NAME}@v9"):
            with pytest.raises(NotFound, match="nothing to verify"):
                await control.verify(ModelRef.parse(name), ignore)
            with pytest.raises(NotFound, match="nothing to adopt"):
                await control.adopt(ModelRef.parse(name), is_dry_run=True)


class TestAdopting:
    async def test_a_dry_run_tells_the_same_and_changes_nothing(
        self, house: House, control: CacheControl
    ) -> None:
        await fill_by_huggingface_hub(house.hub, house.root)
        before = tree_at_rest(house.root)
        [planned] = await control.adopt(None, is_dry_run=True)
        assert {p: c for p, c in tree_at_rest(house.root).items() if p in before} == before
        assert not (await list_one(control)).is_adopted
        [adopted] = await control.adopt(None, is_dry_run=False)

        assert (planned.is_adopted, planned.bytes_ours) == (adopted.is_adopted, adopted.bytes_ours)
        assert (await list_one(control)).is_adopted
        assert await control.adopt(None, is_dry_run=False) == []

    async def test_a_damaged_snapshot_is_left_as_it_is(self, house: House, control: CacheControl) -> None:
        await fill_by_huggingface_hub(house.hub, house.root)
        flip_a_byte(blob_of(next(house.root.glob(f"models--*/snapshots/*/{WEIGHTS}"))))

        assert await control.adopt(REF, is_dry_run=False) == []
        assert not (await list_one(control)).is_adopted
        assert (await control.remove([REF], is_dry_run=False)).bytes_freed == 0

    async def test_a_part_that_another_tool_fetched_on_purpose_is_adopted_as_a_part(
        self, house: House, control: CacheControl
    ) -> None:
        await fill_by_huggingface_hub(house.hub, house.root, allow_patterns=["*.safetensors"])
        [adopted] = await control.adopt(REF, is_dry_run=False)
        assert (adopted.files, adopted.is_adopted) == (1, True)
        house.hub.log.clear()
        model = await pull(house)

        fetched = {request.file for request in house.hub.log.of("body")}
        assert not model.was_hit and fetched == requested_files() - {WEIGHTS}
        assert (await control.remove([REF], is_dry_run=False)).bytes_freed == BYTES
