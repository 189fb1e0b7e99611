# SPDX-License-Identifier: Apache-2.0
"""Command-line options made from the table of settings, so that no flag can be forgotten or invented."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

from modelexpress.config.table import Role, Setting, settings_for


def add_options(act: Callable[..., Any], role: Role) -> Callable[..., Any]:
    """`act` with an option for each setting of `role` that has a flag, in place of its `**given`."""
    fixed = [
        p for p in inspect.signature(act, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    made = [_parameter(setting) for setting in _flagged(role)]
    signature = inspect.Signature([*(p.replace(kind=p.KEYWORD_ONLY) for p in fixed), *made])

    @functools.wraps(act)
    def act_on_words(**words: Any) -> Any:
        return act(**words)

    setattr(act_on_words, "__signature__", signature)  # noqa: B010 - no attribute that types know of
    act_on_words.__annotations__ = {p.name: p.annotation for p in (*fixed, *made)}
    return act_on_words


def read_flags(role: Role, given: Mapping[str, Any]) -> dict[str, object]:
    """What was given, by setting key; settings whose flag was not given are left out."""
    values = ((setting, given.get(_name(setting))) for setting in _flagged(role))
    return {
        setting.key: (not setting.is_inverted) if setting.is_switch else value
        for setting, value in values
        if value not in (None, False)
    }


def find_foreign(role: Role, flags: Iterable[str]) -> Setting | None:
    """The first of the settings `flags` that a process of this role does not read, or None."""
    known = {setting.key for setting in settings_for(role)}
    strange = next((key for key in flags if key not in known), None)
    return next((s for s in settings_for("client") if s.key == strange), None)


def _flagged(role: Role) -> list[Setting]:
    return [setting for setting in settings_for(role) if setting.flags]


def _name(setting: Setting) -> str:
    return setting.key.replace(".", "_")


def _parameter(setting: Setting) -> inspect.Parameter:
    option = typer.Option(*setting.flags, help=_help(setting), show_default=False)
    kind: Any = bool if setting.is_switch else str | None
    if not setting.is_switch:
        option.metavar = _metavar(setting)
    return inspect.Parameter(
        _name(setting),
        inspect.Parameter.KEYWORD_ONLY,
        default=False if setting.is_switch else None,
        annotation=Annotated[kind, option],
    )


def _metavar(setting: Setting) -> str:
    name = setting.key.rpartition(".")[2].upper()
    return {"true or false": "true|false", "path": "PATH", "duration": "DURATION"}.get(setting.type, name)


def _help(setting: Setting) -> str:
    variable = f" [env: {setting.env[0]}]" if setting.env else ""
    text = setting.meaning
    if setting.is_inverted:
        text = "The server's cache is not mounted here: files are transferred."
    if setting.not_yet:
        text = f"Refused: {setting.not_yet}."
    return f"{text}{variable}"


def keep_flags_of(role: str, flags: Mapping[str, object]) -> dict[str, object]:
    """Those of `flags` that a process of this role reads."""
    known = {setting.key for setting in settings_for("server" if role == "server" else "client")}
    return {key: value for key, value in flags.items() if key in known}
