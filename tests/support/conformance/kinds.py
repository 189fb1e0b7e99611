# SPDX-License-Identifier: Apache-2.0
"""Datasets and spaces: the same requests below another prefix."""

from __future__ import annotations

from typing import Any

import huggingface_hub as hub
from tests.support.conformance.filesystem import mount
from tests.support.conformance.registry import Place, case


def snapshot_of(at: Place, kind: str, **asked: Any) -> str:
    return hub.snapshot_download(at[kind], repo_type=kind, cache_dir=at.cache, token=False, **asked)


@case("dataset")
def dataset_snapshot(at: Place) -> object:
    return snapshot_of(at, "dataset")


@case("dataset")
def dataset_snapshot_into_a_local_folder(at: Place) -> object:
    return hub.snapshot_download(at["dataset"], repo_type="dataset", local_dir=at.local, token=False)


@case("dataset", "dataset_tag")
def dataset_snapshot_of_a_tag_with_patterns(at: Place) -> object:
    return snapshot_of(at, "dataset", revision=at["dataset_tag"], allow_patterns="data/*")


@case("dataset", "dataset_file")
def dataset_file(at: Place) -> object:
    asked = {"repo_type": "dataset", "cache_dir": at.cache, "token": False}
    return hub.hf_hub_download(at["dataset"], at["dataset_file"], **asked)


@case("dataset", fails=404)
def dataset_file_that_is_missing(at: Place) -> object:
    asked = {"repo_type": "dataset", "cache_dir": at.cache, "token": False}
    return hub.hf_hub_download(at["dataset"], "nothing.csv", **asked)


@case("dataset")
def dataset_info(at: Place) -> object:
    return at.api.dataset_info(at["dataset"], files_metadata=True)


@case("dataset")
def dataset_tree(at: Place) -> object:
    return at.api.list_repo_tree(at["dataset"], repo_type="dataset", recursive=True, expand=True)


@case("dataset", "dataset_file")
def dataset_paths_and_references(at: Place) -> object:
    paths = at.api.get_paths_info(at["dataset"], [at["dataset_file"]], repo_type="dataset")
    return [paths, at.api.list_repo_refs(at["dataset"], repo_type="dataset")]


@case("dataset", "dataset_file")
def dataset_exists(at: Place) -> object:
    kind = {"repo_type": "dataset"}
    file = at.api.file_exists(at["dataset"], at["dataset_file"], **kind)
    return [file, at.api.repo_exists(at["dataset"], **kind), at.api.repo_exists(at["dataset"])]


@case("dataset", "dataset_file")
def dataset_mounted(at: Place) -> object:
    mounted, path = mount(at), f"datasets/{at['dataset']}"
    with mounted.open(f"{path}/{at['dataset_file']}", "rb", block_size=64) as file:
        file.seek(10)
        piece = file.read(90)
    return [piece, mounted.ls(path, detail=True), mounted.glob(f"{path}/**")]


@case("dataset", "missing", fails=401)
def dataset_that_is_missing(at: Place) -> object:
    return hub.snapshot_download(at["missing"], repo_type="dataset", cache_dir=at.cache, token=False)


@case("private_dataset", "member")
def dataset_that_is_private(at: Place) -> object:
    asked = {"repo_type": "dataset", "cache_dir": at.cache}
    return hub.snapshot_download(at["private_dataset"], token=at["member"], **asked)


@case("private_dataset", fails=401)
def dataset_that_is_private_for_nobody(at: Place) -> object:
    asked = {"repo_type": "dataset", "cache_dir": at.cache}
    return hub.snapshot_download(at["private_dataset"], token=False, **asked)


@case("space")
def space_snapshot(at: Place) -> object:
    return snapshot_of(at, "space")


@case("space")
def space_info(at: Place) -> object:
    return at.api.space_info(at["space"], files_metadata=True)


@case("space")
def space_tree(at: Place) -> object:
    return at.api.list_repo_tree(at["space"], repo_type="space", recursive=True)
