# SPDX-License-Identifier: Apache-2.0
"""The rules by which a client accepts the chunks of one streamed file. Pure."""

from __future__ import annotations

from typing import Protocol

from modelexpress.domain.errors import Corrupt, Unsupported
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import ModelRef, ProviderKind, shown


class Chunk(Protocol):
    """The fields of a FileChunk that are looked at."""

    relative_path: str
    data: bytes
    offset: int
    total_size: int
    is_last_chunk: bool
    is_last_file: bool
    commit_hash: str


class StreamChecker:
    """Follows one stream that should hold exactly one file; raises Corrupt at the first broken rule."""

    def __init__(self, ref: ModelRef, commit: str, entry: FileEntry) -> None:
        self._ref = ref
        self._commit = commit
        self._entry = entry
        self._expected = 0
        self._is_first = True
        self._is_complete = False

    def check(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        if self._is_complete:
            raise self._broken("a chunk after the last one")
        if self._is_first:
            self._check_first(chunk)
        if chunk.relative_path != self._entry.path:
            raise Unsupported(
                f"{self._ref}: asked for {shown(self._entry.path)}, the server sends "
                f"{shown(chunk.relative_path)}; it is too old to send single files, upgrade it"
            )
        if chunk.offset != self._expected or chunk.total_size != self._entry.size:
            raise self._broken(
                f"offset {chunk.offset} of {chunk.total_size} where {self._expected} of "
                f"{self._entry.size} was due"
            )
        self._expected += len(chunk.data)
        if (self._expected >= self._entry.size) != chunk.is_last_chunk or self._expected > self._entry.size:
            raise self._broken(f"the end is marked wrong at {self._expected} of {self._entry.size} bytes")
        self._is_complete = chunk.is_last_chunk and chunk.is_last_file

    def check_end(self) -> None:
        """The stream has ended."""
        if not self._is_complete:
            raise self._broken(f"the stream ended at {self._expected} of {self._entry.size} bytes")

    def _check_first(self, chunk: Chunk) -> None:
        self._is_first = False
        if self._ref.provider is ProviderKind.HUGGING_FACE and chunk.commit_hash != self._commit:
            raise self._broken(f"commit {shown(chunk.commit_hash)} where {self._commit} was due")

    def _broken(self, problem: str) -> Corrupt:
        return Corrupt(f"{self._ref}: the server's stream of {shown(self._entry.path)} is broken: {problem}")
