# SPDX-License-Identifier: Apache-2.0
"""Wires a process: server, command line, library. Cheap to import: the parts are loaded when asked for.

This is the one place that names back ends; a command that needs none of them never loads any.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelexpress.client import AsyncClient
    from modelexpress.config.load import Loaded
    from modelexpress.domain.control import CacheControl


def load_settings(
    role: str, flags: Mapping[str, object], env: Mapping[str, str], config_file: Path | None = None
) -> Loaded:
    """The settings of a process, `role` "server" or "client"; Invalid lists everything that is wrong."""
    loaded: Loaded = _part("modelexpress.config.load").load(role, flags, env, config_file)
    return loaded


def serve(loaded: Loaded, env: Mapping[str, str]) -> int:
    """Run the server until it is told to stop; the exit status."""
    status: int = _part("modelexpress.compose.serving").serve(loaded, env)
    return status


def open_client(loaded: Loaded, env: Mapping[str, str]) -> AbstractAsyncContextManager[AsyncClient]:
    """A client of the configured server, closed with the body."""
    client: AbstractAsyncContextManager[AsyncClient]
    client = _part("modelexpress.compose.clients").open_client(loaded, env)
    return client


def open_control(
    loaded: Loaded, env: Mapping[str, str], has_origins: bool = False
) -> AbstractAsyncContextManager[CacheControl]:
    """The server's cache when an endpoint is configured, else the local directory; `.where` says which.

    `has_origins` True: a local directory can be repaired from the origins too.
    """
    control: AbstractAsyncContextManager[CacheControl]
    control = _part("modelexpress.compose.clients").open_control(loaded, env, has_origins)
    return control


def open_local(
    loaded: Loaded, env: Mapping[str, str], has_origins: bool = False
) -> AbstractAsyncContextManager[CacheControl]:
    """The local cache directory; with `has_origins` it can be repaired too."""
    control: AbstractAsyncContextManager[CacheControl]
    control = _part("modelexpress.compose.clients").open_local(loaded, env, has_origins)
    return control


def config_tools() -> Any:
    """The functions behind `config_gen`, `config show` and `model init`."""
    return _part("modelexpress.config.tools")


def _part(name: str) -> Any:
    return importlib.import_module(name)
