# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face Hub, and mirrors that speak its API."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import quote

from yarl import URL

from modelexpress.domain.caller import Caller
from modelexpress.domain.clock import SYSTEM_CLOCK, Clock
from modelexpress.domain.errors import Corrupt, Limited, MxError, NotFound, Unreachable
from modelexpress.domain.hub import Document, DocumentRequest, Located, api_path
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import DEFAULT_BRANCH, ModelRef, ProviderKind
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers.addresses import Places
from modelexpress.providers.bandwidth import Bandwidth
from modelexpress.providers.endpoints import Endpoint, Endpoints, Outages, Visit
from modelexpress.providers.http import Ask, Outgoing, OutgoingOptions
from modelexpress.providers.hub_documents import locate, make_document, refuse
from modelexpress.providers.hub_errors import raise_for_status
from modelexpress.providers.hub_files import HubFiles
from modelexpress.providers.hub_listing import (
    MOST_FILES,
    MOST_PAGES,
    find_next_page,
    make_manifest,
    read_commit,
    read_siblings,
    read_tree_page,
)
from modelexpress.providers.hub_reading import Reading
from modelexpress.providers.port import OnVersion, ignore_version
from modelexpress.providers.retry import RetryPolicy
from modelexpress.providers.tokens import check_token, find_hub_token

_MOST_TROUBLED = 3
_NO_SUCH = frozenset({404, 405, 501})
_NO = frozenset({401, 403, 404, 410, 451})
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Which Hub, and how patient to be with it.

    `mirrors` stand in for it where it does not answer, and never see a token.
    `max_bytes_per_second` bounds all bodies together; 0: nothing does. `instance` names this process to
    the origin, so that a loop is noticed.
    """

    endpoint: str = "https://huggingface.co"
    redirect_hosts: tuple[str, ...] = ()
    timeout_seconds: float = 30.0
    retry: RetryPolicy = RetryPolicy()
    user_agent: str = "modelexpress"
    mirrors: tuple[str, ...] = ()
    max_bytes_per_second: int = 0
    instance: str = field(default_factory=lambda: secrets.token_hex(8))


def make_provider(
    options: HubOptions, env: Mapping[str, str], clock: Clock = SYSTEM_CLOCK
) -> HuggingFaceProvider:
    """A provider whose token, proxies and certificates come from `env`; nothing is contacted yet."""

    def endpoint(address: str, is_origin: bool) -> Endpoint:
        outgoing = OutgoingOptions(
            places=Places(URL(address), frozenset(host.lower() for host in options.redirect_hosts)),
            user_agent=options.user_agent,
            instance=options.instance,
            timeout_seconds=options.timeout_seconds,
            retry=options.retry,
            env=env,
            clock=clock,
        )
        return Endpoint(address.rstrip("/"), Outgoing(outgoing), is_origin)

    mirrors = [endpoint(address, is_origin=False) for address in options.mirrors]
    places = [endpoint(options.endpoint, is_origin=True), *mirrors]
    # Bytes are proven wherever they come from; for a question to go elsewhere it takes more.
    for_bytes = Endpoints(places, options.retry, clock)
    for_questions = Endpoints(places, options.retry, clock, _MOST_TROUBLED)
    bandwidth = Bandwidth(options.max_bytes_per_second) if options.max_bytes_per_second else None
    files = HubFiles(for_bytes, bandwidth, clock)
    return HuggingFaceProvider(for_questions, files, lambda: find_hub_token(env))


class HuggingFaceProvider:
    """Implements Provider. `find_token` gives this process's own token, asked at each use."""

    kind = ProviderKind.HUGGING_FACE

    def __init__(self, endpoints: Endpoints, files: HubFiles, find_token: Callable[[], str | None]) -> None:
        self._endpoints = endpoints
        self._files = files
        self._find_token = find_token

    async def resolve(self, ref: ModelRef, caller: Caller, has_mirrors: bool = True) -> str:
        """The commit that `ref` means now, in one request; a full commit is its own answer."""
        if ref.is_pinned and ref.revision is not None:
            return ref.revision
        visits = self._endpoints.visits(has_mirrors)
        return await self._ask_in_turn(lambda visit: self._resolve_at(visit, ref, caller), visits)

    async def list_files(self, ref: ModelRef, commit: str, caller: Caller) -> Manifest:
        """All files of `commit`, by the tree listing, or by the description where a mirror has no tree."""

        async def ask(visit: Visit) -> Manifest:
            manifest = await self._list_at(visit, ref, commit, caller)
            return replace(manifest, is_of_mirror=not visit.endpoint.is_origin)

        return await self._ask_in_turn(ask)

    async def read(
        self,
        manifest: Manifest,
        entry: FileEntry,
        span: ByteSpan,
        caller: Caller,
        on_version: OnVersion = ignore_version,
    ) -> AsyncIterator[bytes]:
        """The bytes of `span` in order; after a reset it goes on where it was, after an outage elsewhere."""
        if entry.size and not span.length:
            return  # no Range header can ask for nothing
        reading = Reading(manifest, entry, span, on_version, caller)
        has_mirrors = entry.digest is not None
        async with aclosing(self._files.read(reading, has_mirrors, lambda: self._token(caller))) as pieces:
            async for piece in pieces:
                yield piece

    async def may_read(self, ref: ModelRef, caller: Caller) -> bool:
        """Whether the origin lets this caller read the repository's files, by the caller's token alone.

        A caller without one stands for this process itself, with the token it has.

        The Hub's own question for this is `auth-check`; where a mirror does not know it, being shown
        an ungated repository's description has to do, and a gated one is refused.
        """
        token = self._token(caller)
        origin = self._endpoints.origin  # nobody else has a say in this
        about = ("api", api_path(ref.name))
        retry = _patience_of(caller, self._endpoints.visits()[-1].retry) if caller.is_impatient else None
        asked = Ask(origin.url(*about, "auth-check"), token, retry=retry, via=caller.via)
        status = await origin.outgoing.get_status(asked)
        if status not in _NO_SUCH:
            return _is_yes(status, ref, origin.base)
        described, response = await origin.outgoing.get_json(replace(asked, url=origin.url(*about)))
        is_shown = _is_yes(response.status, ref, origin.base)
        return is_shown and isinstance(described, dict) and not described.get("gated")

    def has_credentials(self, caller: Caller) -> bool:
        """Whether a token goes to the origin for this caller: his own, or this process's."""
        return self._token(caller) is not None

    async def look_up(
        self, ref: ModelRef, path: str, caller: Caller, has_mirrors: bool = False
    ) -> Located | Document:
        """One file of what `ref` means now, by a single HEAD; or the origin's refusal, word for word."""

        def look(visit: Visit) -> Awaitable[Located | Document]:
            return self._look_up_at(visit, ref, path, caller)

        # A token that is limited may have lost its permission: the origin is there, and has not said.
        visits = self._endpoints.visits(has_mirrors, is_about_rights=True)
        return await self._ask_in_turn(look, visits, passed=(Unreachable,))

    async def ask(self, request: DocumentRequest, caller: Caller) -> Document:
        """What the origin itself answers, a refusal too. Raises Limited and Unreachable."""
        origin = self._endpoints.origin
        asked = Ask(
            origin.url(request.path, query=request.query),
            self._token(caller),
            headers={"Content-Type": request.content_type} if request.content_type else {},
            retry=_patience_of(caller, self._endpoints.visits()[-1].retry),
            method="GET" if request.body is None else "POST",
            body=request.body,
            via=caller.via,
        )
        response, body = await origin.outgoing.get_document(asked)
        return make_document(response, body, URL(origin.base))

    async def close(self) -> None:
        """Let go of connections."""
        await self._endpoints.close()

    async def _look_up_at(self, visit: Visit, ref: ModelRef, path: str, caller: Caller) -> Located | Document:
        endpoint, revision = visit.endpoint, quote(ref.revision or DEFAULT_BRANCH, safe="")
        ask = Ask(
            endpoint.url(ref.name, "resolve", revision, quote(path, safe="/")),
            self._token_for(visit, caller),
            retry=_patience_of(caller, visit.retry),
            method="HEAD",
            via=caller.via,
            seconds=visit.seconds,
        )
        async with endpoint.outgoing.request(ask) as answer:
            if answer.response.status < 400:
                return replace(locate(ref, path, answer), is_of_mirror=not endpoint.is_origin)
            if endpoint.is_origin:
                return refuse(ref, path, answer)
            raise NotFound(f"{endpoint.base} does not have {ref}: {path}")

    async def _ask_in_turn(
        self,
        ask: Callable[[Visit], Awaitable[_T]],
        visits: Sequence[Visit] = (),
        passed: Outages = (Unreachable, Limited),
    ) -> _T:
        for visit in visits or self._endpoints.visits():
            try:
                answer = await ask(visit)
            except MxError as error:
                self._endpoints.pass_over(visit, error, passed)
            else:
                self._endpoints.note_answer(visit)
                return answer
        raise AssertionError("the last turn answers or raises")

    async def _resolve_at(self, visit: Visit, ref: ModelRef, caller: Caller) -> str:
        token = self._token_for(visit, caller)
        ask = Ask(_revision_url(visit.endpoint, ref), token, retry=visit.retry, via=caller.via)
        answer, response = await visit.endpoint.outgoing.get_json(ask)
        raise_for_status(response, str(ref), token is not None, visit.endpoint.base)
        return read_commit(ref, answer)

    async def _list_at(self, visit: Visit, ref: ModelRef, commit: str, caller: Caller) -> Manifest:
        token = self._token_for(visit, caller)
        endpoint = visit.endpoint
        entries: list[FileEntry] = []
        seen: set[URL] = set()
        url: URL | None = endpoint.url(
            "api", api_path(ref.name), "tree", commit, query="recursive=true&expand=false"
        )
        while url is not None:
            seen.add(url)
            ask = Ask(url, token, retry=visit.retry, via=caller.via)
            page, response = await endpoint.outgoing.get_json(ask)
            if response.status in _NO_SUCH and not entries:
                return await _list_siblings(visit, ref, commit, ask)
            raise_for_status(response, f"{ref.name}@{commit}", token is not None, endpoint.base)
            entries.extend(read_tree_page(ref, page))
            if len(entries) > MOST_FILES:
                raise Corrupt(f"the origin lists more than {MOST_FILES} files of {ref}; refusing the listing")
            url = find_next_page(response.headers.get("Link", ""), response.url)
            if url in seen or len(seen) >= MOST_PAGES:
                raise Corrupt(f"the origin's file list of {ref} has no end; refusing the listing")
        return make_manifest(ref, commit, entries)

    def _token_for(self, visit: Visit, caller: Caller) -> str | None:
        return self._token(caller) if visit.endpoint.is_origin else None

    def _token(self, caller: Caller) -> str | None:
        if caller.hub_token is not None:
            return check_token(caller.hub_token, "this call")
        return None if caller.is_stranger else self._find_token()


def _is_yes(status: int, ref: ModelRef, base: str) -> bool:
    """What a status says of a caller; raises Unreachable for one that says nothing of him."""
    if status >= 400 and status not in _NO:
        raise Unreachable(f"{base} answers {status} to the question who may read {ref.name}; try again")
    return status < 400


async def _list_siblings(visit: Visit, ref: ModelRef, commit: str, asked: Ask) -> Manifest:
    endpoint = visit.endpoint
    url = _revision_url(endpoint, ref.at(commit)).with_query("blobs=true")
    answer, response = await endpoint.outgoing.get_json(replace(asked, url=url))
    raise_for_status(response, f"{ref.name}@{commit}", asked.token is not None, endpoint.base)
    if read_commit(ref, answer) != commit:
        raise NotFound(f"the origin does not have commit {commit} of {ref.name}")
    return make_manifest(ref, commit, read_siblings(ref, answer))


def _patience_of(caller: Caller, retry: RetryPolicy) -> RetryPolicy:
    """How a question of a client of the Hub is asked, who gives it up after 10 seconds."""
    patience = retry.shortened().impatient()
    return patience.at_once() if caller.is_impatient else patience


def _revision_url(endpoint: Endpoint, ref: ModelRef) -> URL:
    return endpoint.url("api", api_path(ref.name), "revision", quote(ref.revision or DEFAULT_BRANCH, safe=""))
