# SPDX-License-Identifier: Apache-2.0
"""Connections to the data port under hostile hands: none keeps the port from others, or says what we are."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from tests.support.house import House


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
