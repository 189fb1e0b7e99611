# SPDX-License-Identifier: Apache-2.0
"""The journal beside a partial file: what is here of each chunk, its BLAKE3, the origin's validators.

JSON lines, appended without fsync: the journal is a hint. After a crash each chunk that it names is
hashed again before it counts, and a torn or foreign line ends the reading. Blocking.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from modelexpress.domain.chunks import CHUNK_BYTES, DIGEST_BYTES, chunk_span, count_chunks
from modelexpress.store.volume import Process

FORMAT = 1
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
_MOST_BYTES = 256 * 1024 * 1024  # of a journal: what a file of 2 TB needs


@dataclass(frozen=True, slots=True)
class Header:
    """Whose bytes a partial file holds, and which process writes it."""

    repository: str
    path: str
    size: int
    digest: str
    process: Process | None = None


class Piece(NamedTuple):
    """The first `length` bytes of a chunk, and their BLAKE3."""

    length: int
    digest: bytes


@dataclass(slots=True)
class Journalled:
    """What a journal says. `pieces` by chunk number; `etags` by host.

    `is_left`: its writer has let go of the file, and whoever comes next may go on with it.
    """

    header: Header
    pieces: dict[int, Piece] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    is_left: bool = False

    @property
    def arrived_bytes(self) -> int:
        """Bytes that were here, if they still are."""
        return sum(piece.length for piece in self.pieces.values())


class Journal:
    """Appends to one journal; a line is written whole. For several threads at once."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._descriptor = os.open(path, _NEW, 0o666)
        try:
            self._append(_row_of(header))
        except BaseException:
            self.close()
            path.unlink(missing_ok=True)
            raise

    def piece(self, index: int, length: int, digest: bytes) -> None:
        """The first `length` bytes of chunk `index` are in the file and have this BLAKE3."""
        self._append({"c": index, "n": length, "b": digest.hex()})

    def etag(self, host: str, etag: str) -> None:
        """The origin at `host` names the file's version so."""
        self._append({"host": host, "etag": etag})

    def leave(self) -> None:
        """The file is nobody's any more, though this process lives on."""
        self._append({"left": True})

    def close(self) -> None:
        """Let go of the file; it stays."""
        os.close(self._descriptor)

    def _append(self, row: Mapping[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(row, separators=(",", ":")).encode() + b"\n")


def read_journal(path: Path) -> Journalled | None:
    """What the journal at `path` says, as far as it can be read; None: no journal that we can use."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was torn
    except OSError:
        return None
    found: Journalled | None = None
    try:
        for line in lines:
            row = json.loads(line)
            if found is None:
                found = Journalled(_header_of(row))
            elif "left" in row:
                found.is_left = bool(row["left"])
            elif "c" in row:
                _take_piece(found, row)
            else:
                found.etags[str(row["host"])] = str(row["etag"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass  # what was read before this line is as good as ever
    return found


def _row_of(header: Header) -> dict[str, Any]:
    process = header.process
    return {
        "format": FORMAT,
        "repository": header.repository,
        "path": header.path,
        "size": header.size,
        "digest": header.digest,
        "chunk_bytes": CHUNK_BYTES,
        "process": None if process is None else {name: getattr(process, name) for name in Process.__slots__},
    }


def _header_of(row: dict[str, Any]) -> Header:
    if row["format"] != FORMAT or row["chunk_bytes"] != CHUNK_BYTES:
        raise ValueError("a journal of another version")
    process = row["process"]
    return Header(
        repository=str(row["repository"]),
        path=str(row["path"]),
        size=int(row["size"]),
        digest=str(row["digest"]),
        process=None if process is None else _process_of(process),
    )


def _process_of(row: dict[str, Any]) -> Process:
    if not isinstance(row["pid"], int) or not all(isinstance(row[n], str) for n in row if n != "pid"):
        raise ValueError("not a process")
    return Process(**row)


def _take_piece(found: Journalled, row: dict[str, Any]) -> None:
    index, length, digest = row["c"], row["n"], bytes.fromhex(row["b"])
    if not isinstance(index, int) or not isinstance(length, int) or len(digest) != DIGEST_BYTES:
        raise ValueError("not a piece")
    if not 0 <= index < count_chunks(found.header.size):
        raise ValueError("no chunk of this file")
    if not 0 < length <= chunk_span(index, found.header.size).length:
        raise ValueError("not of that chunk")
    found.pieces[index] = Piece(length, digest)  # the last word counts: a wrong chunk begins anew
