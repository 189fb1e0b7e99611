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
from typing import NamedTuple

from modelexpress.domain.errors import Invalid
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import shown

WEIGHT_SUFFIXES = (".bin", ".safetensors", ".h5", ".msgpack", ".ckpt.index", ".iop", ".gas")
_SECOND_CHOICE = ("*.bin", "*.h5", "*.msgpack", "*.ot", "*.pth")
_SHARD = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})(?=\.|$)")
# They change a model and are no copy of its weights, in whatever format they are.
_ADAPTERS = ("adapter_", "pytorch_lora_weights")
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
            covered = _sets_complete_as_safetensors(entry.path for entry in chosen)
            return tuple(e for e in chosen if not (_is_second_choice(e.path) and _set_of(e.path) in covered))
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


def _is_second_choice(path: str) -> bool:
    return _matches_any(path, _SECOND_CHOICE)


class _WeightSet(NamedTuple):
    """What the formats of one set of weights have in common: one of them makes the others copies."""

    folder: str
    adapter: str
    variant: str


def _set_of(path: str) -> _WeightSet:
    """The set that a weight file belongs to.

    A variant stands behind the first dot, before or behind a shard's number: `model.fp16.safetensors`,
    `model.fp16-00001-of-00002.safetensors`, `model-00001-of-00002.fp16.safetensors`. A number there, as in
    `consolidated.00.pth`, is a part of the whole and no variant.
    """
    folder, _, name = path.rpartition("/")
    adapter = next((start for start in _ADAPTERS if name.startswith(start)), "")
    pieces = _SHARD.sub("", name.rpartition(".")[0]).split(".")[1:]
    return _WeightSet(folder, adapter, ".".join(piece for piece in pieces if not piece.isdigit()))


def _sets_complete_as_safetensors(paths: Iterable[str]) -> frozenset[_WeightSet]:
    """The sets that have a whole file or all shards, and no shards that lack one."""
    complete: set[_WeightSet] = set()
    shards: dict[tuple[_WeightSet, str, int], set[str]] = {}
    for path in paths:
        stem, _, ending = path.rpartition(".")
        if ending != "safetensors":
            continue
        shard = _SHARD.search(stem.rpartition("/")[2])
        if shard is None:
            complete.add(_set_of(path))
        else:
            series = (_set_of(path), _SHARD.sub("-", stem), int(shard["count"]))
            shards.setdefault(series, set()).add(shard["number"])
    broken = {own for (own, _, count), numbers in shards.items() if len(numbers) != count}
    complete |= {own for own, _, _ in shards}
    return frozenset(complete - broken)


ALL_FILES = Selection()
