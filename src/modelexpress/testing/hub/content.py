# SPDX-License-Identifier: Apache-2.0
"""Repositories: commits, branches, tags and files, as the Hub knows them. Pure content, no network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_STEP = 4 * 1024 * 1024
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".onnx", ".h5", ".msgpack", ".png", ".pth", ".ot")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a commit. `sha256` and `blob_id` of its pointer for LFS files; a git blob id for others."""

    path: str
    size: int
    blob_id: str
    sha256: str | None
    content: bytes | Path
    xet_hash: str | None = None

    @property
    def etag(self) -> str:
        """What the Hub vouches for: sha256 of an LFS file, git blob id of any other."""
        return self.sha256 or self.blob_id

    @property
    def pointer_size(self) -> int:
        """How many bytes git keeps of an LFS file."""
        return len(_pointer(self.sha256 or "", self.size))

    def read(self) -> bytes:
        """All bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class Repository:
    """A repository that is built up by commits; commit ids follow from the content.

    With `has_xet` its LFS files are announced as Xet files too, but can be had by HTTP alone.
    """

    def __init__(
        self,
        name: str,
        *,
        is_private: bool = False,
        is_gated: bool = False,
        lfs_bytes: int = 1_000_000,
        has_xet: bool = False,
    ) -> None:
        self.name = name
        self.is_private = is_private
        self.is_gated = is_gated
        self.has_xet = has_xet
        self._lfs_bytes = lfs_bytes
        self._commits: dict[str, dict[str, HubFile]] = {}
        self._changes: dict[str, dict[str, str]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pull_requests: dict[str, str] = {}

    def commit(
        self, files: Mapping[str, bytes | Path], *, branch: str = "main", delete: Iterable[str] = ()
    ) -> str:
        """Add a commit on top of `branch` with `files` added or changed and `delete` gone; its id."""
        parent = self.branches.get(branch, "")
        tree = dict(self._commits.get(parent, {}))
        for path in delete:
            tree.pop(path, None)
        for path, content in files.items():
            tree[path] = self._file(path, content)
        named = "\n".join(f"{path} {tree[path].etag}" for path in sorted(tree))
        sha = hashlib.sha1(f"{self.name}\0{parent}\0{named}".encode(), usedforsecurity=False).hexdigest()
        self._commits[sha] = {path: tree[path] for path in sorted(tree)}
        self._changes[sha] = {**self._changes.get(parent, {}), **dict.fromkeys(files, sha)}
        self.branches[branch] = sha
        return sha

    def files(self, commit: str) -> Mapping[str, HubFile]:
        """The files of a commit by path."""
        return self._commits[commit]

    def last_change(self, commit: str, paths: Iterable[str]) -> str:
        """The last commit up to `commit` that wrote one of `paths`."""
        changed = {self._changes[commit][path] for path in paths}
        return next(sha for sha in reversed(self._changes) if sha in changed)

    def find_commit(self, revision: str) -> str | None:
        """The commit that a branch, tag, `refs/pr/N`, or full or short id means."""
        for names in (self.branches, self.tags, self.pull_requests):
            if revision in names:
                return names[revision]
        if len(revision) >= 7:
            return next((sha for sha in self._commits if sha.startswith(revision)), None)
        return None

    def _file(self, path: str, content: bytes | Path) -> HubFile:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size < self._lfs_bytes and not path.endswith(LFS_SUFFIXES):
            return HubFile(path, size, _git_id(content, size), None, content)
        sha256 = _digest(hashlib.sha256(), content)
        pointer = _pointer(sha256, size)
        xet = hashlib.sha256(b"xet" + sha256.encode()).hexdigest() if self.has_xet else None
        return HubFile(path, size, _git_id(pointer, len(pointer)), sha256, content, xet)


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_id(content: bytes | Path, size: int) -> str:
    return _digest(hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False), content)


def _digest(hasher: hashlib._Hash, content: bytes | Path) -> str:
    if isinstance(content, bytes):
        hasher.update(content)
    else:
        with content.open("rb") as file:
            while piece := file.read(_STEP):
                hasher.update(piece)
    return hasher.hexdigest()
