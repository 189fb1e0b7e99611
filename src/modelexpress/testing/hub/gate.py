# SPDX-License-Identifier: Apache-2.0
"""Where each request is noted, meets its fault, and is let in or refused."""

from __future__ import annotations

from aiohttp import web

from modelexpress.testing.hub.answers import error
from modelexpress.testing.hub.bodies import cut_before_answer
from modelexpress.testing.hub.catalogue import Catalogue
from modelexpress.testing.hub.content import split_name
from modelexpress.testing.hub.faults import Fault, Faults, Kind
from modelexpress.testing.hub.log import Request, RequestLog


class Gate:
    """The way of every request to what the catalogue holds."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.faults = Faults()
        self.log = RequestLog()

    def begin(self, request: web.Request, kind: Kind, name: str, path: str) -> tuple[Request, Fault | None]:
        """Note a request; its place in the log, and what is to go wrong with it."""
        headers = request.headers
        entry = Request(
            kind, request.method, request.path, name, path,
            token_of(request), headers.get("Range"), headers.get("Via"),
        )  # fmt: skip
        self.log.requests.append(entry)
        fault = self.faults.take(kind, path, request.method != "HEAD", entry.range, entry.token)
        return entry, fault

    async def refuse(
        self, request: web.Request, name: str, fault: Fault | None, gated: str
    ) -> web.StreamResponse | None:
        """The answer instead of the one asked for; None: who asks may have it.

        `gated`: which file it is, or what else of a gated repository is not for everybody; empty: nothing.
        """
        refusal = await self.misbehave(request, fault)
        if refusal is not None:
            return refusal
        new = self.catalogue.renamed.get(name)
        if new is not None:
            location = request.rel_url.raw_path_qs.replace(name, new, 1)
            return web.Response(status=307, headers={"Location": location})
        return self.refuse_token(request) or self._refuse_repository(token_of(request), name, gated)

    def refuse_token(self, request: web.Request) -> web.Response | None:
        """The answer to a token that nobody has."""
        token = token_of(request)
        if token is None or self.catalogue.is_known(token):
            return None
        return error(401, "", "Invalid credentials in Authorization header")

    async def misbehave(self, request: web.Request, fault: Fault | None) -> web.StreamResponse | None:
        """Let go wrong what does before any answer; what to answer, if that decides it."""
        if fault is None:
            return None
        if fault.action == "status":
            return web.Response(status=fault.status, headers=dict(fault.headers), text="fault")
        if fault.action == "hang":
            await fault.wait_released()
        if fault.action == "reset" and fault.after == 0:
            cut_before_answer(request)
            return web.Response(status=500)
        return None

    def _refuse_repository(self, token: str | None, name: str, gated: str) -> web.Response | None:
        repository = self.catalogue.repositories.get(name)
        has_access = self.catalogue.has_access(token, name)
        if repository is None or (repository.is_private and not has_access):
            return error(404 if token else 401, "RepoNotFound", "Repository not found")
        is_closed = repository.is_gated and gated and gated not in repository.open_paths
        if is_closed and not has_access:
            kind, repo_id = split_name(name)
            message = f"Access to {kind.removesuffix('s')} {repo_id} is restricted"
            return error(403 if token else 401, "GatedRepo", message)
        return None


def token_of(request: web.Request) -> str | None:
    """The token that a request shows."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None
