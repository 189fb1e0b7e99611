# SPDX-License-Identifier: Apache-2.0
"""Part `fanout`: many cold clients through one cold server, beside one direct download over the same line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import MEGABYTE, Figure, Found, Run, duration
from bench.machine import available_bytes
from bench.models import check_room, keep_model, sizes_of, urls_of
from bench.scene import NAME, Scene, alternate, out
from bench.workers import Order, run_together, worker, workers
from scripts.local_hub import LocalHub, local_hub
from scripts.processes import Server, serving

_FILES = 8
_ROOM = 1.4  # of the memory that buffers take, to be free for others beside them


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many processes of so many clients each, for a model of `megabytes`, from `rate` bytes a second."""

    name: str
    processes: int
    clients: int
    megabytes: int
    rate: int
    is_to_disk: bool


def measure_fanout(scene: Scene) -> Found:
    """Both crowds of the table of bars."""
    if scene.small:
        into_memory = Crowd("64 cold clients into memory", 4, 16, 16, 30_000_000, is_to_disk=False)
        to_disk = Crowd("4 cold clients to disk", 4, 1, 64, 100_000_000, is_to_disk=True)
    else:
        into_memory = Crowd("64 cold clients into memory", 4, 16, 256, 15_000_000, is_to_disk=False)
        to_disk = Crowd("4 cold clients to disk", 4, 1, 1000, 200_000_000, is_to_disk=True)
    found = Found()
    for crowd in (into_memory, to_disk):
        found.add(_measure(scene, crowd))
    return found


def _measure(scene: Scene, crowd: Crowd) -> Found:
    out.print(f"{crowd.name}: {crowd.megabytes} MB, origin at {crowd.rate / MEGABYTE:.0f} MB/s")
    check_room(scene.folder, 11 if crowd.is_to_disk else 2, crowd.megabytes)
    source, folder = keep_model(crowd.megabytes, _FILES), scene.folder / "fanout"
    sizes = sizes_of(source)
    is_shared = not crowd.is_to_disk and _is_scarce(crowd)
    asked: list[int] = []
    with ExitStack() as stack:
        hub = stack.enter_context(local_hub(folder, {NAME: source}, crowd.rate))
        staff = stack.enter_context(workers(crowd.processes))
        alone = stack.enter_context(worker())

        def ours(_: int) -> Run:
            before = hub.sent_bytes()
            with _cold_server(folder, hub) as server:
                orders = [
                    _order(crowd, server, sizes, folder / f"c{n}", is_shared) for n in range(len(staff))
                ]
                run = run_together(staff, orders)
            asked.append(hub.sent_bytes() - before)
            return run

        def direct(_: int) -> Run:
            words: dict[str, object] = {"urls": urls_of(hub, NAME, source)}
            if crowd.is_to_disk:
                words["folder"] = str(folder / "direct")
            return alone.run(Order("direct", hub.process, words))

        series = alternate({crowd.name: ours, "direct": direct}, sum(sizes.values()), scene.slow_rounds)
    shutil.rmtree(folder)
    mine, theirs = series[crowd.name], series["direct"]
    theirs.name = f"direct download, beside {crowd.name}"
    ratio = max(asked) / sum(sizes.values())
    note = "the clients of a process share its buffers: less memory is free than they would take"
    return Found(
        [mine, theirs],
        [
            Figure(f"{crowd.name}: bytes from the origin, by the model's", ratio, None, "== 1.0"),
            duration(f"{crowd.name}: the last is done, by one direct download", mine, theirs, "<= 1.15"),
        ],
        [f"{crowd.name}: {note}"] if is_shared else [],
    )


@contextmanager
def _cold_server(folder: Path, hub: LocalHub) -> Iterator[Server]:
    place = folder / "server"
    with serving(place, hub.endpoint) as server:
        yield server
    shutil.rmtree(place)


def _order(crowd: Crowd, server: Server, sizes: Mapping[str, int], folder: Path, is_shared: bool) -> Order:
    words: dict[str, object] = {"endpoint": server.endpoint, "name": NAME}
    if crowd.is_to_disk:
        touched = {"touched": f"{folder}-touched", "sizes": list(sizes.values())}
        return Order("disk", server.process, words | {"folder": str(folder)} | touched)
    words |= {"clients": crowd.clients, "sizes": dict(sizes), "is_shared": is_shared}
    return Order("memory", server.process, words)


def _is_scarce(crowd: Crowd) -> bool:
    wanted = crowd.processes * crowd.clients * crowd.megabytes * MEGABYTE
    return available_bytes() < wanted * _ROOM
