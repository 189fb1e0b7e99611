# SPDX-License-Identifier: Apache-2.0
"""What a command runs in: the global flags, the settings made of them, and the way to the server."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from modelexpress import __version__, compose
from modelexpress.cli.output import Output
from modelexpress.cli.running import run_work
from modelexpress.domain.errors import Invalid, MxError
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.observability.logs import configure

if TYPE_CHECKING:
    from modelexpress.client import AsyncClient
    from modelexpress.config.load import Loaded
    from modelexpress.domain.control import CacheControl

T = TypeVar("T")
X = TypeVar("X")

_LEVELS = ("warn", "info", "debug", "trace")
_CONFIGURATION_LABEL = "Configuration Error"


@dataclass
class Environment:
    """One run of a program. `flags` are the global ones, by setting key."""

    program: str
    output: Output = field(default_factory=Output)
    flags: Mapping[str, object] = field(default_factory=dict)
    config_file: Path | None = None
    verbosity: int = 0
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    where: str = ""
    """The cache that `with_control` acted on, for people."""
    _loaded: Loaded | None = None

    def load(self, role: str = "client", flags: Mapping[str, object] | None = None) -> Loaded:
        """The settings of this run. Raises Invalid with everything that is wrong with them."""
        try:
            loaded = compose.load_settings(
                role, self.flags if flags is None else flags, self.env, self.config_file
            )
        except Invalid:
            self.output.error_label = _CONFIGURATION_LABEL
            raise
        return loaded

    def load_client(self) -> Loaded:
        """The client's settings, with its logs set up and its warnings told."""
        if self._loaded is not None:
            return self._loaded
        self._loaded = loaded = self.load()
        logs = loaded.settings.logging
        self.output.is_quiet = self.output.is_quiet or logs.quiet
        level: str = logs.level
        if self.verbosity or loaded.origins["logging.level"].is_default:
            level = _LEVELS[min(self.verbosity, len(_LEVELS) - 1)]
        configure(level, logs.format, logs.file, self.output.is_quiet)
        for warning in loaded.warnings:
            self.output.warn(warning)
        return loaded

    def with_client(self, act: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        """Run `act` with a client of the configured server."""
        loaded = self.load_client()
        return self._with(compose.open_client(loaded, self.env), act)

    def with_control(
        self, act: Callable[[CacheControl], Coroutine[Any, Any, T]], has_origins: bool = False
    ) -> T:
        """Run `act` on the server's cache when an endpoint is set, else on the local one; says which.

        `has_origins` True: `act` may fetch from the origins.
        """
        loaded = self.load_client()

        async def act_and_say(control: CacheControl) -> T:
            is_local = loaded.origins["connection.endpoint"].is_default
            self.where = f"{'cache directory' if is_local else 'cache of server'} {control.where}"
            self.output.note(self.where)
            return await act(control)

        return self._with(compose.open_control(loaded, self.env, has_origins), act_and_say)

    def with_local(self, act: Callable[[CacheControl], Coroutine[Any, Any, T]]) -> T:
        """Run `act` on the local cache directory."""
        loaded = self.load_client()
        return self._with(compose.open_local(loaded, self.env), act)

    @staticmethod
    def _with(opening: AbstractAsyncContextManager[X], act: Callable[[X], Coroutine[Any, Any, T]]) -> T:
        async def work() -> T:
            async with opening as opened:
                return await act(opened)

        return run_work(work())


def of(context: typer.Context) -> Environment:
    """The environment of the command that `context` belongs to."""
    found = context.find_object(Environment)
    assert found is not None
    return found


def show_version(context: typer.Context, is_wanted: bool) -> None:
    """Print the program's name and version and end, when asked to."""
    if is_wanted:
        typer.echo(f"{context.find_root().info_name} {__version__}")
        raise typer.Exit


def read_ref(
    name: str, provider: ProviderKind = ProviderKind.HUGGING_FACE, revision: str | None = None
) -> ModelRef:
    """The model that the words name; what is no model name is a usage error."""
    try:
        return ModelRef.parse(name, provider, revision)
    except MxError as error:
        raise typer.BadParameter(error.message) from None
