# SPDX-License-Identifier: Apache-2.0
"""Digest lists: one root for the whole, one digest for each chunk."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3
from tests.support.arrivals import content_of, digests_of

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Corrupt
from modelexpress.domain.manifest import Digest, DigestKind
from modelexpress.store.digests import DigestList, DigestLists
from modelexpress.store.layout import Layout
from modelexpress.store.volume import open_volume

SIZE = 2 * CHUNK_BYTES + 5
DIGESTS = digests_of(content_of(SIZE))
DIGEST = Digest(DigestKind.SHA256, "5" * 64)


def test_the_root_is_the_blake3_of_a_name_the_size_and_the_list() -> None:
    by_hand = blake3()
    by_hand.update(b"modelexpress digest list 1\0")
    by_hand.update(SIZE.to_bytes(8, "big"))
    for start in (0, CHUNK_BYTES, 2 * CHUNK_BYTES):
        by_hand.update(blake3(content_of(SIZE)[start : start + CHUNK_BYTES]).digest())

    assert DigestList(SIZE, DIGESTS).root == by_hand.hexdigest()


def test_the_root_of_known_bytes_never_changes() -> None:
    # Other versions and other machines compare roots: this one must stay what it is for ever.
    assert DigestList(0, b"").root == blake3(b"modelexpress digest list 1" + bytes(9)).hexdigest()
    hello = DigestList(5, blake3(b"hello").digest())
    list_of_hello = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
    head = b"modelexpress digest list 1\0\0\0\0\0\0\0\0\x05"

    assert hello.digests.hex() == list_of_hello
    assert hello.root == blake3(head + bytes.fromhex(list_of_hello)).hexdigest()


def test_one_more_byte_or_one_other_digest_is_another_root() -> None:
    root = DigestList(SIZE, DIGESTS).root

    assert DigestList(SIZE + 1, DIGESTS).root != root
    assert DigestList(SIZE, DIGESTS[32:64] + DIGESTS[:32] + DIGESTS[64:]).root != root


def test_chunks_are_counted_from_one_and_many_are_not_all_named() -> None:
    known = DigestList(20 * CHUNK_BYTES, bytes(20 * 32))

    assert known.describe([0]) == "chunk 1 of 20"
    assert known.describe([2, 19]) == "chunks 3, 20 of 20"
    assert known.describe(list(range(20))) == "chunks 1, 2, 3, 4, 5, 6, 7, 8 and 12 more of 20"


def test_the_differing_chunks_are_named_and_no_others() -> None:
    known = DigestList(SIZE, DIGESTS)
    changed = bytearray(DIGESTS)
    changed[0] ^= 1
    changed[95] ^= 1

    assert known.find_differing(DIGESTS) == []
    assert known.find_differing(bytes(changed)) == [0, 2]
    assert known.find_differing(bytes(96)) == [0, 1, 2]
    assert known.of_chunk(2) == DIGESTS[64:]


@pytest.mark.parametrize(
    ("size", "length"),
    [(0, 32), (1, 0), (1, 31), (1, 64), (CHUNK_BYTES, 64), (CHUNK_BYTES + 1, 32), (SIZE, 95)],
)
def test_a_list_of_the_wrong_length_is_corrupt(size: int, length: int) -> None:
    with pytest.raises(Corrupt, match=f"{length} bytes cannot"):
        DigestList(size, bytes(length))


@pytest.fixture
def lists(tmp_path: Path) -> DigestLists:
    layout = Layout(tmp_path)
    open_volume(layout, "me")
    return DigestLists(layout, "me")


def test_a_recorded_list_is_found_again(lists: DigestLists, tmp_path: Path) -> None:
    assert lists.find(DIGEST, SIZE) is None
    lists.save(DIGEST, DigestList(SIZE, DIGESTS))

    assert lists.find(DIGEST, SIZE) == DigestList(SIZE, DIGESTS)
    assert not list(Layout(tmp_path).staging.iterdir())
    assert lists.find(Digest(DigestKind.LOCAL_SHA256, "5" * 64), SIZE) is None


@pytest.mark.parametrize("content", [b"", b"x", DIGESTS[:-1], DIGESTS + b"x"])
def test_a_damaged_list_is_no_list_and_is_replaced(lists: DigestLists, content: bytes) -> None:
    lists.save(DIGEST, DigestList(SIZE, DIGESTS))
    lists.path(DIGEST).write_bytes(content)
    assert lists.find(DIGEST, SIZE) is None
    lists.save(DIGEST, DigestList(SIZE, DIGESTS))

    assert lists.find(DIGEST, SIZE) == DigestList(SIZE, DIGESTS)
