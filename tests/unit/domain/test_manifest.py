# SPDX-License-Identifier: Apache-2.0
"""Manifests: paths stay inside, digests are digests, order is one."""

import pytest

from modelexpress.domain.errors import Invalid
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest, Proof, check_path
from modelexpress.domain.refs import ModelRef

REF = ModelRef.parse("a/b")
COMMIT = "0" * 40


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\\b", "a\0", "a\nb", "x" * 300, "a/" * 3000],
)
def test_paths_that_leave_the_snapshot_are_refused(path: str) -> None:
    with pytest.raises(Invalid):
        check_path(path)


@pytest.mark.parametrize("path", ["a", "a/b/c.json", "ünï/文 件.txt", "a b", "%2e%2e", "...", "#x?y"])
def test_ordinary_paths_are_fine(path: str) -> None:
    check_path(path)


def test_files_are_in_path_order_whatever_order_they_came_in() -> None:
    manifest = Manifest(REF, COMMIT, (FileEntry("b", 2), FileEntry("a", 1)))

    assert [entry.path for entry in manifest.files] == ["a", "b"]
    assert manifest.total_bytes == 3


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b")])
def test_files_that_cannot_stand_beside_each_other_are_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(Invalid, match="collides"):
        Manifest(REF, COMMIT, tuple(FileEntry(path, 1) for path in paths))


def test_a_file_and_a_folder_collide_even_with_a_name_between_them() -> None:
    with pytest.raises(Invalid, match="collides"):
        Manifest(REF, COMMIT, tuple(FileEntry(path, 1) for path in ("a", "a-b", "a/b")))


def test_digests_are_read_back_as_they_were_written() -> None:
    for digest in (Digest(DigestKind.SHA256, "a" * 64), Digest(DigestKind.GIT_BLOB, "b" * 40)):
        assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "g" * 64, "md5:" + "a" * 32, "sha256:" + "A" * 64]
)
def test_other_texts_are_no_digests(text: str) -> None:
    with pytest.raises(Invalid):
        Digest.parse(text)


def test_only_an_origins_digest_makes_a_proof_of_the_first_grade() -> None:
    assert Digest(DigestKind.GIT_BLOB, "b" * 40).proof is Proof.DIGEST
    assert Digest(DigestKind.LOCAL_SHA256, "b" * 64).proof is Proof.TRANSPORT


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(Invalid):
        FileEntry("a", -1)
