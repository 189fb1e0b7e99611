# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face Hub, and mirrors that speak its API."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from yarl import URL

from modelexpress.domain.caller import Caller
from modelexpress.domain.clock import SYSTEM_CLOCK, Clock
from modelexpress.domain.errors import (
    Corrupt,
    Forbidden,
    MxError,
    NotFound,
    Unauthenticated,
    Unreachable,
)
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import ModelRef, ProviderKind, shown
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers.addresses import Places
from modelexpress.providers.http import Outgoing, OutgoingOptions
from modelexpress.providers.hub_listing import (
    MOST_FILES,
    MOST_PAGES,
    find_next_page,
    make_manifest,
    read_commit,
    read_siblings,
    read_tree_page,
)
from modelexpress.providers.retry import RetryPolicy
from modelexpress.providers.tokens import check_token, find_hub_token

DEFAULT_BRANCH = "main"
_PIECE_BYTES = 1024 * 1024
_NO_TREE = frozenset({404, 405, 501})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Which Hub, and how patient to be with it."""

    endpoint: str = "https://huggingface.co"
    redirect_hosts: tuple[str, ...] = ()
    timeout_seconds: float = 30.0
    retry: RetryPolicy = RetryPolicy()
    user_agent: str = "modelexpress"


def make_provider(
    options: HubOptions, env: Mapping[str, str], clock: Clock = SYSTEM_CLOCK
) -> HuggingFaceProvider:
    """A provider whose token, proxies and certificates come from `env`; nothing is contacted yet."""
    places = Places(URL(options.endpoint), frozenset(host.lower() for host in options.redirect_hosts))
    outgoing = OutgoingOptions(
        places=places,
        user_agent=options.user_agent,
        instance=secrets.token_hex(8),
        timeout_seconds=options.timeout_seconds,
        retry=options.retry,
        env=env,
        clock=clock,
    )
    return HuggingFaceProvider(Outgoing(outgoing), lambda: find_hub_token(env))


class HuggingFaceProvider:
    """Implements Provider. `find_token` gives this process's own token, asked at each use."""

    kind = ProviderKind.HUGGING_FACE

    def __init__(self, outgoing: Outgoing, find_token: Callable[[], str | None]) -> None:
        self._outgoing = outgoing
        self._find_token = find_token
        self._base = str(outgoing.options.places.origin).rstrip("/")

    async def resolve(self, ref: ModelRef, caller: Caller) -> str:
        """The commit that `ref` means now, in one request; a full commit is its own answer."""
        if ref.is_pinned and ref.revision is not None:
            return ref.revision
        token = self._token(caller)
        answer, response = await self._outgoing.get_json(self._revision_url(ref), token)
        self._raise_for_status(response, str(ref), has_token=token is not None)
        return read_commit(ref, answer)

    async def list_files(self, ref: ModelRef, commit: str, caller: Caller) -> Manifest:
        """All files of `commit`, by the tree listing, or by the description where a mirror has no tree."""
        token = self._token(caller)
        entries: list[FileEntry] = []
        seen: set[URL] = set()
        url: URL | None = self._url(
            "api/models", ref.name, "tree", commit, query="recursive=true&expand=false"
        )
        while url is not None:
            seen.add(url)
            page, response = await self._outgoing.get_json(url, token)
            if response.status in _NO_TREE and not entries:
                return await self._list_siblings(ref, commit, token)
            self._raise_for_status(response, f"{ref.name}@{commit}", has_token=token is not None)
            entries.extend(read_tree_page(ref, page))
            if len(entries) > MOST_FILES:
                raise Corrupt(f"the origin lists more than {MOST_FILES} files of {ref}; refusing the listing")
            url = find_next_page(response.headers.get("Link", ""), response.url)
            if url in seen or len(seen) >= MOST_PAGES:
                raise Corrupt(f"the origin's file list of {ref} has no end; refusing the listing")
        return make_manifest(ref, commit, entries)

    async def read(
        self, manifest: Manifest, entry: FileEntry, span: ByteSpan, caller: Caller
    ) -> AsyncIterator[bytes]:
        """The bytes of `span` in order; after a reset it goes on where it was."""
        reading = _Reading(manifest, entry, span)
        if entry.size and not span.length:
            return  # no Range header can ask for nothing
        url = self._file_url(manifest, entry)
        attempt = 1
        while True:
            before = reading.left.start
            try:
                async for piece in self._read_on(url, reading, self._token(caller)):
                    yield piece
                return
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                attempt = 1 if reading.left.start > before else attempt + 1
                if not await self._outgoing.pause(attempt):
                    raise Unreachable(
                        f"{manifest.ref.name}: {shown(entry.path)} broke off at byte {reading.left.start} of "
                        f"{entry.size} and could not be continued: {str(error) or type(error).__name__}"
                    ) from error
                _log.debug("%s: %s broke off at %d", manifest.ref.name, entry.path, reading.left.start)

    async def may_read(self, ref: ModelRef, caller: Caller) -> bool:
        """Whether the origin lets this caller read the repository's files, by the caller's token alone.

        A caller without one stands for this process itself, with the token it has.

        The Hub's own question for this is `auth-check`; where a mirror does not know it, being shown
        an ungated repository's description has to do, and a gated one is refused.
        """
        token = self._token(caller)
        status = await self._outgoing.get_status(self._url("api/models", ref.name, "auth-check"), token)
        if status in (401, 403):
            return False
        if status != 404:
            return status < 400
        described, response = await self._outgoing.get_json(self._url("api/models", ref.name), token)
        return response.status < 400 and isinstance(described, dict) and not described.get("gated")

    async def close(self) -> None:
        """Let go of connections."""
        await self._outgoing.close()

    def _token(self, caller: Caller) -> str | None:
        return self._find_token() if caller.hub_token is None else check_token(caller.hub_token, "this call")

    async def _list_siblings(self, ref: ModelRef, commit: str, token: str | None) -> Manifest:
        url = self._revision_url(ref.at(commit)).with_query("blobs=true")
        answer, response = await self._outgoing.get_json(url, token)
        self._raise_for_status(response, f"{ref.name}@{commit}", has_token=token is not None)
        if read_commit(ref, answer) != commit:
            raise NotFound(f"the origin does not have commit {commit} of {ref.name}")
        return make_manifest(ref, commit, read_siblings(ref, answer))

    async def _read_on(self, url: URL, reading: _Reading, token: str | None) -> AsyncIterator[bytes]:
        async with self._outgoing.request("GET", url, token, reading.headers()) as response:
            if reading.is_past_end(response):
                return
            if response.status in (401, 403) and response.url.origin() != url.origin():
                raise ConnectionError("the address that the origin gave has expired")
            self._raise_for_status(response, reading.what, has_token=token is not None)
            skip = reading.check_head(response)
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                taken = piece[skip:]
                skip = max(skip - len(piece), 0)
                if taken:
                    yield reading.take(taken)
                if reading.is_satisfied_early:
                    return
        reading.check_end()

    def _revision_url(self, ref: ModelRef) -> URL:
        return self._url("api/models", ref.name, "revision", quote(ref.revision or DEFAULT_BRANCH, safe=""))

    def _file_url(self, manifest: Manifest, entry: FileEntry) -> URL:
        return self._url(manifest.ref.name, "resolve", manifest.commit, quote(entry.path, safe="/"))

    def _url(self, *parts: str, query: str = "") -> URL:
        return URL("/".join((self._base, *parts)) + ("?" + query if query else ""), encoded=True)

    def _raise_for_status(self, response: aiohttp.ClientResponse, what: str, has_token: bool) -> None:
        if response.status < 400:
            return
        raise _error_for(response, what, has_token, self._base)


class _Reading:
    """One file's span on its way: what is still to come, and what the answers must agree on."""

    def __init__(self, manifest: Manifest, entry: FileEntry, span: ByteSpan) -> None:
        self.what = f"{manifest.ref.name}@{manifest.commit[:12]}: {shown(entry.path)}"
        self.left = span
        self._commit = manifest.commit
        self._size = entry.size
        self._etag: str | None = None

    @property
    def is_satisfied_early(self) -> bool:
        """True when the wanted span has arrived, though the answer may hold more of the file."""
        return self.left.length == 0 and self.left.end < self._size

    def headers(self) -> dict[str, str]:
        """A Range, unless the whole file is wanted."""
        if self.left.start == 0 and self.left.end == self._size:
            return {}
        return {"Range": f"bytes={self.left.start}-{self.left.end - 1}"}

    def is_past_end(self, response: aiohttp.ClientResponse) -> bool:
        """True when there was nothing more to ask for: some servers answer an empty file with 416."""
        return response.status == 416 and self.left.length == 0

    def check_head(self, response: aiohttp.ClientResponse) -> int:
        """How many leading bytes of the body are to be skipped. Raises Corrupt when the file has changed."""
        commit = response.headers.get("X-Repo-Commit")
        if commit is not None and commit != self._commit:
            raise Corrupt(f"{self.what}: the origin answers with commit {shown(commit)}")
        etag = response.headers.get("ETag")
        if self._etag is not None and etag is not None and etag != self._etag:
            raise Corrupt(f"{self.what}: the file changed at the origin while it was read")
        self._etag = self._etag or etag
        if response.status != 206:
            return self._skip_of_whole(response)
        start, total = _content_range(response.headers.get("Content-Range", ""))
        if start != self.left.start or total not in (None, self._size):
            raise Corrupt(f"{self.what}: the origin answers with another range than was asked for")
        return 0

    def take(self, piece: bytes) -> bytes:
        """The part of `piece` that is wanted, counted. Raises Corrupt when the file is too long."""
        if len(piece) > self.left.length:
            if self.left.end == self._size:
                raise Corrupt(f"{self.what}: the origin sends more than the listed {self._size} bytes")
            piece = piece[: self.left.length]
        self.left = self.left.after(len(piece))
        return piece

    def check_end(self) -> None:
        """Raise ConnectionError when the body ended before the span did."""
        if self.left.length:
            raise ConnectionError(f"the body ended {self.left.length} bytes too early")

    def _skip_of_whole(self, response: aiohttp.ClientResponse) -> int:
        length = response.content_length
        if length is not None and length != self._size:
            raise Corrupt(f"{self.what}: the origin has {length} bytes, its listing says {self._size}")
        return self.left.start


def _content_range(text: str) -> tuple[int | None, int | None]:
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdecimal():
        return None, None
    return int(start), int(total) if total.isdecimal() else None


def _error_for(response: aiohttp.ClientResponse, what: str, has_token: bool, base: str) -> MxError:
    code = response.headers.get("X-Error-Code", "")
    status = response.status
    if code == "GatedRepo":
        kind = Forbidden if has_token else Unauthenticated
        return kind(f"{what} is gated: ask for access at {base}, and give a token that has it (HF_TOKEN)")
    if status == 401 or code == "RepoNotFound":
        if has_token and code == "RepoNotFound":
            return NotFound(f"{what} does not exist at {base}, or the token may not see it; check the name")
        return Unauthenticated(
            f"{what} does not exist at {base}, or it is private and needs a token "
            f"{'that may read it' if has_token else '(HF_TOKEN)'}"
        )
    if status == 403:
        return Forbidden(f"{base} does not let this token read {what}")
    if status in (404, 410):
        missing = {"RevisionNotFound": "the revision", "EntryNotFound": "the file"}.get(code, "it")
        return NotFound(f"{what}: {missing} does not exist at {base}")
    return Unreachable(f"{base} answers {status} {response.reason} for {what}")
