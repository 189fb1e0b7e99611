# SPDX-License-Identifier: Apache-2.0
"""How far a pull has come: a bar on a terminal, a line now and then elsewhere, on standard error."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modelexpress.cli.output import Output
from modelexpress.domain.held import OnProgress
from modelexpress.domain.progress import Phase, Progress

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown_progress(output: Output) -> Iterator[OnProgress]:
    """Where to report progress while the body runs."""
    if output.is_quiet:
        yield _ignore
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _Lines(output)


def _ignore(progress: Progress) -> None:
    pass


class _Lines:
    """A line at each new phase, and one now and then within a long one."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._phase: Phase | None = None
        self._said_at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        is_old = now - self._said_at >= _SECONDS_BETWEEN_LINES
        if progress.phase is self._phase and not is_old:
            return
        self._phase, self._said_at = progress.phase, now
        if progress.phase is not Phase.DONE:
            self._output.note(str(progress))


@contextmanager
def _bar() -> Iterator[OnProgress]:
    # Heavy, and of use on a terminal alone.
    parts: Any = importlib.import_module("rich.progress")
    console: Any = importlib.import_module("rich.console").Console(stderr=True)
    shown = parts.Progress(
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.DownloadColumn(binary_units=True),
        parts.TransferSpeedColumn(),
        parts.TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with shown:
        task = shown.add_task("resolving", total=None)

        def report(progress: Progress) -> None:
            files = f" {progress.files_done}/{progress.files_total} files" if progress.files_total else ""
            shown.update(
                task,
                description=progress.phase.value + files,
                completed=progress.bytes_done,
                total=progress.bytes_total or None,
            )

        yield report
