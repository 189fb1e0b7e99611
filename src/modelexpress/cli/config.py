# SPDX-License-Identifier: Apache-2.0
"""`config show` and `config generate` (which is also the program `config_gen`)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelexpress import compose
from modelexpress.cli.environment import Environment, of
from modelexpress.cli.output import columns
from modelexpress.cli.setting_flags import keep_flags_of
from modelexpress.domain.errors import StorageFailed

if TYPE_CHECKING:
    from modelexpress.config.tools import Row


class Role(Enum):
    """Whose settings to show."""

    SERVER = "server"
    CLIENT = "client"


def make_app() -> typer.Typer:
    """The `config` commands."""
    app = typer.Typer(help="Show and write settings.", no_args_is_help=True)
    app.command()(show)
    app.command()(generate)
    return app


def show(
    context: typer.Context,
    has_origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    role: Annotated[
        Role | None,
        typer.Option("--role", help="Only what this side reads: server or client.", show_default=False),
    ] = None,
) -> None:
    """Show the settings in effect."""
    environment = of(context)
    rows: dict[str, Row] = {}
    for side in Role if role is None else (role,):
        flags = keep_flags_of(side.value, environment.flags)
        loaded = environment.load(side.value, flags)
        rows |= {row.key: row for row in compose.config_tools().show(loaded, has_origin)}
        for warning in loaded.warnings:
            environment.output.warn(warning)

    def lines() -> Iterable[str]:
        heads = ("setting", "value", "origin") if has_origin else ("setting", "value")
        cells = ((row.key, row.text, row.origin or "") for row in rows.values())
        return columns(heads, (row[: len(heads)] for row in cells))

    settings = {row.key: {"value": row.value, "origin": row.origin} for row in rows.values()}
    values = {key: entry if has_origin else entry["value"] for key, entry in settings.items()}
    environment.output.result({"success": True, "settings": values}, lines)


def generate(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path(
        "model-express.yaml"
    ),
    source: Annotated[
        Path | None, typer.Option("--input", "-i", metavar="FILE", help="An older file to take over.")
    ] = None,
    form: Annotated[str, typer.Option("--format", "-f", help="yaml or yml.")] = "yaml",
    is_overwriting: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    has_diff: Annotated[bool, typer.Option("--show-diff", help="Show what changes; needs --input.")] = False,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Print instead of writing.")] = False,
) -> None:
    """Write a commented settings file, or bring an older one into today's form."""
    environment = of(context)
    tools = compose.config_tools()
    tools.check_format(form)
    if has_diff and source is None:
        raise typer.BadParameter("--show-diff compares with --input: give it too")
    if not is_dry_run:
        tools.check_target(output, is_overwriting)
    before, text = _make_text(environment, source)
    difference = tools.show_diff(before, text) if has_diff else ""
    if not is_dry_run:
        tools.write_text(output, text)

    def lines() -> Iterable[str]:
        if difference:
            yield difference
        yield text.rstrip() if is_dry_run else tools.written_message(output)

    document = {"success": True, "path": None if is_dry_run else str(output), "text": text}
    environment.output.result(document | ({"diff": difference} if has_diff else {}), lines)


def _make_text(environment: Environment, source: Path | None) -> tuple[str, str]:
    """The older file's text and the new one."""
    tools = compose.config_tools()
    if source is None:
        return "", tools.generate_default()
    try:
        before = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageFailed(f"--input {source} cannot be read: {error}") from error
    migrated = tools.migrate(before, str(source))
    for warning in migrated.warnings:
        environment.output.warn(warning)
    return before, migrated.text
