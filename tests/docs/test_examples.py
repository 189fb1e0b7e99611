# SPDX-License-Identifier: Apache-2.0
"""The Python examples of the pages run as they stand, against a real server and a local Hub."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.house import House, open_house
from tests.support.served import Place, serving

from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import tiny_model

pytestmark = pytest.mark.slow  # each starts a server and a Python of its own

ROOT = Path(__file__).parents[2]
NAME = "sentence-transformers/all-MiniLM-L6-v2"
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One block of Python on a page."""

    page: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


@dataclass(frozen=True)
class Ended:
    """A program that has run."""

    status: int
    said: str
    complained: str


def examples() -> list[Example]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        Example(page.relative_to(ROOT).as_posix(), number, text)
        for page in pages
        for number, text in enumerate(PYTHON.findall(page.read_text()), 1)
    ]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with LocalHub([tiny_model(NAME)]) as hub, open_house(hub, tmp_path) as house:
        yield house


async def run(text: str, house: House, folder: Path, **variables: str) -> Ended:
    """Run a program in `folder`, where nothing but the environment tells it where the server is."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    env = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": house.hub.endpoint,
        "MODEL_EXPRESS_ENDPOINT": house.endpoint,
        "MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS": "localhost,127.0.0.1",
        **variables,
    }
    text = text.replace("http://localhost:8001", house.endpoint).replace("/data/models", str(folder / "data"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", text, cwd=folder, env=env,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, complained = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode is not None
    return Ended(process.returncode, said.decode(), complained.decode())


def test_both_pages_have_examples() -> None:
    assert {"README.md", "docs/python.md"} <= {example.page for example in examples()}


@pytest.mark.parametrize("example", examples(), ids=str)
async def test_an_example_runs_as_it_stands(example: Example, house: House, tmp_path: Path) -> None:
    ended = await run(example.text, house, tmp_path)
    assert (ended.status, ended.complained) == (0, "")
    assert ended.said.strip()


async def test_the_example_of_the_readme_prints_where_the_chosen_files_are(
    house: House, tmp_path: Path
) -> None:
    [example] = [example for example in examples() if example.page == "README.md"]
    ended = await run(example.text, house, tmp_path)
    snapshot = Path(ended.said.strip())
    assert (snapshot / "model.safetensors").is_file()
    assert not (snapshot / "onnx").exists()


async def test_an_example_with_an_argument_that_is_not_there_fails(house: House, tmp_path: Path) -> None:
    [example] = [example for example in examples() if example.page == "README.md"]
    wrong = example.text.replace("Selection(exclude=", "Selection(leave_out=")
    assert wrong != example.text
    ended = await run(wrong, house, tmp_path)
    assert ended.status == 1
    assert "leave_out" in ended.complained


async def test_the_python_client_says_which_of_two_addresses_counts(house: House, tmp_path: Path) -> None:
    asked = "from modelexpress import Client; print(Client().endpoint)"
    ended = await run(asked, house, tmp_path, MX_SERVER_ADDRESS="other.example.org:8001")
    assert ended.said.strip() == house.endpoint
    assert "MODEL_EXPRESS_ENDPOINT" in ended.complained
    assert "MX_SERVER_ADDRESS" in ended.complained


@dataclass(frozen=True)
class PlaceWithToken(Place):
    """A place whose server has a Hub token of its own."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "HF_TOKEN": "hf_of_the_server"}


@pytest.mark.parametrize("variables", [{}, {"access__server_token": "refuse"}], ids=["serve", "refuse"])
async def test_a_server_says_at_start_that_its_token_serves_others(
    tmp_path: Path, variables: Mapping[str, str]
) -> None:
    # A file that it shares with clients: their `quiet` is none of its business.
    (tmp_path / "modelexpress.yaml").write_text("logging: {quiet: true}\n")
    async with LocalHub([]) as hub, serving(PlaceWithToken(tmp_path, hub.endpoint), **variables) as served:
        said = served.said
    assert ("are served with this server's Hub token" in said) == (not variables)
    assert "hf_of_the_server" not in said
