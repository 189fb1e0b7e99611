# SPDX-License-Identifier: Apache-2.0
"""The hub: routes, access, redirects and listings as the real one has them."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web

from modelexpress.testing.hub.bodies import cut_before_answer, send_file
from modelexpress.testing.hub.content import HubFile, Repository
from modelexpress.testing.hub.faults import Fault, Faults, Kind
from modelexpress.testing.hub.log import Request, RequestLog


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How a hub is run. `has_cdn` False serves LFS files in place; `has_tree` False is an old mirror."""

    host: str = "127.0.0.1"
    port: int = 0
    page_size: int = 1000
    has_cdn: bool = True
    has_tree: bool = True
    ssl_context: ssl.SSLContext | None = None


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

    def remove(self, name: str) -> None:
        """Take a repository off the hub."""
        self._repositories.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        """Rename a repository; requests for the old name are redirected."""
        repository = self._repositories.pop(old)
        repository.name = new
        self._repositories[new] = repository
        self._renamed[old] = new

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
        asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.__aexit__(None, None, None), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    # -- routes

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        # The raw path: a file may be called '%2e', and a branch 'a/b' comes as 'a%2Fb'.
        parts = [unquote(part) for part in request.rel_url.raw_path.lstrip("/").split("/")]
        if parts == ["-", "sent"]:
            return web.json_response({"bytes_sent": self.log.bytes_sent})
        if parts[0] == "cdn":
            return await self._serve_signed(request, parts[1])
        if parts[:2] == ["api", "resolve-cache"]:
            return await self._serve_small(request, "/".join(parts[3:5]), parts[5], "/".join(parts[6:]))
        if parts[:2] == ["api", "whoami-v2"]:
            return self._whoami(request)
        if parts[:2] == ["api", "models"]:
            return await self._api(request, parts[2:])
        if "resolve" in parts[1:3]:
            at = parts.index("resolve", 1)
            return await self._resolve(
                request, "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :])
            )
        return web.Response(status=404, text="no such page")

    async def _api(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        words = ("revision", "tree", "refs", "paths-info", "auth-check")
        at = next((n for n, part in enumerate(parts) if n > 0 and part in words), len(parts))
        name, word, rest = (
            "/".join(parts[:at]),
            parts[at] if at < len(parts) else "",
            parts[at + 1 :],
        )
        kind: Kind = "tree" if word == "tree" else "api"
        entry, fault = self._begin(request, kind, name, "")
        refusal = await self._refuse(
            request, name, fault, is_file=word in ("tree", "paths-info", "auth-check")
        )
        if refusal is not None:
            return _noted(entry, refusal)
        return _noted(entry, await self._answer_api(request, self._repositories[name], word, rest))

    async def _answer_api(
        self, request: web.Request, repository: Repository, word: str, rest: list[str]
    ) -> web.StreamResponse:
        if word == "auth-check":
            return web.json_response({})
        if word == "refs":
            return web.json_response(_refs(repository))
        revision = rest[0] if rest else "main"
        commit = repository.find_commit(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if word == "tree":
            if not self._options.has_tree:
                return web.Response(status=404, text="no such route")
            return self._tree(request, repository, commit)
        if word == "paths-info":
            form: Any = (
                await request.json() if request.content_type.endswith("json") else await request.post()
            )
            wanted = form["paths"] if isinstance(form, dict) else form.getall("paths")
            return web.json_response(
                [_tree_row(f) for p, f in repository.files(commit).items() if p in wanted]
            )
        return web.json_response(_describe(repository, commit, has_blobs="blobs" in request.query))

    def _tree(self, request: web.Request, repository: Repository, commit: str) -> web.Response:
        rows = [_tree_row(file) for file in repository.files(commit).values()]
        folders = sorted({folder for row in rows for folder in _folders(row["path"])})
        rows += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
        rows.sort(key=lambda row: row["path"])
        start, size = int(request.query.get("cursor", 0)), self._options.page_size
        headers = {}
        if start + size < len(rows):
            following = request.url.update_query(cursor=start + size)
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(rows[start : start + size], headers=headers)

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
            return _noted(entry, _error(404, "EntryNotFound", f"{path} does not exist"))
        if file.sha256 is None:
            return _noted(entry, _redirect_small(repository, commit, file))
        if not self._options.has_cdn:
            return await self._send(
                request, file, {**_lfs_headers(commit, file), "ETag": f'"{file.etag}"'}, entry
            )
        signature = secrets.token_urlsafe(16)
        self._signed[signature] = (repository, file)
        location = f"{self.cdn_endpoint}/cdn/{signature}?Signature=secret"
        return _noted(
            entry, web.Response(status=302, headers={**_lfs_headers(commit, file), "Location": location})
        )

    async def _serve_small(
        self, request: web.Request, name: str, commit: str, path: str
    ) -> web.StreamResponse:
        entry, fault = self._begin(request, "body", name, path)
        refusal = await self._refuse(request, name, fault, is_file=True)
        if refusal is not None:
            return _noted(entry, refusal)
        file = self._repositories[name].files(commit)[path]
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        return await self._send(request, file, headers, entry, fault)

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
        return await self._send(request, file, headers, entry, fault)

    async def _send(
        self,
        request: web.Request,
        file: HubFile,
        headers: dict[str, str],
        entry: Request,
        fault: Fault | None = None,
    ) -> web.StreamResponse:
        return _noted(entry, await send_file(request, file, headers, fault, entry))

    def _whoami(self, request: web.Request) -> web.Response:
        token = _token(request)
        if token not in self._grants:
            return _error(401, "", "Invalid username or password.")
        return web.json_response(
            {"type": "user", "name": "tester", "auth": {"accessToken": {"role": "read"}}}
        )

    # -- access and faults

    def _begin(self, request: web.Request, kind: Kind, name: str, path: str) -> tuple[Request, Fault | None]:
        headers = request.headers
        entry = Request(
            kind, request.method, request.path, name, path,
            _token(request), headers.get("Range"), headers.get("Via"),
        )  # fmt: skip
        self.log.requests.append(entry)
        return entry, self.faults.take(kind, path)

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
            return _error(401, "", "Invalid username or password.")
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
            await fault.released.wait()
        if fault.action == "reset" and fault.after == 0:
            cut_before_answer(request)
            return web.Response(status=500)
        return None


def _noted(entry: Request, response: web.StreamResponse) -> web.StreamResponse:
    entry.status = response.status
    return response


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return web.json_response({"error": message}, status=status, headers=headers)


def _redirect_small(repository: Repository, commit: str, file: HubFile) -> web.Response:
    location = f"/api/resolve-cache/models/{repository.name}/{commit}/{quote(file.path)}"
    headers = {"Location": location, "X-Repo-Commit": commit, "X-Linked-Etag": f'"{file.etag}"'}
    return web.Response(status=307, headers=headers)


def _lfs_headers(commit: str, file: HubFile) -> dict[str, str]:
    headers = {
        "X-Repo-Commit": commit,
        "X-Linked-Etag": f'"{file.etag}"',
        "X-Linked-Size": str(file.size),
        "Accept-Ranges": "bytes",
    }
    if file.xet_hash is not None:
        headers["X-Xet-Hash"] = file.xet_hash
    return headers


def _refs(repository: Repository) -> dict[str, Any]:
    def rows(names: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [
            {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in sorted(names.items())
        ]

    return {
        "branches": rows(repository.branches, "heads"),
        "tags": rows(repository.tags, "tags"),
        "converts": [],
    }


def _tree_row(file: HubFile) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": file.blob_id, "size": file.size, "path": file.path}
    if file.sha256 is not None:
        row["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
    if file.xet_hash is not None:
        row["xetHash"] = file.xet_hash
    return row


def _folders(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


def _describe(repository: Repository, commit: str, has_blobs: bool) -> dict[str, Any]:
    files = repository.files(commit).values()
    return {
        "_id": commit[:24],
        "id": repository.name,
        "modelId": repository.name,
        "sha": commit,
        "private": repository.is_private,
        "gated": "manual" if repository.is_gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [_sibling(file, has_blobs) for file in files],
    }


def _sibling(file: HubFile, has_blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": file.path}
    if has_blobs:
        row |= {"size": file.size, "blobId": file.blob_id}
        if file.sha256 is not None:
            row["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 130}
    return row
