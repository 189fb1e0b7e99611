# SPDX-License-Identifier: Apache-2.0
"""Bodies of questions: read within bounds, and long ones understood beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from modelexpress.domain.hub import refusal
from modelexpress.domain.tasks import finish
from modelexpress.server.hub_paths import Refused

_MOST_BYTES = 1024 * 1024
_SECONDS = 10.0
_SHORT_BYTES = 16 * 1024  # understood at once: it takes some milliseconds at most

T = TypeVar("T")


class Bodies:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        # One at a time: the threads are there for files too.
        self._turn = asyncio.Semaphore(1)

    async def read(self, request: web.BaseRequest, understand: Callable[[bytes], T]) -> T:
        """What `understand` makes of the body; a long one in a thread. Raises Refused, and as that does."""
        body = bytes(await _receive(request))
        if len(body) <= _SHORT_BYTES:
            return understand(body)
        async with self._turn:
            # To its end: whoever leaves must not let the next one run beside it.
            return await finish(asyncio.to_thread(understand, body))


async def _receive(request: web.BaseRequest) -> bytearray:
    body = bytearray()  # not a list of pieces: those may have one byte each
    try:
        async with asyncio.timeout(_SECONDS):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise Refused(refusal(413, "", f"a question has at most {_MOST_BYTES} bytes"))
    except TimeoutError:
        raise Refused(refusal(408, "", "the question did not come in time")) from None
    return body
