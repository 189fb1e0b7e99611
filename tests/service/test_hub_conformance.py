# SPDX-License-Identifier: Apache-2.0
"""An unmodified client gets from the server exactly what it gets from the origin: files, answers, errors.

MX_CONFORMANCE_SUBJECT=second-hub compares the origin with a second one like it instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.support.conformance import CASES
from tests.support.conformance.outcomes import without_chance
from tests.support.conformance_run import ROOT, Compared, compare
from tests.support.venvs import GENERATIONS

# Environments are made, and every case of a generation is run, before its first test is judged.
pytestmark = [pytest.mark.packages, pytest.mark.timeout(600)]

PAIRS = [(g, name) for g in GENERATIONS for name, case in CASES.items() if case.is_for(g)]

# What differs in the other hub, as these cases must notice.
NOTICED = {
    "files_listed_at_a_tag", "gated_for_nobody_take_file", "info", "private_for_a_member_take_file",
    "snapshot_whole",
}  # fmt: skip
ALIKE = {"file_of_a_xet_repository", "snapshot_of_a_renamed_repository", "whoami_with_a_token"}

PASSED = [(generation, name) for generation, name in PAIRS if CASES[name].is_passed_through]

Results = Callable[[str], Compared]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of this run have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "conformance"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def subject(outer_environment: dict[str, str]) -> str:
    """What is compared with the origin."""
    return outer_environment.get("MX_CONFORMANCE_SUBJECT", "server")


@pytest.fixture
def results(shared: Path, python_of: Callable[[str], Path], subject: str) -> Results:
    """What the client of a generation got from both sides: run once, by whoever asks first."""

    def run(generation: str) -> dict[str, object]:
        folder = shared / generation
        folder.mkdir()
        try:
            return asdict(run_apart(python_of(generation), folder, subject))
        except pytest.skip.Exception as reason:
            return {"skipped": str(reason)}
        except Exception as error:  # noqa: BLE001 - tried once: all others are told of it
            return {"failed": repr(error)}

    return lambda generation: read_compared(get_once(shared / f"{generation}.json", lambda: run(generation)))


def run_apart(python: Path, folder: Path, subject: str, *cases: str) -> Compared:
    """Compare on a thread of its own, which has no event loop yet."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(compare(python, folder, subject, cases))).result()


def get_once(path: Path, make: Callable[[], dict[str, object]]) -> dict[str, object]:
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def read_compared(found: dict[str, object]) -> Compared:
    if "skipped" in found:
        pytest.skip(str(found["skipped"]))
    assert "failed" not in found, found["failed"]
    return Compared(**found)


@pytest.mark.parametrize(("generation", "name"), PAIRS)
def test_the_client_gets_the_same(generation: str, name: str, results: Results, subject: str) -> None:
    compared = results(generation)
    if subject == "server" and CASES[name].is_passed_through:
        assert compared.subject[name]["error"]["status"] == 404, "it needs no setting any more: say so"
        return
    assert_same(compared, name)


@pytest.mark.parametrize(("generation", "name"), PASSED)
def test_with_the_setting_that_it_needs_the_client_gets_the_same(
    generation: str, name: str, python_of: Callable[[str], Path], tmp_path: Path
) -> None:
    assert_same(run_apart(python_of(generation), tmp_path, "passing-server", name), name)


def test_what_needs_the_setting_is_in_the_docs() -> None:
    docs = (ROOT / "docs/hub-endpoint.md").read_text()
    told = re.search(r"Only with `hub\.pass_through`: ([a-z ,]+)\.", docs)
    assert told is not None
    assert set(told[1].split(", ")) == {name.replace("_", " ") for _, name in PASSED}


def assert_same(compared: Compared, name: str) -> None:
    case = CASES[name]
    if lacking := case.needs.difference(compared.facts):
        pytest.skip(f"nothing is known here of {', '.join(sorted(lacking))}")
    assert name in compared.origin, f"not run: {compared.said['origin']}"
    theirs = compared.origin[name]
    refusal = theirs.get("error", {"status": 0})
    assert refusal.get("status") == case.fails, f"the origin itself does not do what it should: {theirs}"

    assert name in compared.subject, f"the client did not get there: {compared.said['subject']}"
    assert without_chance(compared.subject[name]) == without_chance(theirs), compared.subject[name].get(
        "said"
    )


@pytest.mark.parametrize("generation", ["2"])
def test_a_hub_that_differs_is_noticed(
    generation: str, python_of: Callable[[str], Path], tmp_path: Path
) -> None:
    compared = run_apart(python_of(generation), tmp_path, "other-hub", *NOTICED, *ALIKE)

    assert compared.origin.keys() == compared.subject.keys() == NOTICED | ALIKE
    noticed = {
        name
        for name, theirs in compared.origin.items()
        if without_chance(theirs) != without_chance(compared.subject[name])
    }
    assert noticed == NOTICED


def test_there_are_enough_cases() -> None:
    assert len(PAIRS) >= 80
    assert all(PAIRS.count(pair) == 1 for pair in PAIRS)
