# SPDX-License-Identifier: Apache-2.0
"""Reading what the Hub lists, trusting none of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from yarl import URL

from modelexpress.domain.errors import Corrupt, MxError
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import ModelRef, is_commit, shown
from modelexpress.providers.causes import without_secrets

MOST_FILES = 100_000
MOST_PAGES = 1_000
_MOST_BYTES = 2**63 - 1
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,]*\brel=(?:"next"|next(?![\w-]))')


def read_commit(ref: ModelRef, answer: Any) -> str:
    """The commit in an answer about a revision. Raises Corrupt."""
    sha = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(sha, str) or not is_commit(sha):
        raise Corrupt(f"the origin answers for {ref} without a commit; is origin.endpoint a Hub?", True)
    return sha


def read_tree_page(ref: ModelRef, page: Any) -> list[FileEntry]:
    """The files on one page of a tree listing. Raises Corrupt."""
    if not isinstance(page, list):
        raise Corrupt(f"the origin's file list of {ref} is not a list; is origin.endpoint a Hub?", True)
    try:
        return [_tree_entry(item) for item in page if item["type"] == "file"]
    except (KeyError, TypeError, ValueError, MxError) as error:
        raise Corrupt(f"the origin's file list of {ref} cannot be used: {error}") from error


def read_siblings(ref: ModelRef, answer: Any) -> list[FileEntry]:
    """The files in a model's description (`blobs=true`), for mirrors without a tree. Raises Corrupt."""
    siblings = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(siblings, list):
        raise Corrupt(f"the origin lists no files of {ref}")
    try:
        return [_sibling_entry(item) for item in siblings]
    except (KeyError, TypeError, ValueError, AttributeError, MxError) as error:
        raise Corrupt(f"the origin's file list of {ref} cannot be used: {error}") from error


def make_manifest(ref: ModelRef, commit: str, entries: Iterable[FileEntry]) -> Manifest:
    """The manifest of a listing. Raises Corrupt for files that cannot stand beside each other."""
    try:
        manifest = Manifest(ref.repository, commit, tuple(entries))
    except MxError as error:
        raise Corrupt(f"the origin's file list of {ref} cannot be used: {error}") from error
    if manifest.total_bytes > _MOST_BYTES:
        raise Corrupt(
            f"the origin's file list of {ref} cannot be used: no disk holds {manifest.total_bytes} bytes"
        )
    return manifest


def find_next_page(link: str, current: URL) -> URL | None:
    """Where the following page is, by a Link header; None on the last. Raises Corrupt off this host."""
    found = _NEXT.search(link)
    if found is None:
        return None
    try:
        target = current.join(URL(found[1], encoded=True))
        is_here = target.origin() == current.origin()
    except ValueError:
        is_here = False
    if not is_here:
        raise Corrupt(
            f"the file list of {current.path} goes on at another host, {shown(without_secrets(found[1]))}"
        )
    return target


def _tree_entry(item: dict[str, Any]) -> FileEntry:
    lfs = item.get("lfs")
    return _entry(item["path"], item["size"], item["oid"], lfs and lfs["oid"], item.get("xetHash"))


def _sibling_entry(item: dict[str, Any]) -> FileEntry:
    lfs = item.get("lfs")
    size = item.get("size")
    if size is None:
        raise ValueError("a file is listed without its size")
    return _entry(item["rfilename"], size, item.get("blobId"), lfs and lfs["sha256"], None)


def _entry(path: Any, size: Any, oid: Any, sha256: Any, xet_hash: Any) -> FileEntry:
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool):
        raise ValueError("a file is listed without a path or a size")
    if size > _MOST_BYTES:
        raise ValueError(f"no disk holds the size of {shown(path)}")
    digest = None
    if sha256:
        digest = Digest(DigestKind.SHA256, str(sha256).removeprefix("sha256:"))
    elif oid:
        digest = Digest(DigestKind.GIT_BLOB, str(oid))
    return FileEntry(path, size, digest, str(oid) if oid else None, str(xet_hash) if xet_hash else None)
