# SPDX-License-Identifier: Apache-2.0
"""The door of the data plane: paths to handlers, errors to statuses, counts; the same for every path."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from weakref import WeakKeyDictionary

from aiohttp import web

from modelexpress.domain.errors import Busy, Internal, MxError, NotFound, Unsupported
from modelexpress.domain.meter import Meter
from modelexpress.server.file_answers import FileAnswer, FileSender
from modelexpress.server.http_status import Refusal, text_answer

OURS = "/-/"
_METHODS = ("GET", "HEAD")

_log = logging.getLogger(__name__)

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Route = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
"""Answers a request; the text is what follows the route's own part of the path."""


class HttpDoor:
    """Answers what comes in. `routes`: by path below `/-/`; one that ends with `/` takes what follows.

    `answer_others`: everything outside of `/-/`. A path may hold a ticket, so none is ever logged.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        sender: FileSender,
        meter: Meter,
        answer_others: Answer | None = None,
    ) -> None:
        self._sender = sender
        self._routes = routes
        self._answer_others = answer_others
        self._meter = meter
        self._running: dict[asyncio.Task[object], asyncio.Transport | None] = {}
        self._ended: WeakKeyDictionary[asyncio.Transport, float] = WeakKeyDictionary()

    @property
    def transports(self) -> set[asyncio.Transport | None]:
        """The connections on which something is being answered."""
        return set(self._running.values())

    def ended_at(self, transport: asyncio.Transport) -> float:
        """When the last answer on a connection ended, by the loop's clock; minus infinity: none has."""
        return self._ended.get(transport, float("-inf"))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request; only a short one is not sent yet when this returns."""
        task, code = asyncio.current_task(), "left"
        assert task is not None
        self._running[task] = request.transport
        try:
            answer = await self._answer(request)
            code = answer.outcome if isinstance(answer, FileAnswer) else str(answer.status)
            return answer
        finally:
            del self._running[task]
            if request.transport is not None:
                self._ended[request.transport] = asyncio.get_running_loop().time()
            self._meter.count("mx_data_requests_total", code=code)

    async def finish(self, seconds: float) -> None:
        """Let running answers go on for so long, then end them."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in self._running:
            task.cancel()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            answer = await self._route(request)
            if not isinstance(answer, web.Response):
                return answer
            return await self._sender.send_text(request, answer)
        except Refusal as refusal:
            return refusal.answer()
        except MxError as error:
            return Refusal(error).answer()
        except Exception as error:  # noqa: BLE001 - every failure becomes a status
            return _defect(error)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._answer_others is not None and not request.rel_url.raw_path.startswith(OURS):
            return await self._answer_others(request)
        name, slash, rest = request.rel_url.raw_path.removeprefix(OURS).partition("/")
        route = self._routes.get(name + slash)
        if route is None or not request.rel_url.raw_path.startswith(OURS):
            raise NotFound("nothing is at this address")
        if request.method not in _METHODS:
            error = Unsupported("only GET and HEAD are answered here")
            raise Refusal(error, status=405, headers={"Allow": ", ".join(_METHODS)})
        return await route(request, rest)


def health_routes(find_problem: Callable[[], str | None]) -> dict[str, Route]:
    """Whether the process lives, and whether it can do its work."""

    async def healthz(request: web.BaseRequest, rest: str) -> web.StreamResponse:
        return text_answer(200, "ok")

    async def readyz(request: web.BaseRequest, rest: str) -> web.StreamResponse:
        problem = find_problem()
        if problem is not None:
            raise Refusal(Busy(problem))
        return text_answer(200, "ok")

    return {"healthz": healthz, "readyz": readyz}


def _defect(error: Exception) -> web.StreamResponse:
    number = secrets.token_hex(4)
    _log.error("defect %s in the data plane", number, exc_info=error)
    text = f"the server met an error of its own (log entry {number}); please report it"
    return Refusal(Internal(text)).answer()
