# SPDX-License-Identifier: Apache-2.0
"""What the hub's API says about repositories as a whole, in the words of the real one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modelexpress.testing.hub.content import HubFile, Repository
from modelexpress.testing.hub.listings import date_of

_COMMON = (
    "author cardData createdAt disabled lastModified likes private resourceGroup sha siblings tags"
    " trendingScore usedStorage"
)
_MODELS = (
    "baseModels childrenModelCount config downloads downloadsAllTime evalResults gated gguf inference"
    " inferenceProviderMapping library_name mask_token model-index pipeline_tag safetensors spaces"
    " transformersInfo widgetData"
)
_FIELDS = {
    "models": frozenset(f"{_COMMON} {_MODELS}".split()),
    "datasets": frozenset(
        f"{_COMMON} citation description downloads downloadsAllTime gated mainSize paperswithcode_id".split()
    ),
    "spaces": frozenset(f"{_COMMON} datasets models region runtime sdk subdomain".split()),
}
_ANY = ["private", "likes", "trendingScore", "tags", "createdAt"]
_SHORT = {
    "models": [*_ANY, "downloads", "modelId"],
    "datasets": [*_ANY, "downloads", "author", "disabled", "gated", "lastModified", "sha"],
    "spaces": [*_ANY, "sdk"],
}
_FULL = ["author", "gated", "lastModified", "sha", "siblings", "subdomain"]


def describe(repository: Repository, commit: str, has_blobs: bool) -> dict[str, Any]:
    """A description of the repository; sizes and digests of its files if `has_blobs`."""
    author = repository.repo_id.rpartition("/")[0]
    first = repository.history(commit)[-1]
    row: dict[str, Any] = {
        "_id": repository.object_id,
        "id": repository.repo_id,
        "sha": commit,
        "createdAt": date_of(repository, first),
        "lastModified": date_of(repository, commit),
        "private": repository.is_private,
        "gated": "manual" if repository.is_gated else False,
        "disabled": False,
        "likes": 0,
        "tags": [],
        "usedStorage": repository.used_storage,
        "siblings": [_sibling(file, has_blobs) for file in repository.files(commit).values()],
    }
    if author:
        row["author"] = author
    return row | _own_fields(repository.kind, repository.repo_id)


def find_unknown(kind: str, fields: Iterable[str]) -> list[str]:
    """Those of `fields` for which nobody can ask about repositories of this `kind`."""
    return sorted(set(fields) - _FIELDS[kind])


def describe_only(repository: Repository, commit: str, fields: Iterable[str]) -> dict[str, Any]:
    """A description with `fields` alone, as far as they have a value."""
    row = describe(repository, commit, has_blobs=False) | {"trendingScore": 0}
    if "downloads" in row:
        row["downloadsAllTime"] = 0
    return {field: row[field] for field in ("_id", "id", *fields) if field in row}


def summarize(repository: Repository, commit: str, is_full: bool) -> dict[str, Any]:
    """What a list of repositories says about one of them."""
    fields = _SHORT[repository.kind] + (_FULL if is_full else [])
    return describe_only(repository, commit, fields)


def _own_fields(kind: str, repo_id: str) -> dict[str, Any]:
    if kind == "datasets":
        return {"downloads": 0}
    if kind == "models":
        return {"downloads": 0, "modelId": repo_id}
    subdomain = repo_id.replace("/", "-").lower()
    runtime = {"stage": "RUNNING", "hardware": {"current": None, "requested": None}, "storage": None}
    return {
        "sdk": "static",
        "subdomain": subdomain,
        "host": f"https://{subdomain}.static.hf.space",
        "models": [],
        "datasets": [],
        "runtime": runtime,
    }


def _sibling(file: HubFile, has_blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": file.path}
    if has_blobs:
        row |= {"size": file.size, "blobId": file.blob_id}
        if file.sha256 is not None:
            row["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return row
