# SPDX-License-Identifier: Apache-2.0
"""Parts `cold` and `warm`: a first pull beside huggingface_hub's, and one with nothing to do."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

from bench.figures import Figure, Found, Run, Series, speed
from bench.models import check_room, keep_model, sizes_of
from bench.scene import NAME, Scene, alternate, out
from bench.workers import Order, worker
from scripts.local_hub import local_hub
from scripts.processes import Server, serving

from modelexpress import Client

_MEGABYTES = 256
_SMALL_MEGABYTES = 64
_FILES = 8
_WARM_PULLS = 20


def measure_cold(scene: Scene) -> Found:
    """Into an empty cache: through a fresh server of ours with shared storage, and with huggingface_hub."""
    folder = scene.folder / "cold"
    source = _model(scene)
    check_room(scene.folder, 3, _MEGABYTES)
    with local_hub(folder, {NAME: source}) as hub, worker() as other:
        out.print(f"cold: {sum(sizes_of(source).values()) / 1e6:.0f} MB from the local Hub")

        def ours(_: int) -> Run:
            with serving(folder / "ours", hub.endpoint) as server:
                run = Run(_time_pull(server))
            shutil.rmtree(folder / "ours")
            return run

        def theirs(_: int) -> Run:
            words = {"endpoint": hub.endpoint, "name": NAME, "folder": str(folder / "theirs")}
            return other.run(Order("hub", hub.process, words))

        series = alternate(
            {"cold pull": ours, "huggingface_hub": theirs}, sum(sizes_of(source).values()), scene.rounds
        )
    shutil.rmtree(folder)
    mine, hub_series = series["cold pull"], series["huggingface_hub"]
    hub_series.name = "huggingface_hub, beside cold pull"
    return Found([mine, hub_series], [speed("cold pull, by huggingface_hub", mine, hub_series)])


def measure_warm(scene: Scene) -> Found:
    """A pull of what is complete here already."""
    folder, source = scene.folder / "here", _model(scene)
    with local_hub(folder, {NAME: source}) as hub, serving(folder / "server", hub.endpoint) as server:
        _time_pull(server)
        series = Series("warm pull", 0, [Run(_time_pull(server)) for _ in range(_WARM_PULLS)])
    shutil.rmtree(folder)
    best, median = series.best.seconds * 1000, statistics.median(series.seconds) * 1000
    return Found([series], [Figure("warm pull, in ms", best, median)])


def _model(scene: Scene) -> Path:
    return keep_model(_SMALL_MEGABYTES if scene.small else _MEGABYTES, _FILES)


def _time_pull(server: Server) -> float:
    """By a client of its own, as a process that starts would make it."""
    started = time.perf_counter()
    with Client(endpoint=server.endpoint, cache_directory=server.cache, shared_storage=True) as client:
        client.pull(NAME)
    return time.perf_counter() - started
