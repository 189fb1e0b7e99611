# SPDX-License-Identifier: Apache-2.0
"""Where files come from: by redirect from here or from a CDN, in place, or as git keeps them."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from urllib.parse import quote

from aiohttp import web

from modelexpress.testing.hub.answers import error, no_such_page, noted
from modelexpress.testing.hub.bodies import Line, Sending, send_file
from modelexpress.testing.hub.content import KINDS, HubFile, Repository, name_of
from modelexpress.testing.hub.gate import Gate
from modelexpress.testing.hub.options import Address, HubOptions

_COMMIT = re.compile(r"[0-9a-f]{40}")
_VERBS = ("resolve", "raw")


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of a commit."""

    repository: Repository
    commit: str
    file: HubFile


class Files:
    """The answers that lead to the bytes of files, or are these."""

    def __init__(self, gate: Gate, options: HubOptions, address: Address) -> None:
        self._gate = gate
        self._has_cdn = options.has_cdn
        self._address = address
        self._line = Line(options.total_rate)
        self._signed: dict[str, tuple[Repository, HubFile]] = {}

    def expire_addresses(self) -> None:
        """Make every signed address given out so far worthless."""
        self._signed.clear()

    async def answer(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        """The file that a path names with its repository and revision."""
        # A name has one part or two, behind the kind if it is no model.
        least = 2 if parts[0] in KINDS[1:] else 1
        at = next((n for n in (least + 1, least) if n < len(parts) and parts[n] in _VERBS), len(parts))
        if len(parts) < at + 3:
            return no_such_page()
        name, revision, path = "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :])
        if parts[at] == "raw":
            return await self._answer_raw(request, name, revision, path)
        return await self._resolve(request, name, revision, path)

    async def answer_small(self, request: web.Request, kind: str, parts: list[str]) -> web.StreamResponse:
        """A small file, where a redirect of ours leads to; `parts`: the path behind the kind."""
        # A name has one part or two; the commit behind it is a full one.
        at = next((n for n in (2, 1) if n < len(parts) and _COMMIT.fullmatch(parts[n])), None)
        if at is None:
            return no_such_page()
        name, commit, path = name_of(kind, "/".join(parts[:at])), parts[at], "/".join(parts[at + 1 :])
        entry, fault = self._gate.begin(request, "body", name, path)
        refusal = await self._gate.refuse(request, name, fault, path)
        if refusal is not None:
            return noted(entry, refusal)
        repository = self._gate.catalogue.repositories[name]
        file = repository.files(commit).get(path) if repository.find_commit(commit) else None
        if file is None:
            return noted(entry, error(404, "EntryNotFound", f"{path} does not exist"))
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        return await send_file(request, file, headers, Sending(fault, self._line, entry))

    async def answer_signed(self, request: web.Request, signature: str) -> web.StreamResponse:
        """A file as the CDN has it."""
        found = self._signed.get(signature)
        if request.headers.get("Authorization") is not None:
            return web.Response(status=400, text="a CDN must not be shown the token")
        if found is None:
            return web.Response(status=403, text="expired")
        repository, file = found
        entry, fault = self._gate.begin(request, "body", repository.name, file.path)
        refusal = await self._gate.misbehave(request, fault)
        if refusal is not None:
            return noted(entry, refusal)
        assert file.sha256 is not None
        # A CDN has etags of its own, which look like digests and are none.
        headers = {"ETag": f'"{file.sha256[::-1]}"', "Accept-Ranges": "bytes"}
        return await send_file(request, file, headers, Sending(fault, self._line, entry))

    async def _answer_raw(
        self, request: web.Request, name: str, revision: str, path: str
    ) -> web.StreamResponse:
        entry, fault = self._gate.begin(request, "body", name, path)
        refusal = await self._gate.refuse(request, name, fault, path)
        found = refusal or self._find(name, revision, path)
        if not isinstance(found, _Found):
            return noted(entry, found)
        file = found.file.in_git
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "ETag": f'"{file.blob_id}"',
            "X-Repo-Commit": found.commit,
            "Accept-Ranges": "bytes",
        }
        return await send_file(request, file, headers, Sending(fault, self._line, entry))

    async def _resolve(self, request: web.Request, name: str, revision: str, path: str) -> web.StreamResponse:
        entry, fault = self._gate.begin(request, "resolve", name, path)
        refusal = await self._gate.refuse(request, name, fault, path)
        found = refusal or self._find(name, revision, path)
        if not isinstance(found, _Found):
            return noted(entry, found)
        if found.file.sha256 is None:
            return noted(entry, _redirect_small(found))
        headers = self._lfs_headers(found)
        if not self._has_cdn:
            entry.status = 200
            return await self._serve_in_place(request, name, found.file, headers)
        signature = secrets.token_urlsafe(16)
        self._signed[signature] = (found.repository, found.file)
        headers["Location"] = f"{self._address.cdn_endpoint}/cdn/{signature}?Signature=secret"
        return noted(entry, web.Response(status=302, headers=headers))

    def _find(self, name: str, revision: str, path: str) -> _Found | web.Response:
        repository = self._gate.catalogue.repositories[name]
        commit = repository.find_commit(revision)
        if commit is None:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        file = repository.files(commit).get(path)
        if file is None:
            refusal = error(404, "EntryNotFound", f"{path} does not exist")
            refusal.headers["X-Repo-Commit"] = commit
            return refusal
        return _Found(repository, commit, file)

    async def _serve_in_place(
        self, request: web.Request, name: str, file: HubFile, headers: dict[str, str]
    ) -> web.StreamResponse:
        entry, fault = self._gate.begin(request, "body", name, file.path)
        refusal = await self._gate.misbehave(request, fault)
        if refusal is not None:
            return noted(entry, refusal)
        headers["ETag"] = f'"{file.etag}"'
        return await send_file(request, file, headers, Sending(fault, self._line, entry))

    def _lfs_headers(self, found: _Found) -> dict[str, str]:
        repository, file = found.repository, found.file
        headers = {
            "X-Repo-Commit": found.commit,
            "X-Linked-Etag": f'"{file.etag}"',
            "X-Linked-Size": str(file.size),
            "Accept-Ranges": "bytes",
        }
        if file.xet_hash is not None:
            api = f"{self._address.endpoint}/api/{repository.kind}/{repository.repo_id}"
            link = f'<{api}/xet-read-token/{found.commit}>; rel="xet-auth"'
            headers |= {"X-Xet-Hash": file.xet_hash, "Link": link}
        return headers


def _redirect_small(found: _Found) -> web.Response:
    repository, commit, file = found.repository, found.commit, found.file
    # The real one has the etag in the query as well: a client must carry that over as it is.
    address = f"{repository.kind}/{repository.repo_id}/{commit}/{quote(file.path)}?etag=%22{file.etag}%22"
    headers = {"Location": f"/api/resolve-cache/{address}", "X-Repo-Commit": commit}
    headers["X-Linked-Etag"] = f'"{file.etag}"'
    return web.Response(status=307, headers=headers)
