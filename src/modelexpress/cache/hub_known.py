# SPDX-License-Identifier: Apache-2.0
"""What an origin has said: of files of commits, which never change, and what holds for a while. Pure."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelexpress.domain.caller import Caller
from modelexpress.domain.clock import Clock
from modelexpress.domain.hub import Document, DocumentRequest, Located, is_about_repository, is_of_none
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import is_ancillary

_MOST = 100_000
_MOST_PATH_BYTES = 16 * 1024 * 1024  # of the paths of files that there are; of others none is kept
_MOST_LATELY = 10_000
_MOST_DOCUMENTS = 10_000
_MOST_DOCUMENT_BYTES = 64 * 1024 * 1024
_LARGEST_DOCUMENT_BYTES = _MOST_DOCUMENT_BYTES // 8  # a few of them must not send away all others
_ENTRY_BYTES = 1024  # of what is kept with each document: about that much, in Python's objects
_EVERYTHING, _WEIGHTS = "/", "/weights"  # no path begins so
_SILENT_SECONDS = 10.0
_SILENT_FILES = 2
_ALL: tuple[str, ModelRef | None] = ("", None)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class FileKey:
    """A path at a commit of a repository."""

    name: str
    commit: str
    path: str

    @property
    def digest(self) -> bytes:
        """The same in a few bytes: a path has up to 16 KiB, and anybody can ask for a hundred thousand."""
        return _digest(self.name, self.commit, self.path)


class Lately(Generic[K, V]):
    """What counts for a while from when it was noted; the oldest goes where there is too much."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[K, tuple[V, float]] = {}

    def note(self, key: K, value: V, seconds: float) -> None:
        """`value` counts for `key` from now on, for so long."""
        self._known.pop(key, None)
        self._known[key] = (value, self._clock.monotonic() + seconds)
        if len(self._known) > _MOST_LATELY:
            del self._known[next(iter(self._known))]

    def forget(self, key: K) -> None:
        """Nothing counts for `key` any more."""
        self._known.pop(key, None)

    def find(self, key: K) -> V | None:
        """What counts for `key` now."""
        value, until = self._known.get(key, (None, 0.0))
        return value if until > self._clock.monotonic() else None


class Silence:
    """Whose questions the origin has just left without an answer, so that nobody waits for it each time.

    Only a question's own silence counts, or that of two files of the same repository that there are, to the
    same client: nobody shall bring it about that others are not asked about. Where nobody is there at all,
    that is so for all.
    """

    def __init__(self, clock: Clock) -> None:
        self._left = Lately[tuple[str, ModelRef | None], frozenset[str]](clock)
        self._absent = Lately[bytes, bool](clock)

    def note(
        self, rights: Caller, repository: ModelRef, path: str, is_gone: bool, is_file: bool = True
    ) -> None:
        """A question that can be answered from here had no answer.

        `is_file`: as far as is known there is one.
        """
        if is_gone:
            self._left.note(_ALL, frozenset(), _SILENT_SECONDS)
        if not is_file:  # anybody can make such names up
            self._absent.note(asked_key(rights, repository, path), True, _SILENT_SECONDS)
            return
        key = (rights.fingerprint, repository)
        self._left.note(key, (self._left.find(key) or frozenset()) | {path}, _SILENT_SECONDS)

    def note_answer(self, rights: Caller, repository: ModelRef) -> None:
        """The origin has answered."""
        for key in (_ALL, (rights.fingerprint, repository)):
            self._left.forget(key)

    def is_on(self, rights: Caller, repository: ModelRef, path: str) -> bool:
        """Whether the origin need not be asked now."""
        paths = self._left.find((rights.fingerprint, repository)) or frozenset()
        if self._absent.find(asked_key(rights, repository, path)):
            return True
        return self._left.find(_ALL) is not None or path in paths or len(paths) >= _SILENT_FILES


class Refusals:
    """What the origin refused to whom, for a while: one no is enough for all that it is about."""

    def __init__(self, clock: Clock) -> None:
        self._said = Lately[bytes, Document](clock)

    def note(self, rights: Caller, repository: ModelRef, path: str, answer: Document, seconds: float) -> None:
        """With these rights `path` was asked for, and refused."""
        if is_of_none(answer):
            path = _EVERYTHING
        elif is_about_repository(answer, rights) and not is_ancillary(path):
            path = _WEIGHTS
        self._said.note(asked_key(rights, repository, path), answer, seconds)

    def find(self, rights: Caller, repository: ModelRef, path: str) -> Document | None:
        """What `path` would be refused with."""
        # Of a gated model everybody may read the description, which can be refused by itself alone.
        keys = (_EVERYTHING, path) if is_ancillary(path) else (_EVERYTHING, _WEIGHTS, path)
        found = (self._said.find(asked_key(rights, repository, key)) for key in keys)
        return next((answer for answer in found if answer is not None), None)


class KnownFiles:
    """The files that were asked about last. A path can be known not to be there."""

    def __init__(self) -> None:
        self._files: OrderedDict[bytes, Located | None] = OrderedDict()
        self._path_bytes = 0

    def note(self, name: str, located: Located) -> None:
        """There is such a file."""
        self._put(FileKey(name, located.commit, located.entry.path), located)

    def note_absent(self, key: FileKey) -> None:
        """There is none."""
        self._put(key, None)

    def find(self, key: FileKey) -> Located | None:
        """The file; None: there is none, or nobody knows."""
        digest = key.digest
        if digest in self._files:
            self._files.move_to_end(digest)
        return self._files.get(digest)

    def is_absent(self, key: FileKey) -> bool:
        """Whether it is known that there is no such file."""
        digest = key.digest
        return digest in self._files and self._files[digest] is None

    def _put(self, key: FileKey, located: Located | None) -> None:
        digest = key.digest
        self._path_bytes -= _path_bytes(self._files.pop(digest, None))
        self._files[digest] = located
        self._path_bytes += _path_bytes(located)
        while len(self._files) > _MOST or self._path_bytes > _MOST_PATH_BYTES:
            _, oldest = self._files.popitem(last=False)
            self._path_bytes -= _path_bytes(oldest)


def asked_key(rights: Caller, repository: ModelRef, path: str) -> bytes:
    """Who asked for which file, in a few bytes."""
    return _digest(rights.fingerprint, repository.provider.value, repository.name, path)


def _path_bytes(located: Located | None) -> int:
    return 0 if located is None else sys.getsizeof(located.entry.path)


@dataclass(frozen=True, slots=True)
class Occasion:
    """When a document was said, by the wall, and what its revision meant then, as far as that is known."""

    said_at: float
    commit: str | None


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """A document that was said once. `until`: so long nobody need be asked again, by the clock.

    `owner`: to whom, of which repository, as `asked_key` has it.
    """

    document: Document
    until: float
    owner: bytes = b""
    occasion: Occasion | None = None


class KeptDocuments:
    """The documents that were said last, within a number of bytes; by keys of `document_key`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, KeptDocument] = OrderedDict()
        self._owned: dict[bytes, set[bytes]] = {}
        self._bytes = 0

    def note(
        self,
        key: bytes,
        document: Document,
        until: float,
        owner: bytes = b"",
        occasion: Occasion | None = None,
    ) -> None:
        """It was said; the oldest go where there is too much, and one that is too large is not kept."""
        self.drop(key)
        size = _size_of(document)
        if size > _LARGEST_DOCUMENT_BYTES:
            return
        self._kept[key] = KeptDocument(document, until, owner, occasion)
        self._owned.setdefault(owner, set()).add(key)
        self._bytes += size
        while self._bytes > _MOST_DOCUMENT_BYTES or len(self._kept) > _MOST_DOCUMENTS:
            self.drop(next(iter(self._kept)))

    def find(self, key: bytes) -> KeptDocument | None:
        """What was said."""
        return self._kept.get(key)

    def drop(self, key: bytes) -> None:
        """It counts no more."""
        before = self._kept.pop(key, None)
        if before is None:
            return
        self._bytes -= _size_of(before.document)
        owned = self._owned[before.owner]
        owned.discard(key)
        if not owned:
            del self._owned[before.owner]

    def drop_all(self, owner: bytes) -> None:
        """Nothing counts any more that was said to whom, and of what, `owner` says."""
        for key in list(self._owned.get(owner, ())):
            self.drop(key)


def document_key(fingerprint: str, request: DocumentRequest) -> bytes:
    """A question and who asks it, in a few bytes, however long the question is."""
    body = b"" if request.body is None else hashlib.sha256(request.body).digest()
    return _digest(fingerprint, request.path, request.query, request.content_type, body.hex())


def _digest(*parts: str) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        said = part.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:" % len(said) + said)
    return hasher.digest()


def _size_of(document: Document) -> int:
    headers = sum(len(name) + len(text) for name, text in document.headers.items())
    return _ENTRY_BYTES + headers + len(document.body)
