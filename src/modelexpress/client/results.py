# SPDX-License-Identifier: Apache-2.0
"""What a client's calls return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection


class Transfer(Enum):
    """How the files came to where `LocalModel.path` says they are."""

    SHARED = "shared"  # the server's own volume, readable here
    STREAMED = "streamed"  # sent by the server, proven and published here
    DIRECT = "direct"  # pulled from the origin by this process


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that can be read on this machine at `path`, the snapshot directory of `commit`."""

    ref: ModelRef
    commit: str
    path: Path
    selection: Selection
    transfer: Transfer
    was_hit: bool
    is_stale: bool = False
    bytes_fetched: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedModel:
    """A model that was received into memory: each of `files` fills the buffer that was given for it."""

    ref: ModelRef
    commit: str
    files: tuple[FileEntry, ...]
    is_stale: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """What a running pull at the server is going to end with."""

    commit: str
    selection: Selection
    volume: str
    path: str


@dataclass(frozen=True, slots=True)
class Offered:
    """Files that a server has on offer at the data plane `host`:`port`.

    `tickets`, by path, open the files there for some minutes.
    """

    manifest: Manifest
    host: str
    port: int
    tickets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """What the server says of itself. `status` is `ok`, or what is wrong."""

    version: str
    status: str
    uptime_seconds: int


@dataclass(frozen=True, slots=True)
class ServerPulled:
    """The end of a pull at the server. `volume` is empty where the server does not name one."""

    commit: str
    path: str
    volume: str
    selection: Selection
    was_hit: bool
    is_stale: bool = False
    bytes_fetched: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How much a cache holds; `bytes` counts each blob of a model once."""

    models: int
    snapshots: int
    bytes: int
