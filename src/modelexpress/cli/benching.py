# SPDX-License-Identifier: Apache-2.0
"""What `bench` measures: pulls into temporary directories, in turn with downloads of the same files."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modelexpress import compose
from modelexpress.cli.environment import Environment
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.strategy import Strategy

if TYPE_CHECKING:
    from modelexpress.client import AsyncClient, LocalModel

CROWD = 4
"""Clients at once, in the measurement of fan-out."""

_STEP_BYTES = 1024 * 1024
_TIMEOUT_SECONDS = 60.0
_HUB_LIBRARY = "huggingface_hub"

# In a process of its own: it reads its environment once, and can be stopped.
_DOWNLOAD = f"""
import json, sys, time
from {_HUB_LIBRARY} import snapshot_download
from {_HUB_LIBRARY}.utils import disable_progress_bars
disable_progress_bars()
wanted = json.load(sys.stdin)
started = time.perf_counter()
snapshot_download(**wanted)
print(time.perf_counter() - started)
"""


@dataclass(slots=True)
class Measured:
    """Seconds of every round. `server`: its own pull from its origin, where it did not have the model."""

    commit: str = ""
    bytes: int = 0
    files: int = 0
    server_had_it: bool = False
    downloaded_with: str = ""
    server: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    fan_out: list[float] = field(default_factory=list)
    download: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def measure(environment: Environment, ref: ModelRef, origin: str, rounds: int) -> Measured:
    """Let the server have the model, then measure in alternating rounds; nothing stays on this machine."""
    with tempfile.TemporaryDirectory(prefix="modelexpress-bench-") as folder:
        bench = _Bench(environment, ref, origin, Path(folder))
        await bench.have_at_server()
        for number in range(1, rounds + 1):
            environment.output.note(f"round {number} of {rounds}")
            await bench.pull()
            await bench.fan_out()
            await bench.download()
    return bench.measured


class _Bench:
    def __init__(self, environment: Environment, ref: ModelRef, origin: str, folder: Path) -> None:
        self._environment = environment
        self._ref = ref
        self._origin = origin
        self._folder = folder
        self._paths: list[str] = []
        self._has_hub_library = importlib.util.find_spec(_HUB_LIBRARY) is not None
        self.measured = Measured(downloaded_with=_HUB_LIBRARY if self._has_hub_library else "plain HTTP")

    async def have_at_server(self) -> None:
        """Pull at the server; timed if it did not have the model."""
        self._environment.output.note(f"{self._ref}: asking the server for it")
        async with self._open_client(self._folder / "none") as client:
            started = time.perf_counter()
            pulled = await client.ensure(self._ref)
            seconds = time.perf_counter() - started
        self.measured.server_had_it = pulled.was_hit
        if pulled.was_hit:
            self.measured.notes.append("the server had the model already: its own cold pull was not measured")
        else:
            self.measured.server.append(seconds)

    async def pull(self) -> None:
        """Into an empty cache, and once more with nothing to do."""
        cache = self._folder / "cold"
        seconds, model = await self._time_pull(cache)
        self.measured.cold.append(seconds)
        self._note_files(model)
        seconds, _ = await self._time_pull(cache)
        self.measured.warm.append(seconds)
        await _remove(cache)

    async def fan_out(self) -> None:
        """Several clients at once, each into an empty cache of its own; the time of the last."""
        if shutil.disk_usage(self._folder).free < CROWD * self.measured.bytes * 1.05:
            note = f"{self._folder.parent} has no room for {CROWD} copies: fan-out was not measured (TMPDIR)"
            self.measured.notes += [note] if note not in self.measured.notes else []
            return
        caches = [self._folder / f"client-{number}" for number in range(CROWD)]
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for cache in caches:
                group.create_task(self._time_pull(cache))
        self.measured.fan_out.append(time.perf_counter() - started)
        for cache in caches:
            await _remove(cache)

    async def download(self) -> None:
        """The same files from the Hub, as somebody without a server gets them; a failure becomes a note."""
        target = self._folder / "download"
        if self._has_hub_library:
            found = await self._download_with_library(target)
        else:
            found = await download_plainly(self._urls(), target)
        if isinstance(found, str):
            note = f"the download from {self._origin} failed: {found}"
            self.measured.notes += [note] if note not in self.measured.notes else []
        else:
            self.measured.download.append(found)
        await _remove(target)

    async def _time_pull(self, cache: Path) -> tuple[float, LocalModel]:
        """By a client of its own, as a process that starts would make it."""
        started = time.perf_counter()
        async with self._open_client(cache) as client:
            model = await client.pull(self._ref, strategy=Strategy.SERVER_ONLY)
        return time.perf_counter() - started, model

    def _open_client(self, cache: Path) -> AbstractAsyncContextManager[AsyncClient]:
        flags = {
            **self._environment.flags,
            "cache.directory": str(cache),
            "cache.shared_storage": False,
        }
        return compose.open_client(self._environment.load("client", flags), self._environment.env)

    def _note_files(self, model: LocalModel) -> None:
        files = [path for path in model.path.rglob("*") if path.is_file()]
        self._paths = sorted(path.relative_to(model.path).as_posix() for path in files)
        self.measured.commit = model.commit
        self.measured.files, self.measured.bytes = len(files), sum(path.stat().st_size for path in files)

    def _urls(self) -> dict[str, str]:
        root = f"{self._origin}/{self._ref.name}/resolve/{self.measured.commit}"
        return {path: f"{root}/{urllib.parse.quote(path)}" for path in self._paths}

    async def _download_with_library(self, target: Path) -> float | str:
        wanted = {
            "repo_id": self._ref.name,
            "revision": self.measured.commit,
            "allow_patterns": self._paths,
            "endpoint": self._origin,
            "cache_dir": str(target),
        }
        return await _run(_DOWNLOAD, wanted, dict(self._environment.env))


async def download_plainly(urls: Mapping[str, str], target: Path) -> float | str:
    """GET one file after the other, without any token; seconds, or what went wrong."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_download, urls, target, stop)
    finally:
        stop.set()


def _download(urls: Mapping[str, str], target: Path, stop: threading.Event) -> float | str:
    started = time.perf_counter()
    try:
        for path, url in urls.items():
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer, place.open("wb") as file:
                while not stop.is_set() and (data := answer.read(_STEP_BYTES)):
                    file.write(data)
    except OSError as error:
        return str(error)
    return time.perf_counter() - started


async def _run(code: str, wanted: Mapping[str, object], env: Mapping[str, str]) -> float | str:
    """Run Python in a process of its own; the number it prints, or its last words."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=pipe, stdout=pipe, stderr=pipe, env=env
    )
    try:
        said, trouble = await process.communicate(json.dumps(wanted).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return float(said)
    return _last_line(trouble.decode(errors="replace").splitlines())


def _last_line(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "it gave no reason")


async def _remove(folder: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
