# SPDX-License-Identifier: Apache-2.0
"""What the local Hub lists and describes: repositories, chosen fields, commits, and Xet tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from tests.support.hub_client import ask

from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository

NAME = "demo/tiny"
MODELS = ["demo/bert-base", "demo/bert-large", "demo/tiny", "gpt2", "other/bert-tiny"]
FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def made(name: str, **arguments: bool) -> Repository:
    """A repository with one small file."""
    repository = Repository(name, **arguments)  # type: ignore[arg-type]
    repository.commit({"config.json": b"{}"})
    return repository


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    names = [*reversed(MODELS), "datasets/demo/text", "datasets/squad", "spaces/demo/app"]
    with LocalHub([made(name) for name in names], HubOptions(page_size=2)).running_in_thread() as hub:
        yield hub


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def test_each_kind_is_listed_by_itself_in_pages(hub: LocalHub, api: HfApi) -> None:
    assert [model.id for model in api.list_models()] == MODELS
    assert [r.path for r in hub.log.requests] == ["/api/models"] * 3
    assert [dataset.id for dataset in api.list_datasets()] == ["demo/text", "squad"]
    assert [space.id for space in api.list_spaces()] == ["demo/app"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"search": "bert"}, ["demo/bert-base", "demo/bert-large", "other/bert-tiny"]),
        ({"search": "BERT tiny"}, ["other/bert-tiny"]),
        ({"author": "demo"}, ["demo/bert-base", "demo/bert-large", "demo/tiny"]),
        ({"author": "demo", "search": "bert", "limit": 1}, ["demo/bert-base"]),
        ({"author": "dem"}, []),
        ({"limit": 3}, MODELS[:3]),
        ({"limit": 100}, MODELS),
    ],
)
def test_a_list_can_be_narrowed(api: HfApi, asked: dict[str, object], found: list[str]) -> None:
    assert [model.id for model in api.list_models(**asked)] == found  # type: ignore[arg-type]


def test_a_page_links_to_the_next_one_with_the_same_question(hub: LocalHub) -> None:
    page = ask(hub, "/api/models?search=bert&limit=1&expand=sha&expand=private")
    seen = []
    while True:
        [row] = json.loads(page.body)
        seen.append(row["id"])
        assert set(row) == {"_id", "id", "sha", "private"}
        if "link" not in page.headers:
            break
        address, _, relation = page.headers["link"].partition(">; ")
        assert relation == 'rel="next"' and "limit=1" in address
        page = ask(hub, address.removeprefix("<"))

    assert seen == ["demo/bert-base", "demo/bert-large", "other/bert-tiny"]


def test_a_list_is_brief_unless_all_is_asked_for(api: HfApi) -> None:
    brief, full = next(iter(api.list_models())), next(iter(api.list_models(full=True)))
    dataset, whole = next(iter(api.list_datasets())), next(iter(api.list_datasets(full=True)))

    assert brief.sha is None and brief.siblings is None and brief.private is False
    assert brief.created_at == full.created_at == FIRST
    assert full.sha is not None and [file.rfilename for file in full.siblings or []] == ["config.json"]
    assert dataset.sha is not None and dataset.siblings is None and whole.siblings is not None


def test_nobody_is_told_of_private_models_but_who_may_see_them(hub: LocalHub, api: HfApi) -> None:
    hub.add(made("demo/closed", is_private=True))
    hub.add(made("demo/gated", is_gated=True))
    hub.add(Repository("demo/empty"))
    hub.grant("hf_member", "demo/closed")
    hub.grant("hf_stranger")

    for token, closed in ((False, []), ("hf_stranger", []), ("hf_member", ["demo/closed"])):
        found = [model.id for model in api.list_models(author="demo", token=token)]
        assert found == sorted(["demo/bert-base", "demo/bert-large", "demo/gated", "demo/tiny", *closed])
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        list(api.list_models(token="hf_unknown"))


def test_a_list_has_the_faults_of_the_api(hub: LocalHub) -> None:
    fault = hub.faults.add(Fault("status", "api", status=502))

    assert [ask(hub, "/api/datasets").status for _ in range(2)] == [502, 200]
    assert fault.applied == 1 and [r.status for r in hub.log.of("api")] == [502, 200]


def test_a_description_has_the_fields_that_are_asked_for_and_no_others(hub: LocalHub, api: HfApi) -> None:
    repository = hub._repositories[NAME]
    first = repository.branches["main"]
    second = repository.commit({"w.bin": bytes(1000)})
    info = api.model_info(NAME, expand=["sha", "siblings", "lastModified", "gguf", "downloadsAllTime"])
    older = api.model_info(NAME, revision=first, expand=["sha"])
    dataset = api.dataset_info("squad", expand=["usedStorage", "citation"])
    space = api.space_info("demo/app", expand=["sdk", "runtime", "subdomain"])

    assert (info.sha, older.sha) == (second, first)
    assert [file.rfilename for file in info.siblings or []] == ["config.json", "w.bin"]
    assert info.last_modified is not None and info.last_modified > FIRST
    assert info.private is None and info.gguf is None and info.downloads_all_time == 0
    assert dataset.used_storage == 2 and dataset.sha is None
    assert (space.sdk, space.subdomain) == ("static", "demo-app")
    assert space.runtime is not None and space.runtime.stage == "RUNNING"
    answer = ask(hub, f"/api/models/{NAME}?expand[]=sha&expand[]=likes&expand=sha")
    assert json.loads(answer.body) == {"_id": repository.object_id, "id": NAME, "sha": second, "likes": 0}
    with pytest.raises(HfHubHTTPError, match="nonsense"):
        api.model_info(NAME, expand=["nonsense"])  # type: ignore[list-item]


def test_a_description_is_the_same_every_time(hub: LocalHub, api: HfApi) -> None:
    again = made(NAME)
    again.commit({"w.bin": bytes(1000)})
    hub._repositories[NAME].commit({"w.bin": bytes(1000)})
    before = json.loads(ask(hub, f"/api/models/{NAME}").body)
    hub.add(again)
    info = api.model_info(NAME)

    assert json.loads(ask(hub, f"/api/models/{NAME}").body) == before
    assert (info.author, info.used_storage) == ("demo", 1002)
    assert info.created_at == FIRST and info.last_modified == FIRST.replace(minute=1)
    assert api.model_info("gpt2").author is None


def test_commits_are_listed_from_the_last_to_the_first(hub: LocalHub, api: HfApi) -> None:
    repository = hub._repositories[NAME]
    shas = [repository.branches["main"], *(repository.commit({"n": b"%d" % n}) for n in range(4))]
    repository.tags["v1"] = shas[2]
    found = api.list_repo_commits(NAME)
    pages = hub.log.of("api")

    assert [commit.commit_id for commit in found] == shas[::-1] and len(pages) == 3
    assert [commit.created_at.minute for commit in found] == [4, 3, 2, 1, 0]
    assert found[0].authors == ["tester"] and found[0].formatted_title is None
    assert [commit.commit_id for commit in api.list_repo_commits(NAME, revision="v1")] == shas[2::-1]
    assert api.list_repo_commits(NAME, formatted=True)[0].formatted_title == found[0].title
    [changed] = api.get_paths_info(NAME, "n", revision="v1", expand=True)
    assert changed.last_commit is not None and changed.last_commit.date == found[2].created_at
    assert changed.last_commit.title == found[2].title
    counted = ask(hub, f"/api/models/{NAME}/commits/main?limit=1")
    assert counted.headers["x-total-count"] == "5" and len(json.loads(counted.body)) == 1
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_commits(NAME, revision="nothing")


def test_a_xet_token_is_told_in_headers_and_json_to_who_may_read(hub: LocalHub) -> None:
    for name in ("demo/xet", "datasets/demo/xet"):
        repository = Repository(name, is_gated=True, cas_url="local:///somewhere")
        commit = repository.commit({"w.bin": b"1"}, xet_hashes={"w.bin": "a" * 64})
        hub.add(repository)
        hub.grant("hf_member", name)
        told = ask(hub, f"/{name}/resolve/main/w.bin", token="hf_member").headers
        route, _, relation = told["link"].removeprefix("<").partition(">; ")
        answer = ask(hub, route, token="hf_member")
        row = json.loads(answer.body)

        kind = name.split("/")[0] if name.count("/") == 2 else "models"
        assert route == f"{hub.endpoint}/api/{kind}/demo/xet/xet-read-token/{commit}"
        assert (relation, told["x-xet-hash"]) == ('rel="xet-auth"', "a" * 64)
        assert row == {
            "accessToken": answer.headers["x-xet-access-token"],
            "casUrl": answer.headers["x-xet-cas-url"],
            "exp": int(answer.headers["x-xet-token-expiration"]),
        }
        assert row["casUrl"] == "local:///somewhere" and row["exp"] > time.time() + 60
        assert ask(hub, route).headers["x-error-code"] == "GatedRepo"
        assert ask(hub, route.replace(commit, "nothing"), token="hf_member").status == 404


_UPLOAD = """
import sys, hf_xet
cas = {"endpoint": sys.argv[1], "token": "t", "token_expiry_unix_secs": 2**32}
with hf_xet.XetSession().new_upload_commit(**cas) as commit:
    upload = commit.start_upload_file(sys.argv[2])
print(upload.result().xet_info.hash)
"""
_DOWNLOAD = """
import sys, huggingface_hub
name, kind, endpoint = sys.argv[1:]
print(huggingface_hub.snapshot_download(name, repo_type=kind, endpoint=endpoint, token=False))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs a script in a process of its own, where Xet is on, and returns what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    env = {**kept, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def run(script: str, *arguments: str) -> str:
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(
            command, env=env, check=True, timeout=100, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    return run


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_huggingface_hub_reads_a_real_xet_repository(
    hub: LocalHub, run: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("hf_xet", reason="hf_xet makes the Xet storage")
    content = bytes(n * n % 251 for n in range(300_000))
    (tmp_path / "w.bin").write_bytes(content)
    cas = f"local://{tmp_path / 'cas'}"
    xet_hash = run(_UPLOAD, cas, str(tmp_path / "w.bin"))
    repository = Repository("datasets/demo/xet" if kind == "dataset" else "demo/xet", cas_url=cas)
    repository.commit({"w.bin": content, "plain.bin": b"plain"}, xet_hashes={"w.bin": xet_hash})
    repository.commit({"config.json": b"{}"})
    hub.add(repository)
    snapshot = Path(run(_DOWNLOAD, "demo/xet", kind, hub.endpoint))

    assert (snapshot / "w.bin").read_bytes() == content
    assert (snapshot / "plain.bin").read_bytes() == b"plain"
    assert hub.log.of("body", "w.bin") == []
    assert any("xet-read-token" in request.path for request in hub.log.of("api"))


def test_made_up_hashes_lead_nowhere(hub: LocalHub) -> None:
    repository = Repository("demo/xet", has_xet=True)
    repository.commit({"w.bin": b"1"})
    hub.add(repository)
    route = ask(hub, "/demo/xet/resolve/main/w.bin").headers["link"].partition(">")[0].removeprefix("<")

    assert ask(hub, route).status == 404
