# SPDX-License-Identifier: Apache-2.0
"""A Hub's address before a data plane: listings from the local Hub, files by redirect to what arrives here.

It stands for the Hub endpoint where clients of others are to read while a server still pulls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import ClientSession, web
from tests.support.house import House

from modelexpress.client.results import Listed, Offered
from modelexpress.client.server_calls import ServerCalls
from modelexpress.domain.errors import MxError
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection

_CHUNK_BYTES = 1024 * 1024


class HubDoor:
    """Answers for one model, which the server begins to pull when the first file is asked for."""

    def __init__(self, house: House, name: str, calls: ServerCalls, session: ClientSession) -> None:
        self._house = house
        self._ref = ModelRef.parse(name)
        self._calls = calls
        self._session = session
        self._turn = asyncio.Lock()
        self.pulling: asyncio.Task[object] | None = None
        self.redirected = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """A file's headers with where its bytes are, or whatever the Hub says."""
        _, resolve, rest = request.path.partition("/resolve/")
        if not resolve:
            async with self._session.get(self._house.hub.endpoint + request.path_qs) as answer:
                kept = {name: answer.headers[name] for name in ("Link",) if name in answer.headers}
                body = await answer.read()
                return web.Response(
                    status=answer.status, body=body, headers=kept, content_type="application/json"
                )
        commit, _, path = rest.partition("/")
        try:
            offered = await self._offered()
        except MxError as error:
            return web.Response(status=503, text=error.message)
        entry = next(entry for entry in offered.manifest.files if entry.path == path)
        assert commit in ("main", offered.manifest.commit) and entry.digest is not None
        self.redirected += 1
        # By another name than the door's: a redirect within one host is followed for the headers too.
        headers = {
            "X-Repo-Commit": offered.manifest.commit,
            "X-Linked-Etag": f'"{entry.digest.value}"',
            "X-Linked-Size": str(entry.size),
            "Location": f"http://localhost:{offered.port}/-/blobs/{offered.tickets[path]}",
        }
        return web.Response(status=302, headers=headers)

    async def _offered(self) -> Offered:
        async with self._turn:
            listed: asyncio.Future[Listed] = asyncio.get_running_loop().create_future()

            def hear(found: Listed) -> None:
                if not listed.done():
                    listed.set_result(found)

            if self.pulling is None or self.pulling.done():
                pull = self._calls.pull(self._ref, Selection(), lambda progress: None, hear)
                self.pulling = asyncio.create_task(pull)
                await asyncio.wait({self.pulling, listed}, return_when=asyncio.FIRST_COMPLETED)
                if listed.done():
                    self._commit = listed.result().commit
                else:
                    self._commit = self.pulling.result().commit  # type: ignore[attr-defined]
            offered = await self._calls.find_offered(self._ref, self._commit, Selection())
            assert offered is not None
            return offered


@asynccontextmanager
async def open_hub_door(house: House, name: str) -> AsyncIterator[tuple[HubDoor, str]]:
    """The door, and its address."""
    async with house.connection() as connection, ClientSession() as session:
        await connection.connect()
        door = HubDoor(house, name, ServerCalls(connection, _CHUNK_BYTES), session)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", door.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield door, f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            if door.pulling is not None:
                door.pulling.cancel()
                with suppress(asyncio.CancelledError, MxError):
                    await door.pulling
            await runner.cleanup()
