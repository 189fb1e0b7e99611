# SPDX-License-Identifier: Apache-2.0
"""What documents of a Hub teach, and how they are without Xet."""

from __future__ import annotations

import json

import pytest

from modelexpress.cache import hub_reading
from modelexpress.cache.hub_reading import read_document
from modelexpress.domain.errors import Corrupt
from modelexpress.domain.hub import Document
from modelexpress.domain.manifest import Listing
from modelexpress.domain.refs import ModelRef

COMMIT = "1" * 40
MAIN, PINNED = ModelRef.parse("a/b@main"), ModelRef.parse(f"a/b@{COMMIT}")
ROWS = [
    {"type": "file", "oid": "2" * 40, "size": 5, "path": f"x{number}", "xetHash": "c" * 64}
    for number in range(50)
]


def said(what: object) -> Document:
    return Document(200, {}, json.dumps(what).encode())


@pytest.mark.parametrize("piece", [1, 100, 1_000_000])
def test_xet_ids_are_taken_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(hub_reading, "_PIECE_BYTES", piece)
    kept = {"a": 'says "xetHash": "x", \\', "b": {"c": [1, "xetHash"]}}
    first, last = {"xetHash": "c", **kept}, {**kept, "d": {"xetHash": None}, "xetHash": "{c"}
    found = read_document(said([first, last, {"xetHash": "x"}]), "tree", None).document

    assert json.loads(found.body) == [kept, {**kept, "d": {}}, {}]


def test_files_are_learned_of_a_commit_alone_and_not_of_what_is_very_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = read_document(said(ROWS), "tree", PINNED)
    assert [located.entry.path for located in reading.files] == [row["path"] for row in ROWS]
    assert b"xetHash" not in reading.document.body
    assert read_document(said(ROWS), "tree", MAIN).files == ()
    monkeypatch.setattr(hub_reading, "_MOST_PARSED_BYTES", 100)
    assert read_document(said(ROWS), "tree", PINNED).files == ()


def test_a_description_tells_the_commit_and_whether_it_is_everybodys() -> None:
    open_one = {"sha": COMMIT, "private": False, "gated": False}
    reading = read_document(said(open_one), "description", MAIN)
    assert (reading.commit, reading.is_open) == (COMMIT, True)
    assert read_document(said(open_one), "description", PINNED).commit is None
    assert read_document(said({**open_one, "disabled": False}), "description", MAIN).is_open
    for other in ({"private": True}, {"gated": "auto"}, {"gated": None}, {"disabled": True}):
        assert not read_document(said({**open_one, **other}), "description", MAIN).is_open
    for nothing in ({}, {"sha": "main"}, {"sha": 5}):
        assert read_document(said(nothing), "description", MAIN).commit is None


@pytest.mark.parametrize(
    ("ref", "siblings", "is_told"),
    [
        (MAIN, [{"rfilename": "b"}, {"rfilename": "a"}], True),
        (PINNED, [{"rfilename": "a"}, {"rfilename": "b"}], True),
        (PINNED.at("2" * 40), [{"rfilename": "a"}, {"rfilename": "b"}], False),
        *((MAIN, said, False) for said in (None, [], "ab", [{"rfilename": "a"}, 1], [{"rfilename": 1}])),
    ],
)
def test_which_files_a_commit_has_is_read_off_its_description(
    ref: ModelRef, siblings: object, is_told: bool
) -> None:
    reading = read_document(said({"sha": COMMIT, "siblings": siblings}), "description", ref)

    assert reading.listed == ((PINNED, Listing.of(["a", "b"])) if is_told else None)
    assert Listing.of(["a", "b"]) != Listing.of(["a", "c"])


@pytest.mark.parametrize("most", [2, 1_000_000], ids=["long", "short"])
def test_what_is_no_document_of_a_hub_is_none(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(hub_reading, "_MOST_PARSED_BYTES", most)
    page, deep = Document(200, {"Content-Type": "text/html"}, b"<html>"), Document(200, {}, b"[" * 10_000)
    for kind, documents in {
        "description": [said([1]), said("xx"), page, deep],
        "refs": [said([1]), page],
        "tree": [said({"error": "no"}), page, deep],
        "other": [page],
    }.items():
        for document in documents:
            with pytest.raises(Corrupt) as error:
                read_document(document, kind, MAIN)
            assert error.value.is_nonsense
    # Of anything that is no repository, and a bare word where that may be an answer.
    assert read_document(page, "other", None).document == page
    assert read_document(said("OK"), "other", MAIN).document.body == b'"OK"'
