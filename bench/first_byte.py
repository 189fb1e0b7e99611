# SPDX-License-Identifier: Apache-2.0
"""Part `first-byte`: how much later the first byte comes through us, of what is here and of what is not."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import statistics
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from http.client import HTTPConnection

from bench.figures import Figure, Found, Run, Series
from bench.models import keep_model
from bench.nginx import raw_server
from bench.raw import BUFFER_BYTES, Span, connect, time_first_byte
from bench.scene import Scene, out
from scripts.local_hub import LocalHub, local_hub
from scripts.processes import Server, serving

from modelexpress.client.results import Listed, Offered
from modelexpress.client.rpc import Connection, Target
from modelexpress.client.server_calls import ServerCalls
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection

_MEGABYTES = 16
_SPAN_BYTES = 256 * 1024
_HITS = 20  # in each round
_UNPROVEN = "MX-Unproven: accept\r\n"


def measure_first_byte(scene: Scene) -> Found:
    """Hit: a ranged GET at our data plane and at nginx. Miss: a cold pull and the origin's own steps."""
    source, folder = keep_model(_MEGABYTES, 1), scene.folder / "first-byte"
    file = next(path.name for path in source.iterdir() if path.suffix == ".safetensors")
    names = [f"bench/cold-{number}" for number in range(scene.rounds + 1)]
    with ExitStack() as stack:
        hub = stack.enter_context(local_hub(folder / "hub", dict.fromkeys(names, source)))
        server = stack.enter_context(serving(folder / "server", hub.endpoint))
        raw = stack.enter_context(raw_server(folder / "raw", source))
        out.print(f"first byte: raw server {raw.kind}")
        ours, origin, offered = _measure_misses(server, hub, names, file)
        hit, limit = _measure_hits(scene, offered, file, raw.port)
    shutil.rmtree(folder)
    return Found(
        [hit, limit, ours, origin],
        [
            _added("first byte of a hit: ms added to the raw server's", hit, limit, "<= 3"),
            _added("first byte of a miss: ms added to the origin's", ours, origin, "<= 10"),
        ],
    )


def _measure_hits(scene: Scene, offered: Offered, file: str, port: int) -> tuple[Series, Series]:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    ours, theirs = Series("first byte, hit", _SPAN_BYTES), Series("first byte, raw", _SPAN_BYTES)
    blob, raw = _span(f"/-/blobs/{offered.tickets[file]}"), _span(f"/{file}")
    with connect(offered.port) as mine, connect(port) as other:
        for _ in range(scene.rounds * _HITS):
            ours.runs.append(Run(time_first_byte(mine, blob, buffer, _UNPROVEN)))
            theirs.runs.append(Run(time_first_byte(other, raw, buffer)))
    return ours, theirs


def _measure_misses(
    server: Server, hub: LocalHub, names: list[str], file: str
) -> tuple[Series, Series, Offered]:
    ours, origin = Series("first byte, miss", _SPAN_BYTES), Series("first byte, origin", _SPAN_BYTES)
    for number, name in enumerate(names):
        is_after = number % 2 == 1
        if is_after:
            origin.runs.append(Run(_time_origin(hub, name, file)))
        seconds, offered = asyncio.run(_time_miss(server, name, file))
        ours.runs.append(Run(seconds))
        if not is_after:
            origin.runs.append(Run(_time_origin(hub, name, file)))
    del ours.runs[0], origin.runs[0]
    return ours, origin, offered


async def _time_miss(server: Server, name: str, file: str) -> tuple[float, Offered]:
    """From asking the server to pull until the first byte of the file is here; then all of it."""
    address = urllib.parse.urlsplit(server.endpoint)
    target = Target(address.hostname or "", address.port or 0, server.endpoint)
    ref, buffer = ModelRef.parse(name), memoryview(bytearray(BUFFER_BYTES))
    listed: asyncio.Future[Listed] = asyncio.get_running_loop().create_future()
    async with Connection(target) as connection:
        await connection.connect()
        calls = ServerCalls(connection, BUFFER_BYTES)
        await calls.health()
        started = time.perf_counter()
        pulling = asyncio.create_task(calls.pull(ref, Selection(), _ignore, listed.set_result))
        found = await listed
        offered = await calls.find_offered(ref, found.commit, found.selection)
        assert offered is not None
        with connect(offered.port) as line:
            seconds = await asyncio.to_thread(_arrive, line, offered.tickets[file], buffer, started)
        await pulling
    return seconds, offered


def _arrive(line: socket.socket, ticket: str, buffer: memoryview, started: float) -> float:
    asked = time.perf_counter()
    return asked - started + time_first_byte(line, _span(f"/-/blobs/{ticket}"), buffer, _UNPROVEN)


def _time_origin(hub: LocalHub, name: str, file: str) -> float:
    """The same steps by hand: what `main` means, what there is, where the file is, its first byte."""
    address = urllib.parse.urlsplit(hub.endpoint)
    line = HTTPConnection(address.hostname or "", address.port)
    line.request("HEAD", f"/api/models/{name}/revision/main")  # connected, as our connection is
    line.getresponse().read()
    started = time.perf_counter()
    commit = json.loads(_get(line, f"/api/models/{name}/revision/main"))["sha"]
    _get(line, f"/api/models/{name}/tree/{commit}?recursive=true&expand=false")
    line.request("GET", f"/{name}/resolve/{commit}/{file}")
    answer = line.getresponse()
    answer.read()
    with urllib.request.urlopen(answer.headers["Location"], timeout=30) as body:
        body.read(1)
        seconds = time.perf_counter() - started
        body.read()
    line.close()
    return seconds


def _get(line: HTTPConnection, target: str) -> bytes:
    line.request("GET", target)
    return line.getresponse().read()


def _span(target: str) -> Span:
    return Span(target, 0, _SPAN_BYTES)


def _added(what: str, ours: Series, theirs: Series, bar: str) -> Figure:
    """Milliseconds: of the medians, since one lucky round says nothing about a wait."""
    between = statistics.median(ours.seconds) - statistics.median(theirs.seconds)
    best = (ours.best.seconds - theirs.best.seconds) * 1000
    note = f"medians {_ms(ours)} and {_ms(theirs)} ms; of the bests {best:.2f}"
    return Figure(what, between * 1000, None, bar, note)


def _ms(series: Series) -> str:
    return f"{statistics.median(series.seconds) * 1000:.2f}"


def _ignore(progress: Progress) -> None:
    pass
