# SPDX-License-Identifier: Apache-2.0
"""What the parts of the suite share: the flags, a place for files, and rounds that alternate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Run, Series
from rich.console import Console

NAME = "bench/synthetic"
CONNECTIONS = 4  # of our client to a data plane

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True, slots=True)
class Scene:
    """One run of the suite. Sizes are in MB; `is_pinned`: server and client have a core each.

    `calm_seconds`: how long a measurement waits for others on the machine to be quiet.
    """

    folder: Path
    rounds: int
    megabytes: int
    files: int
    slow_rounds: int
    small: bool
    is_pinned: bool
    calm_seconds: float


def alternate(
    contenders: Mapping[str, Callable[[int], Run]], bytes_moved: int, rounds: int
) -> dict[str, Series]:
    """All contenders in every round, in turning order; the first round warms up and is thrown away."""
    series = {name: Series(name, bytes_moved) for name in contenders}
    for number in range(rounds + 1):
        for name in _turned(list(contenders), number):
            run = contenders[name](number)
            if number:
                series[name].runs.append(run)
        if number:
            out.print(
                f"  round {number}: {', '.join(_shown(name, one.runs[-1]) for name, one in series.items())}"
            )
    return series


def _shown(name: str, run: Run) -> str:
    others = (run.others_cpu or 0.0) / run.seconds
    return f"{name} {run.seconds:.3f} s" + (f" (others: {others:.1f} cores)" if others >= 0.1 else "")


def _turned(names: Sequence[str], number: int) -> list[str]:
    at = number % len(names)
    turned = [*names[at:], *names[:at]]
    return turned if number % 2 else turned[::-1]
