# SPDX-License-Identifier: Apache-2.0
"""Bodies of questions: where they are understood."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from modelexpress.server.bodies import Bodies


def question(said: bytes, is_whole: bool = True) -> Any:
    """A request with a body, of which more may be to come."""
    loop = asyncio.get_running_loop()
    content = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
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
