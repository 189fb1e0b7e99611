# SPDX-License-Identifier: Apache-2.0
"""Removals on their way, each written down before its first file goes. Blocking: call it in the disk pool."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from modelexpress.store.disk import find_files, is_writer_dead, unique_name, write_durably
from modelexpress.store.layout import Layout

FORMAT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger(__name__)


class Meant(NamedTuple):
    """One file: its path below the repository, and which one it is. A new one may get an old one's inode,
    but not its time.
    """

    name: str
    device: int
    inode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What is to go."""

    provider: str
    name: str
    commits: tuple[str, ...]
    refs: tuple[str, ...]
    files: tuple[Meant, ...]


def describe_files(repository: Path, paths: tuple[Path, ...]) -> tuple[Meant, ...]:
    """The files as an intent names them; those that have gone already are left out."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append(_meant(path.relative_to(repository).as_posix(), path.lstat()))
    return tuple(found)


def is_still(repository: Path, file: Meant) -> bool:
    """Whether the file that an intent names is still there."""
    try:
        return _meant(file.name, (repository / file.name).lstat()) == file
    except OSError:
        return False


def _meant(name: str, status: os.stat_result) -> Meant:
    return Meant(name, status.st_dev, status.st_ino, status.st_mtime_ns)


def write_intent(layout: Layout, owner: str, intent: Intent) -> Path:
    """Write it down durably, and return the file, which is to be deleted when all of it has gone.

    On a full disk there may be no room for it; removing is what mends that, so it goes on without.
    """
    path = layout.removals / f"{unique_name(owner)}.json"
    content = json.dumps({"format": FORMAT, **asdict(intent)}).encode()
    try:
        write_durably(layout.staging, owner, path, content)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _log.warning("no room to note the removal of %s; a crash in it may leave files behind", intent.name)
    return path


def read_interrupted(layout: Layout, dead_owners: frozenset[str]) -> Iterator[tuple[Path, Intent]]:
    """Intents whose writers are gone; one that cannot be read is dropped: what it meant stays."""
    for path in find_files(layout.removals, "*.json"):
        if path.name.partition(".")[0] not in dead_owners and not is_writer_dead(path.name):
            continue
        try:
            found = _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("removal %s cannot be read (%s) and is not finished", path, error)
            with suppress(OSError):
                os.unlink(path)
        else:
            if found is not None:
                yield path, found


def _read(path: Path) -> Intent | None:
    """What the note says; None: a newer version wrote it, and has to finish it."""
    content = json.loads(path.read_bytes())
    if content["format"] > FORMAT:
        return None
    files = tuple(Meant(str(name), *map(int, rest)) for name, *rest in content["files"])
    return Intent(
        str(content["provider"]),
        str(content["name"]),
        tuple(content["commits"]),
        tuple(content["refs"]),
        files,
    )
