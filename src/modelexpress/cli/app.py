# SPDX-License-Identifier: Apache-2.0
"""The programs as trees of commands, and the one place where their errors become an exit status."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from modelexpress.cli import api, cache, completion, config, health, models, pull, serve
from modelexpress.cli.environment import Environment, of, show_version
from modelexpress.cli.exits import EXITS, FAILED, INTERRUPTED, OK, USAGE
from modelexpress.cli.hoisting import hoist, split
from modelexpress.cli.output import Form, Output
from modelexpress.cli.setting_flags import add_options, read_flags
from modelexpress.domain.errors import MxError

# click is a package of its own in some versions of typer and a part of it in others.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]
_ClickException: type[Any] = _UsageError.__bases__[0]

_SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def run(program: str, arguments: list[str], env: Mapping[str, str] | None = None) -> int:
    """Run a program with its arguments (and another environment than the process's); the exit status."""
    command = build(program)
    output = Output(_find_form(command, arguments))
    environment = Environment(program, output, env=os.environ if env is None else env)
    try:
        if f"_{program}_COMPLETE".replace("-", "_").upper() in os.environ:
            importlib.import_module("typer.completion").completion_init()
        else:
            arguments = hoist(command, arguments)
        status = command.main(arguments, prog_name=program, standalone_mode=False, obj=environment)
        sys.stdout.flush()
    except MxError as error:
        output.fail(error.code, error.message)
        return EXITS[type(error)]
    except (typer.Abort, KeyboardInterrupt):
        output.fail("Interrupted", "stopped")
        return INTERRUPTED
    except _ClickException as error:
        return _refuse(output, error)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status if isinstance(status, int) else OK


def build(program: str) -> Any:
    """The command tree of a program."""
    act = _ALONE.get(program)
    app = typer.Typer(**_SETTINGS, no_args_is_help=act is None)
    if act is not None:
        app.command(help=act.__doc__)(act)
        return typer.main.get_command(app)
    app.callback()(add_options(_read_global_flags, "client"))
    app.command()(pull.pull)
    app.add_typer(cache.make_app(), name="cache")
    app.command("serve")(serve.serve)
    app.add_typer(models.make_app(), name="model")
    app.command()(health.health)
    app.add_typer(api.make_app(), name="api")
    app.add_typer(config.make_app(), name="config")
    app.command()(completion.completion)
    app.command("help")(_help)
    return typer.main.get_command(app)


_ALONE: dict[str, Callable[..., Any]] = {
    "modelexpress-server": serve.serve,
    "config_gen": config.generate,
}


def _read_global_flags(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings file to read.")
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", "-f", help="How results are written: human, json or json-pretty.")
    ] = Form.HUMAN,
    verbosity: Annotated[
        int,
        typer.Option("-v", count=True, show_default=False, help="Log more: -v info, -vv debug, -vvv trace."),
    ] = 0,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    **given: Any,
) -> None:
    """Pull LLM models once, keep them proven, and hand them on.

    Flags of this list may stand before or after the command.
    """
    environment = of(context)
    environment.output.form = form
    environment.flags = read_flags("client", given)
    environment.output.is_quiet = bool(environment.flags.get("logging.quiet"))
    environment.config_file = config
    environment.verbosity = verbosity


def _help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help="The words of the command.", show_default=False),
    ] = None,
) -> None:
    """Show the help of a command."""
    here = context.find_root()
    for word in words or []:
        found = getattr(here.command, "commands", {}).get(word)
        if found is None:
            raise typer.BadParameter(f"there is no command {' '.join(words or [])!r}")
        here = type(here)(found, parent=here, info_name=word)
    typer.echo(here.get_help())


def _refuse(output: Output, error: Any) -> int:
    """Say what is wrong with the command line."""
    if output.is_human:
        error.show()
    else:
        output.fail("Usage", error.format_message())
    return USAGE if isinstance(error, _UsageError) else FAILED


def _find_form(command: Any, arguments: list[str]) -> Form:
    """The form of results, also when the command line cannot be read as a whole."""
    if getattr(command, "commands", None) is None:
        return Form.HUMAN
    words = iter(split(command, arguments)[0])
    names = {form.value: form for form in Form}
    for word in words:
        name, is_joined, value = word.partition("=")
        if name in ("--format", "-f"):
            return names.get(value if is_joined else next(words, ""), Form.HUMAN)
    return Form.HUMAN
