# SPDX-License-Identifier: Apache-2.0
"""`modelexpress bench`: what it measures, what it says, and that nothing of the user's is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.house import House, tree
from tests.support.shell import Shell

from modelexpress.cli.benching import download_plainly
from modelexpress.testing.hub import LocalHub

NAME = "demo/tiny"


@pytest.fixture
def shell(house: House, tmp_path: Path) -> Shell:
    """A person with a cache of their own, and a folder for what is temporary."""
    (tmp_path / "temporary").mkdir()
    env = {
        "MODEL_EXPRESS_ENDPOINT": house.endpoint,
        "MODEL_EXPRESS_CACHE_DIRECTORY": str(tmp_path / "own"),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    return Shell(tmp_path, env)


async def test_it_measures_the_server_beside_a_download_and_leaves_nothing_behind(
    house: House, hub: LocalHub, shell: Shell, tmp_path: Path
) -> None:
    said = await shell.run("bench", NAME, "--against", hub.endpoint, "--rounds", "2", "-f", "json")
    found = said.document

    assert (said.status, found["success"], found["server_had_it"]) == (0, True, False), said
    assert {what: len(seconds) for what, seconds in found["seconds"].items()} == {
        "server": 1, "cold": 2, "warm": 2, "fan_out": 2, "download": 2,
    }  # fmt: skip
    assert set(found["times_as_fast"]) == {"cold", "warm", "fan_out"}
    assert found["files"] == 10 and found["bytes"] > 100_000 and found["notes"] == []
    assert found["downloaded_with"] == "huggingface_hub"
    assert tree(tmp_path / "temporary") == {} and not (tmp_path / "own").exists()
    assert list((house.root / "models--demo--tiny" / "snapshots").iterdir())


async def test_a_model_that_the_server_has_is_not_pulled_or_deleted_there_for_the_figure(
    house: House, hub: LocalHub, shell: Shell
) -> None:
    await shell.run("pull", NAME, "--no-shared-storage")
    held = tree(house.root / "models--demo--tiny")
    said = await shell.run("bench", NAME, "--against", hub.endpoint, "--rounds", "1")

    assert said.status == 0
    assert "its own cold pull was not measured" in said.err
    assert "from its origin" not in said.out and "4 cold clients" in said.out
    assert tree(house.root / "models--demo--tiny") == held


async def test_a_download_that_fails_is_a_note_and_costs_no_other_figure(hub: LocalHub, shell: Shell) -> None:
    nowhere = f"{hub.endpoint}/elsewhere"
    said = await shell.run("bench", NAME, "--against", nowhere, "--rounds", "1", "-f", "json")

    assert said.status == 0
    assert said.document["seconds"]["download"] == [] and said.document["times_as_fast"]["cold"] is None
    assert f"the download from {nowhere} failed" in said.document["notes"][-1]


@pytest.mark.parametrize("url", ["ftp://hub", "hub", "http://me:secret@hub"])
async def test_an_address_that_is_none_is_refused_before_anything_happens(shell: Shell, url: str) -> None:
    said = await shell.run("bench", NAME, "--against", url)

    assert said.status == 2 and "secret" not in said.err + said.out


async def test_without_the_hub_library_the_files_are_downloaded_plainly(
    hub: LocalHub, tmp_path: Path
) -> None:
    url = f"{hub.endpoint}/{NAME}/resolve/main"
    seconds = await download_plainly({"a/b.json": f"{url}/config.json"}, tmp_path)
    refused = await download_plainly({"none": f"{url}/none"}, tmp_path)

    assert isinstance(seconds, float) and (tmp_path / "a" / "b.json").stat().st_size > 0
    assert isinstance(refused, str) and "404" in refused
