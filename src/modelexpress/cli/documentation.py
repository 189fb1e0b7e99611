# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/cli.md, made from the commands themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelexpress.cli.app import build
from modelexpress.cli.exits import EXITS, STATUSES
from modelexpress.domain.pages import replace_between

_PROGRAMS = ("modelexpress", "modelexpress-server", "config_gen")


def with_tables(page: str) -> str:
    """`page` with the tables as they should be, between their markers. Raises Invalid without markers."""
    page = replace_between(page, "global flags", options_table(build("modelexpress")))
    page = replace_between(page, "commands", "\n\n".join(_sections()))
    return replace_between(page, "exit statuses", exits_table())


def options_table(command: Any) -> str:
    """The flags and arguments of one command."""
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if not rows:
        return "No flags of its own."
    return "\n".join(("| flag or argument | meaning |", "|---|---|", *rows))


def exits_table() -> str:
    """Every exit status: what it means, and the error codes that lead to it."""
    codes = {status: sorted(e.code for e, own in EXITS.items() if own == status) for status in STATUSES}
    rows = (
        f"| {status} | {meaning} | {', '.join(f'`{code}`' for code in codes[status])} |"
        for status, meaning in STATUSES.items()
    )
    return "\n".join(("| status | meaning | error codes |", "|---|---|---|", *rows))


def walk(program: str) -> Iterator[tuple[str, Any]]:
    """Every command of a program that is no group, with the words that lead to it."""
    yield from _walk(program, build(program))


def _walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    commands = getattr(command, "commands", None)
    if commands is None:
        yield words, command
        return
    for name, child in commands.items():
        yield from _walk(f"{words} {name}", child)


def _sections() -> Iterator[str]:
    for program in _PROGRAMS:
        for words, command in walk(program):
            yield f"### `{words}`\n\n{_said(command.help)}\n\n{options_table(command)}"


def _said(text: str | None) -> str:
    return " ".join((text or "").replace("\b", "").split())


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    return f"| {name} | {_said(parameter.help)} |".replace("  ", " ")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
