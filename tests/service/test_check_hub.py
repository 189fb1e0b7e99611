# SPDX-License-Identifier: Apache-2.0
"""`make check-hub` is for the public Hub; here it asks a local one that has models of the same names."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator

import pytest
from scripts.check_hub import DIFFERENT, FACTS, NOT_CHECKED, ROOT
from tests.support.proxy import closed_port

from modelexpress.testing.hub import LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files


def make_repository(name: str, is_gated: bool = False) -> Repository:
    repository = Repository(name, is_gated=is_gated)
    repository.commit({**tiny_files(), FACTS["lfs"]: bytes(200_000)})
    return repository


def make_dataset(rows: bytes) -> Repository:
    dataset = Repository(f"datasets/{FACTS['dataset']}")
    dataset.commit({FACTS["dataset_file"]: rows})
    return dataset


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    models = [make_repository(FACTS["model"]), make_repository("gpt2"), make_repository(FACTS["gated"], True)]
    async with LocalHub([*models, make_dataset(b"number,square\n2,4\n")]) as hub:
        hub.rename(FACTS["renamed"], "openai-community/gpt2")
        yield hub


async def start(origin: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "scripts.check_hub", "--origin", origin]
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=STDOUT)


async def test_a_server_is_as_good_as_the_hub_but_for_what_changes_after_the_hub_was_asked(
    hub: LocalHub,
) -> None:
    process = await start(hub.endpoint)
    assert process.stdout is not None
    printed = ""
    while "asking a server over it" not in printed:
        line = await process.stdout.readline()
        assert line, printed
        printed += line.decode()
    hub.add(make_dataset(b"number,square\n3,9\n"))
    rest, _ = await process.communicate()
    printed = rest.decode()

    assert process.returncode == DIFFERENT, printed
    different = re.findall(r"^(\w+): its \w+ differs$", printed, re.MULTILINE)
    assert "dataset_file" in different
    assert all("dataset" in name for name in different), printed
    same = re.search(r"(\d+) of (\d+) cases are the same", printed)
    assert same is not None
    assert int(same[1]) == int(same[2]) - len(different) >= 60


async def test_where_nobody_answers_it_says_that_nothing_was_compared() -> None:
    process = await start(f"http://127.0.0.1:{closed_port()}")
    printed, _ = await process.communicate()

    assert process.returncode == NOT_CHECKED
    assert b"nothing was compared" in printed
