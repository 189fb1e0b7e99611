# SPDX-License-Identifier: Apache-2.0
"""The server as a process: how soon and how small, what it refuses to share, and what it shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.support.served import Place, Served, serving, start

from modelexpress.observability.metrics import FAMILIES
from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import tiny_files

NAME = "demo/tiny"
NOBODY = 65534
READ_EVERYTHING = """
import os, sys
from pathlib import Path
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.is_file():
        print(path.relative_to(sys.argv[1]).as_posix(), len(path.read_bytes()))
"""


@pytest.fixture
def place(hub: LocalHub, tmp_path: Path) -> Place:
    return Place(tmp_path, hub.endpoint)


async def is_ready(served: Served) -> bool:
    """What a probe of the standard health protocol is told."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def wait_ready(served: Served) -> None:
    async with asyncio.timeout(10):
        while not await is_ready(served):
            await asyncio.sleep(0.005)


async def refusal(place: Place, **settings: object) -> str:
    """What a server that cannot start says; its status is 1 and it shows no traceback."""
    async with start(place, **settings) as served:
        assert await served.wait_ended() == 1, served.said
        assert "Traceback" not in served.said
        return served.said


LIBRARIES = "aiohttp.web, blake3, grpc.aio, prometheus_client, pydantic, yaml"


@contextmanager
def open_to_others(folder: Path) -> Iterator[None]:
    """Let everybody pass through `folder` and what is above it."""
    closed = {p: p.stat().st_mode for p in (folder, *folder.parents) if not p.stat().st_mode & stat.S_IXOTH}
    for path, mode in closed.items():
        path.chmod(mode | stat.S_IXOTH)
    try:
        yield
    finally:
        for path, mode in closed.items():
            path.chmod(mode)


@pytest.mark.alone
async def test_the_server_is_ready_in_little_more_than_its_libraries_take_to_load(place: Place) -> None:
    taken, loading = [], []
    for _ in range(5):
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", f"import {LIBRARIES}")
        assert await process.wait() == 0
        loading.append(time.monotonic() - began)
        began = time.monotonic()
        async with serving(place) as served:
            await wait_ready(served)
            taken.append(time.monotonic() - began)
            assert await served.stop() == 0
    assert min(taken) < 3 * min(loading), f"{taken} seconds, where loading takes {loading}"


@pytest.mark.alone
async def test_an_idle_server_needs_less_than_a_hundred_megabytes(place: Place) -> None:
    async with serving(place) as served:
        await wait_ready(served)
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None and int(found[1]) * 1024 < 100_000_000, found[0]


async def test_a_second_server_on_one_registry_is_refused_and_the_first_goes_on(place: Place) -> None:
    async with serving(place) as first:
        said = await refusal(place, cache__directory=str(place.root / "another-cache"))
        assert said.startswith("Busy: ")
        assert str(place.registry) in said and "in use by another server" in said
        assert await is_ready(first)
        async with first.client(place.root / "mine") as client:
            assert (await client.pull(NAME)).commit


async def test_a_second_server_on_one_cache_with_another_registry_is_refused(place: Place) -> None:
    async with serving(place) as first:
        said = await refusal(place, registry__path=str(place.root / "other" / "registry.db"))
        assert said.startswith("Busy: ") and f"process {first.process.pid} on " in said
        assert str(place.cache) in said and "belongs to another server with another registry" in said
        said = await refusal(place, registry__backend="memory", registry__path=None)
        assert "belongs to another server with another registry" in said
        assert await is_ready(first)
        assert await first.stop() == 0
    # Once the owner has left, another registry may have the cache.
    async with serving(place, registry__path=str(place.root / "other" / "registry.db")) as second:
        assert await is_ready(second)


async def test_a_cache_whose_owner_was_killed_is_taken_over_at_once(place: Place) -> None:
    async with serving(place) as first:
        first.process.kill()
        await first.wait_ended()
    assert (place.cache / ".mx" / "owner").exists()
    async with serving(place, registry__path=str(place.root / "other" / "registry.db")) as second:
        assert await is_ready(second)


async def test_a_port_in_use_is_an_error_that_names_it_and_the_setting(place: Place) -> None:
    async with serving(place) as first:
        other = replace(place, root=place.root / "other")
        other.root.mkdir()
        said = await refusal(other, server__port=first.port)
        assert said.startswith("Busy: ") or "\nBusy: " in said
        assert f"cannot listen on 127.0.0.1:{first.port}" in said and "server.port" in said
        assert await is_ready(first)
    # Nothing of the one that was refused is in the way of the next.
    assert not (other.cache / ".mx" / "owner").exists()
    async with serving(other) as again:
        assert await is_ready(again)


async def test_a_cache_directory_that_cannot_be_made_is_an_error_that_names_it(place: Place) -> None:
    (place.root / "file").write_bytes(b"")
    said = await refusal(place, cache__directory=str(place.root / "file" / "cache"))
    assert said.startswith("StorageFailed: ") and str(place.root / "file" / "cache") in said


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_a_cache_directory_without_permission_is_an_error_that_names_it(place: Place) -> None:
    place.cache.mkdir()
    place.cache.chmod(0o500)
    said = await refusal(place)
    assert said.startswith("StorageFailed: ") and "no permission" in said and str(place.cache) in said


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
async def test_another_user_can_read_every_file_of_a_snapshot(place: Place) -> None:
    async with serving(place) as served, served.client(place.root / "mine") as client:
        await client.ensure(NAME)
    [snapshot] = place.cache.glob("models--*/snapshots/*")
    with open_to_others(place.root):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", READ_EVERYTHING, str(snapshot), str(NOBODY)],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    sizes = {path: len(content) for path, content in tiny_files().items() if isinstance(content, bytes)}
    assert done.stdout.splitlines() == [f"{path} {sizes[path]}" for path in sorted(sizes)]


def scrape(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_the_metrics_page_has_every_family_and_counts_what_happened(place: Place) -> None:
    port = free_port()
    async with serving(place, server__metrics_port=port) as served:
        async with served.client(place.root / "mine") as client:
            await client.pull(NAME)
        status, text = await asyncio.to_thread(scrape, port)
        assert (await asyncio.to_thread(scrape, port, "/"))[0] == 404
    assert status == 200
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert {family.name.removesuffix("_total"): family.kind for family in FAMILIES} == {
        name: family.type for name, family in found.items() if name != "mx_build_info"
    }
    [built] = found["mx_build_info"].samples
    assert built.labels["component"] == "server" and built.labels["backend"] == "sqlite"
    pulled = {
        (sample.name, sample.labels.get("outcome")): sample.value for sample in found["mx_pulls"].samples
    }
    assert pulled["mx_pulls_total", "pulled"] == 1
    total = sum(len(content) for content in tiny_files().values() if isinstance(content, bytes))
    [brought] = [s for s in found["mx_origin_bytes"].samples if s.name == "mx_origin_bytes_total"]
    [sent] = [s for s in found["mx_data_bytes"].samples if s.name == "mx_data_bytes_total"]
    assert brought.value == sent.value == total


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_json_logs_are_one_document_a_line(place: Place) -> None:
    async with serving(place, logging__format="json", logging__level="debug") as served:
        async with served.client(place.root / "mine") as client:
            await client.pull(NAME)
        assert await served.stop() == 0
    events = [json.loads(line) for line in served.said.splitlines()]
    assert len(events) >= 2
    for event in events:
        assert {"time", "level", "logger", "message"} <= event.keys()
        assert event["level"] in ("trace", "debug", "info", "warning", "error")
        assert event["logger"].startswith("modelexpress.")
    assert any("serving gRPC" in event["message"] for event in events)
