# SPDX-License-Identifier: Apache-2.0
"""What is said about repositories under /api: descriptions, lists, trees, refs, commits, Xet tokens."""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web

from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.testing.hub.answers import (
    cursor_page,
    error,
    find_size,
    is_true,
    no_such_page,
    noted,
    numbered_page,
)
from modelexpress.testing.hub.content import Repository, name_of
from modelexpress.testing.hub.descriptions import describe, describe_only, find_unknown, summarize
from modelexpress.testing.hub.gate import Gate, token_of
from modelexpress.testing.hub.listings import commits, paths_info, refs, tree
from modelexpress.testing.hub.options import HubOptions

_WORDS = ("revision", "tree", "refs", "paths-info", "auth-check", "commits", "xet-read-token")
_FILE_WORDS = ("tree", "paths-info", "auth-check", "xet-read-token")
_EXPANDED_PAGE = 50
_COMMITS_PAGE, _COMMITS_AT_MOST = 50, 1000
_XET_SECONDS = 3600


class Api:
    """The answers in JSON."""

    def __init__(self, gate: Gate, options: HubOptions) -> None:
        self._gate = gate
        self._options = options

    async def answer(self, request: web.Request, kind: str, parts: list[str]) -> web.StreamResponse:
        """What is asked about one repository; `parts`: the path behind /api/models, say."""
        at = next((n for n in (2, 1) if n < len(parts) and parts[n] in _WORDS), len(parts))
        if at > 2:
            return no_such_page()
        name, word, rest = name_of(kind, "/".join(parts[:at])), "".join(parts[at : at + 1]), parts[at + 1 :]
        entry, fault = self._gate.begin(request, "tree" if word == "tree" else "api", name, "")
        refusal = await self._gate.refuse(request, name, fault, word if word in _FILE_WORDS else "")
        if refusal is not None:
            return noted(entry, refusal)
        repository = self._gate.catalogue.repositories[name]
        return noted(entry, await self._answer(request, repository, word, rest))

    async def answer_list(self, request: web.Request, kind: str) -> web.StreamResponse:
        """The repositories of a kind that the query asks for; `filter` and `sort` change nothing."""
        entry, fault = self._gate.begin(request, "api", "", "")
        refusal = await self._gate.misbehave(request, fault) or self._gate.refuse_token(request)
        return noted(entry, refusal or self._list(request, kind))

    async def answer_whoami(self, request: web.Request) -> web.StreamResponse:
        """Whose token it is."""
        entry, fault = self._gate.begin(request, "api", "", "")
        refusal = await self._gate.misbehave(request, fault)
        if refusal is None and not self._gate.catalogue.is_known(token_of(request)):
            refusal = error(401, "", "Invalid username or password.")
        user = {"type": "user", "name": "tester", "auth": {"accessToken": {"role": "read"}}}
        return noted(entry, refusal or web.json_response(user))

    async def _answer(
        self, request: web.Request, repository: Repository, word: str, rest: list[str]
    ) -> web.StreamResponse:
        if word == "auth-check":
            return error(403, "", "This token may read only") if rest else web.json_response({})
        if word == "refs":
            return web.json_response(refs(repository, "include_prs" in request.query))
        revision = rest[0] if rest else "main"
        commit = repository.find_commit(revision)
        if commit is None:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if word == "tree":
            return self._tree(request, repository, commit, "/".join(rest[1:]))
        if word == "paths-info":
            return await _paths_info(request, repository, commit)
        return self._answer_commit(request, repository, commit, word)

    def _answer_commit(
        self, request: web.Request, repository: Repository, commit: str, word: str
    ) -> web.Response:
        if word == "commits":
            size = find_size(request, min(self._options.page_size, _COMMITS_AT_MOST), _COMMITS_PAGE)
            rows = commits(repository, commit, "formatted" in _expanded(request))
            return error(400, "", "Invalid limit") if size is None else numbered_page(request, rows, size)
        if word == "xet-read-token":
            return _xet_token(repository, commit)
        fields = _expanded(request)
        if not fields:
            return web.json_response(describe(repository, commit, has_blobs="blobs" in request.query))
        refusal = _refuse_fields(repository.kind, fields)
        return refusal or web.json_response(describe_only(repository, commit, fields))

    def _list(self, request: web.Request, kind: str) -> web.Response:
        size = find_size(request, self._options.page_size, self._options.page_size)
        if size is None:
            return error(400, "", "Invalid limit")
        refusal = _refuse_fields(kind, _expanded(request))
        if refusal is not None:
            return refusal
        visible = self._gate.catalogue.visible(kind, token_of(request))
        rows = [_summary(request, repository) for repository in visible if _is_sought(request, repository)]
        return cursor_page(request, rows, size)

    def _tree(
        self, request: web.Request, repository: Repository, commit: str, folder: str
    ) -> web.StreamResponse:
        if not self._options.has_tree:
            return no_such_page()
        query = request.query
        is_expanded = is_true(query.get("expand"))
        rows = tree(
            repository, commit, folder, is_recursive=is_true(query.get("recursive")), is_expanded=is_expanded
        )
        if rows is None:
            return error(404, "EntryNotFound", f"{folder} does not exist")
        size = min(self._options.page_size, _EXPANDED_PAGE) if is_expanded else self._options.page_size
        return cursor_page(request, rows, size)


def _is_sought(request: web.Request, repository: Repository) -> bool:
    repo_id, author = repository.repo_id.lower(), request.query.get("author")
    if author is not None and repo_id.rpartition("/")[0] != author.lower():
        return False
    words = " ".join(request.query.getall("search", [])).lower().split()
    return "main" in repository.branches and all(word in repo_id for word in words)


def _summary(request: web.Request, repository: Repository) -> dict[str, Any]:
    commit, fields = repository.branches["main"], _expanded(request)
    if fields:
        return describe_only(repository, commit, fields)
    return summarize(repository, commit, is_full=is_true(request.query.get("full")))


def _expanded(request: web.Request) -> list[str]:
    return [*request.query.getall("expand", []), *request.query.getall("expand[]", [])]


def _refuse_fields(kind: str, fields: list[str]) -> web.Response | None:
    unknown = find_unknown(kind, fields)
    return error(400, "", f"Invalid option for expand: {', '.join(unknown)}") if unknown else None


def _xet_token(repository: Repository, commit: str) -> web.Response:
    if not repository.cas_url:
        return no_such_page()
    token = "xet_" + hashlib.sha256(f"{repository.name} {commit}".encode()).hexdigest()
    expiration = int(SYSTEM_CLOCK.wall()) + _XET_SECONDS
    headers = {
        "X-Xet-Cas-Url": repository.cas_url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expiration),
    }
    answer = {"accessToken": token, "casUrl": repository.cas_url, "exp": expiration}
    return web.json_response(answer, headers=headers)


async def _paths_info(request: web.Request, repository: Repository, commit: str) -> web.Response:
    try:
        wanted, expanded = await _read_wanted(request)
    except (ValueError, LookupError, TypeError):
        return error(400, "", "paths: expected a list of paths")
    return web.json_response(paths_info(repository, commit, wanted, is_true(expanded)))


async def _read_wanted(request: web.Request) -> tuple[set[str], str]:
    if request.content_type.endswith("json"):
        body = await request.json()
        paths = body["paths"]
        return {paths} if isinstance(paths, str) else set(paths), str(body.get("expand"))
    form = await request.post()
    return {str(path) for path in form.getall("paths")}, str(form.get("expand"))
