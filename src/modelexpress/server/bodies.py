# SPDX-License-Identifier: Apache-2.0
"""Bodies of questions: read within bounds, and long ones understood beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from modelexpress.domain.errors import Limited
from modelexpress.domain.hub import refusal
from modelexpress.domain.tasks import finish
from modelexpress.server.hub_paths import Refused

_MOST_BYTES = 1024 * 1024
_MOST_BYTES_OF_ALL = 32 * 1024 * 1024
_SECONDS = 10.0
_AGAIN_SECONDS = 5.0
_SHORT_BYTES = 16 * 1024  # understood at once: it takes some milliseconds at most; everybody may have one

T = TypeVar("T")


class Bodies:
    """Belongs to one event loop. `most_bytes`: of the long ones that are here at the same time."""

    def __init__(self, most_bytes: int = _MOST_BYTES_OF_ALL) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        # One at a time: the threads are there for files too.
        self._turn = asyncio.Semaphore(1)

    async def read(self, request: web.BaseRequest, understand: Callable[[bytes], T]) -> T:
        """What `understand` makes of the body; a long one in a thread.

        Raises Refused, Limited where too many are being read, and what `understand` does.
        """
        body = bytearray()  # not a list of pieces: those may have one byte each
        try:
            await self._receive(request, body)
            if len(body) <= _SHORT_BYTES:
                return understand(bytes(body))
            async with self._turn:
                # To its end: whoever leaves must not let the next one run beside it.
                return await finish(asyncio.to_thread(lambda: understand(bytes(body))))
        finally:
            self._bytes -= _counted(body)

    async def _receive(self, request: web.BaseRequest, body: bytearray) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                async for piece in request.content.iter_any():
                    before = _counted(body)
                    body += piece
                    self._bytes += _counted(body) - before
                    if len(body) > _MOST_BYTES:
                        raise Refused(refusal(413, "", f"a question has at most {_MOST_BYTES} bytes"))
                    if self._bytes > self._most_bytes and _counted(body):
                        raise Limited("too many long questions are being read; try again", _AGAIN_SECONDS)
        except TimeoutError:
            raise Refused(refusal(408, "", "the question did not come in time")) from None


def _counted(body: bytearray) -> int:
    return len(body) if len(body) > _SHORT_BYTES else 0
