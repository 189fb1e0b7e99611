# SPDX-License-Identifier: Apache-2.0
"""Clients wired from settings: the command line's, and the library's `Client` and `AsyncClient`."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelexpress import client as clients
from modelexpress.cache import CacheOptions, MakeSource, ModelCache, Surroundings, open_cache
from modelexpress.client.auth import TokenFile
from modelexpress.client.remote_control import RemoteControl
from modelexpress.client.rpc import Connection, Target
from modelexpress.compose import load_settings
from modelexpress.compose.parts import cache_options, make_providers, memory_table
from modelexpress.config.endpoint import parse_endpoint
from modelexpress.config.load import Loaded
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.control import CacheControl
from modelexpress.domain.meter import NO_METER
from modelexpress.domain.refs import ProviderKind
from modelexpress.providers import Provider
from modelexpress.providers.tokens import find_hub_token

_TOKEN_PATH = "/var/run/secrets/tokens/modelexpress"  # where a cluster projects it by convention
_TOKEN_TTL_SECONDS = 60.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_client(loaded: Loaded, env: Mapping[str, str]) -> AsyncIterator[clients.AsyncClient]:
    """A client of the configured server, closed with the body."""
    async with make_async_client(loaded, env) as client:
        yield client


@asynccontextmanager
async def open_control(
    loaded: Loaded, env: Mapping[str, str], has_origins: bool = False
) -> AsyncIterator[CacheControl]:
    """The server's cache when an endpoint is configured, else the local directory."""
    if loaded.origins["connection.endpoint"].is_default:
        async with open_local(loaded, env, has_origins) as control:
            yield control
    else:
        connection = Connection(_target(loaded, env))
        async with connection:
            await connection.connect()
            yield RemoteControl(connection)


@asynccontextmanager
async def open_local(
    loaded: Loaded, env: Mapping[str, str], has_origins: bool = False
) -> AsyncIterator[CacheControl]:
    """The local cache directory; with `has_origins` it can be repaired too."""
    providers = make_providers(loaded.settings, env) if has_origins else {}
    async with _open_with(cache_options(loaded.settings, env, is_owner=False), providers) as cache:
        yield cache


def make_async_client(loaded: Loaded, env: Mapping[str, str]) -> clients.AsyncClient:
    """An AsyncClient; nothing is opened yet."""
    return clients.AsyncClient(_target(loaded, env), _local_side(loaded, env))


def _local_side(loaded: Loaded, env: Mapping[str, str]) -> clients.LocalSide:
    settings = loaded.settings
    options = cache_options(settings, env, is_owner=False)
    # A server is no origin: who must not ask origins may still get files from it.
    online = replace(options, freshness=replace(options.freshness, is_offline=False))
    return clients.LocalSide(
        root=settings.cache.directory,
        is_shared=settings.cache.shared_storage,
        chunk_bytes=settings.cache.transfer_chunk_size,
        open_origins=lambda: _open_with(options, make_providers(settings, env)),
        open_with=lambda providers, make_source: _open_with(online, providers, make_source),
    )


def _target(loaded: Loaded, env: Mapping[str, str]) -> Target:
    endpoint = parse_endpoint(loaded.settings.connection.endpoint, "connection.endpoint")
    return Target(
        host=endpoint.host,
        port=endpoint.port,
        url=endpoint.url,
        timeout_seconds=loaded.settings.connection.timeout_seconds,
        token_file=TokenFile(
            Path(env.get("MX_AUTH_TOKEN_PATH") or _TOKEN_PATH), _token_ttl(env), SYSTEM_CLOCK
        ),
        find_hub_token=(lambda: find_hub_token(env)) if loaded.settings.connection.send_hub_token else None,
    )


def _token_ttl(env: Mapping[str, str]) -> float:
    try:
        return max(float(env.get("MX_AUTH_TOKEN_TTL_SECONDS") or _TOKEN_TTL_SECONDS), 0.0)
    except ValueError:
        return _TOKEN_TTL_SECONDS


@asynccontextmanager
async def _open_with(
    options: CacheOptions, providers: Mapping[ProviderKind, Provider], make_source: MakeSource | None = None
) -> AsyncIterator[ModelCache]:
    around = Surroundings(providers, memory_table(), SYSTEM_CLOCK, NO_METER, make_source)
    async with open_cache(options, around) as cache:
        yield cache


class AsyncClient(clients.AsyncClient):
    """Pulls models through a ModelExpress server, for code with an event loop.

    Arguments left out come from the settings file and the environment, as on the command line.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        cache_directory: str | os.PathLike[str] | None = None,
        shared_storage: bool | None = None,
        timeout_seconds: int | None = None,
    ) -> None:
        loaded = _load(endpoint, cache_directory, shared_storage, timeout_seconds)
        super().__init__(_target(loaded, os.environ), _local_side(loaded, os.environ))


class Client(clients.SyncClient):
    """Pulls models through a ModelExpress server.

    Arguments left out come from the settings file and the environment, as on the command line.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        cache_directory: str | os.PathLike[str] | None = None,
        shared_storage: bool | None = None,
        timeout_seconds: int | None = None,
    ) -> None:
        loaded = _load(endpoint, cache_directory, shared_storage, timeout_seconds)
        super().__init__(make_async_client(loaded, os.environ))


def _load(
    endpoint: str | None,
    cache_directory: str | os.PathLike[str] | None,
    shared_storage: bool | None,
    timeout_seconds: int | None,
) -> Loaded:
    flags: dict[str, Any] = {
        "connection.endpoint": endpoint,
        "cache.directory": None if cache_directory is None else os.fspath(cache_directory),
        "cache.shared_storage": shared_storage,
        "connection.timeout_seconds": timeout_seconds,
    }
    loaded = load_settings("client", flags, os.environ)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    return loaded
