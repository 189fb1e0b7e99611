# SPDX-License-Identifier: Apache-2.0
"""The immutable list of files that a model ref resolves to, and what vouches for each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import ModelRef, shown

_MAX_PATH_CHARACTERS = 4096


class DigestKind(Enum):
    """How an origin vouches for a whole file."""

    SHA256 = "sha256"
    GIT_BLOB = "git-blob"  # SHA-1 over "blob <size>\0" + content
    LOCAL_SHA256 = "local-sha256"  # taken by us on arrival: the origin vouches for size and version only


class Proof(Enum):
    """How far a file was proven. Only DIGEST may be shared, striped or taken from peers."""

    DIGEST = "digest"
    TRANSPORT = "transport"  # size and pinned version only: the origin gives no digest


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest of a whole file, lower-case hexadecimal."""

    kind: DigestKind
    value: str

    def __post_init__(self) -> None:
        length = 40 if self.kind is DigestKind.GIT_BLOB else 64
        if len(self.value) != length or any(c not in "0123456789abcdef" for c in self.value):
            raise Invalid(f"{shown(self.value)} is not a {self.kind.value} digest: {length} hex digits")

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.value}"

    @property
    def proof(self) -> Proof:
        """The grade of a file that matches this digest."""
        return Proof.TRANSPORT if self.kind is DigestKind.LOCAL_SHA256 else Proof.DIGEST

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read what `str` wrote. Raises Invalid."""
        kind, _, value = text.partition(":")
        try:
            return cls(DigestKind(kind), value)
        except ValueError:
            raise Invalid(f"{shown(text)} is not a digest: unknown kind {shown(kind)}") from None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a snapshot: repository path, size in bytes, digest (None: the origin gives none).

    `blob_id` is the origin's git id of the entry (of the LFS pointer for an LFS file) and `xet_hash`
    its Xet id; both are kept only for the listings that other tools read.
    """

    path: str
    size: int
    digest: Digest | None = None
    blob_id: str | None = None
    xet_hash: str | None = None

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.size < 0:
            raise Invalid(f"file {shown(self.path)} has a negative size: {self.size}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a ref resolves to: the pinned commit and its files, sorted by path, each path once.

    `is_of_mirror`: a mirror said so, while the origin did not answer.
    """

    ref: ModelRef
    commit: str
    files: tuple[FileEntry, ...]
    is_of_mirror: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.files, key=lambda entry: entry.path))
        if ordered != self.files:
            object.__setattr__(self, "files", ordered)
        _check_no_collisions(self.ref, [entry.path for entry in ordered])

    @property
    def total_bytes(self) -> int:
        """Sum of the file sizes."""
        return sum(entry.size for entry in self.files)

    def only(self, paths: Iterable[str]) -> Manifest:
        """The same snapshot with only `paths` in it."""
        wanted = frozenset(paths)
        return Manifest(self.ref, self.commit, tuple(e for e in self.files if e.path in wanted))


@dataclass(frozen=True, slots=True)
class Listing:
    """Which files a commit has, in a few bytes, however many they are."""

    count: int
    digest: bytes

    @classmethod
    def of(cls, paths: Collection[str]) -> Listing:
        """That of these paths; none of them holds a NUL."""
        said = "\0".join(sorted(paths)).encode("utf-8", "surrogatepass")
        return cls(len(paths), hashlib.sha256(said).digest())

    def is_of(self, manifest: Manifest) -> bool:
        """Whether a manifest has these files, all of them and no others."""
        paths = [entry.path for entry in manifest.files]
        return len(paths) == self.count and Listing.of(paths) == self


def _check_no_collisions(ref: ModelRef, paths: list[str]) -> None:
    files = set(paths)
    if len(files) != len(paths):
        twice = next(first for first, second in pairwise(paths) if first == second)
        raise Invalid(f"manifest of {ref}: {shown(twice)} collides with itself: it is listed twice")
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in files:
                raise Invalid(f"manifest of {ref}: {shown(path)} collides with the file {shown(folder)}")
            folder = folder.rpartition("/")[0]


def check_path(path: str) -> None:
    """Raise Invalid unless `path` is a relative path that stays inside its snapshot on every system."""
    parts = path.split("/")
    is_odd = any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in path)  # the last: no UTF-8
    if is_odd or "\\" in path or len(path) > _MAX_PATH_CHARACTERS:
        raise Invalid(f"file path {shown(path)} holds a control character or backslash, or is too long")
    if any(part in ("", ".", "..") for part in parts) or any(len(part.encode()) > 255 for part in parts):
        raise Invalid(f"file path {shown(path)} is not a plain relative path")
