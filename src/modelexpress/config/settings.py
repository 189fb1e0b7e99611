# SPDX-License-Identifier: Apache-2.0
"""The settings as frozen values, and what each of them accepts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from modelexpress.config.durations import parse_duration
from modelexpress.config.endpoint import check_host, redacted
from modelexpress.domain.errors import Invalid
from modelexpress.domain.progress import parse_bytes
from modelexpress.domain.refs import shown

_LEVEL_SYNONYMS = {"warning": "warn", "critical": "error", "fatal": "error"}
_NO_STRING = "expected a text"


def _checked(check: Callable[[object], object]) -> BeforeValidator:
    """Run `check` before the type is checked; its Invalid is a problem with this value."""

    def run(value: object) -> object:
        try:
            return check(value)
        except Invalid as error:
            raise ValueError(error.message) from None

    return BeforeValidator(run)


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _level(value: object) -> object:
    text = _lowered(value)
    return _LEVEL_SYNONYMS.get(text, text) if isinstance(text, str) else text


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise Invalid("expected an integer, not true or false")
    return value


def _size(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else _number(value)


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Invalid("expected a duration: seconds (90), a span (2h30m) or ISO 8601 (PT2H30M)")
    return parse_duration(value)


def _seconds_above_zero(value: object) -> object:
    seconds = _seconds(value)
    if not seconds:
        raise Invalid("a duration of 0 is not possible here")
    return seconds


def _revalidate(value: object) -> object:
    text = _lowered(value)
    return text if text in ("always", "never") else _seconds(text)


def _items(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(item.strip() for item in value.split(",") if item.strip())


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Invalid(_NO_STRING)
    return value.strip()


def _glob(value: object) -> object:
    text = _text(value)
    if not text.isprintable():
        raise Invalid(f"{shown(text)} is no pattern of model names: give one such as 'org/*'")
    return text


def _host(value: object) -> object:
    text = _text(value)
    if text.startswith("[") != text.endswith("]"):
        raise Invalid(f"{shown(text)} is neither a host name nor an IP address: the port is a key of its own")
    return check_host(text, "host")


def _redirect_host(value: object) -> object:
    return check_host(_text(value), "redirect host").lower()


def _origin(value: object) -> object:
    text = _text(value).rstrip("/")
    said = f"origin {shown(redacted(text))}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise Invalid(f"{said} is not a URL: give https://host") from None
    if parts.scheme not in ("http", "https") or port == 0:
        raise Invalid(f"{said} is not an http or https URL: give https://host")
    if parts.username is not None or parts.password is not None:
        raise Invalid(f"{said} holds credentials: leave them out, and set HF_TOKEN")
    if parts.query or parts.fragment or text[-1] in "?#" or any(c <= " " or c == "\x7f" for c in text):
        raise Invalid(f"{said} holds a query, fragment, blank or control character")
    check_host(parts.hostname or "", said)
    return text


def _advertised(value: object) -> object:
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    said = f"address {shown(redacted(text))}"
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not port or parts.path or parts.query or parts.username is not None:
        raise Invalid(f"{said} is not where clients can be sent: give http://host:port")
    check_host(parts.hostname or "", said)
    return text


def _account(value: object) -> object:
    if not isinstance(value, str):
        return value
    namespace, colon, name = value.partition(":")
    if not colon or not namespace.strip() or not name.strip():
        raise Invalid(f"{shown(value)} is not a service account: give namespace:name")
    return {"namespace": namespace.strip(), "service_account": name.strip()}


Text = Annotated[str, _checked(_text)]
Texts = Annotated[tuple[Text, ...], _checked(_items)]
Globs = Annotated[tuple[Annotated[str, _checked(_glob)], ...], _checked(_items)]
Seconds = Annotated[int, _checked(_seconds)]
SecondsAboveZero = Annotated[int, _checked(_seconds_above_zero)]
Port = Annotated[int, _checked(_number), Field(ge=0, le=65_535)]
Bytes = Annotated[int, _checked(_size), Field(ge=0, lt=2**64)]
Host = Annotated[str, _checked(_host)]
OriginAddress = Annotated[str, _checked(_origin)]


class _Section(BaseModel):
    """A group of settings: frozen, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(_Section):
    """Where the server listens and how it stops."""

    host: Host
    port: Port
    data_port: Port
    advertise_url: Annotated[str, _checked(_advertised)] | None
    public_url: OriginAddress | None
    allowed_hosts: Annotated[tuple[Annotated[str, _checked(_redirect_host)], ...], _checked(_items)]
    metrics_port: Port
    drain_seconds: Seconds


class EvictionPolicy(_Section):
    """Which models go, and when."""

    type: Annotated[Literal["lru", "gdsf"], _checked(_lowered)]
    unused_threshold: Seconds
    max_models: Annotated[int, _checked(_number), Field(ge=0, lt=2**32)] | None
    min_free_space_bytes: Bytes | None


class EvictionSettings(_Section):
    """Removal of models on their own."""

    enabled: bool
    policy: EvictionPolicy
    grace: Seconds
    check_interval: SecondsAboveZero


class CacheSettings(_Section):
    """Where models are kept, and how a client gets them there."""

    directory: Path
    shared_storage: bool
    transfer_chunk_size: Annotated[int, _checked(_number), Field(ge=1, lt=2**32)]
    timeout_secs: Seconds | None
    max_size_bytes: Bytes | None
    path_lease: Seconds
    eviction: EvictionSettings


class LoggingSettings(_Section):
    """What is logged, how and where. `structured` is already part of `format`."""

    level: Annotated[Literal["trace", "debug", "info", "warn", "error"], _checked(_level)]
    format: Annotated[Literal["json", "pretty", "compact"], _checked(_lowered)]
    file: Path | None
    structured: bool
    quiet: bool


class ServiceAccount(_Section):
    """A Kubernetes service account."""

    namespace: Text
    service_account: Text


class SecuritySettings(_Section):
    """Who may call; anything but `off` is refused before it gets here."""

    mode: Annotated[Literal["off", "enforce"], _checked(_lowered)]
    token_audiences: Texts
    allowed_service_accounts: Annotated[
        tuple[Annotated[ServiceAccount, _checked(_account)], ...], _checked(_items)
    ]
    cache_ttl_secs: Seconds


class RegistrySettings(_Section):
    """Where the registry stands."""

    backend: Annotated[Literal["sqlite", "memory", "redis", "kubernetes", "k8s", "crd"], _checked(_lowered)]
    path: Path


class OriginSettings(_Section):
    """Where models come from, and how patient to be with it."""

    endpoint: OriginAddress
    mirrors: Annotated[tuple[OriginAddress, ...], _checked(_items)]
    offline: bool
    revalidate: Annotated[int | Literal["always", "never"], _checked(_revalidate)]
    redirect_hosts: Annotated[tuple[Annotated[str, _checked(_redirect_host)], ...], _checked(_items)]
    timeout_seconds: SecondsAboveZero
    max_attempts: Annotated[int, _checked(_number), Field(ge=1, le=100)]
    max_bytes_per_second: Bytes


PulledWeights = Annotated[Literal["all", "safetensors-first"], _checked(_lowered)]


class PullPattern(_Section):
    """Which files are pulled for models whose name matches the glob `models`."""

    models: Text
    include: Texts = ()
    exclude: Texts = ()
    weights: PulledWeights | None = None


class PullSettings(_Section):
    """What a pull takes when the request does not say."""

    weights: PulledWeights
    parallel_files: Annotated[int, _checked(_number), Field(ge=1, le=64)]
    connections: Annotated[int, _checked(_number), Field(ge=1, le=64)]
    patterns: tuple[PullPattern, ...]


class AccessSettings(_Section):
    """Whose rights count at the origin."""

    server_token: Annotated[Literal["serve", "refuse"], _checked(_lowered)]
    open_models: Globs
    service_token_file: Path | None
    service_models: Globs
    granted_ttl: Seconds
    denied_ttl: Seconds
    outage_ttl: Seconds


class HubSettings(_Section):
    """What the Hub endpoint does besides answering."""

    prefetch: bool
    pass_through: bool


class ConnectionSettings(_Section):
    """How a client reaches the server."""

    endpoint: str
    timeout_seconds: SecondsAboveZero
    send_hub_token: bool


class Settings(_Section):
    """Every setting of a process, checked; made by `modelexpress.config.load`."""

    server: ServerSettings
    cache: CacheSettings
    logging: LoggingSettings
    security: SecuritySettings
    registry: RegistrySettings
    origin: OriginSettings
    pull: PullSettings
    hub: HubSettings
    access: AccessSettings
    connection: ConnectionSettings


def value_of(settings: Settings, key: str) -> object:
    """The value under a dotted key, as `server.port`."""
    found: object = settings
    for part in key.split("."):
        found = getattr(found, part)
    return found
