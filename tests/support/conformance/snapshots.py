# SPDX-License-Identifier: Apache-2.0
"""Whole snapshots and parts of them, at every kind of revision."""

from __future__ import annotations

from typing import Any

import huggingface_hub as hub
from tests.support.conformance.registry import Place, case


def snapshot(at: Place, name: str = "model", **asked: Any) -> str:
    """Download a public snapshot into the case's cache."""
    return hub.snapshot_download(at[name], cache_dir=at.cache, token=False, **asked)


@case("model")
def snapshot_whole(at: Place) -> object:
    return snapshot(at)


@case("model")
def snapshot_again_from_a_warm_cache(at: Place) -> object:
    return [snapshot(at), snapshot(at), snapshot(at, local_files_only=True)]


@case("model")
def snapshot_with_allow_patterns(at: Place) -> object:
    return snapshot(at, allow_patterns=["*.json", "onnx/*"])


@case("model")
def snapshot_with_ignore_patterns(at: Place) -> object:
    return snapshot(at, ignore_patterns=["*.bin", "*.safetensors", "onnx/**"])


@case("model")
def snapshot_where_nothing_matches(at: Place) -> object:
    return snapshot(at, allow_patterns=["*.nothing"])


@case("model")
def snapshot_into_a_local_folder(at: Place) -> object:
    return hub.snapshot_download(at["model"], local_dir=at.local, token=False)


@case("model", "branch")
def snapshot_of_a_branch(at: Place) -> object:
    return snapshot(at, revision=at["branch"])


@case("model", "slashed")
def snapshot_of_a_branch_with_a_slash(at: Place) -> object:
    return snapshot(at, revision=at["slashed"])


@case("model", "tag")
def snapshot_of_a_tag(at: Place) -> object:
    return snapshot(at, revision=at["tag"])


@case("model", "pull")
def snapshot_of_a_pull_request(at: Place) -> object:
    return snapshot(at, revision=at["pull"])


@case("model", "commit")
def snapshot_of_a_commit(at: Place) -> object:
    return snapshot(at, revision=at["commit"])


@case("model", "commit")
def snapshot_of_a_short_commit(at: Place) -> object:
    return snapshot(at, revision=at["commit"][:8])


@case("model", "commit", "tag")
def snapshot_of_three_revisions_in_one_cache(at: Place) -> object:
    return [snapshot(at), snapshot(at, revision=at["tag"]), snapshot(at, revision=at["commit"])]


@case("model", fails=404)
def snapshot_of_a_missing_revision(at: Place) -> object:
    return snapshot(at, revision="no-such-branch")


@case("model", fails=404)
def snapshot_of_a_missing_commit(at: Place) -> object:
    return snapshot(at, revision="0123456789" * 4)


@case("missing", fails=401)
def snapshot_of_a_missing_repository(at: Place) -> object:
    return snapshot(at, "missing")


@case("renamed_whole")
def snapshot_of_a_renamed_repository(at: Place) -> object:
    return snapshot(at, "renamed_whole")


@case("bare")
def snapshot_of_a_repository_without_an_owner(at: Place) -> object:
    return snapshot(at, "bare")


@case("hollow")
def snapshot_of_an_empty_repository(at: Place) -> object:
    return snapshot(at, "hollow")


@case("xet", ignores_xet=True)
def snapshot_of_a_xet_repository(at: Place) -> object:
    return snapshot(at, "xet")


@case("model", only=("1", "2"))
def snapshot_as_a_dry_run(at: Place) -> object:
    return sorted(snapshot(at, dry_run=True), key=lambda file: file.filename)
