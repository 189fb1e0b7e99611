# SPDX-License-Identifier: Apache-2.0
"""Judges values: each by its type, then what this version refuses, then what contradicts."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from modelexpress.config.settings import PullPattern, ServiceAccount, Settings, value_of
from modelexpress.config.sources import Given
from modelexpress.config.table import SETTINGS, Role
from modelexpress.domain.refs import shown

_OTHER_BACKENDS = frozenset({"redis", "kubernetes", "k8s", "crd"})
_NO_ENFORCE = (
    "'enforce' is not in this version, which cannot check service account tokens and would let everybody in: "
    "set it to off, and put a proxy that checks them in front"
)
_RANKS = ("flag", "env", "file", "default")
_ITEM_KEYS = {
    "pull.patterns": tuple(PullPattern.model_fields),
    "security.allowed_service_accounts": tuple(ServiceAccount.model_fields),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the value of `key`, at `path` inside it."""

    key: str
    path: tuple[int | str, ...]
    message: str


def check_types(values: Mapping[str, object]) -> tuple[Settings | None, list[Fault]]:
    """The settings made of `values` (by key), or all that is wrong with them."""
    try:
        return Settings.model_validate(_nested(values)), []
    except ValidationError as error:
        return None, [_fault(details) for details in error.errors(include_url=False)]


def find_refusals(role: Role, settings: Settings, given: Mapping[str, Given]) -> Iterator[str]:
    """One problem for each value that would do nothing, or less than it says, in this version."""
    for setting in SETTINGS:
        value = given[setting.key]
        if role not in setting.roles or value.origin.is_default:
            continue
        reason = _refusal(setting.key, setting.not_yet, settings)
        if reason is not None:
            yield f"{value.origin.where}: {value.key}: {reason}"


def means_json(settings: Settings, given: Mapping[str, Given]) -> bool:
    """True when `logging.structured` is set and ranks above what `logging.format` says."""
    format_rank, structured_rank = (
        _RANKS.index(given[key].origin.kind) for key in ("logging.format", "logging.structured")
    )
    return settings.logging.structured and structured_rank <= format_rank


def find_contradictions(role: Role, settings: Settings, given: Mapping[str, Given]) -> Iterator[str]:
    """One problem for each pair of values that cannot both hold."""
    log_format, structured = given["logging.format"].origin, given["logging.structured"].origin
    is_contradiction = settings.logging.structured and settings.logging.format != "json"
    if is_contradiction and log_format.kind == structured.kind:
        yield (
            f"{log_format.where}: logging.format {settings.logging.format!r} contradicts "
            f"logging.structured ({structured.where}), which means json: keep one of them"
        )
    if role == "server":
        yield from _find_shared_ports(settings, given)
    yield from _useless_mirrors(settings, given)
    if settings.cache.max_size_bytes == 0:
        place = given["cache.max_size_bytes"].origin
        yield f"{place.where}: cache.max_size_bytes 0 lets nothing in: leave it out for no limit"
    if os.path.isfile(settings.cache.directory):
        place = given["cache.directory"].origin
        path = shown(str(settings.cache.directory))
        yield f"{place.where}: cache.directory {path} is a file: name a directory"


def _find_shared_ports(settings: Settings, given: Mapping[str, Given]) -> Iterator[str]:
    server = settings.server
    taken = {server.port: "server.port"} if server.port else {}
    for key, port in (("server.data_port", server.data_port), ("server.metrics_port", server.metrics_port)):
        if port in taken:
            where = given[key].origin.where
            yield f"{where}: {key} is {port}, as {taken[port]}: give them different ports"
        elif port:
            taken[port] = key


def _useless_mirrors(settings: Settings, given: Mapping[str, Given]) -> Iterator[str]:
    origin = settings.origin
    place = given["origin.mirrors"].origin
    for number, mirror in enumerate(origin.mirrors):
        if mirror == origin.endpoint:
            yield f"{place.where}: origin.mirrors: {shown(mirror)} is origin.endpoint itself: leave it out"
        elif mirror in origin.mirrors[:number]:
            yield f"{place.where}: origin.mirrors: {shown(mirror)} is there twice: leave one out"


def _refusal(key: str, not_yet: str | None, settings: Settings) -> str | None:
    if key == "security.mode" and settings.security.mode == "enforce":
        return _NO_ENFORCE
    if key == "registry.backend" and settings.registry.backend in _OTHER_BACKENDS:
        return f"{settings.registry.backend!r} is not in this version: use sqlite"
    if not_yet is None:
        return None
    default = next(setting.default for setting in SETTINGS if setting.key == key)
    return None if value_of(settings, key) == default else not_yet


def _nested(values: Mapping[str, object]) -> dict[str, object]:
    root: dict[str, object] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        section = root
        for name in sections:
            inner = section.setdefault(name, {})
            assert isinstance(inner, dict)
            section = inner
        section[last] = value
    return root


def _fault(details: ErrorDetails) -> Fault:
    location = details["loc"]
    for setting in SETTINGS:
        parts = tuple(setting.key.split("."))
        if location[: len(parts)] == parts:
            path = location[len(parts) :]
            return Fault(setting.key, path, _message(setting.key, path, details))
    raise AssertionError(f"no setting at {location}")


def _message(key: str, path: tuple[int | str, ...], details: ErrorDetails) -> str:
    name = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    if details["type"] == "extra_forbidden":
        return f"unknown key {shown(name)}{_nearest_item_key(key, str(path[-1]))}"
    text = details["msg"].removeprefix("Value error, ")
    found = details["input"]
    if details["type"] == "value_error" or not isinstance(found, str | int | float):
        return f"{name}: {text[0].lower()}{text[1:]}"
    return f"{name}: {text[0].lower()}{text[1:]}, not {shown(str(found))}"


def _nearest_item_key(key: str, wrong: str) -> str:
    known = _ITEM_KEYS[key]
    near = difflib.get_close_matches(wrong, known, n=1)
    return f": did you mean {near[0]!r}?" if near else f": an item has {', '.join(known)}"
