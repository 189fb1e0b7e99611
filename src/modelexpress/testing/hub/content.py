# SPDX-License-Identifier: Apache-2.0
"""Repositories: commits, branches, tags and files, as the Hub knows them. Pure content, no network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_STEP = 4 * 1024 * 1024
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".onnx", ".h5", ".msgpack", ".png", ".pth", ".ot")
KINDS = ("models", "datasets", "spaces")


def split_name(name: str) -> tuple[str, str]:
    """Kind and `org/name` of a repository: `datasets/org/name` is a dataset, `org/name` a model."""
    kind, _, rest = name.partition("/")
    return (kind, rest) if rest and kind in KINDS[1:] else (KINDS[0], name)


def name_of(kind: str, repo_id: str) -> str:
    """The name of the repository that is `repo_id` among those of its `kind`."""
    # No model can be called 'datasets/x': nothing has the name that is given back for one.
    is_model = kind == KINDS[0] and split_name(repo_id)[0] == kind
    return repo_id if is_model else f"{kind}/{repo_id}"


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

    @property
    def in_git(self) -> HubFile:
        """The file as git keeps it: the pointer instead of an LFS file."""
        if self.sha256 is None:
            return self
        pointer = _pointer(self.sha256, self.size)
        return HubFile(self.path, len(pointer), self.blob_id, None, pointer)

    def read(self) -> bytes:
        """All bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class Repository:
    """A repository that is built up by commits; commit ids follow from the content.

    Its `name` is `org/name`, or `datasets/org/name`, or `spaces/org/name`. With `has_xet` its LFS files
    are announced as Xet files too, under made-up hashes: they can be had by HTTP alone. With `cas_url`,
    which may be `local:///dir`, those committed with their real hashes can be had from there. `open_paths`:
    what of a gated one everybody may read all the same: files by their paths, and its listing as `tree`.
    """

    def __init__(
        self,
        name: str,
        *,
        is_private: bool = False,
        is_gated: bool = False,
        lfs_bytes: int = 1_000_000,
        has_xet: bool = False,
        cas_url: str = "",
    ) -> None:
        self.name = name
        # A renamed repository keeps it.
        self.object_id = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:24]
        self.is_private = is_private
        self.is_gated = is_gated
        self.has_xet = has_xet
        self.cas_url = cas_url
        self.open_paths: frozenset[str] = frozenset()
        self._lfs_bytes = lfs_bytes
        self._commits: dict[str, dict[str, HubFile]] = {}
        self._changes: dict[str, dict[str, str]] = {}
        self._parents: dict[str, str] = {}
        self._stored: dict[str, int] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pull_requests: dict[str, str] = {}

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return split_name(self.name)[0]

    @property
    def repo_id(self) -> str:
        """Its name among those of its kind."""
        return split_name(self.name)[1]

    @property
    def used_storage(self) -> int:
        """How many bytes all files of all commits have, each content counted once."""
        return sum(self._stored.values())

    def commit(
        self,
        files: Mapping[str, bytes | Path],
        *,
        branch: str = "main",
        delete: Iterable[str] = (),
        xet_hashes: Mapping[str, str] | None = None,
    ) -> str:
        """Add a commit on top of `branch` with `files` added or changed and `delete` gone; its id.

        `xet_hashes` are the hashes, by path, of those that are in the Xet storage at `cas_url`.
        """
        parent = self.branches.get(branch, "")
        tree = dict(self._commits.get(parent, {}))
        for path in delete:
            tree.pop(path, None)
        for path, content in files.items():
            tree[path] = self._file(path, content, (xet_hashes or {}).get(path))
            self._stored[tree[path].etag] = tree[path].size
        named = "\n".join(f"{path} {tree[path].etag}" for path in sorted(tree))
        sha = hashlib.sha1(f"{self.name}\0{parent}\0{named}".encode(), usedforsecurity=False).hexdigest()
        self._commits[sha] = {path: tree[path] for path in sorted(tree)}
        self._changes[sha] = {**self._changes.get(parent, {}), **dict.fromkeys(files, sha)}
        self._parents[sha] = parent
        self.branches[branch] = sha
        return sha

    def files(self, commit: str) -> Mapping[str, HubFile]:
        """The files of a commit by path."""
        return self._commits[commit]

    def history(self, commit: str) -> list[str]:
        """`commit` and all that it builds on, the last one first."""
        found = []
        while commit:
            found.append(commit)
            commit = self._parents[commit]
        return found

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

    def _file(self, path: str, content: bytes | Path, xet_hash: str | None) -> HubFile:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size < self._lfs_bytes and not path.endswith(LFS_SUFFIXES):
            return HubFile(path, size, _git_id(content, size), None, content)
        sha256 = _digest(hashlib.sha256(), content)
        pointer = _pointer(sha256, size)
        if xet_hash is None and self.has_xet:
            xet_hash = hashlib.sha256(b"xet" + sha256.encode()).hexdigest()
        return HubFile(path, size, _git_id(pointer, len(pointer)), sha256, content, xet_hash)


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
