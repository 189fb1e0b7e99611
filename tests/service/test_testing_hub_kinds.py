# SPDX-License-Identifier: Apache-2.0
"""Datasets and spaces of the local Hub, and files as git keeps them, by huggingface_hub and without."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
from tests.support.hub_client import address_of, ask

from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

WEIGHTS = "model.safetensors"
CONTENT = {path: text for path, text in tiny_files().items() if isinstance(text, bytes)}
KINDS = ["dataset", "space"]
NAMES = ["demo/tiny", "squad"]


def published(kind: str, name: str, **arguments: bool) -> Repository:
    """A dataset or space with the tiny files and one of its own."""
    repository = Repository(f"{kind}s/{name}", **arguments)  # type: ignore[arg-type]
    repository.commit({**tiny_files(), "kind.txt": f"{kind} {name}".encode()})
    return repository


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    both = [published(kind, name) for kind in KINDS for name in NAMES]
    with LocalHub([tiny_model("demo/tiny"), *both]).running_in_thread() as hub:
        yield hub


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def read_all(folder: str) -> dict[str, bytes]:
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has_cdn", [True, False])
def test_a_dataset_or_space_is_downloaded_as_one(kind: str, name: str, has_cdn: bool, tmp_path: Path) -> None:
    repository = published(kind, name)
    with LocalHub([repository, tiny_model(name)], HubOptions(has_cdn=has_cdn)).running_in_thread() as hub:
        asked = {"repo_type": kind, "cache_dir": tmp_path, "endpoint": hub.endpoint, "token": False}
        one = hf_hub_download(name, "onnx/model.onnx", **asked)
        whole = snapshot_download(name, **asked)

        assert Path(one).read_bytes() == CONTENT["onnx/model.onnx"]
        assert read_all(whole) == {**CONTENT, "kind.txt": f"{kind} {name}".encode()}
        assert Path(whole).name == repository.branches["main"] and f"{kind}s--" in whole
        assert {request.repository for request in hub.log.requests} == {f"{kind}s/{name}"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_api_knows_a_dataset_or_space(hub: LocalHub, api: HfApi, kind: str) -> None:
    repository = hub._repositories[f"{kind}s/demo/tiny"]
    commit = repository.branches["main"]
    repository.tags["v1"] = commit
    info = api.repo_info("demo/tiny", repo_type=kind, files_metadata=True)
    refs = api.list_repo_refs("demo/tiny", repo_type=kind)
    rows = api.get_paths_info("demo/tiny", [WEIGHTS, "onnx"], repo_type=kind, expand=True)

    assert (info.id, info.author, info.sha) == ("demo/tiny", "demo", commit)
    assert info.used_storage == sum(file.size for file in repository.files(commit).values())
    assert not hasattr(info, "modelId") and getattr(info, "sdk", "static") == "static"
    assert [ref.target_commit for ref in (*refs.branches, *refs.tags)] == [commit, commit]
    assert {row.path for row in rows} == {WEIGHTS, "onnx"}
    assert "kind.txt" in {row.path for row in api.list_repo_tree("demo/tiny", repo_type=kind)}
    assert [made.commit_id for made in api.list_repo_commits("demo/tiny", repo_type=kind)] == [commit]
    assert api.file_exists("demo/tiny", "kind.txt", repo_type=kind)
    assert not api.file_exists("demo/tiny", "kind.txt")
    assert api.revision_exists("demo/tiny", "v1", repo_type=kind)
    api.auth_check("demo/tiny", repo_type=kind)


def test_the_file_system_of_huggingface_hub_finds_its_way(hub: LocalHub) -> None:
    files = HfFileSystem(
        endpoint=hub.endpoint, token=False, use_listings_cache=False, skip_instance_cache=True
    )

    assert "datasets/demo/tiny/kind.txt" in files.ls("datasets/demo/tiny", detail=False)
    assert files.cat("datasets/demo/tiny/kind.txt") == b"dataset demo/tiny"
    assert files.cat_file(f"spaces/demo/tiny/{WEIGHTS}", start=10, end=20) == CONTENT[WEIGHTS][10:20]


def test_no_kind_is_seen_through_the_door_of_another(hub: LocalHub, api: HfApi) -> None:
    hub.remove("spaces/demo/tiny")

    for path in (
        "/api/spaces/demo/tiny",
        "/spaces/demo/tiny/resolve/main/kind.txt",
        "/api/models/squad",
        "/squad/resolve/main/kind.txt",
        "/api/models/datasets/squad",
        "/api/models/datasets%2Fdemo/tiny",
        "/api/spaces/datasets/squad",
    ):
        assert ask(hub, path).status == 401, path
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("demo/tiny", "kind.txt", endpoint=hub.endpoint, token=False)


@pytest.mark.parametrize("kind", KINDS)
def test_access_is_by_kind_and_name(hub: LocalHub, api: HfApi, kind: str) -> None:
    hub.add(published(kind, "demo/gated", is_gated=True))
    hub.add(published(kind, "demo/private", is_private=True))
    hub.add(tiny_model("demo/private"))
    hub.grant("hf_member", f"{kind}s/demo/gated", f"{kind}s/demo/private")
    hub.grant("hf_stranger", "demo/gated", "demo/private")
    for name, refusal in (("demo/gated", GatedRepoError), ("demo/private", RepositoryNotFoundError)):
        api.auth_check(name, repo_type=kind, token="hf_member")
        for token in (False, "hf_stranger"):
            with pytest.raises(refusal):
                api.auth_check(name, repo_type=kind, token=token)
    answer = ask(hub, f"/{kind}s/demo/gated/resolve/main/kind.txt", token="hf_stranger")
    assert json.loads(answer.body)["error"] == f"Access to {kind} demo/gated is restricted"
    api.auth_check("demo/private", token=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_renamed_dataset_or_space_is_found_by_its_old_name(
    hub: LocalHub, api: HfApi, kind: str, tmp_path: Path
) -> None:
    before = api.repo_info("demo/tiny", repo_type=kind)
    hub.rename(f"{kind}s/demo/tiny", f"{kind}s/other/small")
    after = api.repo_info("demo/tiny", repo_type=kind)
    asked = {"repo_type": kind, "cache_dir": tmp_path, "endpoint": hub.endpoint, "token": False}

    assert (after.id, after._id) == ("other/small", before._id)  # type: ignore[union-attr]
    assert (
        Path(hf_hub_download("demo/tiny", "kind.txt", **asked)).read_bytes() == f"{kind} demo/tiny".encode()
    )
    assert api.model_info("demo/tiny").id == "demo/tiny"


@pytest.mark.parametrize("prefix", ["", "datasets/", "spaces/"])
def test_raw_is_what_git_keeps(hub: LocalHub, prefix: str) -> None:
    repository = hub._repositories[f"{prefix}demo/tiny"]
    commit = repository.branches["main"]
    file = repository.files(commit)[WEIGHTS]
    pointer = ask(hub, f"/{prefix}demo/tiny/raw/main/{WEIGHTS}")
    small = ask(hub, f"/{prefix}demo/tiny/raw/{commit}/config.json", Range="bytes=0-9")
    digest = hashlib.sha256(CONTENT[WEIGHTS]).hexdigest()
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(CONTENT[WEIGHTS])}\n"
    blob_id = hashlib.sha1(f"blob {len(text)}\0{text}".encode()).hexdigest()

    assert (pointer.status, pointer.body) == (200, text.encode())
    assert pointer.headers["content-length"] == str(file.pointer_size)
    assert pointer.headers["etag"] == f'"{file.blob_id}"' == f'"{blob_id}"'
    assert pointer.headers["x-repo-commit"] == commit
    assert pointer.headers["content-type"] == "text/plain; charset=utf-8"
    assert (small.status, small.body) == (206, CONTENT["config.json"][:10])
    assert ask(hub, f"/{prefix}demo/tiny/raw/main/onnx/deep/er/extra%20file%20%C3%BC.txt").status == 200


def test_raw_is_kept_from_whom_the_file_is_kept_and_goes_wrong_as_bodies_do(hub: LocalHub) -> None:
    hub.add(published("dataset", "demo/gated", is_gated=True))
    hub.grant("hf_member", "datasets/demo/gated")
    path = "/datasets/demo/gated/raw/main/kind.txt"

    assert ask(hub, path).headers["x-error-code"] == "GatedRepo"
    assert ask(hub, path, token="hf_member").body == b"dataset demo/gated"
    hub.faults.add(Fault("wrong_bytes", "body", "kind.txt", after=0))
    assert ask(hub, path, token="hf_member").body == bytes([ord("d") ^ 0xFF]) + b"ataset demo/gated"
    assert hub.log.bytes_by_file() == {"datasets/demo/gated/kind.txt": 36}


def test_small_files_of_a_dataset_have_an_address_of_their_kind(hub: LocalHub) -> None:
    target = address_of(hub, "datasets/squad", "kind.txt")

    commit = hub._repositories["datasets/squad"].branches["main"]
    assert target.startswith(f"/api/resolve-cache/datasets/squad/{commit}/kind.txt?etag=")
    assert ask(hub, target).body == b"dataset squad"


def test_as_a_process_it_serves_folders_of_datasets_and_spaces(tmp_path: Path) -> None:
    for name in ("demo/tiny", "datasets/demo/tiny", "spaces/demo/tiny"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "name.txt").write_text(name)
    command = [sys.executable, "-m", "modelexpress.testing.hub", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        api = HfApi(endpoint=process.stdout.readline().split()[-1], token=False)
        found = [
            [row.id for row in rows] for rows in (api.list_models(), api.list_datasets(), api.list_spaces())
        ]
        paths = [
            api.hf_hub_download("demo/tiny", "name.txt", repo_type=k, cache_dir=tmp_path / "c") for k in KINDS
        ]
        process.terminate()

    assert found == [["demo/tiny"]] * 3
    assert [Path(path).read_text() for path in paths] == ["datasets/demo/tiny", "spaces/demo/tiny"]
