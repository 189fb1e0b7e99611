# SPDX-License-Identifier: Apache-2.0
"""The programs as trees of commands, and the one place where their errors become an exit status."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from modelexpress.cli import api, bench, cache, completion, config, health, models, pull, serve
from modelexpress.cli.environment import Environment, of, show_version
from modelexpress.cli.exits import EXITS, FAILED, INTERRUPTED, OK, TERMINATED, USAGE
from modelexpress.cli.hoisting import find_given, hoist, share_flags
from modelexpress.cli.output import Form, Output
from modelexpress.cli.running import Terminated
from modelexpress.cli.setting_flags import add_options, read_flags
from modelexpress.cli.streams import open_closed, settle
from modelexpress.domain.errors import MxError, StorageFailed

# click is a package of its own in some versions of typer and a part of it in others.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]
_ClickException: type[Any] = _UsageError.__bases__[0]

_HELP_FLAGS = ("-h", "--help")
_SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": list(_HELP_FLAGS)},
}


def run(program: str, arguments: list[str], env: Mapping[str, str] | None = None) -> int:
    """Run a program with its arguments (and another environment than the process's); the exit status."""
    open_closed()
    command = build(program)
    output = _make_output(command, arguments)
    environment = Environment(program, output, env=os.environ if env is None else env)
    try:
        status = _run(command, arguments, environment)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        return FAILED
    except OSError as error:
        output.fail(StorageFailed.code, _explain(error))
        return FAILED
    finally:
        settle()
    return status


def _run(command: Any, arguments: list[str], environment: Environment) -> int:
    """Run a command; every error becomes words and an exit status."""
    output = environment.output
    try:
        status = _act(command, arguments, environment)
    except MxError as error:
        output.fail(error.code, error.message)
        return EXITS[type(error)]
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Terminated:
        output.fail("Interrupted", "stopped by SIGTERM")
        return TERMINATED
    except _ClickException as error:
        return _refuse(output, error)
    if status == INTERRUPTED:  # typer may have made a status of Ctrl-C already
        output.fail("Interrupted", "stopped")
    return status if isinstance(status, int) else OK


def _act(command: Any, arguments: list[str], environment: Environment) -> Any:
    """Complete a line for a shell, show help, or do what the line says."""
    program = environment.program
    if f"_{program}_COMPLETE".replace("-", "_").upper() in os.environ:
        importlib.import_module("typer.completion").completion_init()
        share_flags(command)
    else:
        wanted = _find_help(command, program, arguments)
        if wanted is not None:
            typer.echo(wanted.get_help())
            return OK
        arguments = hoist(command, arguments)
    return command.main(arguments, prog_name=program, standalone_mode=False, obj=environment)


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
    app.command()(bench.bench)
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
    here = _follow(context.find_root(), words or [])
    if here is None:
        raise typer.BadParameter(f"there is no command {' '.join(words or [])!r}")
    typer.echo(here.get_help())


def _find_help(command: Any, program: str, arguments: list[str]) -> Any:
    """What `WORDS... --help` asks about, without reading any flag: typer would load pydantic for it."""
    if not arguments or arguments[-1] not in _HELP_FLAGS:
        return None
    root = command.context_class(command, info_name=program, **command.context_settings)
    return _follow(root, arguments[:-1])


def _follow(here: Any, words: list[str]) -> Any:
    """The context of the command that the words lead to from `here`; None when there is none."""
    for word in words:
        found = getattr(here.command, "commands", {}).get(word)
        if found is None:
            return None
        here = type(here)(found, parent=here, info_name=word)
    return here


def _refuse(output: Output, error: Any) -> int:
    """Say what is wrong with the command line."""
    if not output.is_human:
        output.fail("Usage", error.format_message())
    elif not output.is_quiet:
        with contextlib.suppress(OSError):
            error.show()
    return USAGE if isinstance(error, _UsageError) else FAILED


def _make_output(command: Any, arguments: list[str]) -> Output:
    """The form of results and whether to be quiet, also when the command line cannot be read as a whole."""
    output = Output()
    if getattr(command, "commands", None) is None:
        return output
    names = {form.value: form for form in Form}
    for name, value in find_given(command, arguments):
        if name in ("--format", "-f"):
            output.form = names.get(value, Form.HUMAN)
        output.is_quiet = output.is_quiet or name in ("--quiet", "-q")
    return output


def _explain(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    return f"the result cannot be written to standard output: {reason}"
