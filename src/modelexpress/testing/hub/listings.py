# SPDX-License-Identifier: Apache-2.0
"""What the hub's API lists of a repository: entries, refs and commits, as the real one does. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from modelexpress.testing.hub.content import HubFile, Repository

_FIRST_COMMIT = datetime(2024, 1, 1, tzinfo=UTC)


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


def commits(repository: Repository, commit: str, is_formatted: bool) -> list[dict[str, Any]]:
    """`commit` and those before it, the last one first; with their titles as HTML if `is_formatted`."""
    rows = []
    for sha in repository.history(commit):
        row: dict[str, Any] = {"id": sha, "title": _title(sha), "message": ""}
        row |= {"authors": [{"user": "tester", "avatar": ""}], "date": date_of(repository, sha)}
        if is_formatted:
            row["formatted"] = {"title": _title(sha), "message": ""}
        rows.append(row)
    return rows


def date_of(repository: Repository, commit: str) -> str:
    """When `commit` was made: the first one always at the same time, each other a minute after the last."""
    made = _FIRST_COMMIT + timedelta(minutes=len(repository.history(commit)) - 1)
    return f"{made:%Y-%m-%dT%H:%M:%S}.000Z"


def _title(commit: str) -> str:
    return f"Commit {commit[:7]}"


def _row(repository: Repository, commit: str, path: str, is_expanded: bool) -> dict[str, Any]:
    files = repository.files(commit)
    file = files.get(path)
    row = _folder_row(path) if file is None else _file_row(file)
    if is_expanded:
        below = [path] if file is not None else [name for name in files if name.startswith(f"{path}/")]
        changed = repository.last_change(commit, below)
        row["lastCommit"] = {"id": changed, "title": _title(changed), "date": date_of(repository, changed)}
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


def _folders(paths: Iterable[str]) -> set[str]:
    found = set()
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]
            found.add(path)
    return found


def _ref_rows(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
    return [{"name": n, "ref": prefix + n, "targetCommit": sha} for n, sha in sorted(names.items())]
