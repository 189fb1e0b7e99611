# SPDX-License-Identifier: Apache-2.0
"""Where values come from: flags, variables, a file's keys; found, not yet judged."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelexpress.config.document import Document, Located
from modelexpress.config.table import OTHER_ENVIRONMENT, SETTINGS, Role, Setting, known_environment
from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown

OWN_PREFIX = "MODEL_EXPRESS_"
SYSTEM_DIRECTORY = Path("/etc/model-express")
FILE_NAMES = ("modelexpress.yaml", "modelexpress.yml", "model-express.yaml", "model-express.yml")
SYSTEM_FILE_NAMES = ("config.yaml", "config.yml")
# Established only as the lowest source of the endpoint; other versions demand it beside connection.endpoint.
WEAK_ALIAS = "cache.server_endpoint"

# As the Hub's own library reads it: these words mean yes, everything else means no.
_TRUTHY_NAMES = frozenset({"HF_HUB_OFFLINE"})
_TRUTHY = frozenset({"1", "ON", "YES", "TRUE"})
_SERVICE_LINK_NAME = re.compile(
    r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: `flag --port`, `env NAME`, `file x.yaml:12`, `init file …`, `default`."""

    kind: str
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = self.name if self.line is None else f"{self.name}:{self.line}"
        return f"{self.kind} {place}".rstrip()

    @property
    def where(self) -> str:
        """How a message about this value begins: as `str`, but a file goes without the word."""
        return str(self).removeprefix("file ")

    @property
    def is_default(self) -> bool:
        """True when nobody set the value."""
        return self.kind == "default"


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Given:
    """A value somebody set, not yet checked, and its origin. `located` is its place in a file, with lines."""

    value: object
    origin: Origin
    key: str
    located: Located | None = None

    def at(self, path: tuple[int | str, ...]) -> Origin:
        """Where the part of the value that `path` leads to came from."""
        if self.located is None:
            return self.origin
        return Origin(self.origin.kind, self.origin.name, self.located.line_at(path))


@dataclass(slots=True)
class FileKeys:
    """The keys of a file that are settings, by setting key; `fallback_endpoint` stands below them."""

    given: dict[str, Given] = field(default_factory=dict)
    fallback_endpoint: Given | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def without_service_links(env: Mapping[str, str]) -> dict[str, str]:
    """`env` without what Kubernetes adds for each service, whose names can equal those of settings."""
    return {
        name: value
        for name, value in env.items()
        if not _SERVICE_LINK_NAME.search(name)
        and not (name.endswith("_PORT") and _SERVICE_LINK_VALUE.match(value))
    }


def find_given(
    setting: Setting, role: Role, flags: Mapping[str, object], env: Mapping[str, str], keys: FileKeys
) -> Given | None:
    """What counts for one setting: flag, then variable, then file; None when nobody set it.

    Raises Invalid for a variable that says neither yes nor no where it must.
    """
    if flags.get(setting.key) is not None:
        return Given(flags[setting.key], Origin("flag", _flag_name(setting, role)), setting.key)
    if role in setting.roles:
        for name in setting.env:
            if env.get(name, "").strip():
                value = _from_variable(setting, name, env[name].strip())
                return Given(value, Origin("env", name), setting.key)
    return keys.given.get(setting.key)


def read_keys(document: Document) -> FileKeys:
    """Match a file's keys with the settings; what fits nowhere is a problem that names the nearest key."""
    found = FileKeys(problems=list(document.problems))
    places = {name: setting for setting in SETTINGS for name in (setting.key, *setting.aliases)}
    for path, located in _leaves(document, found, frozenset(places), document.root):
        given = Given(located.plain(), Origin("file", document.name, located.line), path, located)
        if path == WEAK_ALIAS:
            found.fallback_endpoint = given
        else:
            _add(found, places[path], given)
    return found


def unknown_variables(env: Mapping[str, str]) -> list[str]:
    """A warning for each variable with our prefix that nothing reads, with the nearest name."""
    known = known_environment()
    return [
        f"{shown(name)} is set, but no such variable is read{_nearest(name, sorted(known))}"
        for name in sorted(env)
        if name.startswith(OWN_PREFIX) and name not in known
    ]


def idle_variables(role: Role, env: Mapping[str, str]) -> list[str]:
    """A warning for each variable that asks a process of this role for something it does not do."""
    return [
        f"{other.name} is set, and does nothing in this version: unset it"
        for other in OTHER_ENVIRONMENT
        if role in other.idle_for and env.get(other.name, "").strip()
    ]


def search_paths(cwd: Path, system_directory: Path = SYSTEM_DIRECTORY) -> tuple[Path, ...]:
    """Where a settings file is looked for when none is named; the first that exists counts."""
    return (
        *(cwd / name for name in FILE_NAMES),
        *(system_directory / name for name in SYSTEM_FILE_NAMES),
    )


def all_file_keys() -> tuple[str, ...]:
    """Every key that a file may use, sections included."""
    names = [name for setting in SETTINGS for name in (setting.key, *setting.aliases)]
    return tuple(sorted({*names, *_sections(names)}))


def suggest(key: str, candidates: tuple[str, ...]) -> str:
    """`: did you mean 'x'?` for the nearest candidate, by the whole key or else by its last word."""
    near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.75)
    if not near:
        by_last = {name.rpartition(".")[2]: name for name in candidates}
        last = difflib.get_close_matches(key.rpartition(".")[2], sorted(by_last), n=1, cutoff=0.75)
        near = [by_last[last[0]]] if last else difflib.get_close_matches(key, candidates, n=1, cutoff=0.4)
    return f": did you mean {near[0]!r}?" if near else ": see docs/configuration.md for the keys"


def _leaves(
    document: Document, found: FileKeys, places: frozenset[str], section: Located, prefix: str = ""
) -> Iterator[tuple[str, Located]]:
    sections = _sections(places)
    assert isinstance(section.value, dict)
    for key, located in section.value.items():
        path = f"{prefix}{key}"
        if path not in places and path not in sections:
            _refuse(found, document.name, path, located)
        elif located.value is None:
            continue
        elif path in places:
            yield path, located
        elif isinstance(located.value, dict):
            yield from _leaves(document, found, places, located, f"{path}.")
        else:
            place = Origin("file", document.name, located.line)
            found.problems.append(f"{place.where}: {path!r} is a section: put its keys below it")


def _refuse(found: FileKeys, name: str, path: str, located: Located) -> None:
    where = Origin("file", name, located.line).where
    found.problems.append(f"{where}: unknown key {shown(path)}{suggest(path, all_file_keys())}")


def _add(found: FileKeys, setting: Setting, given: Given) -> None:
    other = found.given.get(setting.key)
    if other is not None and other.value != given.value:
        found.problems.append(
            f"{given.origin.where}: {given.key} and {other.key} (line {other.origin.line}) are one setting "
            "with two values: keep one of them"
        )
    found.given.setdefault(setting.key, given)


def _sections(names: list[str] | frozenset[str]) -> frozenset[str]:
    parts = [name.split(".") for name in names]
    return frozenset(".".join(p[:count]) for p in parts for count in range(1, len(p)))


def _flag_name(setting: Setting, role: Role) -> str:
    long_flags = [flag for flag in setting.flags if flag.startswith("--")]
    return (long_flags[-1] if role == "client" else long_flags[0]) if long_flags else setting.key


def _from_variable(setting: Setting, name: str, text: str) -> object:
    if name in _TRUTHY_NAMES:
        return text.upper() in _TRUTHY
    if not setting.is_inverted:
        return text
    if text.lower() not in _YES | _NO:
        raise Invalid(f"env {name}: {shown(text)} is neither yes nor no: give true or false")
    return text.lower() in _NO


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, [own for own in known if own.startswith(OWN_PREFIX)], n=1)
    return f": did you mean {near[0]}?" if near else ": see docs/configuration.md for the names"
