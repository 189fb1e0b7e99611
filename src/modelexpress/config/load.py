# SPDX-License-Identifier: Apache-2.0
"""Flags, variables and a file become Settings, or one error that lists everything that is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelexpress.config.checks import check_types, find_contradictions, find_refusals, means_json
from modelexpress.config.document import read_document
from modelexpress.config.endpoint import (
    DEFAULT_ENDPOINT,
    ENDPOINT_ENV,
    FILE_SOURCE,
    FLAG_SOURCE,
    INIT_SOURCE,
    parse_endpoint,
    redacted,
    resolve_endpoint,
)
from modelexpress.config.initfile import InitFile, find_init
from modelexpress.config.places import expand_path, find_cache_fallback, find_registry_fallback
from modelexpress.config.settings import Settings
from modelexpress.config.sources import (
    DEFAULT,
    SYSTEM_DIRECTORY,
    FileKeys,
    Given,
    Origin,
    find_given,
    idle_variables,
    read_keys,
    search_paths,
    unknown_variables,
    without_service_links,
)
from modelexpress.config.table import SETTINGS, Role, Setting
from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown

_ENDPOINT = "connection.endpoint"
_LONGEST_NAME = 1024  # of a file, in messages


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, where each came from (by setting key), what to tell a person, and the file read."""

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...]
    file: Path | None
    role: Role = "server"


@dataclass(slots=True)
class _Reading:
    """What one call of `load` has gathered so far."""

    role: Role
    flags: Mapping[str, object]
    env: Mapping[str, str]
    cwd: Path
    keys: FileKeys = field(default_factory=FileKeys)
    init: InitFile | None = None
    file: Path | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load(
    role: Role,
    flags: Mapping[str, object],
    env: Mapping[str, str],
    config_file: Path | None = None,
    cwd: Path | None = None,
    system_directory: Path = SYSTEM_DIRECTORY,
) -> Loaded:
    """Read and check the settings of a process: flag > variable > file > default, key by key.

    `flags` is by setting key, with None or absence for "not given"; values may be texts. A file that
    cannot be read, an unknown key, a value of the wrong kind and a setting that would do nothing are
    all problems; one Invalid lists every problem, each with its place.
    """
    own_env = without_service_links(env)
    reading = _Reading(role, flags, own_env, (cwd or Path.cwd()).absolute())
    _read_files(reading, config_file, system_directory)
    given = {setting.key: _choose(reading, setting) for setting in SETTINGS}
    given[_ENDPOINT] = _choose_endpoint(reading)
    settings = _check(reading, given)
    if reading.problems:
        raise Invalid(_listed(reading.problems))
    origins = {key: value.origin for key, value in given.items()}
    warnings = (*reading.warnings, *unknown_variables(own_env), *idle_variables(role, own_env))
    if means_json(settings, given):
        logging = settings.logging.model_copy(update={"format": "json"})
        settings = settings.model_copy(update={"logging": logging})
        origins["logging.format"] = origins["logging.structured"]
    return Loaded(settings, origins, warnings, reading.file, role)


def _read_files(reading: _Reading, config_file: Path | None, system_directory: Path) -> None:
    reading.file = config_file if config_file is not None else _find_file(reading, system_directory)
    try:
        if reading.file is not None:
            name = _display(reading.file, reading.cwd)
            reading.keys = read_keys(read_document(reading.cwd / reading.file, name))
            reading.problems += reading.keys.problems
    except Invalid as error:
        reading.problems.append(error.message)
    try:
        reading.init = find_init(reading.env)
        reading.warnings += reading.init.warnings if reading.init else ()
    except Invalid as error:
        reading.problems.append(error.message)


def _find_file(reading: _Reading, system_directory: Path) -> Path | None:
    found = [path for path in search_paths(reading.cwd, system_directory) if os.path.lexists(path)]
    here = [path.name for path in found if path.parent == reading.cwd]
    if len(here) > 1:
        unread = ", ".join(here[1:])
        reading.warnings.append(f"{here[0]} is read, and {unread} beside it is not: keep one file")
    return found[0] if found else None


def _choose(reading: _Reading, setting: Setting) -> Given:
    try:
        given = find_given(setting, reading.role, reading.flags, reading.env, reading.keys)
    except Invalid as error:
        reading.problems.append(error.message)
        given = None
    if given is None:
        given = _fallback(reading, setting)
    if setting.type != "path" or not isinstance(given.value, str | Path):
        return given
    try:
        path = expand_path(str(given.value), reading.env, reading.cwd)
    except Invalid as error:
        reading.problems.append(f"{given.origin.where}: {given.key}: {error.message}")
        path = reading.cwd
    return Given(path, given.origin, given.key, given.located)


def _fallback(reading: _Reading, setting: Setting) -> Given:
    if setting.key == "cache.directory" and reading.init is not None:
        origin = Origin(INIT_SOURCE, str(reading.init.path), reading.init.lines[0])
        return Given(reading.init.local_path, origin, "local_path")
    if setting.key == "cache.directory":
        return _from_fallback(setting, *find_cache_fallback(reading.env))
    if setting.key == "registry.path":
        return _from_fallback(setting, *find_registry_fallback(reading.env))
    for name in setting.fallback_env:
        if reading.env.get(name, "").strip():
            return Given(reading.env[name].strip(), Origin("env", name), setting.key)
    return Given(setting.default, DEFAULT, setting.key)


def _from_fallback(setting: Setting, name: str | None, text: str) -> Given:
    return Given(text, DEFAULT if name is None else Origin("env", name), setting.key)


def _choose_endpoint(reading: _Reading) -> Given:
    is_client = reading.role == "client"
    flag = reading.flags.get(_ENDPOINT)
    in_file = _endpoint_in_file(reading)
    init = reading.init if is_client else None
    places = {
        **{f"env {name}": Origin("env", name) for name in ENDPOINT_ENV},
        FLAG_SOURCE: Origin("flag", "--endpoint"),
        FILE_SOURCE: in_file.origin if in_file else DEFAULT,
        INIT_SOURCE: Origin(INIT_SOURCE, str(init.path), init.lines[1]) if init else DEFAULT,
    }
    try:
        found = resolve_endpoint(
            None if flag is None else str(flag),
            reading.env if is_client else {},
            None if in_file is None else str(in_file.value),
            init.server_endpoint if init else None,
        )
    except Invalid as error:
        source, _, rest = error.message.partition(": ")
        reading.problems.append(f"{places.get(source, DEFAULT).where}: {rest}")
        return Given(DEFAULT_ENDPOINT, DEFAULT, _ENDPOINT)
    reading.warnings += found.warnings
    return Given(found.url, places.get(found.source, DEFAULT), _ENDPOINT)


def _endpoint_in_file(reading: _Reading) -> Given | None:
    """The file's own endpoint, else the established second one; both set to different servers warns."""
    main, second = reading.keys.given.get(_ENDPOINT), reading.keys.fallback_endpoint
    for given in (main, second):
        if given is not None and not isinstance(given.value, str):
            reading.problems.append(f"{given.origin.where}: {given.key}: expected http://host:port")
            return None
    if main is None or second is None:
        return main or second
    unequal = len({_url(str(main.value)), _url(str(second.value)), DEFAULT_ENDPOINT}) == 3
    if unequal or (_url(str(main.value)) == DEFAULT_ENDPOINT != _url(str(second.value))):
        reading.warnings.append(
            f"{second.origin.where}: {second.key} {shown(redacted(str(second.value)))} does not count beside "
            f"{main.key} {shown(redacted(str(main.value)))}: remove one of them"
        )
    return main


def _url(text: str) -> str:
    try:
        return parse_endpoint(text, "").url
    except Invalid:
        return text


def _check(reading: _Reading, given: dict[str, Given]) -> Settings:
    """Note every problem of the values; what is wrong itself stands at its default for the later checks."""
    settings, faults = check_types({key: value.value for key, value in given.items()})
    reading.problems += [f"{given[fault.key].at(fault.path).where}: {fault.message}" for fault in faults]
    for setting in SETTINGS:
        if any(fault.key == setting.key for fault in faults):
            is_place = setting.default is None and setting.type == "path"
            given[setting.key] = Given(reading.cwd if is_place else setting.default, DEFAULT, setting.key)
    if settings is None:
        settings, left = check_types({key: value.value for key, value in given.items()})
        assert settings is not None, left
    reading.problems += find_refusals(reading.role, settings, given)
    reading.problems += find_contradictions(reading.role, settings, given)
    return settings


def _display(path: Path, cwd: Path) -> str:
    text = str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)
    return text if text.isprintable() and len(text) < _LONGEST_NAME else shown(text)


def _listed(problems: list[str]) -> str:
    unique = list(dict.fromkeys(problems))
    if len(unique) == 1:
        return unique[0]
    return "\n".join((f"{len(unique)} problems with the settings:", *unique))
