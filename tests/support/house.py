# SPDX-License-Identifier: Apache-2.0
"""The whole of it in one process: a local Hub, a server, clients; every part the real one."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from modelexpress import compose
from modelexpress.cache import ModelCache, Surroundings, open_cache
from modelexpress.client import AsyncClient
from modelexpress.client.rpc import Connection, Target
from modelexpress.compose.clients import make_async_client
from modelexpress.compose.parts import cache_options, open_table
from modelexpress.compose.serving import hub_options
from modelexpress.config.load import Loaded
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.refs import ProviderKind
from modelexpress.observability.metrics import Metrics
from modelexpress.providers.huggingface import HubOptions, make_provider
from modelexpress.providers.retry import RetryPolicy
from modelexpress.server.app import ServerOptions, open_server
from modelexpress.server.data import DataOptions
from modelexpress.testing.hub import LocalHub

# The real policy with waits that a test can afford.
QUICK = RetryPolicy(max_attempts=30, base_seconds=0.001, cap_seconds=0.01, patience_seconds=5.0)
_RENEWED = re.compile(r"(^|/)(\.mx/owner$|state/registry\.db)")
_PASSING_SECONDS = 5.0


@dataclass
class House:
    """A running server and what is behind it."""

    hub: LocalHub
    cache: ModelCache
    root: Path
    port: int
    data_port: int | None
    metrics: Metrics
    loaded: Loaded
    env: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def hub_endpoint(self) -> str:
        """What an unmodified client of the Hub is given as HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.data_port}"

    async def settle(self) -> None:
        """Wait until all is recorded: bytes are given out before that."""
        async with asyncio.timeout(30):
            while len(self.cache._flights) or self.cache._statements.is_writing:
                await asyncio.sleep(0.01)

    def client(self, root: Path, *, is_shared: bool = False, hub_token: str | None = None) -> AsyncClient:
        flags = {
            "connection.endpoint": self.endpoint,
            "cache.directory": str(root),
            "cache.shared_storage": is_shared,
        }
        client = make_async_client(compose.load_settings("client", flags, self.env), self.env)
        if hub_token is not None:
            client._target = Target("127.0.0.1", self.port, self.endpoint, hub_token=hub_token)
        return client

    def connection(self) -> Connection:
        return Connection(Target("127.0.0.1", self.port, self.endpoint))


def server_settings(hub: LocalHub, tmp_path: Path, **settings: object) -> tuple[Loaded, dict[str, str]]:
    env = {"HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "PATH": os.environ["PATH"]}
    flags: dict[str, object] = {
        "cache.directory": str(tmp_path / "server-cache"),
        "registry.path": str(tmp_path / "state" / "registry.db"),
        "server.port": 0,
        "server.data_port": 0,
        "server.metrics_port": 0,
        "origin.redirect_hosts": "localhost,127.0.0.1",
        "origin.revalidate": "always",
        "cache.eviction.grace": 0,
        "cache.path_lease": 0,
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return compose.load_settings("server", flags, env), env


@dataclass(frozen=True)
class Origin:
    """Where a server reads from, if not from the Hub it is given, how patiently, and where it answers."""

    endpoint: str = ""
    redirect_hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    data_port: int = 0
    silent_seconds: float = 90.0
    retry: RetryPolicy = QUICK
    mirrors: tuple[str, ...] = ()
    timeout_seconds: float = 5.0

    def data_options(self) -> DataOptions:
        return DataOptions("127.0.0.1", self.data_port, drain_seconds=1.0, silent_seconds=self.silent_seconds)


@asynccontextmanager
async def open_house(
    hub: LocalHub,
    tmp_path: Path,
    outgoing_env: Mapping[str, str] | None = None,
    has_data_plane: bool = True,
    origin: Origin = Origin(),
    **settings: object,
) -> AsyncIterator[House]:
    """A server over `hub` with a cache of its own; `settings` by key with `__` for the dot.

    `outgoing_env` is added to what the server's way to its origin sees; `origin`: where that leads.
    """
    loaded, env = server_settings(hub, tmp_path, **settings)
    metrics = Metrics("test", "sqlite", "")
    endpoint, instance = origin.endpoint or hub.endpoint, secrets.token_hex(4)
    options = HubOptions(
        endpoint, origin.redirect_hosts, origin.timeout_seconds, origin.retry, mirrors=origin.mirrors,
        instance=instance,
    )  # fmt: skip
    providers = {ProviderKind.HUGGING_FACE: make_provider(options, {**env, **(outgoing_env or {})})}
    async with open_table(loaded.settings) as table:
        around = Surroundings(providers, table, SYSTEM_CLOCK, metrics)
        async with open_cache(cache_options(loaded.settings, env, is_owner=True), around) as cache:
            data = origin.data_options() if has_data_plane else None
            answering = hub_options(loaded.settings, options.instance)
            serving = ServerOptions("127.0.0.1", 0, 1.0, "1.0.0", data, answering)
            async with open_server(cache, serving, metrics, SYSTEM_CLOCK) as listening:
                root, ports = loaded.settings.cache.directory, (listening.port, listening.data_port)
                yield House(hub, cache, root, *ports, metrics, loaded, env)


def tree(root: Path) -> dict[str, bytes | str]:
    """What stands below a directory: links by their target, files by their bytes."""
    return dict(_walk(root))


def tree_at_rest(root: Path) -> dict[str, bytes | str]:
    """The same, but for what a living server renews by itself: its rows, and its mark on the cache."""
    found = {path: content for path, content in tree(root).items() if not _RENEWED.search(path)}
    lasting = set(lasting_of(root / path for path in found))
    return {path: content for path, content in found.items() if root / path in lasting}


def lasting_of(paths: Iterable[Path]) -> list[Path]:
    """Those that are not just on their way: a server's mark goes through `staging` whenever it is renewed."""
    found = list(paths)
    passing = {path for path in found if path.parent.name == "staging"}
    ends_at = time.monotonic() + _PASSING_SECONDS
    while time.monotonic() < ends_at and any(map(os.path.lexists, passing)):
        time.sleep(0.005)
    return [path for path in found if path not in passing or os.path.lexists(path)]


def _walk(root: Path) -> Iterator[tuple[str, bytes | str]]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            yield name, os.readlink(path)
        elif path.is_file():
            yield name, path.read_bytes()
