# SPDX-License-Identifier: Apache-2.0
"""Measure ModelExpress on this machine, print a table of ratios, write bench/results.json."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.eviction import measure_eviction
from bench.fanout import measure_fanout
from bench.figures import MEGABYTE, Figure, Found, Run, Series
from bench.first_byte import measure_first_byte
from bench.gpu import measure_gpu
from bench.hub import measure_hub
from bench.machine import commit, describe, load
from bench.pull import measure_cold, measure_warm
from bench.scene import Scene, out
from bench.transfer import measure_disk, measure_memory, measure_others
from rich.table import Table
from scripts.processes import die_in_order

RESULTS = Path(__file__).with_name("results.json")
PARTS: dict[str, Callable[[Scene], Found]] = {
    "disk": measure_disk,
    "others": measure_others,
    "memory": measure_memory,
    "gpu": measure_gpu,
    "fanout": measure_fanout,
    "first-byte": measure_first_byte,
    "hub": measure_hub,
    "cold": measure_cold,
    "warm": measure_warm,
    "eviction": measure_eviction,
}

_BUSY = 0.5  # load from which others make the figures worse


def main() -> int:
    """Measure the parts that were asked for."""
    flags = _read_flags()
    die_in_order()
    loads = {"before": load()}
    if loads["before"] >= _BUSY:
        out.print(f"[yellow]Warning[/]: load {loads['before']}: what others do here makes the figures worse")
    found = Found()
    with tempfile.TemporaryDirectory(prefix="modelexpress-bench-", dir=flags.folder) as folder:
        scene = _scene(Path(folder), flags)
        for name in flags.only:
            found.add(PARTS[name](scene))
            loads[f"after {name}"] = load()
    _print(found)
    document = {
        "commit": commit(),
        "machine": describe(),
        "load": loads,
        "flags": {name: str(value) for name, value in vars(flags).items()},
        "figures": [_figure_document(figure) for figure in found.figures],
        "notes": found.notes,
        "measurements": [series.as_document() for series in found.series],
    }
    flags.results.write_text(json.dumps(document, indent=2) + "\n")
    out.print(f"written to {flags.results}")
    return 0


def _read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, help="after one that is thrown away (15)")
    parser.add_argument("--slow-rounds", type=int, help="the same, of fan-out (3)")
    parser.add_argument("--megabytes", type=int, help="of the model for disk and memory (4000)")
    parser.add_argument("--files", type=int, default=8, help="that this model has")
    parser.add_argument("--only", type=_parts, default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds: does it run at all?")
    parser.add_argument("--pin", action="store_true", help="disk and memory: a core for each side")
    parser.add_argument("--calm", type=float, default=0, help="seconds to wait for others to be quiet")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one of the system")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where every measurement goes")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(PARTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(sorted(unknown))}")
    return names


def _scene(folder: Path, flags: argparse.Namespace) -> Scene:
    small = flags.quick
    return Scene(
        folder=folder,
        rounds=flags.rounds or (2 if small else 15),
        megabytes=flags.megabytes or (128 if small else 4000),
        files=flags.files,
        slow_rounds=flags.slow_rounds or (1 if small else 3),
        small=small,
        is_pinned=flags.pin,
        calm_seconds=flags.calm,
    )


def _print(found: Found) -> None:
    times = Table("contender", "best s", "median s", "worst s", "best MB/s", "calm rounds")
    for series in found.series:
        times.add_row(*_series_row(series))
    ratios = Table("figure", "value", "median of rounds", "bar", "", "note")
    for figure in found.figures:
        ratios.add_row(*_figure_row(figure))
    if found.series:
        out.print(times)
    out.print(ratios)
    for note in found.notes:
        out.print(note)


def _series_row(series: Series) -> Sequence[str]:
    seconds = (series.best.seconds, series.median(_seconds), max(series.seconds))
    speed = f"{series.bytes / MEGABYTE / series.best.seconds:.0f}" if series.bytes > MEGABYTE else ""
    calm = sum(1 for run in series.runs if run.is_calm)
    is_known = series.runs[0].others_cpu is not None
    return (
        series.name,
        *(f"{value:.4g}" for value in seconds),
        speed,
        f"{calm} of {len(series.runs)}" * is_known,
    )


def _figure_row(figure: Figure) -> Sequence[str]:
    median = "" if figure.median is None else f"{figure.median:.2f}"
    verdict = {True: "reached", False: "missed", None: ""}[figure.is_reached]
    return figure.what, f"{figure.value:.2f}", median, figure.bar, verdict, figure.note


def _figure_document(figure: Figure) -> dict[str, object]:
    return {
        "what": figure.what,
        "value": figure.value,
        "median": figure.median,
        "bar": figure.bar,
        "is_reached": figure.is_reached,
        "note": figure.note,
    }


def _seconds(run: Run) -> float:
    return run.seconds


if __name__ == "__main__":
    sys.exit(main())
