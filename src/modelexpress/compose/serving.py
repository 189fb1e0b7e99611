# SPDX-License-Identifier: Apache-2.0
"""The server process: logs and metrics first, then the registry, the cache, and last the door."""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

from modelexpress import __version__
from modelexpress.cache import Surroundings, open_cache
from modelexpress.compose.parts import cache_options, make_providers, open_table
from modelexpress.config.load import Loaded
from modelexpress.config.settings import Settings
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.observability.logs import configure
from modelexpress.observability.metrics import Metrics, MetricsListener
from modelexpress.providers.tokens import find_hub_token
from modelexpress.server.app import ServerOptions
from modelexpress.server.data import DataOptions
from modelexpress.server.hub import HubOptions
from modelexpress.server.run import run_server

_DESCRIPTORS = 16_384
_DATA_DRAIN = 5  # seconds; whoever is cut goes on at its chunk elsewhere

_log = logging.getLogger(__name__)


def serve(loaded: Loaded, env: Mapping[str, str]) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop. Raises MxError when it cannot start."""
    logs = loaded.settings.logging
    configure(logs.level, logs.format, logs.file)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    if loaded.settings.access.server_token == "serve" and find_hub_token(env) is not None:
        _log.info(
            "callers without a token of their own are served with this server's Hub token; "
            "access.server_token: refuse turns them away"
        )
    _raise_descriptor_limit()
    asyncio.run(_serve(loaded, env))
    return 0


def _raise_descriptor_limit() -> None:
    """Each reader of the data plane holds two descriptors; the usual soft limit is 1024 for old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(loaded: Loaded, env: Mapping[str, str]) -> None:
    settings = loaded.settings
    metrics = Metrics(__version__, settings.registry.backend, env.get("MX_METRICS_SCHEME", ""))
    with MetricsListener(metrics, settings.server.host, settings.server.metrics_port):
        async with open_table(settings) as table:
            instance = secrets.token_hex(8)
            around = Surroundings(make_providers(settings, env, instance), table, SYSTEM_CLOCK, metrics)
            async with open_cache(cache_options(settings, env, is_owner=True), around) as cache:
                await run_server(cache, _server_options(settings, instance), metrics, SYSTEM_CLOCK)


def _server_options(settings: Settings, instance: str) -> ServerOptions:
    server = settings.server
    return ServerOptions(
        host=server.host,
        port=server.port,
        drain_seconds=server.drain_seconds,
        version=__version__,
        data=DataOptions(server.host, server.data_port, drain_seconds=min(server.drain_seconds, _DATA_DRAIN)),
        hub=hub_options(settings, instance),
        advertised=_advertised(server.advertise_url),
    )


def hub_options(settings: Settings, instance: str) -> HubOptions:
    """How the Hub endpoint behaves by the settings; `instance`: what origins know this process as."""
    server = settings.server
    return HubOptions(instance, server.public_url, frozenset(server.allowed_hosts), settings.hub.pass_through)


def _advertised(url: str | None) -> tuple[str, int] | None:
    parts = urlsplit(url or "")
    return (parts.hostname, parts.port) if parts.hostname and parts.port else None
