# SPDX-License-Identifier: Apache-2.0
"""`api send`: one call of the server's general-purpose service."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from modelexpress.cli.environment import of
from modelexpress.domain.errors import Corrupt, Invalid, StorageFailed

_MOST_BYTES = 4 << 20


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
    return _read(sys.stdin.buffer, "the payload on standard input") if payload == "-" else payload


def _read_file(path: Path) -> str:
    name = f"payload file {path}"
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageFailed(f"{name} cannot be read: {error.strerror}") from error
    with file:
        return _read(file, name)


def _read(stream: BinaryIO, name: str) -> str:
    """The text of a payload; no more is read than could be sent."""
    try:
        content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise StorageFailed(f"{name} cannot be read: {error.strerror}") from error
    _check_size(content, name)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{name} is not UTF-8 text") from None


def _check_size(content: bytes, name: str) -> None:
    if len(content) > _MOST_BYTES:
        raise Invalid(f"{name} is larger than 4 MiB, which is the most that a server takes: send less")


def _check_payload(text: str) -> bytes:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"the payload is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(
            f"the payload is a JSON {type(value).__name__}: an object is needed, as {{}}"
        )
    data = json.dumps(value).encode()
    _check_size(data, "the payload, as it is sent,")
    return data


def _decode(data: bytes, action: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the server's answer to {action!r} is no JSON: {error}") from error


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
