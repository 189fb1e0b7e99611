# SPDX-License-Identifier: Apache-2.0
"""A cache that the server made is read, and would have been made alike, by huggingface_hub 1.x and 2.x."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.house import House, tree
from tests.support.venvs import GENERATIONS, run_in_venv

from modelexpress.domain.refs import ModelRef
from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import sharded_files, tiny_model

pytestmark = [pytest.mark.packages, pytest.mark.timeout(180)]

NAME = "demo/tiny"
FOLDER = "models--demo--tiny"

VERSION = "import json, huggingface_hub; print(json.dumps(huggingface_hub.__version__))"

# A real file is opened through the path that is returned, as a model loader does.
LOAD = """
import hashlib, json, sys
from pathlib import Path
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
name, cache, revision = sys.argv[1:]
asked = {"revision": revision} if revision else {}
snapshot = Path(snapshot_download(name, cache_dir=cache, **asked))
files = {}
for path in sorted(snapshot.rglob("*")):
    if path.is_file():
        file = path.relative_to(snapshot).as_posix()
        found = hf_hub_download(name, file, cache_dir=cache, **asked)
        assert found == try_to_load_from_cache(name, file, cache_dir=cache, **asked)
        files[file] = [found, hashlib.sha256(Path(found).read_bytes()).hexdigest()]
print(json.dumps([str(snapshot), files]))
"""

SCAN = """
import json, sys
from huggingface_hub import scan_cache_dir
found = scan_cache_dir(sys.argv[1])
[repository] = found.repos
warnings = [str(warning) for warning in found.warnings]
print(json.dumps([warnings, repository.repo_id, repository.nb_files,
    sorted([revision.commit_hash, sorted(revision.refs)] for revision in repository.revisions)]))
"""

MISSING = """
import json, sys
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
try:
    print(json.dumps(hf_hub_download(sys.argv[1], "nothing.bin", cache_dir=sys.argv[2])))
except LocalEntryNotFoundError as error:
    print(json.dumps(type(error).__name__))
"""


@pytest.fixture(params=["1", "2"])
def python(request: pytest.FixtureRequest, python_of: Callable[[str], Path]) -> Path:
    return python_of(str(request.param))


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    repository = tiny_model(NAME)
    repository.tags["v1.0"] = repository.branches["dev/x"] = repository.branches["main"]
    repository.commit(sharded_files(2, 4000), delete=["model.safetensors"])
    async with LocalHub([repository]) as hub:
        yield hub


async def pull(house: House, root: Path, *revisions: str | None) -> dict[str | None, Path]:
    async with house.client(root) as client:
        return {
            revision: (await client.pull(ModelRef.parse(NAME, revision=revision))).path
            for revision in revisions
        }


async def load_offline(python: Path, program: str, *arguments: str | Path) -> Any:
    return await asyncio.to_thread(run_in_venv, python, program, *arguments, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_the_version_is_the_one_asked_for(python_of: Callable[[str], Path], generation: str) -> None:
    version = run_in_venv(python_of(generation), VERSION)

    assert f"{version}.".startswith(f"{generation}.")


async def test_it_loads_the_servers_and_the_clients_cache_offline(
    python: Path, house: House, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    pulled = await pull(house, mine, None, "v1.0", "dev/x")
    repository = house.hub._repositories[NAME]
    for revision, path in pulled.items():
        commit = repository.find_commit(revision or "main")
        assert commit is not None
        expected = {file: content.read() for file, content in repository.files(commit).items()}
        for root in (house.root, mine):
            snapshot, files = await load_offline(python, LOAD, NAME, root, revision or "")
            assert snapshot == str(root / FOLDER / "snapshots" / commit)
            assert set(files) == set(expected)
            for file, (found, digest) in files.items():
                assert found == f"{snapshot}/{file}"
                assert digest == hashlib.sha256(expected[file]).hexdigest()
        assert path == mine / FOLDER / "snapshots" / commit


async def test_a_bare_commit_is_enough(python: Path, house: House, tmp_path: Path) -> None:
    paths = await pull(house, tmp_path / "mine", "v1.0")
    commit = paths["v1.0"].name

    for revision in (commit, "v1.0"):
        snapshot, _ = await load_offline(python, LOAD, NAME, tmp_path / "mine", revision)
        assert snapshot == str(paths["v1.0"])


async def test_its_own_survey_of_the_cache_finds_every_revision_and_no_fault(
    python: Path, house: House, tmp_path: Path
) -> None:
    await pull(house, tmp_path / "mine", None, "v1.0", "dev/x")
    repository = house.hub._repositories[NAME]
    for root in (house.root, tmp_path / "mine"):
        warnings, name, files, revisions = await load_offline(python, SCAN, root)
        # Our own folder is no repository, and that is all that it may wonder about.
        assert all(warning.endswith(f"{root}/.mx") for warning in warnings)
        assert name == NAME and files == len(tree(root / FOLDER / "blobs"))
        assert revisions == sorted(
            [[repository.branches["main"], ["main"]], [repository.tags["v1.0"], ["dev/x", "v1.0"]]]
        )


async def test_what_is_not_in_the_cache_is_missing_offline_and_not_empty(
    python: Path, house: House, tmp_path: Path
) -> None:
    await pull(house, tmp_path / "mine", None)

    assert await load_offline(python, MISSING, NAME, house.root) == "LocalEntryNotFoundError"


async def test_it_makes_the_same_cache_from_the_local_hub_and_finds_ours_warm(
    python: Path, house: House, tmp_path: Path
) -> None:
    await pull(house, tmp_path / "mine", None, "v1.0")
    online = {"HF_ENDPOINT": house.hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
    for revision in ("", "v1.0"):
        await asyncio.to_thread(run_in_venv, python, LOAD, NAME, tmp_path / "theirs", revision, **online)
    expected = tree(tmp_path / "theirs" / FOLDER)
    for part in ("blobs/", "snapshots/", "refs/", "trees/"):
        wanted = {path: content for path, content in expected.items() if path.startswith(part)}
        assert wanted
        for root in (house.root, tmp_path / "mine"):
            found = tree(root / FOLDER).items()
            assert {path: content for path, content in found if path.startswith(part)} == wanted

    house.hub.log.clear()
    await asyncio.to_thread(run_in_venv, python, LOAD, NAME, house.root, "", **online)
    assert [request for request in house.hub.log.of("body") if request.method == "GET"] == []
