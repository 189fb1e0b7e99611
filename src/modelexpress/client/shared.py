# SPDX-License-Identifier: Apache-2.0
"""Shared storage, checked rather than believed: the server's snapshot is used only if it is readable here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from modelexpress.client.results import ServerPulled
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import ModelRef
from modelexpress.store.layout import Layout
from modelexpress.store.volume import find_volume_id

_LEVELS_BELOW_ROOT = 3  # models--org--name / snapshots / commit


async def find_shared_snapshot(
    root: Path, ref: ModelRef, at_server: ServerPulled, entries: Sequence[FileEntry]
) -> Path | None:
    """The server's snapshot as this machine sees it: every file readable and of the right size; else None.

    Looked for under our own `root` and at the path the server names. Where the server names its
    volume the directory must be that very volume: equal paths on two machines prove nothing.
    """
    return await asyncio.to_thread(_find, root, ref, at_server, entries)


async def is_volume_here(root: Path, volume: str, server_path: str) -> bool:
    """Whether the server's volume can be seen here, under our own `root` or where the server has it."""
    return bool(volume) and await asyncio.to_thread(_is_volume_here, root, volume, server_path)


def _is_volume_here(root: Path, volume: str, server_path: str) -> bool:
    return any(find_volume_id(candidate) == volume for candidate in _candidates(root, server_path))


def _candidates(root: Path, server_path: str) -> list[Path]:
    parents = Path(server_path).parents if server_path else ()
    return [root, *([parents[_LEVELS_BELOW_ROOT - 1]] if len(parents) > _LEVELS_BELOW_ROOT else [])]


def _find(root: Path, ref: ModelRef, at_server: ServerPulled, entries: Sequence[FileEntry]) -> Path | None:
    for candidate in _candidates(root, at_server.path):
        if at_server.volume and find_volume_id(candidate) != at_server.volume:
            continue
        snapshot = Layout(candidate).repository(ref).snapshot(at_server.commit)
        if all(_is_readable(snapshot / entry.path, entry.size) for entry in entries):
            return snapshot
    return None


def _is_readable(path: Path, size: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.fstat(descriptor).st_size == size
    finally:
        os.close(descriptor)
