# SPDX-License-Identifier: Apache-2.0
"""What a document of a Hub's API says that is worth knowing, and the document without Xet. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from modelexpress.domain.errors import Corrupt, MxError
from modelexpress.domain.hub import Document, Located
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Listing
from modelexpress.domain.refs import ModelRef, is_commit

# The JSON parser lets no other thread run until it is done: 10 ms for a mebibyte. A page of a tree has a
# thousand rows, a quarter of that.
_MOST_PARSED_BYTES = 1024 * 1024
_PIECE_BYTES = 256 * 1024

# A quote after a backslash begins no name. What stands before or after goes with it: one comma.
_NAMED = rb'"xetHash"\s*:\s*(?:"(?:[^"\\}]|\\[^}])*"|null)'
_XET = re.compile(rb"(?:,\s*%b)|(?<!\\)%b\s*,?" % (_NAMED, _NAMED))


@dataclass(frozen=True, slots=True)
class Reading:
    """A document as it is handed on, and what it says.

    `commit`: what the moving revision is that it describes; `files`: of a commit; `is_open`: whether it says
    that everybody may read them, `is_closed`: that not everybody may. `listed`: which files a commit has, of
    which it names all.
    """

    document: Document
    commit: str | None = None
    files: tuple[Located, ...] = ()
    is_open: bool = False
    is_closed: bool = False
    listed: tuple[ModelRef, Listing] | None = None


def read_document(document: Document, kind: str, ref: ModelRef | None) -> Reading:
    """The answer to a question of `kind` about `ref`. Of a very long one nothing is learned.

    Raises Corrupt for what no Hub answers to that, as a page to sign in at.
    """
    document = _without_xet(document)
    if ref is None or document.is_refusal:
        return Reading(document)
    if kind == "other":
        if "text/html" in document.headers.get("Content-Type", ""):
            raise _no_hubs(ref)
        return Reading(document)
    is_long = len(document.body) > _MOST_PARSED_BYTES
    said = None if is_long else _parse(document.body)
    _check_shape(document.body, said, kind, ref)
    is_tree = kind in ("tree", "paths", "pages") and ref.is_pinned
    if kind == "description" and isinstance(said, dict):
        commit = said.get("sha")
        is_open = said.get("private") is False and said.get("gated") is False and not said.get("disabled")
        is_closed = said.get("private") is True or said.get("gated") in ("auto", "manual", True)
        if not isinstance(commit, str) or not is_commit(commit):
            return Reading(document, is_open=is_open, is_closed=is_closed)
        paths = _read_siblings(said.get("siblings"))
        is_of_it = not ref.is_pinned or ref.revision == commit
        listed = (ref.at(commit), Listing.of(paths)) if paths and is_of_it else None
        moving = None if ref.is_pinned else commit
        return Reading(document, moving, is_open=is_open, is_closed=is_closed, listed=listed)
    if is_tree and ref.revision is not None and isinstance(said, list):
        found = (_locate(ref.revision, row) for row in said)
        return Reading(document, files=tuple(located for located in found if located is not None))
    return Reading(document)


def _check_shape(body: bytes, said: Any, kind: str, ref: ModelRef) -> None:
    """Raise Corrupt unless it is a list or an object, as a Hub has them; `said` None: it was not parsed."""
    shape, ends = (dict, b"{}") if kind in ("description", "refs") else (list, b"[]")
    stripped = body.strip() if len(body) > _MOST_PARSED_BYTES else b""
    if stripped[:1] + stripped[-1:] != ends and not isinstance(said, shape):
        raise _no_hubs(ref)


def _no_hubs(ref: ModelRef) -> Corrupt:
    return Corrupt(f"the origin's answer about {ref} is none of a Hub; is origin.endpoint one?", True)


def _without_xet(document: Document) -> Document:
    """The same without Xet ids: whoever sees them gets the bytes elsewhere."""
    body = document.body
    if b'"xetHash"' not in body:
        return document
    pieces, start = [], 0
    while start < len(body):  # in pieces, since other threads can run only between them
        end = body.find(b"}", start + _PIECE_BYTES) + 1 or len(body)
        pieces.append(_XET.sub(b"", body[start:end]))
        start = end
    return replace(document, body=b"".join(pieces))


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _read_siblings(rows: Any) -> list[str]:
    """The names of all files; none where it cannot be told."""
    try:
        paths = [row["rfilename"] for row in rows]
    except (KeyError, TypeError):
        return []
    return paths if all(isinstance(path, str) for path in paths) else []


def _locate(commit: str, row: Any) -> Located | None:
    """The file in a row of a tree; None for a folder, and for what cannot be used."""
    try:
        if row["type"] != "file":
            return None
        lfs = row.get("lfs")
        digest = Digest(DigestKind.SHA256, lfs["oid"]) if lfs else Digest(DigestKind.GIT_BLOB, row["oid"])
        size = row["size"]
        if not isinstance(size, int) or isinstance(size, bool):
            return None
        return Located(commit, FileEntry(row["path"], size, digest, str(row["oid"])), digest.value)
    except (MxError, KeyError, TypeError, AttributeError):
        return None
