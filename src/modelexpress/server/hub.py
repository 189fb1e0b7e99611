# SPDX-License-Identifier: Apache-2.0
"""The Hub endpoint: what clients of a Hugging Face Hub ask, answered from this cache as the Hub would."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from modelexpress.cache.hub_documents import Question
from modelexpress.cache.hub_files import HubFile
from modelexpress.domain.caller import Caller
from modelexpress.domain.errors import (
    Corrupt,
    Forbidden,
    Invalid,
    Limited,
    MxError,
    NotFound,
    Unauthenticated,
    Unreachable,
)
from modelexpress.domain.hub import COMMIT, ERROR_CODE, ERROR_MESSAGE, Document, git_id, lfs_pointer, refusal
from modelexpress.domain.meter import Meter
from modelexpress.server.bodies import Bodies
from modelexpress.server.file_answers import Face, FileSender
from modelexpress.server.http_ranges import choose_bytes
from modelexpress.server.http_status import COMMON_HEADERS, Refusal
from modelexpress.server.hub_paths import (
    FileAddress,
    Refused,
    read_api_address,
    read_file_address,
    read_other_question,
    read_question,
)
from modelexpress.server.port import ServedHubDocuments, ServedHubFiles

STALE_HEADER = "MX-Stale"

_MOST_HOPS = 8
_MOST_VIA_BYTES = 1024  # a longer way may be refused by the origin, and is no way of real servers
_GONE = 410
# What the origin may say to one, or of how he came, and not to another; also of bytes that it sends him.
_OWN = (Corrupt, Forbidden, Limited, NotFound, Unauthenticated, Unreachable)
_TEXT = "text/plain; charset=utf-8"
_CONDITIONS = ("If-Match", "If-None-Match", "Range")
_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_NEXT = re.compile(r'<(/(?!/)[^<>]*)>; rel="next"')
_AGAIN_SECONDS = 5.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How the endpoint behaves. `instance`: this process in Via headers; `public_url`: how clients reach it.

    `allowed_hosts`: names by which it may be asked; empty: any. `passes_through`: whether what it does not
    know of the API is asked at the origin, with the caller's own token.
    """

    instance: str = ""
    public_url: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    passes_through: bool = False


class Crossing:
    """Calls from the data plane's loop into the one on which it was made, where everything is decided."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def call(self, make: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T:
        """What `make` returns there. Whoever is cancelled here cancels it there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(*arguments), self._loop))


class HubService:
    """Answers every path that is not ours. Belongs to the data plane's loop."""

    def __init__(
        self,
        files: ServedHubFiles,
        documents: ServedHubDocuments,
        crossing: Crossing,
        sender: FileSender,
        options: HubOptions,
        meter: Meter,
    ) -> None:
        self._files = files
        self._documents = documents
        self._crossing = crossing
        self._sender = sender
        self._options = options
        self._meter = meter
        self._bodies = Bodies()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer of a Hub, a refusal in its words too."""
        kind, code = "other", "left"
        try:
            self._check(request)
            kind, answering = await self._route(request)
            answer = await answering
            code = str(answer.status)
            return answer
        except Refused as refused:
            code = str(refused.document.status)
            return self._say(request, refused.document)
        except Refusal as error:
            document = _refusal_of(error.error, error.status)
            code = str(document.status)
            return self._say(request, Document(document.status, {**error.headers, **document.headers}))
        except MxError as error:
            document = _refusal_of(error)
            code = str(document.status)
            _log.info("%s: %s", error.code, error.message)
            return self._say(request, document)
        finally:
            self._meter.count("mx_hub_requests_total", kind=kind, code=code)

    def _check(self, request: web.BaseRequest) -> None:
        via = _via(request)
        if sum(map(len, via)) > _MOST_VIA_BYTES:
            raise Refused(refusal(400, "", f"the way in Via has at most {_MOST_VIA_BYTES} bytes"))
        ours = f"modelexpress-{self._options.instance}"
        if len(via) > _MOST_HOPS:
            raise Invalid(
                f"this came through {len(via)} servers, and at most {_MOST_HOPS} may stand in a row: it goes "
                "round in a circle, or HF_ENDPOINT can name one that is nearer to where models are published",
                is_loop=True,
            )
        if any(hop.rpartition(" ")[2] == ours for hop in via):
            raise Invalid(
                "this server is asked by itself: set origin.endpoint (or HF_ENDPOINT of the server) to where "
                "models are published",
                is_loop=True,
            )
        host = request.headers.get("Host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if not _HOST.fullmatch(host):
            raise Refused(refusal(400, "", "the Host header is not the name of a host"))
        if self._options.allowed_hosts and name.lower() not in self._options.allowed_hosts:
            raise Refused(refusal(421, "", "this server has another name (server.allowed_hosts)"))

    async def _route(self, request: web.BaseRequest) -> tuple[str, Coroutine[Any, Any, web.StreamResponse]]:
        """What kind of request it is, and its answer."""
        raw_path, caller = request.rel_url.raw_path, _caller(request)
        is_read = request.method in ("GET", "HEAD")
        address = read_file_address(raw_path) if is_read else None
        if address is not None:
            return "raw" if address.is_raw else "resolve", self._answer_file(request, address, caller)
        if raw_path.startswith("/api/telemetry"):
            return "other", self._answer_telemetry(request)
        if is_read or request.method == "POST":
            question = await self._read_question(request)
            if question is not None:
                return "api", self._answer_question(request, question, caller)
        if not is_read:
            raise Refused(refusal(405, "", "this is a cache to read from: write to the Hub itself"))
        raise Refused(refusal(404, "", "this server does not answer that; ask the Hub itself"))

    # -- files

    async def _answer_file(
        self, request: web.BaseRequest, address: FileAddress, caller: Caller
    ) -> web.StreamResponse:
        # Whether there is to be a body is known before its bytes are fetched.
        has_conditions = any(name in request.headers for name in _CONDITIONS)
        is_plain = request.method == "GET" and not address.is_raw and not has_conditions
        ask = self._files.open if is_plain else self._files.find
        found = await self._crossing.call(ask, address.ref, address.path, caller)
        if isinstance(found, Document):
            return self._say(request, found, found.is_stale)
        pointer = lfs_pointer(found.located.entry) if address.is_raw else None
        if pointer is not None:
            return self._say(request, _pointer_document(request, found, pointer), found.is_stale)
        face = _face(found, address.is_raw)
        wanted = choose_bytes(request.method, request.headers, face.etag, face.size)
        if request.method == "HEAD" or wanted.status not in (200, 206):
            self._count_stale(found)
            return await self._sender.answer_head(request, face)
        if found.offer is None:
            found = await self._open(address, caller, found)
        try:
            return await self._send(request, found, address.is_raw)
        except Refusal as error:
            is_anothers = found.is_anothers and (isinstance(error.error, _OWN) or _is_loop(error.error))
            if error.status != _GONE and not is_anothers:
                raise
            # It was removed between being found and being opened, or came with the rights of one who may not
            # have it, may not ask now, or whose way leads in a circle: it is fetched again.
            own = await self._open(address, caller, is_own=is_anothers)
            return await self._send(request, own, address.is_raw)

    async def _open(
        self, address: FileAddress, caller: Caller, found: HubFile | None = None, is_own: bool = False
    ) -> HubFile:
        asked = address.ref, address.path, caller, found, is_own
        opened = await self._crossing.call(self._files.open, *asked)
        if isinstance(opened, Document):
            raise Refused(opened)
        return opened

    async def _send(self, request: web.BaseRequest, found: HubFile, is_raw: bool) -> web.StreamResponse:
        assert found.offer is not None
        self._count_stale(found)
        return await self._sender.answer(request, found.offer, _face(found, is_raw))

    def _count_stale(self, found: HubFile) -> None:
        if found.is_stale:
            self._meter.count("mx_hub_stale_answers_total")

    # -- documents

    async def _answer_telemetry(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._say(request, Document(200))  # nothing of it goes on

    async def _answer_question(
        self, request: web.BaseRequest, question: Question, caller: Caller
    ) -> web.StreamResponse:
        answered = await self._crossing.call(self._documents.get, question, caller)
        return self._say(request, answered.document, answered.is_stale)

    async def _read_question(self, request: web.BaseRequest) -> Question | None:
        raw_path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
        address, is_posted = read_api_address(raw_path), request.method == "POST"
        if is_posted and (address is None or address.word != "paths-info"):
            return None
        if address is None:
            return read_other_question(raw_path, query, self._options.passes_through)
        if not is_posted:
            return read_question(address, query, None, "")
        kind = request.headers.get("Content-Type", "")[:200]
        return await self._bodies.read(request, lambda body: read_question(address, query, body, kind))

    def _say(self, request: web.BaseRequest, document: Document, is_stale: bool = False) -> web.Response:
        headers = {**COMMON_HEADERS, **{name: _plain(text) for name, text in document.headers.items()}}
        following = _NEXT.fullmatch(headers.pop("Link", ""))
        if following is not None:
            base = self._options.public_url or f"http://{request.headers['Host']}"
            headers["Link"] = f'<{base.rstrip("/")}{following[1]}>; rel="next"'
        if is_stale:
            headers[STALE_HEADER] = "true"
            self._meter.count("mx_hub_stale_answers_total")
        body = document.body
        if document.is_refusal and not body:
            body = _error_body(document)
            headers.setdefault(ERROR_MESSAGE, _reason(document))
            headers["Content-Type"] = "application/json; charset=utf-8"
        return web.Response(status=document.status, body=body, headers=headers)


def _face(found: HubFile, is_raw: bool) -> Face:
    located = found.located
    headers = {COMMIT: located.commit, **({"Content-Type": _TEXT} if is_raw else {})}
    if lfs_pointer(located.entry) is not None:
        headers |= {"X-Linked-Etag": f'"{located.etag}"', "X-Linked-Size": str(located.entry.size)}
    if found.is_stale:
        headers[STALE_HEADER] = "true"
    return Face(f'"{located.etag}"', located.entry.size, headers)


def _pointer_document(request: web.BaseRequest, found: HubFile, pointer: bytes) -> Document:
    """What git holds of a large file, or what the request's headers ask of it."""
    etag, size = f'"{git_id(found.located.entry)}"', len(pointer)
    wanted = choose_bytes(request.method, request.headers, etag, size)
    start, end = wanted.span.start, wanted.span.end
    headers = {"ETag": etag, "Accept-Ranges": "bytes", COMMIT: found.located.commit}
    if wanted.status in (206, 416):
        headers["Content-Range"] = f"bytes {f'{start}-{end - 1}' if wanted.status == 206 else '*'}/{size}"
    if wanted.status in (412, 416):
        no = refusal(wanted.status, "", f"the pointer has {size} bytes, and is another one or not so long")
        return Document(wanted.status, {**no.headers, **headers})
    return Document(wanted.status, {"Content-Type": _TEXT, **headers}, pointer[start:end])


def _caller(request: web.BaseRequest) -> Caller:
    said, via = request.headers.get("Authorization"), _via(request)
    if said is None:
        return Caller(is_stranger=True, via=via)
    scheme, _, token = said.partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token.strip()):
        raise Refused(refusal(401, "", "Invalid credentials in Authorization header"))
    return Caller(token.strip(), via=via)


def _via(request: web.BaseRequest) -> tuple[str, ...]:
    said = ",".join(request.headers.getall("Via", []))
    return tuple(_plain(hop.strip()) for hop in said.split(",") if hop.strip())


def _refusal_of(error: MxError, status: int | None = None) -> Document:
    """The answer to an error; `status`: where it is not the table's."""
    if _is_loop(error):
        return refusal(508, "", error.message)
    if isinstance(error, Limited):
        document = refusal(429, "", error.message)
        seconds = max(math.ceil(error.retry_after_seconds or _AGAIN_SECONDS), 1)
        return Document(429, {**document.headers, **error.limits, "Retry-After": str(seconds)})
    if error.hub_status:
        return refusal(error.hub_status, error.hub_code, error.message)
    refused = Refusal(error, status)
    headers = {**refusal(refused.status, "", error.message).headers, **refused.headers}
    if isinstance(error, Unreachable) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(math.ceil(error.retry_after_seconds), 1))
    return Document(refused.status, headers)


def _is_loop(error: MxError) -> bool:
    return isinstance(error, Invalid) and error.is_loop


def _reason(document: Document) -> str:
    """What is said of a refusal that says nothing of itself."""
    return _plain(document.headers.get(ERROR_CODE) or f"refused with {document.status}, without a reason")


def _error_body(document: Document) -> bytes:
    text = document.headers.get(ERROR_MESSAGE) or _reason(document)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{{"error":"{_plain(escaped)}"}}'.encode()


def _plain(text: str) -> str:
    """What may stand in a header, whatever was asked for."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)
