# SPDX-License-Identifier: Apache-2.0
"""The hub: its life, what it holds, and which part of it answers which address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from urllib.parse import unquote

from aiohttp import web

from modelexpress.testing.hub.answers import no_such_page
from modelexpress.testing.hub.api import Api
from modelexpress.testing.hub.catalogue import Catalogue
from modelexpress.testing.hub.content import KINDS, Repository
from modelexpress.testing.hub.files import Files
from modelexpress.testing.hub.gate import Gate
from modelexpress.testing.hub.options import Address, HubOptions


class LocalHub:
    """A Hub on this machine; use it with `async with`, or `running_in_thread` from code without a loop."""

    def __init__(self, repositories: Iterable[Repository] = (), options: HubOptions | None = None) -> None:
        self._options = options or HubOptions()
        self._address = Address(self._options)
        self._catalogue = Catalogue(repositories)
        self._repositories = self._catalogue.repositories
        gate = Gate(self._catalogue)
        self._api = Api(gate, self._options)
        self._files = Files(gate, self._options, self._address)
        self._runner: web.AppRunner | None = None
        self.faults = gate.faults
        self.log = gate.log

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return self._address.endpoint

    @property
    def cdn_endpoint(self) -> str:
        """The same server under another host name, to which LFS files are redirected."""
        return self._address.cdn_endpoint

    def add(self, repository: Repository) -> None:
        """Publish a repository."""
        self._catalogue.add(repository)

    def remove(self, name: str) -> None:
        """Take a repository off the hub."""
        self._repositories.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        """Rename a repository; requests for the old name are redirected, and who had access keeps it."""
        self._catalogue.rename(old, new)

    def grant(self, token: str, *names: str) -> None:
        """Make `token` a known one, with access to private and gated repositories `names`."""
        self._catalogue.grant(token, names)

    def revoke(self, token: str) -> None:
        """Forget a token."""
        self._catalogue.revoke(token)

    def expire_addresses(self) -> None:
        """Make every signed CDN address given out so far worthless."""
        self._files.expire_addresses()

    async def __aenter__(self) -> LocalHub:
        application = web.Application(client_max_size=1024**2)
        application.router.add_route("*", "/{tail:.*}", self._dispatch)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self._options.host, self._options.port, ssl_context=self._options.ssl_context
        )
        await site.start()
        self._address.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.clear()
        if self._runner is not None:
            await self._runner.cleanup()

    @contextmanager
    def running_in_thread(self) -> Iterator[LocalHub]:
        """The hub on a loop of its own, for code that has none."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="local-hub", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.__aexit__(None, None, None), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        # The raw path: a file may be called '%2e', and a branch 'a/b' comes as 'a%2Fb'.
        parts = [unquote(part) for part in request.rel_url.raw_path.removeprefix("/").split("/")]
        is_question = parts[0] == "api" and "paths-info" in parts[2:] and parts[1] in KINDS
        allowed = ("POST",) if is_question else ("GET", "HEAD")
        if request.method not in allowed:
            return web.Response(status=405, headers={"Allow": ", ".join(allowed)})
        match parts:
            case ["-", "sent"]:
                return web.json_response({"bytes_sent": self.log.bytes_sent})
            case ["cdn", signature]:
                return await self._files.answer_signed(request, signature)
            case ["api", *rest]:
                return await self._dispatch_api(request, rest)
        return await self._files.answer(request, parts)

    async def _dispatch_api(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        match parts:
            case ["resolve-cache", kind, *rest] if kind in KINDS:
                return await self._files.answer_small(request, kind, rest)
            case ["whoami-v2"]:
                return await self._api.answer_whoami(request)
            case [kind] if kind in KINDS:
                return await self._api.answer_list(request, kind)
            case [kind, *rest] if kind in KINDS:
                return await self._api.answer(request, kind, rest)
        return no_such_page()
