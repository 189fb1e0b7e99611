# SPDX-License-Identifier: Apache-2.0
"""What is remembered of an origin's words: for how long, and how much."""

from __future__ import annotations

import pytest

from modelexpress.cache import hub_known
from modelexpress.cache.hub_known import (
    FileKey,
    KeptDocuments,
    KnownFiles,
    Lately,
    Silence,
    document_key,
)
from modelexpress.domain.caller import STRANGER, Caller
from modelexpress.domain.hub import Document, DocumentRequest, Located
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import ModelRef
from modelexpress.testing.clock import FakeClock

COMMIT = "1" * 40


def located(path: str) -> Located:
    return Located(COMMIT, FileEntry(path, 5), "etag")


async def test_what_was_said_lately_counts_for_its_time_and_the_last_word_counts() -> None:
    clock = FakeClock()
    lately = Lately[str, str](clock)
    lately.note("a", "no", 60)
    await clock.advance(59)
    lately.note("b", "never", 1)
    assert (lately.find("a"), lately.find("b"), lately.find("c")) == ("no", "never", None)
    await clock.advance(1)
    assert (lately.find("a"), lately.find("b")) == (None, None)
    lately.note("a", "yes", 60)
    assert lately.find("a") == "yes"


def test_the_oldest_goes_where_too_much_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_known, "_MOST_LATELY", 3)
    lately = Lately[int, int](FakeClock())
    for number in (1, 2, 3, 1, 4):  # said again is new again
        lately.note(number, number, 60)

    assert [lately.find(number) for number in (1, 2, 3, 4)] == [1, None, 3, 4]


def test_files_are_known_absent_or_unheard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_known, "_MOST", 2)
    known, keys = KnownFiles(), [FileKey("a/b", COMMIT, path) for path in ("x", "y", "z")]
    known.note("a/b", located("x"))
    known.note_absent(keys[1])
    assert known.find(keys[0]) == located("x") and not known.is_absent(keys[0])
    assert known.find(keys[1]) is None and known.is_absent(keys[1])
    assert known.find(keys[2]) is None and not known.is_absent(keys[2])
    known.find(keys[0])
    known.note("a/b", located("z"))
    assert known.find(keys[0]) is not None and not known.is_absent(keys[1])


def test_long_paths_are_known_within_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_known, "_MOST_PATH_BYTES", 50_000)
    known, paths = (
        KnownFiles(),
        [f"{number}\N{GRINNING FACE}" + "/".join(["x" * 240] * 16) for number in range(5)],
    )
    for path in (*paths, paths[-1]):
        known.note("a/b", located(path))
    assert [known.find(FileKey("a/b", COMMIT, path)) is not None for path in paths] == [False] * 2 + [
        True
    ] * 3

    for path in paths:
        known.note_absent(FileKey("a/b", COMMIT, path))
    assert all(known.is_absent(FileKey("a/b", COMMIT, path)) for path in paths) and known._path_bytes == 0
    assert not known.is_absent(FileKey("a/b", "2" * 40, paths[0]))


def test_documents_are_kept_within_their_bytes_headers_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_known, "_MOST_DOCUMENT_BYTES", 10_000)
    monkeypatch.setattr(hub_known, "_LARGEST_DOCUMENT_BYTES", 6_000)
    kept = KeptDocuments()
    for key in (b"a", b"b", b"a", b"c"):
        kept.note(key, Document(200, {"Link": "x" * 2_000}, b"y" * 1_000), 5.0)
    assert [kept.find(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]

    kept.note(b"a", Document(200, {}, b"y" * 6_000), 5.0)
    assert kept.find(b"a") is None and kept.find(b"c") is not None, "one too large sends no other away"
    kept.drop(b"c")
    kept.note(b"d", Document(404), 6.0)
    found = kept.find(b"d")
    assert found is not None and found.until == 6.0 and kept._bytes == hub_known._ENTRY_BYTES


def test_different_questions_have_different_keys() -> None:
    requests = [
        DocumentRequest("a", "b"), DocumentRequest("ab"), DocumentRequest("a", body=b""),
        DocumentRequest("a"), DocumentRequest("a", body=b"b"), DocumentRequest("a", content_type="b"),
    ]  # fmt: skip
    keys = {document_key(who, request) for who in ("", "nobody") for request in requests}
    assert len(keys) == 2 * len(requests) and {len(key) for key in keys} == {32}


async def test_a_silence_is_about_what_was_asked_and_by_whom_unless_nobody_is_there() -> None:
    clock, member = FakeClock(), Caller("hf_member")
    one, other = ModelRef.parse("a/one"), ModelRef.parse("a/other")
    silence = Silence(clock)
    silence.note(member, one, "x", is_gone=False)
    assert silence.is_on(member, one, "x") and not silence.is_on(member, one, "z")
    silence.note(member, one, "y", is_gone=False)
    assert silence.is_on(member, one, "z"), "it is not one file alone"
    assert not silence.is_on(member, other, "x") and not silence.is_on(STRANGER, one, "x")
    silence.note_answer(member, one)
    assert not silence.is_on(member, one, "x")
    silence.note(member, one, "x", is_gone=True)
    assert silence.is_on(STRANGER, other, "x")
    await clock.advance(10.0)
    assert not silence.is_on(STRANGER, other, "x")
