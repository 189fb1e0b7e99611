# SPDX-License-Identifier: Apache-2.0
"""The journal is a hint: whatever stands in it, reading it raises nothing and loses nothing good."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.arrivals import current_process

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.store.journal import FORMAT, Header, Journal, Piece, read_journal

HEADER = Header("org/name", "model.safetensors", 10 * CHUNK_BYTES, "sha256:" + "0" * 64, current_process())
PIECES = {index: Piece(index * 1000 + 1, bytes([index]) * 32) for index in (3, 0, 7)}


def write(path: Path, header: Header = HEADER) -> bytes:
    journal = Journal(path, header)
    for index, piece in PIECES.items():
        journal.piece(index, *piece)
    journal.etag("cdn.test", '"v1"')
    journal.close()
    return path.read_bytes()


def header_row(**changes: Any) -> bytes:
    row = {
        "format": FORMAT,
        "repository": "org/name",
        "path": "x",
        "size": 3 * CHUNK_BYTES - 1,
        "digest": "",
        "chunk_bytes": CHUNK_BYTES,
        "process": None,
    }
    return json.dumps({**row, **changes}).encode() + b"\n"


def piece_row(index: Any, digest: Any, length: Any = 5) -> bytes:
    return json.dumps({"c": index, "n": length, "b": digest}).encode() + b"\n"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "j")
    found = read_journal(tmp_path / "j")

    assert found is not None and found.header == HEADER
    assert found.pieces == PIECES and found.etags == {"cdn.test": '"v1"'}


def test_a_journal_is_never_written_over_another_one(tmp_path: Path) -> None:
    before = write(tmp_path / "j")
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "j", HEADER)

    assert (tmp_path / "j").read_bytes() == before


def test_the_last_word_about_a_chunk_counts(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(header_row() + piece_row(1, "aa" * 32, 9) + piece_row(1, "bb" * 32, 7))
    found = read_journal(path)

    assert found is not None and found.pieces == {1: Piece(7, b"\xbb" * 32)}


def test_a_journal_torn_at_any_byte_says_what_its_whole_lines_say(tmp_path: Path) -> None:
    whole = write(tmp_path / "j")
    path = tmp_path / "torn"
    ends = {end + d for end, byte in enumerate(whole) if byte == 10 for d in (-1, 0, 1, 2)}
    for end in sorted(ends | set(range(0, len(whole), 11))):
        path.write_bytes(whole[:end])
        lines = whole[:end].count(b"\n")
        found = read_journal(path)

        assert (found is None) == (lines == 0)
        if found is not None:
            assert found.header == HEADER
            assert list(found.pieces.items()) == list(PIECES.items())[: lines - 1]


@given(
    rubbish=st.one_of(st.binary(max_size=300), st.text().map(lambda text: text.encode("utf-8", "replace")))
)
def test_whatever_bytes_follow_what_was_read_before_is_as_good_as_ever(rubbish: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        path.write_bytes(write(Path(folder, "w")) + rubbish)
        found = read_journal(path)

        assert found is not None and found.header == HEADER
        assert {index: found.pieces[index] for index in PIECES} == PIECES


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.one_of(
    JSON_VALUES,
    st.fixed_dictionaries({"c": JSON_VALUES, "n": JSON_VALUES, "b": JSON_VALUES}),
    st.fixed_dictionaries({"host": JSON_VALUES, "etag": JSON_VALUES}),
)


@given(rows=st.lists(ROWS, max_size=6))
def test_whatever_rows_follow_nothing_raises_and_what_came_before_stands(rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        added = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        path.write_bytes(write(Path(folder, "w")) + added)
        found = read_journal(path)

        assert found is not None and set(PIECES) <= set(found.pieces)
        assert all(0 <= i < 10 and len(piece.digest) == 32 for i, piece in found.pieces.items())


@given(
    field=st.sampled_from(["format", "size", "digest", "path", "chunk_bytes", "process"]), value=JSON_VALUES
)
def test_a_header_that_says_nonsense_raises_nothing(field: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        path.write_bytes(header_row(**{field: value}) + piece_row(0, "aa" * 32))
        read_journal(path)


@pytest.mark.parametrize("size", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_a_size_that_is_no_number_of_bytes_makes_it_no_journal(tmp_path: Path, size: str) -> None:
    path = tmp_path / "j"
    path.write_bytes(header_row(size="@").replace(b'"@"', size.encode()))

    assert read_journal(path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\n\n\n",
        b"\0" * 4096,
        b"\xff\xfe\0\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"7\n",
        b'"c"\n',
        b"{" * 100_000 + b"\n",
        b"[" * 1_000_000 + b"\n",
        b'{"format": 1}\n',
        header_row(format=FORMAT + 1) + piece_row(0, "aa" * 32),
        header_row(format="1"),
        header_row(chunk_bytes=CHUNK_BYTES * 2) + piece_row(0, "aa" * 32),
        header_row(size="x"),
        header_row(size=None),
        header_row(process=[]),
        header_row(process={"pid": 1}),
        header_row()[:-1],
        b"9" * 10_000 + b"\n",
    ],
    ids=range(22),
)
def test_what_is_no_journal_of_ours_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)

    assert read_journal(path) is None


@pytest.mark.parametrize(
    "row",
    [
        piece_row("1", "aa" * 32),
        piece_row(1.0, "aa" * 32),
        piece_row(None, "aa" * 32),
        piece_row([1], "aa" * 32),
        piece_row(1, "aa" * 31),
        piece_row(1, "aa" * 33),
        piece_row(1, ""),
        piece_row(1, None),
        piece_row(1, 5),
        piece_row(1, "zz" * 32),
        piece_row(1, "aa" * 32, "5"),
        piece_row(1, "aa" * 32, 5.0),
        piece_row(1, "aa" * 32, None),
        b'{"c": 1}\n',
        b"{}\n",
        b'{"host": "h"}\n',
        b"\n",
        b"\xff\n",
        b'{"c": ' + b"9" * 5_000 + b', "b": "' + b"aa" * 32 + b'"}\n',
    ],
    ids=range(19),
)
def test_a_foreign_line_ends_the_reading_there(tmp_path: Path, row: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(header_row() + piece_row(0, "aa" * 32) + row + piece_row(2, "aa" * 32))
    found = read_journal(path)

    assert found is not None and found.pieces == {0: Piece(5, b"\xaa" * 32)}


@pytest.mark.parametrize(
    ("index", "length"),
    [(10**30, 5), (-1, 5), (3, 5), (0, 0), (0, -1), (0, CHUNK_BYTES + 1), (2, CHUNK_BYTES), (0, 10**30)],
)
def test_a_piece_that_the_file_cannot_have_ends_the_reading(tmp_path: Path, index: int, length: int) -> None:
    path = tmp_path / "j"
    path.write_bytes(header_row() + piece_row(1, "aa" * 32) + piece_row(index, "aa" * 32, length))
    found = read_journal(path)

    assert found is not None and list(found.pieces) == [1]


def test_a_journal_of_300_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path)
    os.truncate(path, 300_000_000)

    assert read_journal(path) is None


@pytest.mark.parametrize("kind", ["absent", "directory", "dangling", "loop"])
def test_what_cannot_be_read_is_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "j"
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)

    assert read_journal(path) is None


def test_lines_of_many_threads_never_mix(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", replace(HEADER, size=800 * CHUNK_BYTES))

    def write_some(first: int) -> None:
        for index in range(first, first + 200):
            journal.piece(index, index + 1, index.to_bytes(32, "big"))

    threads = [threading.Thread(target=write_some, args=(n * 200,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    found = read_journal(tmp_path / "j")

    assert found is not None and found.pieces == {n: Piece(n + 1, n.to_bytes(32, "big")) for n in range(800)}
