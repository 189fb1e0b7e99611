# SPDX-License-Identifier: Apache-2.0
"""What the Hub lists is read strictly: anything odd in it refuses the listing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from yarl import URL

from modelexpress.domain.errors import Corrupt
from modelexpress.domain.manifest import Digest, DigestKind, Manifest
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.providers.hub_listing import (
    find_next_page,
    make_manifest,
    read_commit,
    read_siblings,
    read_tree_page,
)

REF = ModelRef(ProviderKind.HUGGING_FACE, "demo/tiny")
COMMIT, OID, SHA = "c" * 40, "a" * 40, "b" * 64
PAGE = URL("https://hub.example/api/models/demo/tiny/tree/c?recursive=true", encoded=True)


def row(path: Any = "config.json", **changed: Any) -> dict[str, Any]:
    """One file of a tree listing."""
    return {"type": "file", "path": path, "size": 7, "oid": OID, **changed}


def sibling(path: Any = "config.json", **changed: Any) -> dict[str, Any]:
    """One file of a description."""
    return {"rfilename": path, "size": 7, "blobId": OID, **changed}


def listed(page: Any) -> Manifest:
    return make_manifest(REF, COMMIT, read_tree_page(REF, page))


def described(siblings: Any) -> Manifest:
    return make_manifest(REF, COMMIT, read_siblings(REF, {"siblings": siblings}))


def test_a_small_file_is_vouched_for_by_its_git_id_and_a_large_one_by_its_sha256() -> None:
    large = row("m.safetensors", size=10**12, lfs={"oid": SHA, "size": 10**12}, xetHash="d" * 64)
    large_sibling = sibling("m.safetensors", size=10**12, lfs={"sha256": SHA, "size": 10**12})
    for manifest in (listed([large, row()]), described([large_sibling, sibling()])):
        small, big = manifest.files
        assert (small.path, small.size, small.digest) == ("config.json", 7, Digest(DigestKind.GIT_BLOB, OID))
        assert (big.size, big.digest, big.blob_id) == (10**12, Digest(DigestKind.SHA256, SHA), OID)
    assert listed([large]).files[0].xet_hash == "d" * 64
    assert manifest.commit == COMMIT and manifest.ref == REF


def test_folders_are_no_files() -> None:
    folder = {"type": "directory", "path": "onnx", "size": 0, "oid": OID}

    assert [entry.path for entry in listed([folder, row("onnx/m")]).files] == ["onnx/m"]


def test_a_file_that_nothing_vouches_for_is_listed_without_a_digest() -> None:
    assert described([sibling(blobId=None)]).files[0].digest is None


HOSTILE_PATHS = [
    "../evil",
    "a/../../evil",
    "..",
    ".",
    "a/./b",
    "/etc/passwd",
    "//evil",
    "a//b",
    "a/",
    "",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "a\x1b[2Jb",
    "a\\..\\evil",
    "C:\\evil",
    "\ud800",
    "x" * 256,
    "ü" * 128,
    "a/" * 2100 + "b",
]


@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=ascii)
def test_a_path_that_leaves_its_place_refuses_the_listing(path: str) -> None:
    for read, rows in ((listed, [row(), row(path)]), (described, [sibling(), sibling(path)])):
        with pytest.raises(Corrupt, match="demo/tiny"):
            read(rows)


@pytest.mark.parametrize(
    "path", ["...", "..a", "a..b/c", ".hidden", "a b", "ü", "%2e%2e/x", "~", "-rf", "x" * 255]
)
def test_a_path_that_only_looks_odd_is_a_path(path: str) -> None:
    assert listed([row(path)]).files[0].path == path


@pytest.mark.parametrize(
    "paths",
    [("a", "a"), ("a", "a/b"), ("a/b/c/d", "a/b"), ("a", "a-b", "a/b")],
    ids=lambda paths: " ".join(paths),
)
def test_files_that_cannot_stand_beside_each_other_refuse_the_listing(paths: tuple[str, ...]) -> None:
    for read, rows in ((listed, [row(p) for p in paths]), (described, [sibling(p) for p in paths])):
        with pytest.raises(Corrupt, match="collides"):
            read(rows)


@pytest.mark.parametrize(
    "size", [-1, 2**63, 10**40, None, "7", 7.0, True, [7], {"n": 7}, float("inf")], ids=repr
)
def test_a_size_that_no_file_has_refuses_the_listing(size: Any) -> None:
    for read, rows in ((listed, [row(size=size)]), (described, [sibling(size=size)])):
        with pytest.raises(Corrupt, match="demo/tiny"):
            read(rows)


def test_the_sizes_together_may_not_be_more_than_any_disk_holds() -> None:
    with pytest.raises(Corrupt, match="demo/tiny"):
        listed([row("a", size=2**62), row("b", size=2**62)])


BAD_DIGESTS = [
    {"oid": "A" * 40},
    {"oid": "a" * 39},
    {"oid": "a" * 41},
    {"oid": "g" * 40},
    {"oid": "../" + "a" * 37},
    {"oid": 5},
    {"oid": ["a" * 40]},
    {"lfs": {"oid": "b" * 63}},
    {"lfs": {"oid": "B" * 64}},
    {"lfs": {"oid": 1}},
    {"lfs": "x"},
    {"lfs": ["x"]},
    {"lfs": 1},
    {"lfs": {"size": 7}},
    {"lfs": {"oid": {"sha": SHA}}},
]


@pytest.mark.parametrize("changed", BAD_DIGESTS, ids=repr)
def test_a_digest_that_is_none_refuses_the_listing(changed: dict[str, Any]) -> None:
    renamed = {"blobId" if key == "oid" else key: value for key, value in changed.items()}
    if isinstance(lfs := changed.get("lfs"), dict):
        renamed["lfs"] = {"sha256" if key == "oid" else key: value for key, value in lfs.items()}
    for read, rows in ((listed, [row(**changed)]), (described, [sibling(**renamed)])):
        with pytest.raises(Corrupt, match="demo/tiny"):
            read(rows)


@pytest.mark.parametrize(
    "page", [None, {}, "[]", 5, {"error": "x"}, [None], [5], ["x"], [[]], [{}], [{"type": "file"}]]
)
def test_a_page_of_another_shape_refuses_the_listing(page: Any) -> None:
    with pytest.raises(Corrupt, match="demo/tiny"):
        listed(page)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "x",
        {},
        {"siblings": None},
        {"siblings": {}},
        {"siblings": [None]},
        {"siblings": ["x"]},
        {"siblings": [{}]},
        {"siblings": [{"rfilename": "a"}]},
    ],
)
def test_a_description_of_another_shape_refuses_the_listing(answer: Any) -> None:
    with pytest.raises(Corrupt, match="demo/tiny"):
        read_siblings(REF, answer)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "x",
        {},
        {"sha": None},
        {"sha": 5},
        {"sha": "c" * 39},
        {"sha": "C" * 40},
        {"sha": "../" * 13 + "a"},
    ],
)
def test_an_answer_without_a_commit_is_refused(answer: Any) -> None:
    with pytest.raises(Corrupt, match="without a commit"):
        read_commit(REF, answer)


def test_the_commit_is_the_one_of_the_answer() -> None:
    assert read_commit(REF, {"sha": COMMIT, "id": "other/name"}) == COMMIT


@pytest.mark.prove
def test_no_listing_fails_otherwise_than_as_corrupt(proof_count: Callable[[int], int]) -> None:
    odd = [None, True, -1, 0, 2**70, 1.5, "", "..", "a/b", "\udc80", OID, SHA, [], {}, [SHA], {"oid": SHA}]
    for seed in range(proof_count(2000)):
        chance = random.Random(seed)
        rows: list[Any] = [row(chance.choice("ab")), sibling("a"), row("c", lfs={"oid": SHA, "sha256": SHA})]
        for _ in range(chance.randrange(1, 4)):
            target = rows[chance.randrange(3)]
            target[chance.choice([*target, "lfs", "xetHash"])] = chance.choice(odd)
        for read in (listed, described):
            try:
                manifest = read(rows)
            except Corrupt as error:
                json.dumps(error.message).encode()
                continue
            assert all(entry.size >= 0 and ".." not in entry.path for entry in manifest.files), seed


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ('<https://hub.example/api/t?cursor=2>; rel="next"', "cursor=2"),
        ("<https://hub.example/api/t?cursor=2>; rel=next", "cursor=2"),
        ("</api/t?cursor=a%2Bb%3D%3D>;rel=next", "cursor=a%2Bb%3D%3D"),
        ("<?cursor=2>; rel=next", "cursor=2"),
        ('<https://x.example/first>; rel="prev", <https://hub.example/t?c=3>; rel="next"', "c=3"),
        ('<https://hub.example/t?c=3>; title="x"; rel="next", <https://x.example/9>; rel="last"', "c=3"),
    ],
)
def test_the_next_page_is_found_with_its_cursor_untouched(link: str, query: str) -> None:
    found = find_next_page(link, PAGE)

    assert found is not None and found.raw_query_string == query and found.host == "hub.example"


@pytest.mark.parametrize(
    "link", ["", "nonsense", '<https://x.example/1>; rel="prev"', '<https://x.example>; rel="nextish"']
)
def test_the_last_page_has_none(link: str) -> None:
    assert find_next_page(link, PAGE) is None


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/next",
        "//evil.example/next",
        "http://hub.example/next",
        "https://hub.example:8443/x",
        "file:///etc/passwd",
        "http://127.0.0.1/",
        "https://hub.example@evil.example/x",
        "https://[::1",
        "https://hub.example:99999/x",
        "https://hub.example:abc/x",
        "javascript:alert(1)",
    ],
)
def test_a_list_that_goes_on_elsewhere_is_refused(address: str) -> None:
    with pytest.raises(Corrupt, match="another"):
        find_next_page(f'<{address}>; rel="next"', PAGE)
