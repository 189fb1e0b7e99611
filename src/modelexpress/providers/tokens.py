# SPDX-License-Identifier: Apache-2.0
"""The Hub token of this process, found as huggingface_hub finds it; read at each use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from modelexpress.domain.errors import Invalid

_TRUE = frozenset({"1", "on", "yes", "true"})
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def find_hub_token(env: Mapping[str, str]) -> str | None:
    """The token of the environment, else of the login file; None when there is none.

    Raises Invalid for one that cannot stand in a header.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        token = _clean(env.get(name))
        if token is not None:
            return check_token(token, name)
    if env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return None
    path = _token_path(env)
    try:
        token = _clean(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return None if token is None else check_token(token, str(path))


def check_token(token: str, source: str) -> str:
    """`token` itself. Raises Invalid, without showing it, when it cannot be sent."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Invalid(
            f"the Hub token in {source} holds a blank or a character that no token has; set it again"
        )
    return token


def _clean(text: str | None) -> str | None:
    return (text or "").replace("\r", "").replace("\n", "").strip() or None


def _token_path(env: Mapping[str, str]) -> Path:
    if env.get("HF_TOKEN_PATH"):
        return _expand(env["HF_TOKEN_PATH"], env)
    if env.get("HF_HOME"):
        return _expand(env["HF_HOME"], env) / "token"
    return _expand(env.get("XDG_CACHE_HOME") or "~/.cache", env) / "huggingface" / "token"


def _expand(text: str, env: Mapping[str, str]) -> Path:
    filled = _VARIABLE.sub(lambda match: env.get(match[1] or match[2], match[0]), text)
    if env.get("HOME") and (filled == "~" or filled.startswith("~/")):
        return Path(env["HOME"] + filled[1:])
    return Path(os.path.expanduser(filled))
