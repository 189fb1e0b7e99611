# SPDX-License-Identifier: Apache-2.0
"""Settings become parts: origins, tables, cache options. Back ends are named here and nowhere else."""

from __future__ import annotations

import importlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelexpress import __version__
from modelexpress.cache import (
    AccessRules,
    CacheOptions,
    EvictionOptions,
    FreshnessRules,
    Limits,
    PatternRule,
    PullRules,
    ServerToken,
)
from modelexpress.config.settings import (
    AccessSettings,
    CacheSettings,
    EvictionSettings,
    OriginSettings,
    PullPattern,
    Settings,
)
from modelexpress.domain.errors import Invalid
from modelexpress.domain.eviction import EvictionRules, Gdsf, Lru
from modelexpress.domain.refs import ProviderKind
from modelexpress.domain.selection import Selection, Weights
from modelexpress.providers import Provider
from modelexpress.providers.retry import RetryPolicy
from modelexpress.registry import Table

_LEAST_TOKEN = 16  # characters: nobody guesses it


def node_name(env: Mapping[str, str]) -> str:
    """What this machine is called among servers: the pod's name, else the host's."""
    return env.get("POD_NAME") or socket.gethostname()


def make_providers(
    settings: Settings, env: Mapping[str, str], instance: str = ""
) -> dict[ProviderKind, Provider]:
    """The origins of this process, which they know as `instance`."""
    return {ProviderKind.HUGGING_FACE: _make_hub(settings.origin, env, instance)}


def _make_hub(origin: OriginSettings, env: Mapping[str, str], instance: str) -> Provider:
    hub = _load("modelexpress.providers.huggingface")
    options = hub.HubOptions(
        endpoint=origin.endpoint,
        redirect_hosts=origin.redirect_hosts,
        timeout_seconds=float(origin.timeout_seconds),
        retry=RetryPolicy(max_attempts=origin.max_attempts),
        user_agent=f"modelexpress/{__version__}",
        mirrors=origin.mirrors,
        max_bytes_per_second=origin.max_bytes_per_second,
        **({"instance": instance} if instance else {}),
    )
    provider: Provider = hub.make_provider(options, env)
    return provider


@asynccontextmanager
async def open_table(settings: Settings) -> AsyncIterator[Table]:
    """The registry's table, closed with the body."""
    if settings.registry.backend == "memory":
        table: Table = _load("modelexpress.registry.memory").MemoryTable()
    else:
        table = await _load("modelexpress.registry.sqlite").open_table(settings.registry.path)
    try:
        yield table
    finally:
        await table.close()


def memory_table() -> Table:
    """A table for a process that shares its cache's bookkeeping with nobody."""
    table: Table = _load("modelexpress.registry.memory").MemoryTable()
    return table


def cache_options(settings: Settings, env: Mapping[str, str], is_owner: bool) -> CacheOptions:
    """How the cache behaves by the settings."""
    return CacheOptions(
        root=settings.cache.directory,
        node=node_name(env),
        is_owner=is_owner,
        pull=_pull_rules(settings),
        access=_access_rules(settings.access) if is_owner else AccessRules(),
        freshness=_freshness_rules(settings.origin),
        limits=_limits(settings.cache) if is_owner else Limits(),
        eviction=_eviction(settings.cache.eviction) if is_owner else EvictionOptions(),
        path_lease_seconds=float(settings.cache.path_lease),
    )


def _access_rules(access: AccessSettings) -> AccessRules:
    token = None if access.service_token_file is None else _read_service_token(access.service_token_file)
    return AccessRules(
        server_token=ServerToken(access.server_token),
        granted_seconds=float(access.granted_ttl),
        denied_seconds=float(access.denied_ttl),
        outage_seconds=float(access.outage_ttl),
        open_models=access.open_models,
        service_models=access.service_models,
        find_service_token=lambda: token,
    )


def _read_service_token(path: Path) -> str:
    said = f"access.service_token_file {path}"
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise Invalid(f"{said} cannot be read: {error}; name a file with one token in it") from error
    if len(token) < _LEAST_TOKEN or not token.isprintable() or " " in token:
        raise Invalid(f"{said} does not hold one token of at least {_LEAST_TOKEN} characters without blanks")
    return token


def _limits(cache: CacheSettings) -> Limits:
    return Limits(cache.max_size_bytes, cache.eviction.policy.min_free_space_bytes or 0)


def _eviction(eviction: EvictionSettings) -> EvictionOptions:
    policy = eviction.policy
    return EvictionOptions(
        is_enabled=eviction.enabled,
        order=Gdsf() if policy.type == "gdsf" else Lru(),
        rules=EvictionRules(float(policy.unused_threshold) or None, policy.max_models),
        check_seconds=float(eviction.check_interval),
        grace_seconds=float(eviction.grace),
    )


def _pull_rules(settings: Settings) -> PullRules:
    default = Weights(settings.pull.weights)
    return PullRules(
        weights=default,
        patterns=tuple(_pattern_rule(pattern, default) for pattern in settings.pull.patterns),
        parallel_files=settings.pull.parallel_files,
        connections=settings.pull.connections,
        is_prefetched=settings.hub.prefetch,
    )


def _pattern_rule(pattern: PullPattern, default: Weights) -> PatternRule:
    weights = Weights(pattern.weights) if pattern.weights else default
    return PatternRule(pattern.models, Selection(weights, pattern.include, pattern.exclude))


def _freshness_rules(origin: OriginSettings) -> FreshnessRules:
    named = {"always": 0.0, "never": None}
    seconds = named[origin.revalidate] if isinstance(origin.revalidate, str) else float(origin.revalidate)
    return FreshnessRules(revalidate_seconds=seconds, is_offline=origin.offline)


def _load(name: str) -> Any:
    return importlib.import_module(name)
