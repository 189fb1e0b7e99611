# SPDX-License-Identifier: Apache-2.0
"""Reading what the Hub says of one file, and handing on what it says word for word. Trusts none of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import aiohttp

from modelexpress.domain.errors import Corrupt
from modelexpress.domain.hub import COMMIT, ERROR_CODE, ERROR_MESSAGE, Document, Located
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry
from modelexpress.domain.refs import ModelRef, is_commit, shown
from modelexpress.providers.http import Answer

# Nothing of Xet: whoever is sent there would pass us by.
_KEPT = ("Content-Type", "Link", ERROR_CODE, ERROR_MESSAGE, COMMIT)
_SIZE = re.compile(r"[0-9]{1,18}")
_ETAG = re.compile(r"[\x21\x23-\x7e]{1,200}")


def make_document(response: aiohttp.ClientResponse, body: bytes) -> Document:
    """An answer with the headers that clients rely on."""
    return Document(response.status, _kept(response.headers), body)


def refuse(answer: Answer) -> Document:
    """A refusal, which says in its headers why."""
    return Document(answer.response.status, _kept(answer.response.headers))


def locate(ref: ModelRef, path: str, answer: Answer) -> Located:
    """The file that the heads of a HEAD and its redirects describe. Raises Corrupt."""
    heads = [response.headers for response in (*answer.redirects, answer.response)]
    what = f"the origin's answer for {ref}, {shown(path)}, cannot be used"
    commit = _first(heads, COMMIT)
    if commit is None or not is_commit(commit):
        raise Corrupt(f"{what}: it names no commit; is origin.endpoint a Hub?")
    # The redirect alone says what it leads to: a CDN has etags of its own, and a cache may have sizes.
    etag = _clean(_first(heads, "X-Linked-Etag") or _first(heads[-1:], "ETag") or "")
    size = _first(heads, "X-Linked-Size") or _first(heads[-1:], "Content-Length") or ""
    if not _SIZE.fullmatch(size) or not _ETAG.fullmatch(etag):
        raise Corrupt(f"{what}: it names no size, or no version (ETag)")
    is_said = _first(heads, "X-Linked-Etag") is not None or not answer.redirects
    entry = FileEntry(path, int(size), _digest(etag) if is_said else None, None, _first(heads, "X-Xet-Hash"))
    return Located(commit, entry, etag)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in _KEPT if name in headers}


def _first(heads: Sequence[Mapping[str, str]], name: str) -> str | None:
    return next((head[name] for head in heads if name in head), None)


def _clean(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _digest(etag: str) -> Digest | None:
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return Digest(DigestKind.SHA256, etag)
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        return Digest(DigestKind.GIT_BLOB, etag)
    return None
