# SPDX-License-Identifier: Apache-2.0
"""Bodies of questions: how much of them is held at once, and where they are understood."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from modelexpress.domain.errors import Limited
from modelexpress.server.bodies import Bodies


def question(said: bytes, is_whole: bool = True) -> Any:
    """A request with a body, of which more may be to come."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    content = StreamReader(protocol, 2**20, loop=loop)
    content.feed_data(said)
    if is_whole:
        content.feed_eof()
    return SimpleNamespace(content=content)


@pytest.mark.parametrize(("size", "is_beside"), [(100, False), (100_000, True)])
async def test_a_long_one_is_understood_beside_the_loop(size: int, is_beside: bool) -> None:
    thread, length = await Bodies().read(
        question(b"x" * size), lambda body: (threading.get_ident(), len(body))
    )

    assert ((thread != threading.get_ident()), length) == (is_beside, size)


async def test_long_ones_that_do_not_end_are_held_within_their_bytes() -> None:
    bodies, began = Bodies(most_bytes=250_000), [question(b"x" * 100_000, is_whole=False) for _ in range(2)]
    reading = [asyncio.create_task(bodies.read(asked, len)) for asked in began]
    await asyncio.sleep(0)

    with pytest.raises(Limited) as limited:
        await bodies.read(question(b"x" * 100_000), len)
    assert limited.value.retry_after_seconds
    assert await bodies.read(question(b"x" * 10_000), len) == 10_000, "a short one is for everybody"
    began[0].content.feed_eof()
    assert await reading[0] == 100_000
    reading[1].cancel()
    await asyncio.wait(reading)
    assert await bodies.read(question(b"x" * 240_000), len) == 240_000, "what has ended counts no more"
