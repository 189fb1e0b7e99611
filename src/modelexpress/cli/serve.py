# SPDX-License-Identifier: Apache-2.0
"""`serve`: run the server, or only check its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from modelexpress import compose
from modelexpress.cli.environment import Environment, of, show_version
from modelexpress.cli.setting_flags import add_options, find_foreign, read_flags
from modelexpress.domain.errors import Invalid

_LEVELS = ("debug", "trace")


def _serve(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings file to read.")
    ] = None,
    validate_config: Annotated[
        bool, typer.Option("--validate-config", help="Check the settings and exit.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    **given: Any,
) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    environment = of(context)
    environment.config_file = config or environment.config_file
    flags = {**_levels(environment), **environment.flags, **read_flags("server", given)}
    foreign = find_foreign("server", flags)
    if foreign is not None:
        raise typer.BadParameter(f"{foreign.flag} is for clients: leave it out when serving")
    if validate_config:
        _validate(environment, flags)
        return
    status = compose.serve(environment.load("server", flags), environment.env)
    raise typer.Exit(status)


serve = add_options(_serve, "server")


def _levels(environment: Environment) -> dict[str, object]:
    verbosity = environment.verbosity
    return {"logging.level": _LEVELS[min(verbosity, len(_LEVELS)) - 1]} if verbosity else {}


def _validate(environment: Environment, flags: dict[str, object]) -> None:
    output = environment.output
    try:
        loaded = environment.load("server", flags)
    except Invalid:
        output.error_label = "Configuration validation failed"
        raise
    for warning in loaded.warnings:
        output.warn(warning)
    file = None if loaded.file is None else str(loaded.file)
    output.result({"success": True, "valid": True, "file": file}, lambda: ["Configuration is valid ✓"])
