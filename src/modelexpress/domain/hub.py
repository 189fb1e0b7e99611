# SPDX-License-Identifier: Apache-2.0
"""What a Hub says: documents of its API, where a file of a revision is, and its refusals. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelexpress.domain.caller import Caller
from modelexpress.domain.manifest import DigestKind, FileEntry

ERROR_CODE = "X-Error-Code"
ERROR_MESSAGE = "X-Error-Message"
COMMIT = "X-Repo-Commit"
NOT_PUBLIC = frozenset({"RepoNotFound", "GatedRepo"})
"""Codes of refusals that say that not everybody may read the repository."""
REFUSALS = NOT_PUBLIC | {"RevisionNotFound", "EntryNotFound"}
"""Codes of refusals that say something of what was asked for, and not of how it was asked."""

# With which it refuses; with any other only in its own words.
_SAID = frozenset({401, 403, 404, 405, 410, 413, 414, 416, 422, 431, 451})
_LONG_BYTES = 1000

REPOSITORY_TYPES = ("models", "datasets", "spaces")


@dataclass(frozen=True, slots=True)
class DocumentRequest:
    """A question to a Hub's API. `path`: below its address, quoted; `body` is sent by POST."""

    path: str
    query: str = ""
    body: bytes | None = None
    content_type: str = ""

    @property
    def asked_bytes(self) -> int:
        """How long it is."""
        return len(self.path) + len(self.query) + len(self.body or b"")


@dataclass(frozen=True, slots=True)
class Document:
    """An answer of a Hub, or its refusal (a status of 400 or more): the headers that clients rely on.

    A `Link` is that of the following page, below the Hub's address: `</api/…>; rel="next"`.
    `is_stale`: the origin did not answer, so this is how it was when it was last asked.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_stale: bool = False

    @property
    def is_refusal(self) -> bool:
        """Whether it says no."""
        return self.status >= 400


@dataclass(frozen=True, slots=True)
class Located:
    """One file of a revision. `etag`: how the Hub names this version, without quotes.

    `is_of_mirror`: a mirror said so, which proves nothing about who may read it or what a branch means.
    """

    commit: str
    entry: FileEntry
    etag: str
    is_of_mirror: bool = False


def is_denial(answer: Document) -> bool:
    """Whether a Hub says that this caller may not read: who may not see a repository hears of none."""
    return answer.status in (401, 403) or is_of_none(answer)


def is_about_repository(answer: Document, rights: Caller) -> bool:
    """Whether a refusal to these rights is about all of the repository.

    A bare 401 or 403 can be one of a single path: of a firewall before the origin, or of a file that is
    blocked there. But a 401 to somebody with a token is one of the token, whatever is asked.
    """
    is_of_token = answer.status == 401 and not rights.is_stranger
    return answer.is_refusal and (is_of_token or answer.headers.get(ERROR_CODE) in NOT_PUBLIC)


def is_of_none(answer: Document) -> bool:
    """Whether a Hub says that there is no such repository, for this caller at least."""
    return answer.is_refusal and answer.headers.get(ERROR_CODE) == "RepoNotFound"


def api_path(name: str) -> str:
    """Where a Hub's API has a repository: `models/org/name`, `datasets/org/name`."""
    return name if is_typed(name) else f"models/{name}"


def is_typed(name: str) -> bool:
    """Whether a name is that of a dataset or a space: `datasets/org/name`."""
    return name.startswith(("datasets/", "spaces/"))


def lfs_pointer(entry: FileEntry) -> bytes | None:
    """What git itself holds of a large file; None for a file that it holds whole."""
    if entry.digest is None or entry.digest.kind is not DigestKind.SHA256:
        return None
    said = f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry.digest.value}\nsize {entry.size}\n"
    return said.encode()


def git_id(entry: FileEntry) -> str | None:
    """The git id of a file, or of its pointer; None where that cannot be known."""
    if entry.blob_id is not None:
        return entry.blob_id
    pointer = lfs_pointer(entry)
    if pointer is not None:
        return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()
    is_git = entry.digest is not None and entry.digest.kind is DigestKind.GIT_BLOB
    return entry.digest.value if is_git and entry.digest is not None else None


def refusal(status: int, code: str, message: str, commit: str | None = None) -> Document:
    """A no in the Hub's own words; `code` empty: none of those that clients know."""
    headers = {ERROR_MESSAGE: message}
    if code:
        headers[ERROR_CODE] = code
    if commit is not None:
        headers[COMMIT] = commit
    return Document(status, headers)


def is_no_hubs(answer: Document, asked_bytes: int) -> bool:
    """Whether a refusal is what no Hub says to a question of so many bytes: a proxy says it, or a portal."""
    if not answer.is_refusal or answer.status in _SAID or {ERROR_CODE, ERROR_MESSAGE} & answer.headers.keys():
        return False
    # Who asks can make a question so long that any server says no to it.
    is_of_length = answer.status == 400 and asked_bytes > _LONG_BYTES
    return not is_of_length and "json" not in answer.headers.get("Content-Type", "")
