# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/configuration.md, made from the settings themselves."""

from __future__ import annotations

import sys
from pathlib import Path

from modelexpress.config.table import OTHER_ENVIRONMENT, SETTINGS, Setting
from modelexpress.domain.pages import replace_between

SETTINGS_MARK = "settings"
ENVIRONMENT_MARK = "environment"


def settings_table() -> str:
    """Every setting: key, type, default, flags, variables, who reads it, meaning."""
    head = "| setting | type | default | flags | variables | read by | meaning |"
    return "\n".join(
        (head, "|---|---|---|---|---|---|---|", *(_setting_row(setting) for setting in SETTINGS))
    )


def environment_table() -> str:
    """Every variable that is recognised without being a setting."""
    rows = (f"| `{other.name}` | {other.meaning} |" for other in OTHER_ENVIRONMENT)
    return "\n".join(("| variable | meaning |\n|---|---|", *rows))


def with_tables(page: str) -> str:
    """`page` with both tables as they should be, between their markers. Invalid without the markers."""
    page = replace_between(page, SETTINGS_MARK, settings_table())
    return replace_between(page, ENVIRONMENT_MARK, environment_table())


def _setting_row(setting: Setting) -> str:
    cells = (
        "<br>".join(f"`{name}`" for name in (setting.key, *setting.aliases)),
        setting.type,
        _default(setting),
        ", ".join(f"`{flag}`" for flag in setting.flags),
        "<br>".join(f"`{name}`" for name in (*setting.env, *setting.fallback_env)),
        " and ".join(role for role in ("server", "client") if role in setting.roles),
        _meaning(setting),
    )
    return f"| {' | '.join(cells)} |"


def _default(setting: Setting) -> str:
    if setting.default_text is not None:
        return setting.default_text
    if setting.default in (None, ()):
        return "none"
    text = str(setting.default)
    return f"`{text.lower() if isinstance(setting.default, bool) else text}`"


def _meaning(setting: Setting) -> str:
    notes = [setting.meaning]
    if setting.is_inverted:
        notes.append("The flag and the variable say the opposite: set, they mean false.")
    if setting.fallback_env:
        names = ", ".join(f"`{name}`" for name in setting.fallback_env)
        notes.append(f"{names} {'count' if len(setting.fallback_env) > 1 else 'counts'} below the file.")
    if setting.not_yet is not None:
        notes.append(f"**Refused:** {setting.not_yet}.")
    return " ".join(notes)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
