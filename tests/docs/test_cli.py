# SPDX-License-Identifier: Apache-2.0
"""docs/cli.md says what the commands do, and every command line on any page can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelexpress.cli.app import build
from modelexpress.cli.documentation import walk, with_tables
from modelexpress.cli.exits import EXITS, STATUSES
from modelexpress.cli.hoisting import hoist
from modelexpress.domain.errors import ALL_ERRORS, Invalid

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"
PROGRAMS = ("modelexpress", "modelexpress-cli", "modelexpress-server", "config_gen")
BLOCK = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:modelexpress(?:-cli|-server)?|config_gen) [^`]+)`")
WORDS = re.compile(rf"(?:^|\$\(|<\(|\"\$\(|\| )((?:{'|'.join(PROGRAMS)})(?: [^|)#]*)?)")


def typed_lines() -> Iterator[tuple[str, str]]:
    """Every line on a page that starts one of our programs."""
    for page in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        lines = [line.strip() for block in BLOCK.findall(text) for line in block.splitlines()]
        for line in (*lines, *INLINE.findall(text)):
            for match in WORDS.finditer(line):
                yield page.relative_to(ROOT).as_posix(), match[1].strip()


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text()

    assert with_tables(text) == text, "run: python -m modelexpress.cli.documentation docs/cli.md"


def test_every_command_flag_and_status_is_on_the_page() -> None:
    text = PAGE.read_text()
    for program in ("modelexpress", "modelexpress-server", "config_gen"):
        for words, command in walk(program):
            assert f"### `{words}`" in text
            assert command.help, words
            for parameter in command.params:
                assert parameter.help or parameter.param_type_name == "argument", (words, parameter.name)
                assert all(f"`{flag}`" in text for flag in parameter.opts if flag.startswith("-"))
    assert all(f"| {status} |" in text for status in (*STATUSES, *EXITS.values()))
    assert all(f"`{kind.code}`" in text for kind in ALL_ERRORS)


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(Invalid, match="markers"):
        with_tables("# Command line\n")


def test_lines_to_type_are_found() -> None:
    found = list(typed_lines())

    assert ("README.md", "modelexpress serve") in found
    assert len(found) > 15


@pytest.mark.parametrize(("page", "line"), sorted(set(typed_lines())))
def test_a_command_line_on_a_page_can_be_typed(page: str, line: str) -> None:
    program, *words = shlex.split(line.replace("…", "").replace("[", "").replace("]", "").rstrip('"'))
    root = build(program)
    command: Any = root
    left = iter(hoist(root, words))
    for word in left:
        options = {flag: option for option in (*root.params, *command.params) for flag in option.opts}
        if word in ("-h", "--help", "--"):
            continue
        if word.startswith("-"):
            option = options.get(word.partition("=")[0])
            assert option is not None, f"{page}: {line}: there is no {word}"
            if not (option.is_flag or option.count or "=" in word):
                next(left, None)
        elif getattr(command, "commands", None) is not None:
            assert word in command.commands or word.isupper(), f"{page}: {line}: there is no command {word}"
            command = command.commands.get(word, command)
