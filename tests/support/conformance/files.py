# SPDX-License-Identifier: Apache-2.0
"""Single files: of every kind and name, by every way of the client to ask for one."""

from __future__ import annotations

from typing import Any

import huggingface_hub as hub
from tests.support.conformance.registry import Place, case


def download(at: Place, file: str, name: str = "model", **asked: Any) -> str:
    """Download one public file into the case's cache."""
    return hub.hf_hub_download(at[name], file, cache_dir=at.cache, token=False, **asked)


@case("model", "lfs")
def file_of_lfs(at: Place) -> object:
    return download(at, at["lfs"])


@case("model", "small")
def file_that_is_small(at: Place) -> object:
    return download(at, at["small"])


@case("model", "empty")
def file_that_is_empty(at: Place) -> object:
    return download(at, at["empty"])


@case("model", "odd")
def file_with_an_odd_name(at: Place) -> object:
    return download(at, at["odd"])


@case("model", "odd")
def file_below_a_subfolder(at: Place) -> object:
    subfolder, _, file = at["odd"].rpartition("/")
    return download(at, file, subfolder=subfolder)


@case("model", "odd", "lfs")
def file_into_a_local_folder(at: Place) -> object:
    wanted = (at["lfs"], at["odd"], at["lfs"])
    return [hub.hf_hub_download(at["model"], file, local_dir=at.local, token=False) for file in wanted]


@case("model", "pull", "small")
def file_of_a_pull_request(at: Place) -> object:
    return download(at, at["small"], revision=at["pull"])


@case("model", "slashed", "lfs")
def file_of_a_branch_with_a_slash(at: Place) -> object:
    return download(at, at["lfs"], revision=at["slashed"])


@case("model", "commit", "lfs")
def file_of_a_commit(at: Place) -> object:
    return download(at, at["lfs"], revision=at["commit"])


@case("model", fails=404)
def file_that_is_missing(at: Place) -> object:
    return download(at, "no/such/file.bin")


@case("model", "small", fails=404)
def file_of_a_missing_revision(at: Place) -> object:
    return download(at, at["small"], revision="no-such-branch")


@case("missing", fails=401)
def file_of_a_missing_repository(at: Place) -> object:
    return download(at, "config.json", "missing")


@case("renamed", "renamed_file")
def file_of_a_renamed_repository(at: Place) -> object:
    return download(at, at["renamed_file"], "renamed")


@case("xet", "xet_file")
def file_of_a_xet_repository(at: Place) -> object:
    return download(at, at["xet_file"], "xet")


@case("model", "lfs", "small")
def file_forced_again(at: Place) -> object:
    wanted = (at["lfs"], at["small"])
    return [download(at, file, force_download=force) for file in wanted for force in (False, True)]


@case("model", "lfs")
def file_forced_over_a_damaged_one(at: Place) -> object:
    path = download(at, at["lfs"])
    with open(path, "r+b") as file:
        file.write(b"damaged")
    return [path, download(at, at["lfs"], force_download=True)]


@case("model", "small")
def file_found_in_the_cache_afterwards(at: Place) -> object:
    download(at, at["small"])
    found = hub.try_to_load_from_cache(at["model"], at["small"], cache_dir=at.cache)
    return [found, download(at, at["small"], local_files_only=True)]


@case("model")
def file_remembered_as_missing(at: Place) -> object:
    try:
        download(at, "nothing.bin")
    except hub.errors.EntryNotFoundError as error:
        name = type(error).__name__
    found = hub.try_to_load_from_cache(at["model"], "nothing.bin", cache_dir=at.cache)
    return [name, found is hub._CACHED_NO_EXIST]


def describe(at: Place, file: str, name: str = "model", **asked: Any) -> object:
    """A file's metadata; where its bytes are is the Hub's own business, but it must say so."""
    url = hub.hf_hub_url(at[name], file, **asked)
    found = hub.get_hf_file_metadata(url, token=False)
    return [url, found.commit_hash, found.etag, found.size, bool(found.location)]


@case("model", "lfs")
def metadata_of_an_lfs_file(at: Place) -> object:
    return describe(at, at["lfs"])


@case("model", "small", "empty", "odd")
def metadata_of_small_files(at: Place) -> object:
    return [describe(at, at[file]) for file in ("small", "empty", "odd")]


@case("model", "lfs", "tag")
def metadata_at_a_tag(at: Place) -> object:
    return describe(at, at["lfs"], revision=at["tag"])


@case("xet", "xet_file")
def metadata_of_a_xet_file(at: Place) -> object:
    return describe(at, at["xet_file"], "xet")


@case("model", fails=404)
def metadata_of_a_missing_file(at: Place) -> object:
    return describe(at, "nothing.bin")
