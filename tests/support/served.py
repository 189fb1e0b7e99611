# SPDX-License-Identifier: Apache-2.0
"""Servers as processes of their own: started, asked, killed, and ended in every case."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from modelexpress import compose
from modelexpress.client import AsyncClient
from modelexpress.compose.clients import make_async_client

SERVE = Path(__file__).with_name("serve.py")
_SERVING = re.compile(rb"serving gRPC on (\S+):(\d+), ")
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Place:
    """What outlives a server: its cache and its registry, and the origin it pulls from."""

    root: Path
    origin: str

    @property
    def cache(self) -> Path:
        return self.root / "server-cache"

    @property
    def registry(self) -> Path:
        return self.root / "state" / "registry.db"

    @property
    def environment(self) -> dict[str, str]:
        home = self.root / "home"
        home.mkdir(parents=True, exist_ok=True)
        return {"HOME": str(home), "HF_ENDPOINT": self.origin, "PATH": os.environ["PATH"]}

    def flags(self, **settings: object) -> dict[str, object]:
        """The settings of a server here; others by key, with `__` for the dot."""
        return {
            "cache.directory": str(self.cache),
            "registry.path": str(self.registry),
            "server.host": "127.0.0.1",
            "server.port": 0,
            "server.data_port": 0,
            "server.metrics_port": 0,
            "server.drain_seconds": 1,
            "origin.redirect_hosts": "localhost,127.0.0.1",
            "origin.revalidate": "always",
            "cache.eviction.grace": 0,
            "cache.path_lease": 0,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }


@dataclass
class Served:
    """A server process; `port` is 0 until it has said where it listens."""

    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str]
    port: int = 0

    @property
    def said(self) -> str:
        """Everything that it wrote."""
        return self.log.read_text(errors="replace")

    def client(self, root: Path, *, is_shared: bool = False) -> AsyncClient:
        flags = {
            "connection.endpoint": f"http://127.0.0.1:{self.port}",
            "cache.directory": str(root),
            "cache.shared_storage": is_shared,
        }
        return make_async_client(compose.load_settings("client", flags, self.environment), self.environment)

    async def has_come_up(self) -> bool:
        """True when it listens, False when it has ended instead."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while (found := _SERVING.search(self.log.read_bytes())) is None:
                if self.process.poll() is not None:
                    return False
                await asyncio.sleep(0.005)
        self.port = int(found[2])
        return True

    async def wait_ended(self) -> int:
        """Its exit status; negative: the signal that killed it."""
        return await asyncio.to_thread(self.process.wait, _PATIENCE_SECONDS)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return await self.wait_ended()


@dataclass(frozen=True)
class Strike:
    """A signal that the server sends itself, right before its `step`-th change in the cache directory."""

    step: int
    number: int


@asynccontextmanager
async def start(place: Place, strike: Strike | None = None, **settings: object) -> AsyncIterator[Served]:
    """A server process that may still be starting, or fail to; killed with the body if it still runs."""
    log = place.root / f"server-{len(list(place.root.glob('server-*.log')))}.log"
    command = [sys.executable, str(SERVE), json.dumps(place.flags(**settings))]
    if strike is not None:
        command.append(json.dumps({"folder": str(place.cache), **asdict(strike)}))
    environment = place.environment
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=place.root
        )
    try:
        yield Served(process, log, environment)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@asynccontextmanager
async def serving(place: Place, strike: Strike | None = None, **settings: object) -> AsyncIterator[Served]:
    """A server process that answers."""
    async with start(place, strike, **settings) as served:
        assert await served.has_come_up(), f"the server ended:\n{served.said}"
        yield served
