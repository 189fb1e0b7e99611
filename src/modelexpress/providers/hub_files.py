# SPDX-License-Identifier: Apache-2.0
"""Reading files of a Hub by ranges: resumed where they broke off, from a mirror where the origin is down."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import aiohttp

from modelexpress.domain.caller import Caller
from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Corrupt, Limited, MxError, Unreachable
from modelexpress.providers.bandwidth import Bandwidth
from modelexpress.providers.causes import cause_of
from modelexpress.providers.endpoints import Endpoints, Visit
from modelexpress.providers.http import Answer, Ask
from modelexpress.providers.hub_errors import raise_for_status
from modelexpress.providers.hub_reading import Reading
from modelexpress.providers.shortcuts import ShortcutKey, Shortcuts

_PIECE_BYTES = 1024 * 1024

_log = logging.getLogger(__name__)

FindToken = Callable[[], str | None]


class HubFiles:
    """The bytes of files. A file that no digest vouches for comes from the origin alone."""

    def __init__(self, endpoints: Endpoints, bandwidth: Bandwidth | None, clock: Clock) -> None:
        self._endpoints = endpoints
        self._bandwidth = bandwidth
        self._clock = clock
        self._shortcuts = Shortcuts()

    async def read(self, reading: Reading, has_mirrors: bool, find_token: FindToken) -> AsyncGenerator[bytes]:
        """What is left of `reading`; whoever takes over goes on at the byte where another broke off."""
        for visit in self._endpoints.visits(has_mirrors):
            before = reading.left.start
            try:
                async with aclosing(self._read_at(visit, reading, find_token)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except MxError as error:
                # What a mirror sent already cannot be taken back; before that, it can be passed over.
                if reading.is_changed or (isinstance(error, Corrupt) and reading.left.start > before):
                    raise
                self._endpoints.pass_over(visit, error)
                _log.debug("%s: going on at byte %d elsewhere", reading.what, reading.left.start)

    async def _read_at(self, visit: Visit, reading: Reading, find_token: FindToken) -> AsyncGenerator[bytes]:
        attempt = 1
        while True:
            before = reading.left.start
            token = find_token() if visit.endpoint.is_origin else None
            try:
                async with aclosing(self._read_on(visit, reading, token)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                attempt = 1 if reading.left.start > before else attempt + 1
                if not await visit.endpoint.outgoing.pause(attempt, visit.retry):
                    raise Unreachable(
                        f"{reading.what} broke off at byte {reading.left.start} of {reading.size} "
                        f"and could not be continued: {cause_of(error)}"
                    ) from error
                _log.debug("%s broke off at %d", reading.what, reading.left.start)

    async def _read_on(self, visit: Visit, reading: Reading, token: str | None) -> AsyncGenerator[bytes]:
        key = ShortcutKey(reading.url_at(visit.endpoint), Caller(token).fingerprint)
        async with self._answer(visit, key, reading, token) as answer:
            response = answer.response
            if reading.is_past_end(response):
                return
            is_elsewhere = response.url.origin() != key.url.origin()
            if response.status in (401, 403) and is_elsewhere:
                raise ConnectionError("the address that the origin gave has expired")
            raise_for_status(response, reading.what, token is not None, visit.endpoint.base)
            skip = reading.accept(answer)
            if is_elsewhere and answer.redirects:
                self._shortcuts.note(key, response.url, self._clock.monotonic())
            async for piece in response.content.iter_chunked(self._piece_bytes()):
                taken = piece[skip:]
                skip = max(skip - len(piece), 0)
                await self._hold_back(len(piece))
                if taken:
                    yield reading.take(taken)
                if reading.is_satisfied_early:
                    return
        reading.check_end()

    @asynccontextmanager
    async def _answer(
        self, visit: Visit, key: ShortcutKey, reading: Reading, token: str | None
    ) -> AsyncIterator[Answer]:
        async with AsyncExitStack() as stack:
            answer = await self._answer_of_shortcut(stack, visit, key, reading)
            if answer is None:
                retry = reading.patience_of(visit.retry)
                ask = Ask(key.url, token, reading.headers(), retry, via=reading.via)
                answer = await stack.enter_async_context(visit.endpoint.outgoing.request(ask))
            try:
                yield answer
            except Corrupt:
                self._shortcuts.forget(key, answer.response.url)
                raise

    async def _answer_of_shortcut(
        self, stack: AsyncExitStack, visit: Visit, key: ShortcutKey, reading: Reading
    ) -> Answer | None:
        """What the address of an earlier redirect answers; None when it is of no use any more."""
        target = self._shortcuts.find(key, self._clock.monotonic())
        if target is None:
            return None
        ask = Ask(target, None, reading.headers(), visit.retry.once(), via=reading.via)
        try:
            answer = await stack.enter_async_context(visit.endpoint.outgoing.request(ask))
        except (Unreachable, Limited):
            self._shortcuts.forget(key, target)
            return None
        if answer.response.status < 400:
            return answer
        self._shortcuts.forget(key, target)
        await stack.aclose()
        return None

    async def _hold_back(self, count: int) -> None:
        if self._bandwidth is not None:
            await self._clock.sleep(self._bandwidth.take(count, self._clock.monotonic()))

    def _piece_bytes(self) -> int:
        return _PIECE_BYTES if self._bandwidth is None else self._bandwidth.piece_bytes
