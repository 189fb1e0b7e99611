# SPDX-License-Identifier: Apache-2.0
"""Parts `disk`, `others` and `memory`: a warm server to one client, by the raw limit and by others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import MEGABYTE, Figure, Found, Run, Series, cpu_per_gigabyte, lowest, speed
from bench.machine import pin
from bench.models import check_room, keep_model, read_pages, sizes_of
from bench.nginx import RawServer, raw_server
from bench.olah import Mirror, olah_mirror
from bench.scene import CONNECTIONS, NAME, Scene, alternate, out
from bench.workers import Order, Worker, worker
from scripts.local_hub import local_hub
from scripts.processes import Server, serving

from modelexpress import Client

_COPIES = 4  # of the model on disk at once: its source, the server's, the client's and pages touched before


@dataclass(frozen=True, slots=True)
class Warm:
    """A server that has the model, a raw one that serves the very same files, a mirror if there is one."""

    server: Server
    raw: RawServer
    olah: Mirror | None
    sizes: dict[str, int]
    folder: Path
    snapshot: Path

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.sizes.values())

    def raw_order(self) -> Order:
        """Receive all files from the raw server."""
        files = [(f"/{path}", size) for path, size in self.sizes.items()]
        words = {"port": self.raw.port, "connections": CONNECTIONS, "files": files}
        return Order("raw", self.raw.process, words)

    def pull_order(self, act: str, is_touched: bool = True) -> Order:
        """Pull from our server to disk, into files whose pages were written before if `is_touched`."""
        words: dict[str, object] = {
            "endpoint": self.server.endpoint,
            "name": NAME,
            "folder": str(self.folder / act),
        }
        if is_touched:
            words |= {"touched": str(self.folder / "touched"), "sizes": list(self.sizes.values())}
        return Order(act, self.server.process, words)

    def hub_order(self, endpoint: str, process: int) -> Order:
        """Pull with huggingface_hub from what answers as a Hub there."""
        folder = str(self.folder / "hub-client")
        words = {"endpoint": endpoint, "name": NAME, "folder": folder, "touch_bytes": self.bytes}
        return Order("hub", process, words)

    def plain_order(self, endpoint: str, process: int) -> Order:
        """Download every file from what answers as a Hub there, one after the other, and throw it away."""
        root = f"{endpoint}/{NAME}/resolve/{self.snapshot.name}"
        return Order("direct", process, {"urls": {path: f"{root}/{path}" for path in self.sizes}})

    def memory_order(self) -> Order:
        """Pull from our server into memory."""
        words = {"endpoint": self.server.endpoint, "name": NAME, "clients": 1, "sizes": self.sizes}
        return Order("memory", self.server.process, words)


@contextmanager
def warm(scene: Scene) -> Iterator[Warm]:
    """Have a server pull the model, and serve what it has with nginx too."""
    check_room(scene.folder, _COPIES, scene.megabytes)
    source, folder = keep_model(scene.megabytes, scene.files), scene.folder / "warm"
    with local_hub(folder / "hub", {NAME: source}) as hub, serving(folder / "server", hub.endpoint) as server:
        pages = read_pages(hub, NAME)
        with Client(endpoint=server.endpoint) as client:
            client.ensure(NAME)
        held = server.cache / f"models--{NAME.replace('/', '--')}" / "snapshots" / pages.commit
        with (
            raw_server(folder / "raw", held, pages) as raw,
            olah_mirror(folder / "olah", hub.endpoint) as olah,
        ):
            if scene.is_pinned:
                pin(server.process, 0)
                pin(raw.process, 0)
            yield Warm(server, raw, olah, sizes_of(held), folder, held)
    shutil.rmtree(folder)


def measure_disk(scene: Scene) -> Found:
    """Verified, to disk: against the raw limit."""
    with warm(scene) as at:
        series = duel(scene, "disk", at, {"raw": at.raw_order(), "disk": at.pull_order("disk")})
    ours, raw = series["disk"], series["raw"]
    figures = [
        speed("to disk, by the raw limit", ours, raw, ">= 0.7", at.raw.kind),
        *_used("to disk", ours, client_bar="<= 0.8"),
        _ceiling("to disk", ours, raw),
        _fsync("to disk", ours),
    ]
    return Found(list(series.values()), figures)


def measure_others(scene: Scene) -> Found:
    """Verified, to disk: against our stream over gRPC, huggingface_hub, and our own into untouched pages."""
    with warm(scene) as at:
        contenders = {
            "disk": at.pull_order("disk"),
            "new files": at.pull_order("disk", is_touched=False),
            "stream": at.pull_order("stream"),
        }
        if at.raw.kind == "nginx":
            contenders["hub"] = at.hub_order(f"http://127.0.0.1:{at.raw.port}", at.raw.process)
        contenders["hub, our endpoint"] = at.hub_order(at.server.hub_endpoint, at.server.process)
        contenders["plain, our endpoint"] = at.plain_order(at.server.hub_endpoint, at.server.process)
        if at.olah is not None:
            contenders["hub, olah"] = at.hub_order(at.olah.endpoint, at.olah.process)
            contenders["plain, olah"] = at.plain_order(at.olah.endpoint, at.olah.process)
        series = duel(scene, "others", at, contenders)
    ours, at_endpoint = series["disk"], series["hub, our endpoint"]
    figures = [
        speed("to disk, by huggingface_hub from our Hub endpoint", ours, at_endpoint, ">= 1.5"),
        speed("to disk, by StreamModelFiles at 1 MiB", ours, series["stream"], ">= 4"),
        speed("to disk, by the same into untouched pages", ours, series["new files"]),
    ]
    if "hub" in series:
        figures.append(speed("to disk, by huggingface_hub", ours, series["hub"], ">= 1.5", "from nginx"))
        what = "huggingface_hub from our Hub endpoint, by the same from nginx"
        figures.append(speed(what, at_endpoint, series["hub"], ">= 0.8"))
        figures.append(_fsync("huggingface_hub", series["hub"]))
    if "hub, olah" in series:
        what = "huggingface_hub from our Hub endpoint, by the same from olah"
        figures.append(speed(what, at_endpoint, series["hub, olah"], ">= 1.5"))
        what, plain = (
            "a plain client from our Hub endpoint, by the same from olah",
            series["plain, our endpoint"],
        )
        figures.append(speed(what, plain, series["plain, olah"], ">= 1.5"))
    ours.name = "disk, beside others"
    return Found(list(series.values()), figures)


def measure_memory(scene: Scene) -> Found:
    """Verified, into buffers: against the raw limit."""
    with warm(scene) as at:
        series = duel(scene, "memory", at, {"raw": at.raw_order(), "memory": at.memory_order()})
    ours, raw = series["memory"], series["raw"]
    raw.name = "raw, beside memory"
    figures = [
        speed("into memory, by the raw limit", ours, raw, ">= 0.9", at.raw.kind),
        *_used("into memory", ours),
        _ceiling("into memory", ours, raw),
    ]
    return Found([raw, ours], figures)


def duel(scene: Scene, part: str, at: Warm, orders: dict[str, Order]) -> dict[str, Series]:
    """All orders in turn, a worker each."""
    out.print(f"{part}: {at.bytes / MEGABYTE:.0f} MB in {len(at.sizes)} files, raw limit: {at.raw.kind}")
    with ExitStack() as stack:
        staff = {name: stack.enter_context(worker()) for name in orders}
        if scene.is_pinned:
            for one in staff.values():
                pin(one.process, 1)
        runs: dict[str, Callable[[int], Run]] = {
            name: _contender(staff[name], order, scene.calm_seconds) for name, order in orders.items()
        }
        return alternate(runs, at.bytes, scene.rounds)


def _contender(one: Worker, order: Order, calm_seconds: float) -> Callable[[int], Run]:
    return lambda _: one.run(order, calm_seconds)


def _used(how: str, ours: Series, client_bar: str = "") -> list[Figure]:
    server, client = cpu_per_gigabyte(ours, "server"), cpu_per_gigabyte(ours, "client")
    server_peaks = [run.server_peak / MEGABYTE for run in ours.runs]
    client_peaks = [run.client_peak / MEGABYTE for run in ours.runs]
    note = "without the caller's buffers" if how == "into memory" else ""
    return [
        lowest(f"{how}: server, core-seconds per GB", server, "<= 0.5"),
        lowest(f"{how}: client, core-seconds per GB", client, client_bar),
        Figure(f"{how}: server, peak RSS in MB", max(server_peaks), None, "<= 150"),
        Figure(f"{how}: client, peak RSS in MB", max(client_peaks), None, "<= 150", note),
    ]


def _ceiling(how: str, ours: Series, raw: Series) -> Figure:
    """What the ratio would be if both used every core all the time: the raw limit's work by ours."""
    work = [
        (theirs.client_cpu + theirs.server_cpu) / (own.client_cpu + own.server_cpu)
        for own, theirs in zip(ours.runs, raw.runs, strict=True)
    ]
    busy = ours.best.client_cpu + ours.best.server_cpu
    note = f"{busy / ours.best.seconds:.2f} cores busy, raw {_busy(raw):.2f}"
    return lowest(f"{how}: ceiling by work (raw core-seconds / ours)", work, note=note)


def _busy(series: Series) -> float:
    return (series.best.client_cpu + series.best.server_cpu) / series.best.seconds


def _fsync(how: str, series: Series) -> Figure:
    return lowest(f"{how}: fsync afterwards, in seconds", [run.fsync_seconds or 0.0 for run in series.runs])
