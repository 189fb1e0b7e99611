# SPDX-License-Identifier: Apache-2.0
"""Which files of a snapshot are asked for; part of a record's identity."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from modelexpress.domain.errors import Invalid
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import shown

WEIGHT_SUFFIXES = (".bin", ".safetensors", ".h5", ".msgpack", ".ckpt.index", ".iop", ".gas")
_SECOND_CHOICE = ("*.bin", "*.h5", "*.msgpack", "*.ot", "*.pth")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_ANCILLARY_NAMES = ("readme", "license", "licence", "notice", "changelog", "contributing", "use_policy")
_ANCILLARY_SUFFIXES = (
    ".md", ".pdf", ".ipynb",
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".ico", ".bmp", ".tiff", ".tif",
)  # fmt: skip
_MAX_PATTERNS = 256
_MAX_PATTERN_CHARACTERS = 1024


class Weights(Enum):
    """Which weight files a selection takes."""

    ALL = "all"
    NONE = "none"
    SAFETENSORS_FIRST = "safetensors-first"


@dataclass(frozen=True, slots=True)
class Selection:
    """Files by weight choice and glob patterns (those of `hf download`); equal choices have one key."""

    weights: Weights = Weights.ALL
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            patterns = tuple(sorted(set(getattr(self, name))))
            _check_patterns(name, patterns)
            object.__setattr__(self, name, patterns)

    @property
    def key(self) -> str:
        """A short text that is equal exactly for equal selections: `all`, `none`, or with a pattern hash."""
        if not self.include and not self.exclude:
            return self.weights.value
        listed = json.dumps([self.include, self.exclude])
        return f"{self.weights.value}+{hashlib.sha256(listed.encode()).hexdigest()[:16]}"

    def choose(self, files: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
        """The selected files, in the order given."""
        listed = tuple(files)
        chosen = tuple(entry for entry in listed if self._matches_patterns(entry.path))
        if self.weights is Weights.NONE:
            return tuple(entry for entry in chosen if not is_weight(entry.path))
        if self.weights is Weights.SAFETENSORS_FIRST:
            covered = _folders_with_complete_safetensors(entry.path for entry in chosen)
            return tuple(e for e in chosen if not (_folder(e.path) in covered and _is_second_choice(e.path)))
        return chosen

    def _matches_patterns(self, path: str) -> bool:
        if self.include and not _matches_any(path, self.include):
            return False
        return not _matches_any(path, self.exclude)


def is_weight(path: str) -> bool:
    """True for the file endings that the established system counts as weights (case-sensitive)."""
    return path.endswith(WEIGHT_SUFFIXES)


def is_ancillary(path: str) -> bool:
    """True for files no engine reads (readme, licence, pictures): a pull goes on without them."""
    name = path.rsplit("/", 1)[-1].lower()
    return name.startswith((".", *_ANCILLARY_NAMES)) or name.endswith(_ANCILLARY_SUFFIXES)


def _check_patterns(name: str, patterns: tuple[str, ...]) -> None:
    if len(patterns) > _MAX_PATTERNS:
        raise Invalid(f"{len(patterns)} {name} patterns: at most {_MAX_PATTERNS} are accepted")
    for pattern in patterns:
        if not pattern or len(pattern) > _MAX_PATTERN_CHARACTERS or "\0" in pattern:
            raise Invalid(f"{name} pattern {shown(pattern)} is empty, too long or holds a NUL")


def _matches_any(path: str, patterns: tuple[str, ...]) -> bool:
    # As `hf download`: '*' also crosses '/', and a pattern that ends in '/' means all below it.
    return any(fnmatch.fnmatchcase(path, p + "*" if p.endswith("/") else p) for p in patterns)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _is_second_choice(path: str) -> bool:
    return _matches_any(path, _SECOND_CHOICE)


def _folders_with_complete_safetensors(paths: Iterable[str]) -> frozenset[str]:
    shards: dict[tuple[str, str, str], int] = {}
    complete = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        shard = _SHARD.fullmatch(name)
        if shard:
            group = (folder, shard["stem"], shard["count"])
            shards[group] = shards.get(group, 0) + 1
        elif name.endswith(".safetensors"):
            complete.add(folder)
    broken = {folder for (folder, _, count), seen in shards.items() if seen != int(count)}
    complete |= {folder for folder, _, _ in shards}
    return frozenset(complete - broken)


ALL_FILES = Selection()
