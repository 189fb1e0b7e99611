# SPDX-License-Identifier: Apache-2.0
"""What was asked for is part of the identity: selections stand beside each other and share their bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.caches import NAME, blob_of, fill_by_huggingface_hub, pull, requested_files
from tests.support.house import House, open_house, tree

from modelexpress import compose
from modelexpress.domain.errors import Invalid, NotFound
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import ALL_FILES, Selection, Weights
from modelexpress.testing.hub import LocalHub, Repository
from modelexpress.testing.hub.models import sharded_files, tiny_files, tiny_model

ADAPTER = {"adapter/adapter_config.json": b"{}", "adapter/pytorch_model.bin": b"only a second choice here"}
SECOND_CHOICES = {"pytorch_model.bin": b"old", "tf_model.h5": b"older", "flax_model.msgpack": b"oldest"}
SHARDED = "demo/sharded"
NO_WEIGHTS = Selection(Weights.NONE)
SAFETENSORS = Selection(Weights.SAFETENSORS_FIRST)
JSON = Selection(include=("*.json",))


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    sharded = Repository(SHARDED)
    sharded.commit({**sharded_files(3, 4000), **SECOND_CHOICES, **ADAPTER})
    async with LocalHub([tiny_model(NAME), sharded]) as hub:
        yield hub


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def bodies(house: House) -> set[str]:
    found = [request.file for request in house.hub.log.of("body")]
    assert len(found) == len(set(found)), "a file was fetched twice"
    return set(found)


async def test_each_selection_is_complete_by_itself(house: House) -> None:
    for selection in (JSON, NO_WEIGHTS, ALL_FILES):
        assert not (await pull(house, selection=selection)).was_hit
    for selection in (JSON, NO_WEIGHTS, ALL_FILES):
        assert (await pull(house, selection=selection)).was_hit
    [held] = await house.cache.list_held()

    assert set(held.selections) == {JSON.key, "none", "all"}
    assert bodies(house) == requested_files()


async def test_a_narrower_selection_after_a_wider_one_fetches_nothing(house: House) -> None:
    await pull(house)
    house.hub.log.clear()
    for selection in (NO_WEIGHTS, JSON, SAFETENSORS, Selection(exclude=("*.bin",))):
        await pull(house, selection=selection)

    assert bodies(house) == set()


async def test_overlapping_selections_fetch_each_file_once(house: House) -> None:
    first = await pull(house, selection=Selection(include=("*.json", "*.md")))
    house.hub.log.clear()
    await pull(house, selection=Selection(include=("*.md", "*.txt")))

    assert bodies(house) == {"onnx/deep/er/extra file ü.txt"}
    assert names_below(first.path) == {
        "config.json", "tokenizer.json", "README.md", "empty.txt", "onnx/deep/er/extra file ü.txt",
    }  # fmt: skip


async def test_a_selection_stays_whole_when_a_wider_one_is_damaged(house: House) -> None:
    await pull(house, selection=JSON)
    model = await pull(house)
    blob_of(model.path / "model.safetensors").unlink()

    assert (await pull(house, selection=JSON)).was_hit
    house.hub.log.clear()
    assert not (await pull(house)).was_hit and bodies(house) == {"model.safetensors"}


async def test_removing_a_model_removes_all_its_selections(house: House) -> None:
    for selection in (JSON, ALL_FILES):
        await pull(house, selection=selection)
    await house.cache.remove([ModelRef.parse(NAME)], is_dry_run=False)

    assert not list(house.root.glob("models--*"))
    assert not (await pull(house, selection=JSON)).was_hit


async def test_safetensors_come_first_and_second_choices_where_there_are_none(house: House) -> None:
    model = await pull(house, SHARDED, SAFETENSORS)

    assert names_below(model.path) == {*sharded_files(3, 4000), *ADAPTER}


async def test_a_set_of_shards_that_is_not_whole_does_not_come_first(house: House) -> None:
    broken = Repository("demo/broken")
    shards = sharded_files(3, 4000)
    del shards["model-00002-of-00003.safetensors"]
    broken.commit({**shards, **SECOND_CHOICES})
    house.hub.add(broken)
    model = await pull(house, "demo/broken", SAFETENSORS)

    assert names_below(model.path) == {*shards, *SECOND_CHOICES}


async def test_patterns_mean_what_they_mean_to_huggingface_hub(house: House, tmp_path: Path) -> None:
    cases: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        (("*.json",), ()),
        ((), ("*.bin", "onnx/*")),
        (("onnx/",), ("*.onnx",)),
        (("*.safetensors", "conf*"), ("*.json",)),
        (("[a-m]*",), ()),
        (("?onfig.json", "*extra*"), ()),
    ]
    for number, (include, exclude) in enumerate(cases):
        theirs = await fill_by_huggingface_hub(
            house.hub,
            tmp_path / f"t{number}",
            allow_patterns=list(include) or None,
            ignore_patterns=list(exclude) or None,
        )
        async with house.client(tmp_path / f"o{number}") as client:
            ours = await client.pull(NAME, Selection(include=include, exclude=exclude))
        assert tree(ours.path) == tree(theirs), (include, exclude)


async def test_a_selection_without_any_file_is_not_found(house: House) -> None:
    with pytest.raises(NotFound, match="selection"):
        await pull(house, selection=Selection(include=("*.nothing",)))

    assert not list(house.root.glob("models--*")) and await house.cache.list_held() == []


async def test_the_settings_choose_for_callers_who_do_not(hub: LocalHub, tmp_path: Path) -> None:
    patterns = [
        {"models": "demo/sh*", "weights": "safetensors-first"},
        {"models": "demo/*", "include": ["*.json"], "exclude": ["tok*"]},
        {"models": "*", "exclude": ["*.safetensors"]},
    ]
    hub.add(tiny_model("other/tiny"))
    async with open_house(hub, tmp_path, pull__patterns=patterns) as house:
        first = await pull(house, SHARDED)
        second = await pull(house, NAME)
        third = await pull(house, "other/tiny")
        chosen = await pull(house, NAME, ALL_FILES)

    assert first.selection == SAFETENSORS and "pytorch_model.bin" not in names_below(first.path)
    assert second.selection == Selection(include=("*.json",), exclude=("tok*",))
    assert third.selection == Selection(
        exclude=("*.safetensors",)
    ) and "model.safetensors" not in names_below(third.path)
    assert chosen.selection == ALL_FILES and names_below(chosen.path) == set(tiny_files())


async def test_a_streamed_copy_has_the_files_that_the_servers_settings_choose(
    hub: LocalHub, tmp_path: Path
) -> None:
    patterns = [{"models": NAME, "include": ["*.json"]}]
    async with (
        open_house(hub, tmp_path, pull__patterns=patterns) as house,
        house.client(tmp_path / "mine") as client,
    ):
        model = await client.pull(NAME)

    assert names_below(model.path) == {"config.json", "tokenizer.json"}


@pytest.mark.parametrize(
    "pattern",
    [{"include": ["*"]}, {"models": "x", "weights": "some"}, {"models": "x", "includes": ["*"]}, "x"],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: object) -> None:
    with pytest.raises(Invalid, match=r"pull\.patterns"):
        compose.load_settings("server", {"pull.patterns": [pattern]}, {})
