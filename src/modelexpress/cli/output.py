# SPDX-License-Identifier: Apache-2.0
"""Where words go: one result on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import typer

from modelexpress.cli.running import stopped_at_once

Document = Mapping[str, object]


class Form(Enum):
    """How a result is written."""

    HUMAN = "human"
    JSON = "json"
    JSON_PRETTY = "json-pretty"


class Output:
    """The words of one command. `details` go into the error object, should there be one.

    A program that reads standard output gets exactly one JSON document, whatever happens.
    """

    def __init__(self, form: Form = Form.HUMAN, is_quiet: bool = False) -> None:
        self.form = form
        self.is_quiet = is_quiet
        self.details: dict[str, object] = {}
        self.error_label = "Error"
        self._has_result = False

    @property
    def is_human(self) -> bool:
        """True when a person reads standard output."""
        return self.form is Form.HUMAN

    def result(self, document: Document, lines: Callable[[], Iterable[str]]) -> None:
        """Write the command's result: `document` for programs, `lines` for people."""
        self._has_result = True
        if self.is_human:
            for line in lines():
                typer.echo(line)
        else:
            typer.echo(self._encode(document))

    def note(self, text: str) -> None:
        """Tell a person something beside the result, unless nobody wants to know."""
        if not self.is_quiet:
            _tell(text)

    def warn(self, text: str) -> None:
        """Tell a person that something is not as it may seem."""
        if not self.is_quiet:
            _tell(f"{typer.style('Warning', fg='yellow')}: {text}")

    @staticmethod
    def ask(question: str) -> bool:
        """Ask a person; anything but yes, and silence, is no. Standard output stays clean."""
        with contextlib.suppress(OSError), stopped_at_once():
            _tell(f"{question} [y/N] ", end="")
            return sys.stdin.readline().strip().lower() in ("y", "yes")
        return False

    def fail(self, code: str, text: str) -> None:
        """Say what went wrong, in the form that was asked for."""
        if not self.is_human and not self._has_result:
            self._has_result = True
            if _is_written(self._encode({**self.details, "success": False, "error": text, "code": code})):
                return
        if not self.is_quiet:
            _tell(f"{typer.style(self.error_label, fg='red', bold=True)}: {text}")

    def _encode(self, document: Document) -> str:
        indent = 2 if self.form is Form.JSON_PRETTY else None
        return json.dumps(document, sort_keys=True, ensure_ascii=False, indent=indent)


def _tell(text: str, end: str = "\n") -> None:
    """Say it on standard error; what nobody can be told there is no failure of the command."""
    with contextlib.suppress(OSError):
        typer.echo(text + end, err=True, nl=False)


def _is_written(text: str) -> bool:
    """Write to standard output; False when it takes nothing."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        raise
    except OSError:
        return False
    return True


def columns(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterable[str]:
    """Aligned lines under their heads; the last column is as long as it is."""
    table = [heads, *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(heads))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
