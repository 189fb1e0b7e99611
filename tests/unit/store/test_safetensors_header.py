# SPDX-License-Identifier: Apache-2.0
"""What is said of safetensors files and their indexes, beside what the loader itself says."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors as loader
from hypothesis import example, given
from hypothesis import strategies as st

from modelexpress.store.flaws import find_flaw
from modelexpress.store.safetensors_header import (
    MOST_HEADER_BYTES,
    START_BYTES,
    find_header_problem,
    find_missing_shards,
)
from modelexpress.testing.hub.models import safetensors, sharded_files

INDEX = "model.safetensors.index.json"
BROKEN_MAPS = [
    b'{"weight_map":3}',
    b'{"weight_map":{"a":3}}',
    b'{"weight_map":{}} x',
    b'{"a":' + b"[" * 99_999,
]


def file_of(header: object, data_bytes: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def problem_of(content: bytes) -> str | None:
    length = int.from_bytes(content[:START_BYTES], "little")
    return find_header_problem(content[: START_BYTES + min(length, len(content))], len(content))


def is_loaded(content: bytes) -> bool:
    try:
        loader.deserialize(content)
    except loader.SafetensorError:
        return False
    return True


def tensor(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


WELL_FORMED: dict[str, bytes] = {
    "two vectors": safetensors({"a": 10, "b": 3}),
    "no tensor at all": file_of({}),
    "metadata with braces": file_of({"__metadata__": {"config": '{"a": [{"b": 1}]}'}, "a": tensor(0, 4)}, 4),
    "in another order": file_of({"b": tensor(4, 8), "a": tensor(0, 4)}, 8),
    "an empty tensor between": file_of({"a": tensor(0, 4), "b": tensor(4, 4), "c": tensor(4, 6)}, 6),
    "a number": file_of({"a": tensor(0, 8, "F64", [])}, 8),
    "half bytes": file_of({"a": tensor(0, 3, "F4", [2, 3])}, 3),
    "spaces behind": file_of(json.dumps({"a": tensor(0, 1)}).encode() + b"   ", 1),
    "unknown fields": file_of({"a": {**tensor(0, 1), "more": [1]}}, 1),
}

MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes cannot be"),
    "seven bytes": (b"1234567", "cannot be"),
    "a header longer than the file": (struct.pack("<Q", 100) + b"{}", "more than the file"),
    "a header longer than any": (struct.pack("<Q", MOST_HEADER_BYTES + 1) + b"{}", "at most"),
    "no JSON": (file_of(b"hello"), "begin with"),
    "a list": (file_of([1]), "begin with"),
    "cut JSON": (file_of(b'{"a": '), "no JSON"),
    "something behind it": (file_of(b"{} x"), "Extra data"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "UTF-8"),
    "no object": (file_of({"a": 3}), "not described by an object"),
    "no offsets": (file_of({"a": {"dtype": "U8", "shape": [1]}}, 1), "lacks"),
    "three offsets": (file_of({"a": {**tensor(0, 1), "data_offsets": [0, 1, 2]}}, 1), "lacks"),
    "negative": (file_of({"a": {**tensor(0, 1), "data_offsets": [-1, 0]}}, 1), "lacks"),
    "true for 1": (file_of({"a": {**tensor(0, 1), "shape": [True]}}, 1), "lacks"),
    "a fraction": (file_of({"a": {**tensor(0, 1), "shape": [1.0]}}, 1), "lacks"),
    "bytes that belong to none": (file_of({"a": tensor(0, 4)}, 5), "its data 5"),
    "a gap": (file_of({"a": tensor(0, 4), "b": tensor(5, 6)}, 6), "does not begin where"),
    "an overlap": (file_of({"a": tensor(0, 4), "b": tensor(3, 6)}, 6), "does not begin where"),
    "bytes that are not there": (file_of({"a": tensor(0, 4)}, 3), "not within"),
    "another shape": (file_of({"a": tensor(0, 4, "F32", [2])}, 4), "does not fit"),
    "a huge shape": (file_of({"a": tensor(0, 4, "F32", [2**62, 2**62])}, 4), "does not fit"),
    "backwards": (
        file_of({"a": {"dtype": "NEW", "shape": [1], "data_offsets": [4, 0]}}, 4),
        "does not begin",
    ),
    "text for metadata": (file_of({"__metadata__": "x"}), "not an object of texts"),
    "a number in metadata": (file_of({"__metadata__": {"a": 1}}), "not an object of texts"),
    "a field twice": (
        file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1),
        "twice",
    ),
}


class TestHeaders:
    @pytest.mark.parametrize("name", WELL_FORMED)
    def test_what_loads_has_no_problem(self, name: str) -> None:
        assert problem_of(WELL_FORMED[name]) is None and is_loaded(WELL_FORMED[name])

    @pytest.mark.parametrize("name", MALFORMED)
    def test_what_does_not_load_is_told(self, name: str) -> None:
        content, expected = MALFORMED[name]

        assert expected in (problem_of(content) or "nothing was said") and not is_loaded(content)

    def test_a_name_that_stands_there_twice_is_told(self) -> None:
        twice = json.dumps({"a": tensor(0, 1)})[:-1] + ", " + json.dumps({"a": tensor(0, 1)})[1:]

        assert "twice" in (problem_of(file_of(twice.encode(), 1)) or "")

    def test_of_a_dtype_that_is_not_known_the_place_alone_counts(self) -> None:
        assert problem_of(file_of({"a": tensor(0, 5, "NEW9", [2])}, 5)) is None
        assert problem_of(file_of({"a": tensor(0, 5, "NEW9", [2])}, 6)) is not None

    def test_what_it_says_is_short_whatever_the_file_says(self) -> None:
        names = ["n" * 1_000_000, "\ud800", "\n" * 9999, "\x1b[2J"]
        for name in names:
            said = problem_of(file_of({name: tensor(0, 4, "F32", [3] * 2000)}, 4))
            assert said is not None and len(said) < 500 and said.isprintable()
            said.encode()

    @given(st.binary(max_size=200), st.integers(0, 300))
    def test_no_bytes_make_it_raise(self, content: bytes, size: int) -> None:
        assert find_header_problem(content, size) or is_loaded(content[:size])
        problem_of(file_of(content, 3))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
        st.integers(0, 20),
    )
    @example({"a": {"dtype": "F32", "shape": [[[]]], "data_offsets": {}}}, 0)
    def test_no_json_makes_it_raise(self, header: object, data_bytes: int) -> None:
        content = file_of({"a": header}, data_bytes)

        assert problem_of(content) is not None or is_loaded(content)

    @pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":{"b":' + b"[" * 5000, b'"', b"{" * 9000])
    def test_depth_and_length_do_not_make_it_raise(self, opening: bytes) -> None:
        for closing in (b"", b"]", b"}", b"]}}"):
            assert problem_of(file_of(b'{"x":' + opening * 3 + closing, 1)) is not None

    @given(
        st.lists(st.tuples(st.sampled_from(["U8", "F32", "F4", "BF16"]), st.integers(0, 9)), max_size=6),
        st.integers(0, 5),
        st.integers(-2, 2),
        st.sampled_from([-1, 0, 0, 0, 1]),
    )
    def test_it_says_what_the_loader_says(
        self, tensors: list[tuple[str, int]], place: int, shift: int, surplus: int
    ) -> None:
        header: dict[str, Any] = {}
        at = 0
        for number, (dtype, count) in enumerate(tensors):
            bits = count * {"U8": 8, "F32": 32, "F4": 4, "BF16": 16}[dtype]
            header[f"t{number}"] = {"dtype": dtype, "shape": [count], "data_offsets": [at, at + bits // 8]}
            at += bits // 8
        if place < len(tensors):
            header[f"t{place}"]["data_offsets"][place % 2] += shift
        content = file_of(header, max(at + surplus, 0))

        assert (problem_of(content) is None) == is_loaded(content)


class TestIndexes:
    def test_an_index_whose_shards_are_listed_has_no_problem(self) -> None:
        files = sharded_files(3, 400)
        index = files[INDEX]
        assert isinstance(index, bytes)
        listed = frozenset(files)

        assert find_missing_shards(index, INDEX, listed) is None
        below = frozenset(f"unet/{path}" for path in files)
        assert find_missing_shards(index, f"unet/{INDEX}", below) is None
        assert "'model-00001" in (find_missing_shards(index, f"unet/{INDEX}", listed) or "")

    def test_a_shard_that_is_not_listed_is_named(self) -> None:
        files = sharded_files(3, 400)
        index = files.pop(INDEX)
        del files["model-00002-of-00003.safetensors"]
        assert isinstance(index, bytes)
        said = find_missing_shards(index, INDEX, frozenset(files))
        assert said == "it names 'model-00002-of-00003.safetensors', which the repository does not list"
        assert "2 others" in (find_missing_shards(index, INDEX, frozenset()) or "")

    @pytest.mark.parametrize(
        "beside", [1, "}", None, [1, [2, {"}": "]"}]], {"a": {"b": {}}, "weight_map": {"x": "no.such"}}]
    )
    def test_what_stands_beside_the_map_is_passed_over(self, beside: object) -> None:
        for content in ({"n": beside, "weight_map": {"a": "s"}}, {"weight_map": {"a": "s"}, "n": beside}):
            for indent in (None, 2):
                index = json.dumps(content, indent=indent).encode()
                assert find_missing_shards(index, INDEX, frozenset({"s"})) is None

    @pytest.mark.parametrize(
        "content",
        [b"", b"[]", b"{}", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":"', b'{"a":]}', b"\xff", *BROKEN_MAPS],
    )
    def test_what_is_no_index_is_told(self, content: bytes) -> None:
        assert find_missing_shards(content, INDEX, frozenset()) is not None

    @given(st.binary(max_size=100), st.text(max_size=100))
    def test_no_bytes_make_it_raise(self, content: bytes, text: str) -> None:
        for index in (content, text.encode("utf-8", "replace"), b'{"a":' + content + b"}"):
            find_missing_shards(index, INDEX, frozenset())


class TestReading:
    def test_files_are_read_by_their_names(self, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(safetensors({"a": 100}))
        assert find_flaw(path, "model.safetensors", frozenset()) is None
        path.write_bytes(path.read_bytes()[:-4])
        assert "not within" in (find_flaw(path, "model.safetensors", frozenset()) or "")
        assert find_flaw(path, "model.bin", frozenset()) is None
        assert find_flaw(path, INDEX, frozenset()) is not None

    def test_a_length_that_lies_costs_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        for length in (2**63, MOST_HEADER_BYTES + 1, 50_000_000):
            path.write_bytes(struct.pack("<Q", length) + b"{}")
            assert find_flaw(path, "model.safetensors", frozenset()) is not None
