# SPDX-License-Identifier: Apache-2.0
"""Paths as people write them: `~`, `$NAME`, relative; and where things stand when nobody says."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<bare>\w+))")


def home_directory(env: Mapping[str, str]) -> Path:
    """`HOME`, else `USERPROFILE`, else what the system says of this account, else the root."""
    named = env.get("HOME") or env.get("USERPROFILE")
    if named:
        return Path(named)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("/")


def expand_path(text: str, env: Mapping[str, str], cwd: Path) -> Path:
    """An absolute path from `text`; Invalid for an empty one and for a `$NAME` that is not set."""
    if not text.strip() or "\0" in text:
        raise Invalid("a path must not be empty or hold a NUL")

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        if not env.get(name):
            raise Invalid(f"path {shown(text)}: ${name} is not set")
        return env[name]

    expanded = _VARIABLE.sub(value, text.strip())
    if expanded == "~" or expanded.startswith("~/"):
        expanded = str(home_directory(env)) + expanded[1:]
    elif expanded.startswith("~"):
        expanded = os.path.expanduser(expanded)
    return (cwd / expanded).absolute()


def find_cache_fallback(env: Mapping[str, str]) -> tuple[str | None, str]:
    """The Hub library's own cache, as that library finds it: the variable that says so, and the text."""
    whole = {"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": ""}
    below = {**whole, "HF_HOME": "/hub", "XDG_CACHE_HOME": "/huggingface/hub"}
    return _first_set(env, below) or (None, "~/.cache/huggingface/hub")


def find_registry_fallback(env: Mapping[str, str]) -> tuple[str | None, str]:
    """Where the registry stands unless told: the variable that says so, and the text."""
    below = {"XDG_STATE_HOME": "/modelexpress/registry.db"}
    return _first_set(env, below) or (None, "~/.local/state/modelexpress/registry.db")


def _first_set(env: Mapping[str, str], below: Mapping[str, str]) -> tuple[str, str] | None:
    named = ((name, env.get(name, "").strip(), rest) for name, rest in below.items())
    return next(((name, value + rest) for name, value, rest in named if value), None)
