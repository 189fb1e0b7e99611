# SPDX-License-Identifier: Apache-2.0
"""Private and gated repositories, and callers with every kind of token."""

from __future__ import annotations

import huggingface_hub as hub
from tests.support.conformance.registry import Place, case

# The caller, and what a private and a gated repository answer where he is refused.
CALLERS = (("", 401, 401), ("member", 0, 0), ("stranger", 404, 403), ("unknown", 401, 401))


def take_file(at: Place, name: str, caller: str) -> object:
    file, token = at["guarded_file"], at.token(caller)
    return hub.hf_hub_download(at[name], file, cache_dir=at.cache, token=token)


def take_snapshot(at: Place, name: str, caller: str) -> object:
    return hub.snapshot_download(at[name], cache_dir=at.cache, token=at.token(caller))


def look(at: Place, name: str, caller: str) -> object:
    return hub.HfApi(token=at.token(caller)).model_info(at[name], files_metadata=True)


def list_tree(at: Place, name: str, caller: str) -> object:
    return hub.HfApi(token=at.token(caller)).list_repo_tree(at[name])


def check(at: Place, name: str, caller: str) -> object:
    return hub.HfApi(token=at.token(caller)).auth_check(at[name])


def _add(name: str, caller: str, fails: int) -> None:
    needs = {name, "guarded_file", caller} - {""}
    who = {"": "nobody", "unknown": "an_unknown"}.get(caller, f"a_{caller}")
    for act in (take_file, take_snapshot, look, list_tree, check):
        # A gated repository may be looked at by all: only its files are behind the gate.
        is_open = name == "gated" and act is look and caller != "unknown"

        def run(at: Place, act=act) -> object:
            return act(at, name, caller)

        case(*needs, name=f"{name}_for_{who}_{act.__name__}", fails=0 if is_open else fails)(run)


for _caller, _private, _gated in CALLERS:
    _add("private", _caller, _private)
    _add("gated", _caller, _gated)


@case("member", "private", "guarded_file", fails=401)
def private_after_the_token_is_gone(at: Place) -> object:
    """Who may not read it now gets nothing, though the server has it."""
    take_file(at, "private", "member")
    return hub.snapshot_download(at["private"], cache_dir=at.folder / "other", token=False)


@case("model", "unknown", fails=401)
def public_with_an_unknown_token(at: Place) -> object:
    return hub.snapshot_download(at["model"], cache_dir=at.cache, token=at["unknown"])


@case("model", "small", "unknown", fails=401)
def public_file_with_an_unknown_token(at: Place) -> object:
    return hub.hf_hub_download(at["model"], at["small"], cache_dir=at.cache, token=at["unknown"])


@case("model", "stranger")
def public_with_a_token(at: Place) -> object:
    return hub.snapshot_download(at["model"], cache_dir=at.cache, token=at["stranger"])


@case("missing", "member", fails=404)
def missing_with_a_token(at: Place) -> object:
    return hub.snapshot_download(at["missing"], cache_dir=at.cache, token=at["member"])


@case("model")
def auth_check_of_a_public_repository(at: Place) -> object:
    return at.api.auth_check(at["model"])


@case("missing", fails=401)
def auth_check_of_a_missing_repository(at: Place) -> object:
    return at.api.auth_check(at["missing"])


@case("member")
def whoami_with_a_token(at: Place) -> object:
    return at.api.whoami(token=at["member"])


@case("unknown", fails=401)
def whoami_with_an_unknown_token(at: Place) -> object:
    return at.api.whoami(token=at["unknown"])


@case()
def whoami_without_a_token(at: Place) -> object:
    try:
        return at.api.whoami()
    except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
        return type(error).__name__
