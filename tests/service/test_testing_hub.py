# SPDX-License-Identifier: Apache-2.0
"""The local Hub is one to the real huggingface_hub: what it lists, serves, refuses and redirects."""

from __future__ import annotations

import contextlib
import http.client
import logging
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from tests.support.hub_client import ask

from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME = "demo/tiny"
WEIGHTS = "model.safetensors"
ODD_NAMES = [
    "a b.txt",
    "ü/é.txt",
    "100%.txt",
    "%2e",
    "x#y?z=1.txt",
    "a+b.bin",
    "q&r;s.txt",
    "[1].txt",
    "~t/.u",
]


@pytest.fixture(autouse=True)
def no_errors_are_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR] == []


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub([tiny_model(NAME)]).running_in_thread() as hub:
        yield hub


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def contents(files: dict[str, bytes | Path]) -> dict[str, bytes]:
    return {path: text if isinstance(text, bytes) else text.read_bytes() for path, text in files.items()}


def read_all(folder: str | Path) -> dict[str, bytes]:
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def download(hub: LocalHub, root: Path, name: str = NAME, **arguments: object) -> Path:
    return Path(snapshot_download(name, cache_dir=root, endpoint=hub.endpoint, token=False, **arguments))


@pytest.mark.parametrize(
    "options",
    [HubOptions(), HubOptions(page_size=3), HubOptions(has_cdn=False)],
    ids=["as-the-real-one", "pages-of-three", "no-cdn"],
)
def test_a_snapshot_is_downloaded_byte_for_byte(options: HubOptions, tmp_path: Path) -> None:
    with LocalHub([tiny_model(NAME)], options).running_in_thread() as hub:
        snapshot = download(hub, tmp_path)
        commit = hub._repositories[NAME].branches["main"]
        checked = HfApi(endpoint=hub.endpoint, token=False).verify_repo_checksums(NAME, cache_dir=tmp_path)

        assert snapshot.name == commit
        assert read_all(snapshot) == contents(tiny_files())
        assert checked.checked_count == len(tiny_files()) and not checked.mismatches
        assert hub.log.bytes_sent == sum(len(content) for content in contents(tiny_files()).values())


def test_every_way_to_name_a_revision_is_understood(hub: LocalHub, tmp_path: Path) -> None:
    repository = Repository("demo/many")
    first = repository.commit({"config.json": b"{}", "w.bin": b"1"})
    repository.tags["v1.0"] = repository.branches["dev/x"] = repository.pull_requests["refs/pr/1"] = first
    second = repository.commit({"w.bin": b"22"}, delete=["config.json"])
    hub.add(repository)
    for revision in ("v1.0", "dev/x", "refs/pr/1", first):
        snapshot = download(hub, tmp_path, "demo/many", revision=revision)
        assert snapshot.name == first and read_all(snapshot) == {"config.json": b"{}", "w.bin": b"1"}
    snapshot = download(hub, tmp_path, "demo/many")

    assert snapshot.name == second and read_all(snapshot) == {"w.bin": b"22"}


def test_odd_file_names_arrive_as_they_are(hub: LocalHub, tmp_path: Path) -> None:
    files: dict[str, bytes | Path] = {name: name.encode() for name in ODD_NAMES}
    repository = Repository("demo/odd")
    repository.commit(files)
    hub.add(repository)
    for name in ODD_NAMES:
        path = hf_hub_download(
            "demo/odd", name, cache_dir=tmp_path / "one", endpoint=hub.endpoint, token=False
        )
        assert Path(path).read_bytes() == name.encode()

    assert read_all(download(hub, tmp_path / "all", "demo/odd")) == contents(files)


def test_a_name_without_an_organization_is_served_too(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    hub.add(tiny_model("gpt2"))

    assert read_all(download(hub, tmp_path, "gpt2")) == contents(tiny_files())
    assert api.list_repo_files("gpt2") == sorted(tiny_files())
    assert api.model_info("gpt2").id == "gpt2"


def test_model_info_tells_commit_sizes_and_digests(hub: LocalHub, api: HfApi) -> None:
    files = hub._repositories[NAME].files(hub._repositories[NAME].branches["main"])
    info = api.model_info(NAME, files_metadata=True)
    plain = api.model_info(NAME)

    assert info.id == NAME and info.sha == plain.sha == hub._repositories[NAME].branches["main"]
    assert info.private is False and info.gated is False
    assert info.siblings is not None and plain.siblings is not None
    assert [sibling.rfilename for sibling in plain.siblings] == sorted(files)
    assert all(sibling.size is None and sibling.lfs is None for sibling in plain.siblings)
    for sibling in info.siblings:
        file = files[sibling.rfilename]
        assert (sibling.size, sibling.blob_id) == (file.size, file.blob_id)
        assert (sibling.lfs and sibling.lfs["sha256"]) == file.sha256


def test_a_tree_is_listed_flat_below_a_folder_or_whole(api: HfApi) -> None:
    def paths(**arguments: object) -> dict[str, type]:
        return {row.path: type(row) for row in api.list_repo_tree(NAME, **arguments)}  # type: ignore[arg-type]

    folders = {"onnx": RepoFolder, "onnx/deep": RepoFolder, "onnx/deep/er": RepoFolder}
    assert paths(recursive=True) == {**dict.fromkeys(tiny_files(), RepoFile), **folders}
    top = dict.fromkeys((path for path in tiny_files() if "/" not in path), RepoFile)
    assert paths() == {**top, "onnx": RepoFolder}
    assert paths(path_in_repo="onnx") == {"onnx/model.onnx": RepoFile, "onnx/deep": RepoFolder}
    assert set(paths(path_in_repo="onnx/deep", recursive=True)) == {
        "onnx/deep/er",
        "onnx/deep/er/extra file ü.txt",
    }
    for nothing in ("nothing", "onn", "README.md"):
        with pytest.raises(EntryNotFoundError):
            paths(path_in_repo=nothing)


def test_an_expanded_tree_tells_which_commit_changed_what(hub: LocalHub, api: HfApi) -> None:
    repository = hub._repositories[NAME]
    first = repository.branches["main"]
    second = repository.commit({"onnx/model.onnx": b"new", "README.md": b"new"})
    rows = {row.path: row for row in api.list_repo_tree(NAME, recursive=True, expand=True)}
    changed = {path: row.last_commit.oid for path, row in rows.items() if row.last_commit is not None}
    weights, plain = rows[WEIGHTS], next(iter(api.list_repo_tree(NAME)))

    assert set(changed) == set(rows)
    assert {path for path, commit in changed.items() if commit == second} == {
        "onnx/model.onnx",
        "README.md",
        "onnx",
    }
    assert changed[WEIGHTS] == changed["onnx/deep"] == first
    assert isinstance(weights, RepoFile) and weights.security is not None and weights.security.safe
    assert plain.last_commit is None


def test_many_files_come_in_pages_on_any_branch(tmp_path: Path) -> None:
    repository = Repository("demo/small")
    repository.commit({f"f{n:03}.txt": b"%d" % n for n in range(120)})
    repository.branches["dev/x y"] = repository.branches["main"]
    with LocalHub([repository], HubOptions(page_size=50)).running_in_thread() as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        for revision in ("main", "dev/x y"):
            hub.log.clear()
            assert len(list(api.list_repo_tree("demo/small", revision=revision, recursive=True))) == 120
            assert len(hub.log.of("tree")) == 3
        hub.log.clear()
        assert len(list(api.list_repo_tree("demo/small", expand=True))) == 120
        assert len(hub.log.of("tree")) == 3
        assert len(api.list_repo_files("demo/small")) == 120


def test_an_expanded_page_is_a_short_one(hub: LocalHub, api: HfApi) -> None:
    repository = Repository("demo/small")
    repository.commit({f"f{n:03}.txt": b"%d" % n for n in range(101)})
    hub.add(repository)

    assert len(list(api.list_repo_tree("demo/small", expand=True))) == 101
    assert len(hub.log.of("tree")) == 3


def test_a_mirror_without_a_tree_has_siblings_only(tmp_path: Path) -> None:
    with LocalHub([tiny_model(NAME)], HubOptions(has_tree=False)).running_in_thread() as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        with pytest.raises(HfHubHTTPError) as raised:
            list(api.list_repo_tree(NAME))
        assert raised.value.response.status_code == 404
        assert len(api.model_info(NAME).siblings or []) == len(tiny_files())


def test_refs_are_branches_tags_and_pull_requests_if_asked_for(hub: LocalHub, api: HfApi) -> None:
    repository = hub._repositories[NAME]
    first = repository.branches["main"]
    repository.tags["v1.0"] = repository.branches["dev/x"] = repository.pull_requests["refs/pr/7"] = first
    second = repository.commit({"config.json": b"{}"})
    refs = api.list_repo_refs(NAME, include_pull_requests=True)

    assert [(r.name, r.ref, r.target_commit) for r in refs.branches] == [
        ("dev/x", "refs/heads/dev/x", first),
        ("main", "refs/heads/main", second),
    ]
    assert [(r.name, r.ref, r.target_commit) for r in refs.tags] == [("v1.0", "refs/tags/v1.0", first)]
    assert refs.pull_requests is not None
    assert [(r.name, r.ref, r.target_commit) for r in refs.pull_requests] == [("7", "refs/pr/7", first)]
    assert api.list_repo_refs(NAME).pull_requests is None


def test_paths_info_knows_files_and_folders_and_leaves_out_the_rest(hub: LocalHub, api: HfApi) -> None:
    wanted = ["onnx", WEIGHTS, "config.json", "nothing", "onnx/deep/er/extra file ü.txt"]
    rows = {row.path: row for row in api.get_paths_info(NAME, wanted)}
    file = hub._repositories[NAME].files(hub._repositories[NAME].branches["main"])[WEIGHTS]
    weights, config, [expanded] = (
        rows[WEIGHTS],
        rows["config.json"],
        api.get_paths_info(NAME, "onnx", expand=True),
    )

    assert set(rows) == {*wanted} - {"nothing"} and isinstance(rows["onnx"], RepoFolder)
    assert isinstance(weights, RepoFile) and isinstance(config, RepoFile)
    assert weights.lfs is not None and weights.lfs.sha256 == file.sha256 and weights.size == file.size
    assert weights.lfs.pointer_size == 125 + len(str(file.size)) and config.lfs is None
    assert config.last_commit is None and expanded.last_commit is not None


def test_what_exists_is_said_to_exist(hub: LocalHub, api: HfApi) -> None:
    assert api.repo_exists(NAME) and not api.repo_exists("demo/nothing")
    assert api.revision_exists(NAME, "main") and not api.revision_exists(NAME, "nothing")
    assert api.file_exists(NAME, WEIGHTS) and api.file_exists(NAME, "config.json")
    assert not api.file_exists(NAME, "nothing") and not api.file_exists("demo/nothing", "config.json")
    assert not api.file_exists(NAME, WEIGHTS, revision="nothing")


@pytest.mark.parametrize("has_cdn", [True, False])
def test_file_metadata_is_what_the_hub_vouches_for(has_cdn: bool) -> None:
    repository = tiny_model(NAME)
    xet = Repository("demo/xet", has_xet=True)
    xet.commit(tiny_files())
    with LocalHub([repository, xet], HubOptions(has_cdn=has_cdn)).running_in_thread() as hub:
        for name in (NAME, "demo/xet"):
            commit = hub._repositories[name].branches["main"]
            for path, file in hub._repositories[name].files(commit).items():
                url = hf_hub_url(name, path, endpoint=hub.endpoint)
                told = get_hf_file_metadata(url, token=False, endpoint=hub.endpoint)
                assert (told.commit_hash, told.etag, told.size) == (commit, file.etag, file.size)
                assert (told.xet_file_data is not None) == (name == "demo/xet" and file.sha256 is not None)
                if told.xet_file_data is not None:
                    assert told.xet_file_data.file_hash == file.xet_hash
                    assert told.xet_file_data.refresh_route.endswith(f"/xet-read-token/{commit}")


def test_a_known_token_has_a_name_and_an_unknown_one_is_refused(hub: LocalHub, api: HfApi) -> None:
    hub.grant("hf_member")

    assert api.whoami(token="hf_member")["name"] == "tester"
    with pytest.raises(HfHubHTTPError) as raised:
        api.whoami(token="hf_stranger")
    assert raised.value.response.status_code == 401
    # A wrong token is a wrong token, also for a public model: not a missing repository.
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as raised:
        api.model_info(NAME, token="hf_stranger")
    assert not isinstance(raised.value, RepositoryNotFoundError)
    hub.revoke("hf_member")
    with pytest.raises(HfHubHTTPError):
        api.whoami(token="hf_member")


@pytest.mark.parametrize(
    ("kind", "refusal"), [("is_private", RepositoryNotFoundError), ("is_gated", GatedRepoError)]
)
def test_private_and_gated_models_are_refused_in_the_right_words(
    hub: LocalHub, api: HfApi, tmp_path: Path, kind: str, refusal: type[Exception]
) -> None:
    repository = Repository("demo/closed", **{kind: True})  # type: ignore[arg-type]
    repository.commit(tiny_files())
    hub.add(repository)
    hub.grant("hf_stranger")
    hub.grant("hf_member", "demo/closed")
    for token in (False, "hf_stranger"):
        asked = {"cache_dir": tmp_path, "endpoint": hub.endpoint, "token": token}
        for call in (
            lambda asked=asked: snapshot_download("demo/closed", **asked),
            lambda asked=asked: hf_hub_download("demo/closed", "config.json", **asked),
            lambda asked=asked: hf_hub_download("demo/closed", WEIGHTS, **asked),
            lambda token=token: api.auth_check("demo/closed", token=token),
        ):
            with pytest.raises(refusal) as raised:
                call()
            assert type(_cause(raised.value)) is refusal
        assert api.repo_exists("demo/closed", token=token) == (kind == "is_gated")
    if kind == "is_gated":
        assert api.model_info("demo/closed").gated == "manual"

    api.auth_check("demo/closed", token="hf_member")
    with pytest.raises(HfHubHTTPError):
        api.auth_check("demo/closed", token="hf_member", write=True)
    asked = {"cache_dir": tmp_path, "endpoint": hub.endpoint, "token": "hf_member"}
    assert read_all(snapshot_download("demo/closed", **asked)) == contents(tiny_files())


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None and isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__
    return error


def test_what_is_missing_is_named_by_the_right_error(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    asked = {"cache_dir": tmp_path, "endpoint": hub.endpoint, "token": False}
    hub.grant("hf_member")
    for name, arguments, error in (
        ("demo/nothing", {}, RepositoryNotFoundError),
        ("demo/nothing", {"token": "hf_member"}, RepositoryNotFoundError),
        (NAME, {"revision": "nothing"}, RevisionNotFoundError),
        (NAME, {"revision": "0" * 40}, RevisionNotFoundError),
    ):
        for call in (
            lambda name=name, more=arguments: snapshot_download(name, **{**asked, **more}),
            lambda name=name, more=arguments: hf_hub_download(name, WEIGHTS, **{**asked, **more}),
            lambda name=name, more=arguments: list(api.list_repo_tree(name, **more)),
            lambda name=name, more=arguments: api.model_info(name, **more),
        ):
            with pytest.raises(error) as raised:
                call()
            assert type(_cause(raised.value)) is error
    for file in ("nothing", "onnx", "config.json/x"):
        with pytest.raises(EntryNotFoundError):
            hf_hub_download(NAME, file, **asked)
    # It remembers that, by the commit that the refusal names.
    [remembered] = tmp_path.glob("models--*/.no_exist/*/nothing")
    assert remembered.parent.name == hub._repositories[NAME].branches["main"]
    hub.remove(NAME)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(NAME)


def test_a_renamed_model_is_found_by_its_old_names(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    hub.rename(NAME, "other/tiny")
    hub.rename("other/tiny", "third/tiny-2")

    for name in (NAME, "other/tiny", "third/tiny-2"):
        assert api.model_info(name).id == "third/tiny-2"
        assert api.list_repo_files(name) == sorted(tiny_files())
        assert read_all(download(hub, tmp_path, name)) == contents(tiny_files())
        assert api.get_paths_info(name, [WEIGHTS])[0].path == WEIGHTS
    assert not api.file_exists(NAME, "nothing")


def test_a_name_that_is_taken_again_leads_to_the_new_model(hub: LocalHub, api: HfApi) -> None:
    hub.rename(NAME, "other/tiny")
    hub.rename("other/tiny", NAME)
    assert api.model_info("other/tiny").id == api.model_info(NAME).id == NAME

    hub.add(tiny_model("other/tiny", seed=1))
    assert api.model_info("other/tiny").id == "other/tiny"


def test_who_may_read_a_model_may_read_it_under_its_new_name(hub: LocalHub, api: HfApi) -> None:
    repository = Repository("demo/closed", is_private=True)
    repository.commit(tiny_files())
    hub.add(repository)
    hub.grant("hf_member", "demo/closed")
    hub.rename("demo/closed", "demo/shut")

    assert api.model_info("demo/closed", token="hf_member").id == "demo/shut"
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("demo/closed")


def test_a_rate_limit_is_told_in_full_and_waited_for(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    limits = {"RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    limit = hub.faults.add(Fault("status", "api", status=429, headers=limits))
    with pytest.raises(
        HfHubHTTPError, match=r"'api' rate limit(.|\n)*Retry after 0 seconds \(0/500"
    ) as raised:
        api.model_info(NAME)
    assert raised.value.response.status_code == 429 and limit.applied == 1
    assert api.model_info(NAME).id == NAME

    hub.faults.add(Fault("status", "body", WEIGHTS, status=429, headers=limits))
    path = hf_hub_download(NAME, WEIGHTS, cache_dir=tmp_path, endpoint=hub.endpoint, token=False)
    assert Path(path).read_bytes() == tiny_files()[WEIGHTS]
    assert [r.status for r in hub.log.of("body", WEIGHTS, "GET")] == [429, 200]


def test_an_expired_address_is_worth_nothing_and_a_new_one_is_given(hub: LocalHub) -> None:
    old = ask(hub, f"/{NAME}/resolve/main/{WEIGHTS}").headers["location"]
    assert ask(hub, old).status == 200
    hub.expire_addresses()

    assert ask(hub, old).status == 403
    assert ask(hub, ask(hub, f"/{NAME}/resolve/main/{WEIGHTS}").headers["location"]).status == 200


def test_it_speaks_tls_on_both_of_its_names(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    authority.configure_trust(client)
    with LocalHub([tiny_model(NAME)], HubOptions(ssl_context=server)).running_in_thread() as hub:
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=client))
        for file in (WEIGHTS, "config.json"):
            with opener.open(f"{hub.endpoint}/{NAME}/resolve/main/{file}", timeout=20) as answer:
                assert answer.read() == tiny_files()[file]
                host = "localhost" if file == WEIGHTS else "127.0.0.1"
                assert answer.url.startswith(f"https://{host}:")


def test_a_hub_in_a_thread_leaves_none_behind_and_frees_its_port() -> None:
    before = threading.active_count()
    with LocalHub([tiny_model(NAME)]).running_in_thread() as hub:
        hub.faults.add(Fault("hang", times=None))
        waiting = threading.Thread(target=_ask_in_vain, args=(hub,))
        waiting.start()
        while not hub.log.requests:
            time.sleep(0.005)
        port = int(hub.endpoint.rpartition(":")[2])
        with (
            pytest.raises(OSError, match="in use"),
            LocalHub(options=HubOptions(port=port)).running_in_thread(),
        ):
            pass
    waiting.join()

    assert threading.active_count() == before
    with LocalHub([tiny_model(NAME)], HubOptions(port=port)).running_in_thread() as again:
        assert ask(again, f"/api/models/{NAME}").status == 200


def _ask_in_vain(hub: LocalHub) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(hub, f"/api/models/{NAME}")
