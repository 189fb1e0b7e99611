# SPDX-License-Identifier: Apache-2.0
"""An origin that says what no Hub would."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

Answerer = Callable[[web.Request], web.StreamResponse]


class HostileOrigin:
    """A server that answers everything with what it is told."""

    def __init__(self, answer: Answerer) -> None:
        self._answer = answer
        self.asked: list[web.Request] = []

    async def __aenter__(self) -> HostileOrigin:
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", self._reply)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        return self._answer(request)
