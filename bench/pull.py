# SPDX-License-Identifier: Apache-2.0
"""Pulls measured against huggingface_hub and against a bare socket, in alternating rounds."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.loopback import copy_over_loopback

# Before huggingface_hub is imported, which reads it once.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from huggingface_hub import snapshot_download
from rich.console import Console
from rich.table import Table
from scripts.local_hub import LocalHub, local_hub, write_model
from scripts.processes import Server, die_in_order, serving

from modelexpress import Client

NAME = "bench/synthetic"
RESULTS = Path(__file__).with_name("results.json")
LIBRARIES = ("aiohttp", "grpcio", "huggingface_hub", "hf_xet", "protobuf", "safetensors")
MIB = 1024 * 1024

out = Console()


@dataclass
class Duel:
    """One measurement and what it is held against: seconds of each round, in the same order."""

    name: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    against: str = ""

    @property
    def ratios(self) -> list[float]:
        """Per round: theirs by ours; above 1 we are faster."""
        return [theirs / ours for theirs, ours in zip(self.theirs, self.ours, strict=True)]


@dataclass(frozen=True)
class Scene:
    """What every round needs: the Hub, the model's folder, and a place for caches."""

    hub: LocalHub
    source: Path
    folder: Path
    bytes: int


def main() -> int:
    """Measure, print the table and write results.json."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="measured rounds, after one that is thrown away"
    )
    parser.add_argument("--megabytes", type=int, default=256, help="size of the model")
    parser.add_argument("--warm-pulls", type=int, default=20, help="how many warm pulls are timed")
    flags = parser.parse_args()
    die_in_order()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelexpress-bench-")))
        scene = prepare(folder, flags.megabytes, stack)
        cold = measure_cold(scene, flags.rounds)
        warm, transfer = measure_warm_and_transfer(scene, flags.rounds, flags.warm_pulls)
    report(scene, [cold, transfer], warm)
    return 0


def prepare(folder: Path, megabytes: int, stack: ExitStack) -> Scene:
    """Write the model, start the Hub."""
    source = write_model(folder / "model", megabytes)
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    hub = stack.enter_context(local_hub(folder, {NAME: source}))
    out.print(
        f"{size / MIB:.0f} MB in {sum(1 for f in source.rglob('*') if f.is_file())} files at {hub.endpoint}"
    )
    return Scene(hub, source, folder, size)


def alternate(duel: Duel, rounds: int, ours: Callable[[int], float], theirs: Callable[[int], float]) -> Duel:
    """Run both in every round, in turning order; the first round warms up and is thrown away."""
    for number in range(rounds + 1):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        seconds = {contender: contender(number) for contender in order}
        if number:
            duel.ours.append(seconds[ours])
            duel.theirs.append(seconds[theirs])
            out.print(f"  {duel.name}, round {number}: ratio {duel.ratios[-1]:.2f}")
    return duel


def measure_cold(scene: Scene, rounds: int) -> Duel:
    """Into an empty cache: through a fresh server of ours, and with huggingface_hub."""

    def ours(number: int) -> float:
        with serving(scene.folder / f"cold-ours-{number}", scene.hub.endpoint) as server:
            return seconds_of(lambda: pull(server, server.cache, is_shared=True))

    def theirs(number: int) -> float:
        cache = scene.folder / f"cold-theirs-{number}"
        return seconds_of(lambda: snapshot_download(NAME, endpoint=scene.hub.endpoint, cache_dir=cache))

    return alternate(Duel("cold pull", against="huggingface_hub"), rounds, ours, theirs)


def measure_warm_and_transfer(scene: Scene, rounds: int, warm_pulls: int) -> tuple[list[float], Duel]:
    """From one server that has the model: warm pulls, and transfers against a bare socket."""
    with serving(scene.folder / "warm", scene.hub.endpoint) as server:
        pull(server, server.cache, is_shared=True)
        warm = [seconds_of(lambda: pull(server, server.cache, is_shared=True)) for _ in range(warm_pulls)]

        def ours(number: int) -> float:
            cache = scene.folder / f"transfer-ours-{number}"
            return seconds_of(lambda: pull(server, cache, is_shared=False))

        def theirs(number: int) -> float:
            target = scene.folder / f"transfer-theirs-{number}"
            return seconds_of(lambda: copy_over_loopback(scene.source, target))

        return warm, alternate(Duel("transfer", against="bare socket"), rounds, ours, theirs)


def pull(server: Server, cache: Path, *, is_shared: bool) -> None:
    """One pull by a client of its own, as a process that starts would make it."""
    with Client(endpoint=server.endpoint, cache_directory=cache, shared_storage=is_shared) as client:
        client.pull(NAME)


def seconds_of(act: Callable[[], object]) -> float:
    """How long `act` takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def report(scene: Scene, duels: list[Duel], warm: list[float]) -> None:
    """Print the table and write every single measurement to results.json."""
    table = Table("measurement", "who", "best s", "median s", "worst s", "best MB/s", "ratio: median (best)")
    for duel in duels:
        ratio = f"{statistics.median(duel.ratios):.2f} ({min(duel.theirs) / min(duel.ours):.2f})"
        table.add_row(duel.name, "modelexpress", *summary(duel.ours, scene.bytes), ratio)
        table.add_row("", duel.against, *summary(duel.theirs, scene.bytes), "")
    out.print(table)
    milliseconds = [second * 1000 for second in warm]
    out.print(
        f"warm pull: best {min(milliseconds):.1f} ms, median {statistics.median(milliseconds):.1f} ms, "
        f"worst {max(milliseconds):.1f} ms of {len(warm)}"
    )
    RESULTS.write_text(json.dumps(as_document(scene, duels, warm), indent=2) + "\n")
    out.print(f"written to {RESULTS}")


def summary(seconds: list[float], size: int) -> tuple[str, str, str, str]:
    """Best, median, worst and best speed, for the table."""
    times = (min(seconds), statistics.median(seconds), max(seconds))
    best, median, worst = (f"{value:.3f}" for value in times)
    return best, median, worst, f"{size / MIB / min(seconds):.0f}"


def as_document(scene: Scene, duels: list[Duel], warm: list[float]) -> dict[str, object]:
    """All measurements, with what they were taken on."""
    return {
        "commit": commit(),
        "machine": {
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "bytes": scene.bytes,
        "warm_pull_seconds": warm,
        "measurements": [
            {
                "name": duel.name,
                "against": duel.against,
                "seconds": duel.ours,
                "seconds_against": duel.theirs,
                "ratios": duel.ratios,
                "ratio_median": statistics.median(duel.ratios),
            }
            for duel in duels
        ],
    }


def commit() -> str:
    """The commit that was measured, `-dirty` if the tree was changed; empty without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
