# SPDX-License-Identifier: Apache-2.0
"""Selections: which files they take, and when two are the same."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.domain.errors import Invalid
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.selection import Selection, Weights, is_ancillary, is_weight


def chosen(selection: Selection, *paths: str) -> list[str]:
    return [entry.path for entry in selection.choose(FileEntry(path, 1) for path in paths)]


def test_everything_is_taken_by_default() -> None:
    paths = [".gitattributes", "README.md", "a/b/c.png", "model.safetensors", "pytorch_model.bin"]

    assert chosen(Selection(), *paths) == paths


def test_without_weights_the_weight_suffixes_go_at_any_depth() -> None:
    paths = ["config.json", "model.safetensors", "unet/x.bin", "flax_model.msgpack", "model.gguf", "X.BIN"]

    assert chosen(Selection(Weights.NONE), *paths) == ["config.json", "model.gguf", "X.BIN"]


def test_include_and_exclude_work_as_in_hf_download() -> None:
    paths = ["config.json", "onnx/model.onnx", "onnx/deep/x.bin", "model.safetensors"]

    assert chosen(Selection(include=("*.json", "onnx/")), *paths) == paths[:3]
    assert chosen(Selection(exclude=("onnx/*",)), *paths) == [paths[0], paths[3]]
    assert chosen(Selection(include=("onnx/*",), exclude=("*.bin",)), *paths) == [paths[1]]


def test_safetensors_first_drops_other_formats_beside_a_complete_set_only() -> None:
    selection = Selection(Weights.SAFETENSORS_FIRST)

    assert chosen(selection, "model.safetensors", "pytorch_model.bin", "tf_model.h5", "rust_model.ot") == [
        "model.safetensors"
    ]
    assert chosen(selection, "pytorch_model.bin", "config.json") == ["pytorch_model.bin", "config.json"]


def test_safetensors_first_keeps_other_formats_where_a_shard_is_not_there() -> None:
    selection = Selection(Weights.SAFETENSORS_FIRST)
    shards = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]

    assert "pytorch_model.bin" in chosen(selection, *shards, "pytorch_model.bin")
    assert "pytorch_model.bin" not in chosen(
        selection, *shards, "model-00003-of-00003.safetensors", "pytorch_model.bin"
    )


def test_safetensors_first_looks_at_each_folder_by_itself() -> None:
    paths = ["unet/model.safetensors", "unet/model.bin", "vae/model.bin"]

    assert chosen(Selection(Weights.SAFETENSORS_FIRST), *paths) == ["unet/model.safetensors", "vae/model.bin"]


BINS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]


@pytest.mark.parametrize(
    ("safetensors", "kept", "dropped"),
    [
        (["adapter_model.safetensors"], BINS, ["adapter_model.bin"]),
        (["pytorch_lora_weights.safetensors"], BINS, ["pytorch_lora_weights.bin"]),
        (["model.safetensors"], ["adapter_model.bin", "pytorch_lora_weights.bin"], BINS),
        (
            ["diffusion_pytorch_model.fp16.safetensors"],
            ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.bf16.bin"],
            ["diffusion_pytorch_model.fp16.bin"],
        ),
        (["model.safetensors"], ["pytorch_model.fp16.bin"], ["pytorch_model.bin", "tf_model.h5"]),
        (
            ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
            BINS,
            ["pytorch_model.fp16.bin", "pytorch_model-00001-of-00002.fp16.bin"],
        ),
        (
            ["model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"],
            BINS,
            ["pytorch_model.fp16-00001-of-00002.bin", "flax_model.fp16.msgpack"],
        ),
        # Half of one spelling and half of the other are no set.
        (
            ["model-00001-of-00002.fp16.safetensors", "model.fp16-00002-of-00002.safetensors"],
            ["pytorch_model.fp16.bin"],
            [],
        ),
        (
            ["model-00001-of-00002.safetensors", "model.fp16.safetensors"],
            ["pytorch_model.bin"],
            ["pytorch_model.fp16.bin"],
        ),
        (["model.safetensors"], ["original/consolidated.00.pth"], ["consolidated.00.pth"]),
        (["consolidated.safetensors"], [], ["consolidated.00.pth", "consolidated.01.pth"]),
    ],
)
def test_safetensors_first_drops_only_what_the_safetensors_are_another_form_of(
    safetensors: list[str], kept: list[str], dropped: list[str]
) -> None:
    paths = ["config.json", *safetensors, *kept, *dropped]

    assert chosen(Selection(Weights.SAFETENSORS_FIRST), *paths) == ["config.json", *safetensors, *kept]


FOLDERS = st.sampled_from(["", "unet/", "v1.5/text_encoder/"])
STEMS = st.sampled_from(["model", "pytorch_model", "adapter_model"])
VARIANTS = st.sampled_from(["", ".fp16", ".non_ema"])
SHARDS = st.sampled_from(["", "-00001-of-00002", "-00002-of-00002", "-00001-of-00001"])
ENDINGS = st.sampled_from(["safetensors", "bin", "h5", "pth", "json"])


@st.composite
def weight_files(draw: st.DrawFn) -> tuple[str, tuple[str, bool, str], str]:
    """A path, and what makes two of them forms of one set; and its ending."""
    folder, stem, variant = draw(FOLDERS), draw(STEMS), draw(VARIANTS)
    pieces = draw(st.permutations([variant, draw(SHARDS)]))
    ending = draw(ENDINGS)
    own = (folder, stem.startswith("adapter_"), variant)
    return f"{folder}{stem}{''.join(pieces)}.{ending}", own, ending


@given(st.lists(weight_files(), max_size=12, unique_by=lambda file: file[0]))
def test_what_is_dropped_has_safetensors_of_its_own_set_whatever_is_listed(
    files: Sequence[tuple[str, tuple[str, bool, str], str]],
) -> None:
    selection = Selection(Weights.SAFETENSORS_FIRST)
    taken = chosen(selection, *(path for path, _, _ in files))
    for path, own, ending in files:
        beside = [other for other, set_of, kind in files if set_of == own and kind == "safetensors"]
        if path not in taken:
            assert ending in ("bin", "h5", "pth") and beside
            assert any("-of-00002" not in other for other in beside) or len(beside) >= 2
        if ending in ("bin", "h5", "pth") and beside and all("-of-" not in other for other in beside):
            assert path not in taken
    assert selection.choose([FileEntry(path, 1) for path in taken]) == tuple(
        FileEntry(path, 1) for path in taken
    )


def test_equal_selections_have_one_key_and_different_ones_do_not() -> None:
    assert Selection(include=("b", "a", "a")).key == Selection(include=("a", "b")).key
    keys = {
        Selection().key,
        Selection(Weights.NONE).key,
        Selection(include=("a",)).key,
        Selection(exclude=("a",)).key,
        Selection(Weights.NONE, include=("a",)).key,
    }
    assert len(keys) == 5


@pytest.mark.parametrize("patterns", [("",), ("x" * 2000,), ("a\0",), tuple(f"p{n}" for n in range(300))])
def test_hostile_patterns_are_refused(patterns: tuple[str, ...]) -> None:
    with pytest.raises(Invalid):
        Selection(include=patterns)


def test_readmes_and_pictures_are_ancillary_and_what_an_engine_reads_is_not() -> None:
    assert all(map(is_ancillary, ["README.md", "x/LICENSE.txt", ".gitattributes", "a/fig.PNG"]))
    assert not any(
        map(is_ancillary, ["config.json", "merges.txt", "model.safetensors", "tokenizer.model", "m.py"])
    )


def test_weight_suffixes_are_case_sensitive() -> None:
    assert is_weight("a/b.safetensors") and is_weight("x.ckpt.index")
    assert not is_weight("b.SAFETENSORS") and not is_weight("b.gguf")
