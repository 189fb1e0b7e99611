# SPDX-License-Identifier: Apache-2.0
"""What tests put on the wire: a forwarding proxy, and an origin that answers what it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

_PIECE = 64 * 1024
_HOP_HEADERS = ("connection", "proxy-connection", "proxy-authorization", "keep-alive")


@dataclass(frozen=True)
class Asked:
    """The head of one request, as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class _Listener:
    """A TCP server whose connections end with it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A test that ends cancels what is open, and clients may leave when they like.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a listener says what it serves")

    async def _read_head(self, reader: asyncio.StreamReader) -> Asked:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = [line.partition(":") for line in lines]
        asked = Asked(method, target, {name.lower(): value.strip() for name, _, value in pairs})
        self.asked.append(asked)
        return asked


class Proxy(_Listener):
    """An HTTP proxy: tunnels for CONNECT, one plain request per connection otherwise.

    `places` says where names lead that nobody else can resolve; `credentials` is `user:password`.
    """

    def __init__(
        self, places: Mapping[str, tuple[str, int]] | None = None, credentials: str | None = None
    ) -> None:
        super().__init__()
        self._places = dict(places or {})
        self._credentials = credentials

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    def targets(self, method: str) -> list[str]:
        """What was asked for with `method`, in order."""
        return [asked.target for asked in self.asked if asked.method == method]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await self._read_head(reader)
        if not self._is_allowed(asked):
            writer.write(
                answer(407, b"who are you?", {"Proxy-Authenticate": "Basic"}, "Proxy Authentication Required")
            )
            await writer.drain()
            return
        is_tunnel = asked.method == "CONNECT"
        authority, path = (asked.target, "") if is_tunnel else _split(asked.target)
        host, _, port = authority.partition(":")
        there = await asyncio.open_connection(*self._places.get(host, (host, int(port or 80))))
        try:
            if is_tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                there[1].write(_forwarded(asked, path))
            await asyncio.gather(_pipe(reader, there[1]), _pipe(there[0], writer))
        finally:
            there[1].close()

    def _is_allowed(self, asked: Asked) -> bool:
        if self._credentials is None:
            return True
        wanted = "Basic " + base64.b64encode(self._credentials.encode()).decode()
        return asked.headers.get("proxy-authorization") == wanted


class Origin(_Listener):
    """An origin that sends, byte for byte, what `respond` returns, and closes the connection."""

    def __init__(self, respond: Callable[[Asked], bytes]) -> None:
        super().__init__()
        self._respond = respond

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await self._read_head(reader)
        writer.write(self._respond(asked))
        await writer.drain()


def answer(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, reason: str = "Said"
) -> bytes:
    """The bytes of a whole answer."""
    lines = {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body


def json_answer(content: object, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an answer in JSON."""
    return answer(200, json.dumps(content).encode(), headers)


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _split(target: str) -> tuple[str, str]:
    authority, _, path = target.removeprefix("http://").partition("/")
    return authority, "/" + path


def _forwarded(asked: Asked, path: str) -> bytes:
    kept = {name: value for name, value in asked.headers.items() if name not in _HOP_HEADERS}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**kept, "connection": "close"}.items())
    return f"{asked.method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
