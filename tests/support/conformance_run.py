# SPDX-License-Identifier: Apache-2.0
"""Runs the conformance program of one client against the origin and a subject at once."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.conformance_hub import make_hub, make_other_hub
from tests.support.house import open_house

from modelexpress.testing.hub import LocalHub

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 300
_OURS: dict[str, dict[str, object]] = {"server": {}, "passing-server": {"hub__pass_through": True}}
TOKENIZER = """
import sys
from pathlib import Path
from tests.support.conformance.loading import write_tokenizer
write_tokenizer(Path(sys.argv[1]))
"""

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """What the client got from the origin and from the subject, by case, its last words at each, and
    which facts there were.
    """

    origin: Mapping[str, Outcome]
    subject: Mapping[str, Outcome]
    said: Mapping[str, str]
    facts: list[str]


async def compare(python: Path, folder: Path, subject: str, cases: Iterable[str] = ()) -> Compared:
    """Run `cases` (none: all) by the client of `python`.

    subject: `server` (ours, over the origin, with nothing set), `passing-server` (the same with
    `hub.pass_through`), `second-hub` (one more with the same content) or `other-hub` (one that differs).
    """
    tokenizer = await asyncio.to_thread(_make_tokenizer, python, folder)
    origin, facts = make_hub(tokenizer)
    async with origin, _open_subject(subject, origin, tokenizer, folder) as endpoint:
        client = _Client(python, json.dumps(facts), tuple(cases))
        # Only our server keeps Xet to itself; the client is as it is then.
        without_xet = {} if subject in _OURS else {"HF_HUB_DISABLE_XET": "1"}
        theirs, ours = await asyncio.gather(
            asyncio.to_thread(client.run, origin.endpoint, folder / "origin", HF_HUB_DISABLE_XET="1"),
            asyncio.to_thread(client.run, endpoint, folder / "subject", **without_xet),
        )
    said = {"origin": theirs[1], "subject": ours[1]}
    return Compared(theirs[0], ours[0], said, sorted(facts))


@dataclass(frozen=True)
class _Client:
    """The conformance program in an environment of its own."""

    python: Path
    facts: str
    cases: tuple[str, ...]

    def run(self, endpoint: str, folder: Path, **variables: str) -> tuple[dict[str, Outcome], str]:
        """What came of each case, as far as the client got, and what it wrote besides."""
        folder.mkdir()
        environment = client_environment(folder, endpoint) | variables
        command = [self.python, "-m", "tests.support.conformance", self.facts, folder, *self.cases]
        with (folder / "said").open("wb") as output:
            try:
                subprocess.run(command, env=environment, stdout=output, stderr=output, timeout=RUN_SECONDS)
            except subprocess.TimeoutExpired:
                output.write(f"\nnot done after {RUN_SECONDS} s".encode())
        outcomes = read_outcomes(folder)
        # Hundreds of trees: what is compared has been read from them.
        for case in outcomes:
            shutil.rmtree(folder / case)
        return outcomes, (folder / "said").read_text(errors="replace")[-3000:]


def client_environment(folder: Path, endpoint: str) -> dict[str, str]:
    """A person's environment with nothing set but the address of the Hub."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """The outcomes that the program wrote below `folder`, by case; none if it did not even begin."""
    lines = folder / "outcomes"
    return dict(json.loads(line) for line in lines.read_text().splitlines()) if lines.exists() else {}


def _make_tokenizer(python: Path, folder: Path) -> bytes:
    path = folder / "tokenizer.json"
    environment = client_environment(folder, "http://127.0.0.1:9")
    subprocess.run([python, "-c", TOKENIZER, path], env=environment, check=True, timeout=60)
    return path.read_bytes()


@asynccontextmanager
async def _open_subject(subject: str, origin: LocalHub, tokenizer: bytes, folder: Path) -> AsyncIterator[str]:
    if subject in _OURS:
        async with open_house(origin, folder, **_OURS[subject]) as house:
            yield house.hub_endpoint
    else:
        hub = make_other_hub(tokenizer) if subject == "other-hub" else make_hub(tokenizer)[0]
        async with hub:
            yield hub.endpoint
