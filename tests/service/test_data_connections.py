# SPDX-License-Identifier: Apache-2.0
"""Connections to the data port under hostile hands: none keeps the port from others, or says what we are."""

from __future__ import annotations

import asyncio
import socket
import time
import tracemalloc
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.support.house import House
from tests.support.plane import Desk

from modelexpress.testing.hub import Fault


async def talk(house: House, said: bytes, seconds: float = 5.0) -> tuple[bytes, bool]:
    """Everything that comes back to raw bytes, and whether the other side has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.data_port)
    writer.write(said)
    answer, is_closed = b"", False
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while piece := await reader.read(65536):
                answer += piece
            is_closed = True
    writer.close()
    return answer, is_closed


@pytest.mark.parametrize(
    "said",
    [
        b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AA\r\n\r\n",
        b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
@pytest.mark.parametrize(
    "path", [b"/-/healthz", b"/api/models/demo/tiny", b"/demo/tiny/resolve/main/config.json"]
)
async def test_a_connection_that_is_to_become_another_ends_with_its_answer(
    house: House, path: bytes, said: bytes
) -> None:
    following = b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer, is_closed = await talk(house, said % path + following)

    assert is_closed and b"connection: close\r\n" in answer.partition(b"\r\n\r\n")[0].lower() + b"\r\n"
    assert answer.startswith(b"HTTP/1.1 200" if said.startswith(b"GET") else b"HTTP/1.1 40")


HEAD = b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n"
FIELDS = b"".join(b"A%d: %s\r\n" % (number, b"x" * 1000) for number in range(40))


@pytest.mark.parametrize("said", [HEAD + FIELDS, HEAD + FIELDS + b"\r\n", HEAD + b"\r\n" + HEAD + FIELDS])
def test_a_head_that_is_too_large_is_not_kept(tmp_path: Path, said: bytes) -> None:
    with ExitStack() as stack:
        desk = Desk(tmp_path, stack)
        stack.enter_context(desk.running())
        with desk.line() as line:
            if said.startswith(HEAD + b"\r\n"):
                line.ask("/-/healthz")
                assert line.head()[0] == 200 and line.read(3) == b"ok\n"
                said = said[len(HEAD) + 2 :]
            line.socket.sendall(said)
            assert line.head()[0] == 431
            line.read(100)
            assert line.socket.recv(1) == b""


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        (b"\r\n", HEAD + b"\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["requests", "trailers", "chunks"],
)
async def test_what_is_sent_while_an_answer_is_awaited_is_not_kept(
    house: House, begins: bytes, goes_on: bytes
) -> None:
    held = house.hub.faults.add(Fault("hang", "resolve", times=None))
    asked = b"GET /demo/tiny/resolve/main/config.json HTTP/1.1\r\nHost: x\r\n" + begins
    tracemalloc.start()
    try:
        await asyncio.to_thread(_send_much, house, asked, goes_on * (65_536 // len(goes_on)))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        held.release()

    assert taken < 16 * 1024 * 1024


def _send_much(house: House, asked: bytes, piece: bytes) -> None:
    """As much as is taken, but 8 MiB at most."""
    with socket.create_connection(("127.0.0.1", house.data_port or 0), timeout=1.0) as connection:
        connection.sendall(asked)
        while not house.hub.log.requests:
            time.sleep(0.01)
        with suppress(OSError):
            for _ in range(8 * 1024 * 1024 // len(piece)):
                connection.sendall(piece)


async def test_many_requests_and_a_long_question_are_no_large_head(house: House) -> None:
    await asyncio.to_thread(_ask_much, house)


def _ask_much(house: House) -> None:
    body = b'{"paths": [' + b",".join([b'"%s"' % (b"x" * 100)] * 2000) + b"]}"
    connection = HTTPConnection("127.0.0.1", house.data_port or 0, timeout=20)
    for _ in range(3):
        for _ in range(100):
            connection.request("GET", "/-/healthz", headers={"A": "x" * 1000})
            assert connection.getresponse().read() == b"ok\n"
        connection.request(
            "POST", "/api/models/demo/tiny/paths-info/main", body, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"[]")
    connection.close()


@pytest.mark.parametrize("said", [b"G", HEAD, HEAD + b"\r\n" + HEAD])
def test_who_does_not_end_a_head_is_not_waited_for(tmp_path: Path, said: bytes) -> None:
    with ExitStack() as stack:
        desk = Desk(tmp_path, stack)
        stack.enter_context(desk.running(head_seconds=0.5))
        with desk.line() as line, desk.line() as silent:
            began = time.monotonic()
            line.socket.sendall(said)
            with suppress(ConnectionError):
                while line.socket.recv(1000):
                    pass
            assert time.monotonic() - began < 10
            silent.ask("/-/healthz")
            assert silent.head()[0] == 200


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /" + b"secret" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_cannot_be_read_is_refused_without_a_word_of_what_runs_here(
    house: House, said: bytes
) -> None:
    answer, is_closed = await talk(house, said)

    assert is_closed and b" 400 " in answer.partition(b"\r\n")[0]
    assert b"\r\nServer: modelexpress\r\n" in answer
    assert not [word for word in (b"python", b"aiohttp", b"secret") if word in answer.lower()]
