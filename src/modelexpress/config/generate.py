# SPDX-License-Identifier: Apache-2.0
"""Settings files as text: a commented one to start from, and older ones in today's form."""

from __future__ import annotations

import difflib
import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel

from modelexpress.config.checks import Fault, check_types
from modelexpress.config.document import parse_yaml
from modelexpress.config.endpoint import parse_endpoint
from modelexpress.config.initfile import write_whole
from modelexpress.config.settings import Settings, value_of
from modelexpress.config.sources import FileKeys, Given, read_keys
from modelexpress.config.table import SETTINGS, Setting
from modelexpress.domain.errors import Invalid, StorageFailed
from modelexpress.domain.refs import shown

_FORMATS = ("yaml", "yml")
_ENDPOINT = "connection.endpoint"
# An uncommented default would outrank the sources between the file and the default.
_COMMENTED = frozenset({_ENDPOINT, "logging.structured"})
_HEADER = """\
# Settings of ModelExpress, for the server and for clients; see docs/configuration.md.
# Every key may be left out. A flag or a variable ranks above this file. Durations are seconds,
# or texts such as 90s, 30m or 2h30m.
"""


@dataclass(frozen=True, slots=True)
class Migrated:
    """A settings file in today's form, and what could not be taken over as it was."""

    text: str
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Kept:
    """What goes into a migrated file: values by key, and values that stay as comments only."""

    values: dict[str, object]
    comments: dict[str, object]
    warnings: list[str]


def generate_default() -> str:
    """A commented YAML file of every setting that has an effect, at its default."""
    return _render({}, {})


def migrate(text: str, name: str = "input") -> Migrated:
    """`text` in today's form, with every value that can be read; Invalid when it is no YAML.

    A value that this version would refuse stays: security as it is, so that nothing starts without the
    protection somebody asked for; anything else as a comment.
    """
    document = parse_yaml(text, name)
    keys = read_keys(document)
    warnings = [*keys.problems, *_adopt_endpoint(keys)]
    settings, faults = _drop_faulty(keys)
    kept = _Kept(_canonical(keys, settings), {}, [*warnings, *faults])
    _rewrite_refused(kept, settings)
    return Migrated(_render(kept.values, kept.comments), tuple(kept.warnings))


def show_diff(old: str, new: str) -> str:
    """What differs, as a unified diff; empty when nothing does."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "before", "after", lineterm="")
    return "\n".join(lines)


def check_format(name: str) -> None:
    """Raise Invalid for an output format other than yaml and yml."""
    if name.lower() not in _FORMATS:
        raise Invalid(f"output format {shown(name)} is not written: give yaml or yml")


def check_target(path: Path, is_overwrite: bool) -> None:
    """Raise Invalid when the target exists and may not be replaced."""
    if os.path.lexists(path) and not is_overwrite:
        raise Invalid(f"{path}: exists already: give --overwrite to replace it, or another --output")


def write_text(path: Path, text: str) -> None:
    """Write the file in one step, making its directory."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise StorageFailed(f"{path}: cannot be written ({error.strerror})") from error


def written_message(path: Path) -> str:
    """What to tell a person once the file stands."""
    check = f"modelexpress-server --config {path} --validate-config"
    return f"Configuration file generated: {path}\nCheck it with: {check}"


def _adopt_endpoint(keys: FileKeys) -> Iterator[str]:
    second = keys.fallback_endpoint
    if second is None:
        return
    main = keys.given.setdefault(_ENDPOINT, second)
    if second.value != main.value:
        yield f"{second.origin.where}: {second.key} is left out: {_ENDPOINT} counts"


def _drop_faulty(keys: FileKeys) -> tuple[Settings, list[str]]:
    """Drop what cannot be read, with a warning each, so that the rest is sound."""
    _, faults = check_types(_complete(keys.given))
    warnings = []
    for fault in (*_endpoint_faults(keys.given), *faults):
        warnings.append(f"{_where(keys.given, fault)}: {fault.message}: left out")
    for fault in (*_endpoint_faults(keys.given), *faults):
        keys.given.pop(fault.key, None)
    settings, left = check_types(_complete(keys.given))
    assert settings is not None, left
    return settings, warnings


def _where(given: Mapping[str, Given], fault: Fault) -> str:
    return given[fault.key].at(fault.path).where


def _endpoint_faults(given: Mapping[str, Given]) -> list[Fault]:
    if _ENDPOINT not in given:
        return []
    try:
        parse_endpoint(str(given[_ENDPOINT].value), _ENDPOINT)
    except Invalid as error:
        return [Fault(_ENDPOINT, (), error.message)]
    return []


def _complete(given: Mapping[str, Given]) -> dict[str, object]:
    defaults = {setting.key: setting.default for setting in SETTINGS}
    anywhere = {"cache.directory": Path("/"), "registry.path": Path("/")}
    return {**defaults, **anywhere, **{key: value.value for key, value in given.items()}}


def _canonical(keys: FileKeys, settings: Settings) -> dict[str, object]:
    """The values as they are written: paths as somebody wrote them, the rest in one spelling."""
    paths = {setting.key for setting in SETTINGS if setting.type == "path"}
    return {
        key: given.value if key in paths else value_of(settings, key) for key, given in keys.given.items()
    }


def _rewrite_refused(kept: _Kept, settings: Settings) -> None:
    for setting in SETTINGS:
        is_elsewhere = setting.key.startswith("security.")
        if setting.key in kept.values and setting.not_yet is not None and not is_elsewhere:
            kept.comments[setting.key] = kept.values.pop(setting.key)
            kept.warnings.append(f"{setting.key} is kept as a comment: {setting.not_yet}")
    if _has_protection(settings):
        kept.warnings.append(
            "security is kept, and the server refuses to start with it: put a proxy in front"
        )
    if settings.logging.structured and settings.logging.format != "json":
        kept.values["logging.format"] = "json"
        kept.warnings.append("logging.format is set to json: logging.structured says so")


def _has_protection(settings: Settings) -> bool:
    security = settings.security
    return security.mode != "off" or bool(security.token_audiences or security.allowed_service_accounts)


def _render(values: Mapping[str, object], comments: Mapping[str, object]) -> str:
    lines = [_HEADER.rstrip()]
    open_sections: tuple[str, ...] = ()
    for setting in SETTINGS:
        if setting.not_yet is not None and setting.key not in values and setting.key not in comments:
            continue
        sections = tuple(setting.key.split(".")[:-1])
        lines += _section_lines(open_sections, sections)
        lines += _setting_lines(setting, values, comments)
        open_sections = sections
    return "\n".join(lines) + "\n"


def _section_lines(before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[str]:
    if before[:1] != after[:1]:
        yield ""
    for depth, name in enumerate(after):
        if before[: depth + 1] != after[: depth + 1]:
            yield f"{'  ' * depth}{name}:"


def _setting_lines(
    setting: Setting, values: Mapping[str, object], comments: Mapping[str, object]
) -> Iterator[str]:
    *sections, name = setting.key.split(".")
    indent = "  " * len(sections)
    hash_sign = f"{indent}# "
    yield from textwrap.wrap(setting.meaning, 96, initial_indent=hash_sign, subsequent_indent=hash_sign)
    if setting.key in values:
        yield f"{indent}{name}: {_scalar(values[setting.key])}"
    elif setting.key in comments:
        yield f"{hash_sign}{name}: {_scalar(comments[setting.key])}"
    elif setting.default is None:
        yield f"{hash_sign}Default: {setting.default_text or 'none'}"
        yield f"{hash_sign}{name}:"
    elif setting.fallback_env or setting.key in _COMMENTED:
        yield f"{hash_sign}{name}: {_scalar(setting.default)}"
    else:
        yield f"{indent}{name}: {_scalar(setting.default)}"


def _scalar(value: object) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return {name: _plain(inner) for name, inner in value if inner not in (None, ())}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
