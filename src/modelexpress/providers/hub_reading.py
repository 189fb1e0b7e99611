# SPDX-License-Identifier: Apache-2.0
"""One file's span on its way from a Hub: what is still to come, and what the answers must agree on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import aiohttp
from yarl import URL

from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import Corrupt, Unsupported
from modelexpress.domain.manifest import DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import shown
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers.endpoints import Endpoint
from modelexpress.providers.http import Answer
from modelexpress.providers.port import OnVersion
from modelexpress.providers.retry import RetryPolicy

_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')
_CONTENT_RANGE = re.compile(r"bytes +([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19}|\*)")


class Reading:
    """What is left of a span, and which version of the file each host has shown.

    `is_changed`: a host showed another version than before, here or in what `on_version` remembers.
    """

    def __init__(
        self,
        manifest: Manifest,
        entry: FileEntry,
        span: ByteSpan,
        on_version: OnVersion,
        caller: Caller = ANONYMOUS,
    ) -> None:
        self.what = f"{manifest.ref.name}@{manifest.commit[:12]}: {shown(entry.path)}"
        self.left = span
        self.is_changed = False
        self.via = caller.via
        self._name = manifest.ref.name
        self._commit = manifest.commit
        self._entry = entry
        self._begins_inside = span.start > 0
        self._on_version = on_version
        self._versions: dict[str, str] = {}
        self._is_impatient = caller.is_impatient

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._entry.size

    @property
    def is_satisfied_early(self) -> bool:
        """True when the wanted span has arrived, though the answer may hold more of the file."""
        return self.left.length == 0 and self.left.end < self.size

    def patience_of(self, retry: RetryPolicy) -> RetryPolicy:
        """As patient as `retry`; less while somebody waits for the file's first byte and can be told so."""
        return retry.shortened().impatient() if self._is_impatient and self.left.start == 0 else retry

    def url_at(self, endpoint: Endpoint) -> URL:
        """Where `endpoint` has the file."""
        return endpoint.url(self._name, "resolve", self._commit, quote(self._entry.path, safe="/"))

    def headers(self) -> dict[str, str]:
        """A Range, unless the whole file is wanted."""
        if self.left.start == 0 and self.left.end == self.size:
            return {}
        return {"Range": f"bytes={self.left.start}-{self.left.end - 1}"}

    def is_past_end(self, response: aiohttp.ClientResponse) -> bool:
        """True when there was nothing more to ask for: some servers answer an empty file with 416.

        Raises Corrupt where there should have been.
        """
        if response.status == 416 and self.left.length:
            raise self._changed("it ends before the listing says")
        return response.status == 416

    def accept(self, answer: Answer) -> int:
        """How many leading bytes of the body are to be skipped.

        Raises Corrupt when the file has changed, Unsupported for a whole file in place of its middle.
        """
        response = answer.response
        for head in (*answer.redirects, response):
            self._check_linked(head.headers)
        commit = response.headers.get("X-Repo-Commit")
        if commit is not None and commit != self._commit:
            raise Corrupt(f"{self.what}: the origin answers with commit {shown(commit)}")
        skip = self._check_span(response)
        self._check_version(response)
        return skip

    def take(self, piece: bytes) -> bytes:
        """The part of `piece` that is wanted, counted. Raises Corrupt when the file is too long."""
        if len(piece) > self.left.length:
            if self.left.end == self.size:
                raise Corrupt(f"{self.what}: the origin sends more than the listed {self.size} bytes")
            piece = piece[: self.left.length]
        self.left = self.left.after(len(piece))
        return piece

    def check_end(self) -> None:
        """Raise ConnectionError when the body ended before the span did."""
        if self.left.length:
            raise ConnectionError(f"the body ended {self.left.length} bytes too early")

    def _check_linked(self, headers: Mapping[str, str]) -> None:
        # The Hub says on its redirect alone what it redirects to; a CDN has etags of its own.
        size = headers.get("X-Linked-Size", "")
        if size.isdecimal() and int(size[:19]) != self.size:
            raise self._changed(f"it has {int(size[:19])} bytes, the listing says {self.size}")
        digest, linked = self._entry.digest, _SHA256.fullmatch(headers.get("X-Linked-Etag", ""))
        if digest is None or digest.kind is not DigestKind.SHA256 or linked is None:
            return
        if linked[1] != digest.value:
            raise self._changed(f"its sha256 is {linked[1]}, the listing says {digest.value}")

    def _check_span(self, response: aiohttp.ClientResponse) -> int:
        if response.status != 206:
            return self._skip_of_whole(response)
        start, total = _content_range(response.headers.get("Content-Range", ""))
        if start != self.left.start or total not in (None, self.size):
            raise Corrupt(f"{self.what}: the origin answers with another range than was asked for")
        return 0

    def _skip_of_whole(self, response: aiohttp.ClientResponse) -> int:
        length = response.content_length
        if length is not None and length != self.size:
            raise Corrupt(f"{self.what}: the origin has {length} bytes, its listing says {self.size}")
        if self._begins_inside:
            raise Unsupported(f"{self.what}: {response.url.authority} answers ranges with the whole file")
        return self.left.start

    def _check_version(self, response: aiohttp.ClientResponse) -> None:
        etag, host = response.headers.get("ETag", ""), response.url.authority
        if not etag or etag.startswith("W/"):
            return
        try:
            if self._versions.setdefault(host, etag) != etag:
                raise self._changed("while it was read")
            self._on_version(host, etag)
        except Corrupt:
            self.is_changed = True
            raise

    def _changed(self, how: str) -> Corrupt:
        return Corrupt(f"{self.what}: the file changed at the origin: {how}")


def _content_range(text: str) -> tuple[int | None, int | None]:
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if found is None:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])
