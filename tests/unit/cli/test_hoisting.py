# SPDX-License-Identifier: Apache-2.0
"""Global flags anywhere in a command line."""

from __future__ import annotations

from itertools import permutations

import pytest

from modelexpress.cli.app import build
from modelexpress.cli.hoisting import hoist

ROOT = build("modelexpress")


def hoisted(line: str) -> str:
    return " ".join(hoist(ROOT, line.split()))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("health", "health"),
        ("health -f json", "-f json health"),
        ("health --format=json", "--format=json health"),
        ("health -fjson", "-f json health"),
        ("health -vvf json", "-v -v -f json health"),
        ("model list --detailed -q", "-q model list --detailed"),
        ("model --endpoint x:1 list", "--endpoint x:1 model list"),
        ("model download m -p s3 -e x:1", "-e x:1 model download m -p s3"),
        ("api send ping -f payload.json", "api send ping -f payload.json"),
        ("api -f json send ping -f payload.json", "-f json api send ping -f payload.json"),
        ("api send ping --payload -q", "api send ping --payload -q"),
        ("api send ping -p - -q", "-q api send ping -p -"),
        ("serve --config a --port 1", "serve --config a --port 1"),
        ("serve -c a -l debug", "serve -c a -l debug"),
        ("serve -p 1 -v", "-v serve -p 1"),
        ("config generate -f yml -e x:1", "-e x:1 config generate -f yml"),
        ("pull health -e x:1", "-e x:1 pull health"),
        ("pull -- -q", "pull -- -q"),
        ("pull m --unknown -e x:1", "-e x:1 pull m --unknown"),
        ("pull m -Zq", "pull m -Zq"),
        ("pull m --help", "pull m --help"),
        ("pull m -h", "pull m -h"),
        ("pull m -e", "-e pull m"),
        ("-f json health", "-f json health"),
        ("", ""),
    ],
)
def test_a_global_flag_is_moved_to_the_front_and_a_commands_own_flag_is_not(line: str, expected: str) -> None:
    assert hoisted(line) == expected


def test_what_is_in_front_already_keeps_its_order() -> None:
    for flags in permutations(["-f json", "-q", "--timeout 3"]):
        line = f"{' '.join(flags)} cache ls"
        assert hoisted(line) == line


def test_hoisting_twice_changes_nothing() -> None:
    once = hoisted("model download a/b -f json -qv --cache-path /x -r v1")

    assert hoisted(once) == once
