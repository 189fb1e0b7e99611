# SPDX-License-Identifier: Apache-2.0
"""The settings in effect, as rows for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from modelexpress.config.endpoint import redacted
from modelexpress.config.load import Loaded
from modelexpress.config.settings import value_of
from modelexpress.config.table import settings_for


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its key, its value as plain data, and (if asked for) where it came from."""

    key: str
    value: object
    origin: str | None = None

    @property
    def text(self) -> str:
        """The value for people: `true`, `none`, `a, b`."""
        return _text(self.value)


def show(loaded: Loaded, with_origin: bool) -> tuple[Row, ...]:
    """A row for each setting that this process reads, in the order of the documentation.

    Settings that have no effect in this version appear only where somebody set them.
    """
    return tuple(
        Row(
            setting.key,
            _plain(value_of(loaded.settings, setting.key)),
            str(loaded.origins[setting.key]) if with_origin else None,
        )
        for setting in settings_for(loaded.role)
        if setting.not_yet is None or not loaded.origins[setting.key].is_default
    )


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return {name: _plain(inner) for name, inner in value if inner is not None}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return redacted(value) if isinstance(value, str) else value


def _text(value: object) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return "{" + "; ".join(f"{name}: {_text(inner)}" for name, inner in value.items()) + "}"
    return str(value)
