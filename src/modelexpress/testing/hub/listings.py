# SPDX-License-Identifier: Apache-2.0
"""What the hub's API says about a repository, in the words of the real one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from modelexpress.testing.hub.content import HubFile, Repository

_DATE = "2024-01-01T00:00:00.000Z"


def describe(repository: Repository, commit: str, has_blobs: bool) -> dict[str, Any]:
    """A model's description; sizes and digests of its files if `has_blobs`."""
    files = repository.files(commit).values()
    return {
        "_id": commit[:24],
        "id": repository.name,
        "modelId": repository.name,
        "sha": commit,
        "private": repository.is_private,
        "gated": "manual" if repository.is_gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [_sibling(file, has_blobs) for file in files],
    }


def refs(repository: Repository, has_pull_requests: bool) -> dict[str, Any]:
    """Branches and tags, and pull requests if they are asked for."""
    answer: dict[str, Any] = {
        "branches": _ref_rows(repository.branches, "refs/heads/"),
        "tags": _ref_rows(repository.tags, "refs/tags/"),
        "converts": [],
    }
    if has_pull_requests:
        numbers = {ref.removeprefix("refs/pr/"): sha for ref, sha in repository.pull_requests.items()}
        answer["pullRequests"] = _ref_rows(numbers, "refs/pr/")
    return answer


def tree(
    repository: Repository, commit: str, folder: str, *, is_recursive: bool, is_expanded: bool
) -> list[dict[str, Any]] | None:
    """The entries of `folder` (empty: the root), with those below if `is_recursive`; None if it is none."""
    prefix = f"{folder}/" if folder else ""
    files = repository.files(commit)
    paths = [path for path in (*files, *_folders(files)) if path.startswith(prefix)]
    if prefix and not paths:
        return None
    if not is_recursive:
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    return [_row(repository, commit, path, is_expanded) for path in sorted(paths)]


def paths_info(
    repository: Repository, commit: str, wanted: Collection[str], is_expanded: bool
) -> list[dict[str, Any]]:
    """The entries called `wanted`; those that do not exist are left out."""
    files = repository.files(commit)
    paths = sorted({*files, *_folders(files)}.intersection(wanted))
    return [_row(repository, commit, path, is_expanded) for path in paths]


def _row(repository: Repository, commit: str, path: str, is_expanded: bool) -> dict[str, Any]:
    files = repository.files(commit)
    file = files.get(path)
    row = _folder_row(path) if file is None else _file_row(file)
    if is_expanded:
        below = [path] if file is not None else [name for name in files if name.startswith(f"{path}/")]
        changed = repository.last_change(commit, below)
        row["lastCommit"] = {"id": changed, "title": f"Commit {changed[:7]}", "date": _DATE}
        if file is not None:
            row["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return row


def _folder_row(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


def _file_row(file: HubFile) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": file.blob_id, "size": file.size, "path": file.path}
    if file.sha256 is not None:
        row["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    if file.xet_hash is not None:
        row["xetHash"] = file.xet_hash
    return row


def _sibling(file: HubFile, has_blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": file.path}
    if has_blobs:
        row |= {"size": file.size, "blobId": file.blob_id}
        if file.sha256 is not None:
            row["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return row


def _folders(paths: Iterable[str]) -> set[str]:
    found = set()
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]
            found.add(path)
    return found


def _ref_rows(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
    return [{"name": n, "ref": prefix + n, "targetCommit": sha} for n, sha in sorted(names.items())]
