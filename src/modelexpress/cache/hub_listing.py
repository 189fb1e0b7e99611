# SPDX-License-Identifier: Apache-2.0
"""What a Hub would say of a commit that is here, made from our own record of it. Pure.

Counts of downloads and likes, cards and the ids of folders are not in a record, and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from modelexpress.domain.hub import Document, git_id, is_typed, lfs_pointer
from modelexpress.domain.manifest import FileEntry, Manifest

_NO_TREE = "0" * 40


def describe(manifest: Manifest, has_blobs: bool, is_public: bool) -> Document:
    """The description of a repository at a commit. `is_public`: everybody is known to be let in."""
    name = manifest.ref.name
    said: dict[str, Any] = {
        "_id": manifest.commit[:24],
        "id": name.split("/", 1)[1] if is_typed(name) else name,
        "sha": manifest.commit,
        # Where the origin let in only some, nobody here knows which of the two it is.
        **({"private": False, "gated": False, "disabled": False} if is_public else {}),
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [_sibling(entry, has_blobs) for entry in manifest.files],
    }
    return make_json(said if is_typed(name) else {**said, "modelId": name})


def list_tree(manifest: Manifest, folder: str, is_recursive: bool) -> Document | None:
    """The entries of `folder` (empty: the root); None if there is no such folder."""
    start = f"{folder}/" if folder else ""
    rows = {path: row for path, row in _rows(manifest).items() if path.startswith(start)}
    if folder and not rows:
        return None
    wanted = [row for path, row in sorted(rows.items()) if is_recursive or "/" not in path[len(start) :]]
    return make_json(wanted)


def list_paths(manifest: Manifest, paths: Iterable[str]) -> Document:
    """The entries called `paths`; those that there are not are left out."""
    rows = _rows(manifest)
    return make_json([rows[path] for path in sorted(set(paths)) if path in rows])


def list_refs(refs: Mapping[str, str]) -> Document:
    """The branches that are known here, with their commits; tags look the same from here."""
    rows = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
        for name, commit in sorted(refs.items())
    ]
    return make_json({"branches": rows, "tags": [], "converts": []})


def make_json(said: object) -> Document:
    """A document that says it."""
    body = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return Document(200, {"Content-Type": "application/json; charset=utf-8"}, body)


def _rows(manifest: Manifest) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for entry in manifest.files:
        rows[entry.path] = _file(entry)
        folder = entry.path.rpartition("/")[0]
        while folder and folder not in rows:
            rows[folder] = {"type": "directory", "oid": _NO_TREE, "size": 0, "path": folder}
            folder = folder.rpartition("/")[0]
    return rows


def _file(entry: FileEntry) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": git_id(entry), "size": entry.size, "path": entry.path}
    pointer = lfs_pointer(entry)
    if pointer is not None and entry.digest is not None:
        row["lfs"] = {"oid": entry.digest.value, "size": entry.size, "pointerSize": len(pointer)}
    return row


def _sibling(entry: FileEntry, has_blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": entry.path}
    if has_blobs:
        row |= {"size": entry.size, "blobId": git_id(entry)}
        pointer = lfs_pointer(entry)
        if pointer is not None and entry.digest is not None:
            row["lfs"] = {"sha256": entry.digest.value, "size": entry.size, "pointerSize": len(pointer)}
    return row
