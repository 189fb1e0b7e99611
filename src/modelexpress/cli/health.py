# SPDX-License-Identifier: Apache-2.0
"""`health`: what the server says of itself."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from modelexpress.cli.environment import of

_GOOD = ("ok", "healthy")


def health(context: typer.Context) -> None:
    """Ask the server how it is."""
    environment = of(context)
    found = environment.with_client(lambda client: client.health())

    def lines() -> Iterable[str]:
        yield "Server Health Status"
        yield f"  Status:  {typer.style(found.status, fg='green' if found.status in _GOOD else 'red')}"
        yield f"  Version: {found.version}"
        yield f"  Uptime:  {found.uptime_seconds} seconds"

    document = {"version": found.version, "status": found.status, "uptime": found.uptime_seconds}
    environment.output.result(document, lines)
