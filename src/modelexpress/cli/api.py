# SPDX-License-Identifier: Apache-2.0
"""`api send`: one call of the server's general-purpose service."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from modelexpress.cli.environment import of
from modelexpress.domain.errors import Corrupt, StorageFailed


def make_app() -> typer.Typer:
    """The `api` commands."""
    app = typer.Typer(help="Call the server's general-purpose service.", no_args_is_help=True)
    # A callback makes it a group although it has one command.
    app.callback()(lambda: None)
    app.command()(send)
    return app


def send(
    context: typer.Context,
    action: Annotated[str, typer.Argument(help="What the server is to do.", show_default=False)],
    payload: Annotated[
        str | None,
        typer.Option(
            "--payload", "-p", metavar="JSON", help="A JSON object; - reads it from standard input."
        ),
    ] = None,
    payload_file: Annotated[
        Path | None, typer.Option("--payload-file", "-f", metavar="FILE", help="A file with a JSON object.")
    ] = None,
) -> None:
    """Send an action with a JSON payload and show the answer."""
    if payload is not None and payload_file is not None:
        raise typer.BadParameter("--payload and --payload-file are both given: give one of them")
    environment = of(context)
    text = _read_file(payload_file) if payload_file is not None else _read_text(payload)
    data = None if text is None else _check_payload(text)
    answer = _decode(environment.with_client(lambda client: client.send(action, data)), action)

    def lines() -> Iterable[str]:
        yield "API Request"
        yield f"  Action: {action}"
        if text is not None:
            yield f"  Payload: {text.strip()}"
        yield "Response:"
        fields = answer.items() if isinstance(answer, dict) else [("value", answer)]
        yield from (f"  {key}: {_shown(value)}" for key, value in fields)

    environment.output.result(answer, lines)


def _read_text(payload: str | None) -> str | None:
    return sys.stdin.read() if payload == "-" else payload


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"payload file {path} is not UTF-8 text") from None
    except OSError as error:
        raise StorageFailed(f"payload file {path} cannot be read: {error.strerror}") from error


def _check_payload(text: str) -> bytes:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"the payload is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(
            f"the payload is a JSON {type(value).__name__}: an object is needed, as {{}}"
        )
    return json.dumps(value).encode()


def _decode(data: bytes, action: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the server's answer to {action!r} is no JSON: {error}") from error


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
