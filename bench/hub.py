# SPDX-License-Identifier: Apache-2.0
"""Part `hub`: what the Hub endpoint adds to the first byte of a file, as a client of a Hub asks for it."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urljoin, urlsplit

from bench.figures import Figure, Found, Run, Series
from bench.models import keep_model
from bench.scene import Scene, out
from scripts.local_hub import local_hub
from scripts.processes import serving

_MEGABYTES = 16
_HITS = 20  # in each round


def measure_hub(scene: Scene) -> Found:
    """Miss: HEAD and GET of a file nobody has read, here and at the origin. Hit: of one that is here."""
    source, folder = keep_model(_MEGABYTES, 1), scene.folder / "hub"
    file = next(path.name for path in source.iterdir() if path.suffix == ".safetensors")
    names = [f"bench/cold-{number}" for number in range(scene.rounds + 1)]
    miss, origin = Series("Hub endpoint, miss", 1), Series("Hub endpoint, origin", 1)
    hit = Series("Hub endpoint, hit", 1)
    with ExitStack() as stack:
        hub = stack.enter_context(local_hub(folder / "hub", dict.fromkeys(names, source)))
        server = stack.enter_context(serving(folder / "server", hub.endpoint))
        out.print("hub: first byte of a miss, and of a hit")
        for name in names:
            path = f"/{name}/resolve/main/{file}"
            origin.runs.append(Run(_time_first_byte(hub.endpoint, path)))
            miss.runs.append(Run(_time_first_byte(server.hub_endpoint, path)))
        path = f"/{names[0]}/resolve/main/{file}"
        hit.runs += [Run(_time_first_byte(server.hub_endpoint, path)) for _ in range(scene.rounds * _HITS)]
    shutil.rmtree(folder)
    del miss.runs[0], origin.runs[0]
    pairs = zip(miss.seconds, origin.seconds, strict=True)
    added = [(ours - theirs) * 1e3 for ours, theirs in pairs]
    least = (miss.best.seconds - origin.best.seconds) * 1e3
    median = sorted(added)[len(added) // 2]
    figures = [
        Figure("first byte of a miss at the Hub endpoint: ms added to the origin's", least, median, "<= 10"),
        Figure("HEAD and first byte of a hit at the Hub endpoint: ms", hit.best.seconds * 1e3,
               hit.median(lambda run: run.seconds) * 1e3),
    ]  # fmt: skip
    return Found([miss, origin, hit], figures)


def _time_first_byte(endpoint: str, path: str) -> float:
    """From the HEAD until the first byte of the GET is here; then all of it."""
    began = time.perf_counter()
    lines: list[HTTPConnection] = []
    try:
        _ask(lines, "HEAD", endpoint + path)
        response = _ask(lines, "GET", endpoint + path)
        while response.status in (302, 307):
            response = _ask(lines, "GET", urljoin(endpoint + path, response.headers["Location"]))
        assert response.read(1)
        seconds = time.perf_counter() - began
        response.read()
        return seconds
    finally:
        for line in lines:
            line.close()


def _ask(lines: list[HTTPConnection], method: str, url: str) -> HTTPResponse:
    parts = urlsplit(url)
    line = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    lines.append(line)
    line.request(method, parts.path + (f"?{parts.query}" if parts.query else ""))
    response = line.getresponse()
    if method == "HEAD":
        response.read()
    return response
