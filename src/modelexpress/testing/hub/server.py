# SPDX-License-Identifier: Apache-2.0
"""The hub: routes, access, redirects and listings as the real one has them."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import quote, unquote

from aiohttp import web

from modelexpress.testing.hub.bodies import Line, Sending, cut_before_answer, send_file
from modelexpress.testing.hub.content import HubFile, Repository
from modelexpress.testing.hub.faults import Fault, Faults, Kind
from modelexpress.testing.hub.listings import describe, paths_info, refs, tree
from modelexpress.testing.hub.log import Request, RequestLog

_WORDS = ("revision", "tree", "refs", "paths-info", "auth-check")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_EXPANDED_PAGE = 50


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How a hub is run. `has_cdn` False serves LFS files in place; `has_tree` False is an old mirror.

    `total_rate` bounds the bytes a second of all connections together; 0: nothing does.
    """

    host: str = "127.0.0.1"
    port: int = 0
    page_size: int = 1000
    has_cdn: bool = True
    has_tree: bool = True
    ssl_context: ssl.SSLContext | None = None
    total_rate: int = 0


class LocalHub:
    """A Hub on this machine; use it with `async with`, or `running_in_thread` from code without a loop."""

    def __init__(self, repositories: Iterable[Repository] = (), options: HubOptions | None = None) -> None:
        self._options = options or HubOptions()
        self._repositories = {repository.name: repository for repository in repositories}
        self._renamed: dict[str, str] = {}
        self._grants: dict[str, set[str]] = {}
        self._signed: dict[str, tuple[Repository, HubFile]] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._line = Line(self._options.total_rate)
        self.faults = Faults()
        self.log = RequestLog()

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return f"{self._scheme}://{self._options.host}:{self._port}"

    @property
    def cdn_endpoint(self) -> str:
        """The same server under another host name, to which LFS files are redirected."""
        return f"{self._scheme}://localhost:{self._port}"

    @property
    def _scheme(self) -> str:
        return "http" if self._options.ssl_context is None else "https"

    def add(self, repository: Repository) -> None:
        """Publish a repository."""
        self._repositories[repository.name] = repository
        self._renamed.pop(repository.name, None)

    def remove(self, name: str) -> None:
        """Take a repository off the hub."""
        self._repositories.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        """Rename a repository; requests for the old name are redirected, and who had access keeps it."""
        repository = self._repositories.pop(old)
        repository.name = new
        self.add(repository)
        self._renamed[old] = new
        for names in self._grants.values():
            if old in names:
                names.add(new)

    def grant(self, token: str, *names: str) -> None:
        """Make `token` a known one, with access to private and gated repositories `names`."""
        self._grants.setdefault(token, set()).update(names)

    def revoke(self, token: str) -> None:
        """Forget a token."""
        self._grants.pop(token, None)

    def expire_addresses(self) -> None:
        """Make every signed CDN address given out so far worthless."""
        self._signed.clear()

    async def __aenter__(self) -> LocalHub:
        application = web.Application(client_max_size=1024**2)
        application.router.add_route("*", "/{tail:.*}", self._dispatch)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self._options.host, self._options.port, ssl_context=self._options.ssl_context
        )
        await site.start()
        self._port = self._runner.addresses[0][1]
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

    # -- routes

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        # The raw path: a file may be called '%2e', and a branch 'a/b' comes as 'a%2Fb'.
        parts = [unquote(part) for part in request.rel_url.raw_path.removeprefix("/").split("/")]
        allowed = ("POST",) if parts[:2] == ["api", "models"] and "paths-info" in parts else ("GET", "HEAD")
        if request.method not in allowed:
            return web.Response(status=405, headers={"Allow": ", ".join(allowed)})
        match parts:
            case ["-", "sent"]:
                return web.json_response({"bytes_sent": self.log.bytes_sent})
            case ["cdn", signature]:
                return await self._serve_signed(request, signature)
            case ["api", "resolve-cache", "models", *rest]:
                return await self._serve_small(request, rest)
            case ["api", "whoami-v2"]:
                return await self._whoami(request)
            case ["api", "models", *rest]:
                return await self._api(request, rest)
            case [_, _, "resolve", revision, *path] | [_, "resolve", revision, *path] if path:
                name = "/".join(parts[: len(parts) - len(path) - 2])
                return await self._resolve(request, name, revision, "/".join(path))
        return _no_such_page()

    async def _api(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        at = next((n for n in (2, 1) if n < len(parts) and parts[n] in _WORDS), len(parts))
        if at > 2:
            return _no_such_page()
        name, word, rest = "/".join(parts[:at]), "".join(parts[at : at + 1]), parts[at + 1 :]
        entry, fault = self._begin(request, "tree" if word == "tree" else "api", name, "")
        is_file = word in ("tree", "paths-info", "auth-check")
        refusal = await self._refuse(request, name, fault, is_file)
        if refusal is not None:
            return _noted(entry, refusal)
        return _noted(entry, await self._answer_api(request, self._repositories[name], word, rest))

    async def _answer_api(
        self, request: web.Request, repository: Repository, word: str, rest: list[str]
    ) -> web.StreamResponse:
        if word == "auth-check":
            return _error(403, "", "This token may read only") if rest else web.json_response({})
        if word == "refs":
            return web.json_response(refs(repository, "include_prs" in request.query))
        revision = rest[0] if rest else "main"
        commit = repository.find_commit(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if word == "tree":
            return self._tree(request, repository, commit, "/".join(rest[1:]))
        if word == "paths-info":
            return await _paths_info(request, repository, commit)
        return web.json_response(describe(repository, commit, has_blobs="blobs" in request.query))

    def _tree(
        self, request: web.Request, repository: Repository, commit: str, folder: str
    ) -> web.StreamResponse:
        if not self._options.has_tree:
            return _no_such_page()
        query = request.query
        is_expanded, cursor = _is_true(query.get("expand")), query.get("cursor", "0")
        rows = tree(
            repository, commit, folder, is_recursive=_is_true(query.get("recursive")), is_expanded=is_expanded
        )
        if rows is None:
            return _error(404, "EntryNotFound", f"{folder} does not exist")
        if not re.fullmatch(r"[0-9]{1,9}", cursor):
            return _error(400, "", "Invalid cursor")
        size = min(self._options.page_size, _EXPANDED_PAGE) if is_expanded else self._options.page_size
        start, end = int(cursor), int(cursor) + size
        headers = {}
        if end < len(rows):
            headers["Link"] = f'<{request.url.update_query(cursor=end)}>; rel="next"'
        return web.json_response(rows[start:end], headers=headers)

    async def _resolve(self, request: web.Request, name: str, revision: str, path: str) -> web.StreamResponse:
        entry, fault = self._begin(request, "resolve", name, path)
        refusal = await self._refuse(request, name, fault, is_file=True)
        if refusal is not None:
            return _noted(entry, refusal)
        repository = self._repositories[name]
        commit = repository.find_commit(revision)
        if commit is None:
            return _noted(entry, _error(404, "RevisionNotFound", f"Invalid rev id: {revision}"))
        file = repository.files(commit).get(path)
        if file is None:
            refusal = _error(404, "EntryNotFound", f"{path} does not exist")
            refusal.headers["X-Repo-Commit"] = commit
            return _noted(entry, refusal)
        if file.sha256 is None:
            return _noted(entry, _redirect_small(repository, commit, file))
        headers = self._lfs_headers(repository, commit, file)
        if not self._options.has_cdn:
            entry.status = 200
            return await self._serve_in_place(request, name, file, headers)
        signature = secrets.token_urlsafe(16)
        self._signed[signature] = (repository, file)
        headers["Location"] = f"{self.cdn_endpoint}/cdn/{signature}?Signature=secret"
        return _noted(entry, web.Response(status=302, headers=headers))

    async def _serve_in_place(
        self, request: web.Request, name: str, file: HubFile, headers: dict[str, str]
    ) -> web.StreamResponse:
        entry, fault = self._begin(request, "body", name, file.path)
        refusal = await self._misbehave(request, fault)
        if refusal is not None:
            return _noted(entry, refusal)
        headers["ETag"] = f'"{file.etag}"'
        return await send_file(request, file, headers, Sending(fault, self._line, entry))

    async def _serve_small(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        # A name has one part or two; the commit behind it is a full one.
        at = next((n for n in (2, 1) if n < len(parts) and _COMMIT.fullmatch(parts[n])), None)
        if at is None:
            return _no_such_page()
        name, commit, path = "/".join(parts[:at]), parts[at], "/".join(parts[at + 1 :])
        entry, fault = self._begin(request, "body", name, path)
        refusal = await self._refuse(request, name, fault, is_file=True)
        if refusal is not None:
            return _noted(entry, refusal)
        repository = self._repositories[name]
        file = repository.files(commit).get(path) if repository.find_commit(commit) else None
        if file is None:
            return _noted(entry, _error(404, "EntryNotFound", f"{path} does not exist"))
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        return await send_file(request, file, headers, Sending(fault, self._line, entry))

    async def _serve_signed(self, request: web.Request, signature: str) -> web.StreamResponse:
        found = self._signed.get(signature)
        if request.headers.get("Authorization") is not None:
            return web.Response(status=400, text="a CDN must not be shown the token")
        if found is None:
            return web.Response(status=403, text="expired")
        repository, file = found
        entry, fault = self._begin(request, "body", repository.name, file.path)
        refusal = await self._misbehave(request, fault)
        if refusal is not None:
            return _noted(entry, refusal)
        assert file.sha256 is not None
        # A CDN has etags of its own, which look like digests and are none.
        headers = {"ETag": f'"{file.sha256[::-1]}"', "Accept-Ranges": "bytes"}
        return await send_file(request, file, headers, Sending(fault, self._line, entry))

    async def _whoami(self, request: web.Request) -> web.StreamResponse:
        entry, fault = self._begin(request, "api", "", "")
        refusal = await self._misbehave(request, fault)
        if refusal is None and entry.token not in self._grants:
            refusal = _error(401, "", "Invalid username or password.")
        user = {"type": "user", "name": "tester", "auth": {"accessToken": {"role": "read"}}}
        return _noted(entry, refusal or web.json_response(user))

    # -- access and faults

    def _begin(self, request: web.Request, kind: Kind, name: str, path: str) -> tuple[Request, Fault | None]:
        headers = request.headers
        entry = Request(
            kind, request.method, request.path, name, path,
            _token(request), headers.get("Range"), headers.get("Via"),
        )  # fmt: skip
        self.log.requests.append(entry)
        fault = self.faults.take(kind, path, request.method != "HEAD", headers.get("Range"))
        return entry, fault

    async def _refuse(
        self, request: web.Request, name: str, fault: Fault | None, is_file: bool
    ) -> web.StreamResponse | None:
        refusal = await self._misbehave(request, fault)
        if refusal is not None:
            return refusal
        if name in self._renamed:
            location = request.rel_url.raw_path_qs.replace(name, self._renamed[name], 1)
            return web.Response(status=307, headers={"Location": location})
        token = _token(request)
        repository = self._repositories.get(name)
        if token is not None and token not in self._grants:
            return _error(401, "", "Invalid credentials in Authorization header")
        has_access = token is not None and name in self._grants.get(token, ())
        if repository is None or (repository.is_private and not has_access):
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.is_gated and is_file and not has_access:
            return _error(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted")
        return None

    async def _misbehave(self, request: web.Request, fault: Fault | None) -> web.StreamResponse | None:
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

    def _lfs_headers(self, repository: Repository, commit: str, file: HubFile) -> dict[str, str]:
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{file.etag}"',
            "X-Linked-Size": str(file.size),
            "Accept-Ranges": "bytes",
        }
        if file.xet_hash is not None:
            route = f"{self.endpoint}/api/models/{repository.name}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{route}>; rel="xet-auth"'}
        return headers


async def _paths_info(request: web.Request, repository: Repository, commit: str) -> web.Response:
    try:
        wanted, expand = await _read_wanted(request)
    except (ValueError, LookupError, TypeError):
        return _error(400, "", "paths: expected a list of paths")
    return web.json_response(paths_info(repository, commit, wanted, _is_true(expand)))


async def _read_wanted(request: web.Request) -> tuple[set[str], str]:
    if request.content_type.endswith("json"):
        body = await request.json()
        paths = body["paths"]
        return {paths} if isinstance(paths, str) else set(paths), str(body.get("expand"))
    form = await request.post()
    return {str(path) for path in form.getall("paths")}, str(form.get("expand"))


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")


def _noted(entry: Request, response: web.StreamResponse) -> web.StreamResponse:
    entry.status = response.status
    return response


def _no_such_page() -> web.Response:
    return web.Response(status=404, text="no such page")


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


def _error(status: int, code: str, message: str) -> web.Response:
    # What was asked for may hold anything, a header may not.
    headers = {"X-Error-Message": "".join(c if c.isprintable() and c.isascii() else "?" for c in message)}
    if code:
        headers["X-Error-Code"] = code
    return web.json_response({"error": message}, status=status, headers=headers)


def _redirect_small(repository: Repository, commit: str, file: HubFile) -> web.Response:
    # The real one has the etag in the query as well: a client must carry that over as it is.
    query = f"etag=%22{file.etag}%22"
    location = f"/api/resolve-cache/models/{repository.name}/{commit}/{quote(file.path)}?{query}"
    headers = {"Location": location, "X-Repo-Commit": commit, "X-Linked-Etag": f'"{file.etag}"'}
    return web.Response(status=307, headers=headers)
