# SPDX-License-Identifier: Apache-2.0
"""Reading what the Hub says of one file, and handing on what it says word for word. Trusts none of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import aiohttp
from yarl import URL

from modelexpress.domain.errors import Corrupt
from modelexpress.domain.hub import COMMIT, ERROR_CODE, ERROR_MESSAGE, Document, Located, is_no_hubs
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry
from modelexpress.domain.refs import ModelRef, is_commit, shown
from modelexpress.providers.http import Answer
from modelexpress.providers.hub_listing import find_next_page

# Nothing of Xet: whoever is sent there would pass us by.
_KEPT = ("Content-Type", "Link", ERROR_CODE, ERROR_MESSAGE, COMMIT)
_SIZE = re.compile(r"[0-9]{1,18}")
_ETAG = re.compile(r"[\x21\x23-\x7e]{1,200}")


def make_document(response: aiohttp.ClientResponse, body: bytes, base: URL) -> Document:
    """An answer with the headers that clients rely on; `base`: the origin's address. Raises Corrupt."""
    status, headers = response.status, _kept(response.headers)
    if status < 400 and status != 200:
        what = f"the origin answers a question with {status}, which is neither an answer nor a no"
        raise Corrupt(what, is_nonsense=True)
    packed = response.headers.get("Content-Encoding", "identity")
    if packed != "identity":
        if status < 400:
            raise Corrupt(
                f"the origin packs its answer ({shown(packed)}), unlike a Hub; try again later", True
            )
        headers.pop("Content-Type", None)
        body = b""
    link = headers.pop("Link", "")
    following = None if status >= 400 else find_next_page(link, response.url)
    if following is not None:
        headers["Link"] = f'<{_below(base, following)}>; rel="next"'
    return Document(status, headers, body)


def refuse(ref: ModelRef, path: str, answer: Answer) -> Document:
    """A refusal, which says in its headers why. Raises Corrupt where no Hub says such a thing."""
    refusal = Document(answer.response.status, _kept(answer.response.headers))
    if is_no_hubs(refusal, len(str(answer.response.url))):
        what = f"the origin's answer for {ref}, {shown(path)}, is {refusal.status}"
        raise Corrupt(f"{what}, which no Hub says to that; try again later", is_nonsense=True)
    return refusal


def locate(ref: ModelRef, path: str, answer: Answer) -> Located:
    """The file that the heads of a HEAD and its redirects describe. Raises Corrupt."""
    heads = [response.headers for response in (*answer.redirects, answer.response)]
    what = f"the origin's answer for {ref}, {shown(path)}, cannot be used"
    commit = _first(heads, COMMIT)
    if commit is None or not is_commit(commit):
        raise Corrupt(f"{what}: it names no commit; is origin.endpoint a Hub?", is_nonsense=True)
    # The redirect alone says what it leads to: a CDN has etags of its own, and a cache may have sizes.
    etag = _clean(_first(heads, "X-Linked-Etag") or _first(heads[-1:], "ETag") or "")
    size = _first(heads, "X-Linked-Size") or _first(heads[-1:], "Content-Length") or ""
    if not _SIZE.fullmatch(size) or not _ETAG.fullmatch(etag):
        raise Corrupt(f"{what}: it names no size, or no version (ETag)", is_nonsense=True)
    is_said = _first(heads, "X-Linked-Etag") is not None or not answer.redirects
    entry = FileEntry(path, int(size), _digest(etag) if is_said else None, None, _first(heads, "X-Xet-Hash"))
    return Located(commit, entry, etag)


def _below(base: URL, target: URL) -> str:
    """The part of an address that another server has too. Raises Corrupt where it is not below `base`."""
    folder = base.raw_path.rstrip("/") if target.origin() == base.origin() else ""
    path = target.raw_path_qs.removeprefix(folder)
    if not target.raw_path.startswith(f"{folder}/") or path.startswith("//"):
        raise Corrupt(f"the origin's list goes on outside of its own address, at {shown(target.raw_path)}")
    return path


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
