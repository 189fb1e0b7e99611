# SPDX-License-Identifier: Apache-2.0
"""Part `gpu`: from a warm server until every tensor lies in a GPU's memory; needs torch and a GPU."""

from __future__ import annotations

from bench.figures import Found, cpu_per_gigabyte, lowest, speed
from bench.onto_gpu import find_gpu
from bench.scene import Scene, out
from bench.transfer import Warm, duel, warm
from bench.workers import Order


def measure_gpu(scene: Scene) -> Found:
    """Against the load of files that are here already, and against huggingface_hub and the same load."""
    device = find_gpu()
    if device is None:
        out.print("gpu: left out, there is no torch here that sees a GPU")
        return Found()
    with warm(scene) as at:
        series = duel(scene, "gpu", at, _orders(at))
    memory, pulled = series["gpu, memory"], series["gpu, disk"]
    at_endpoint = series["gpu, hub, our endpoint"]
    figures = [
        speed(
            "onto a GPU through memory, by a load of local files", memory, series["gpu, local"], "", device
        ),
        speed("onto a GPU through memory, by a pull to disk and a load", memory, pulled),
        speed("onto a GPU through memory, by huggingface_hub from our Hub endpoint", memory, at_endpoint),
        speed("onto a GPU by a pull to disk, by huggingface_hub from our Hub endpoint", pulled, at_endpoint),
        lowest("onto a GPU through memory: client, core-seconds per GB", cpu_per_gigabyte(memory, "client")),
    ]
    if "gpu, hub" in series:
        what = "onto a GPU by huggingface_hub from our Hub endpoint, by the same from nginx"
        figures.append(speed(what, at_endpoint, series["gpu, hub"]))
    return Found(list(series.values()), figures)


def _orders(at: Warm) -> dict[str, Order]:
    orders = {
        "gpu, local": Order("nothing", at.server.process, {}),
        "gpu, memory": at.memory_order(),
        "gpu, disk": at.pull_order("disk", is_touched=False),
        "gpu, hub, our endpoint": at.hub_order(at.server.hub_endpoint, at.server.process),
    }
    if at.raw.kind == "nginx":
        orders["gpu, hub"] = at.hub_order(f"http://127.0.0.1:{at.raw.port}", at.raw.process)
    return {name: _onto_gpu(order, str(at.snapshot)) for name, order in orders.items()}


def _onto_gpu(order: Order, snapshot: str) -> Order:
    return Order("gpu", order.server, {**order.words, "before": order.act, "like": snapshot})
