# SPDX-License-Identifier: Apache-2.0
"""The cache root as a volume: its id, its format, the server that owns its space, and what crashes left.

Blocking: call it in the disk pool.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelexpress.domain.errors import Busy, Invalid, StorageFailed
from modelexpress.store.disk import (
    disk_errors,
    has_writer,
    is_writer_dead,
    make_directory,
    start_time,
    unique_name,
    write_durably,
)
from modelexpress.store.given import GivenOut
from modelexpress.store.layout import Layout

FORMAT = 1
PART, JOURNAL = ".part", ".journal"  # a file that is arriving, and what is known of it
_ABANDONED_SECONDS = 24 * 3600.0

_log = logging.getLogger(__name__)


def open_volume(layout: Layout, owner: str) -> str:
    """Create what is missing under the root and return the volume's id.

    Raises StorageFailed when the root cannot be written, Invalid when a newer version wrote it.
    """
    with disk_errors(f"opening cache directory {layout.root}"):
        working = (layout.partials, layout.staging, layout.trash, layout.removals, layout.given)
        for folder in (layout.records, *working):
            make_directory(folder)
        path = layout.ours / "volume.json"
        content = _read_json(path)
        if content is None:
            content = {"format": FORMAT, "id": secrets.token_hex(16)}
            write_durably(layout.staging, owner, path, json.dumps(content).encode())
    if not isinstance(content.get("format"), int) or content["format"] > FORMAT:
        raise Invalid(
            f"cache directory {layout.root} was written by a newer version (format {content.get('format')}, "
            f"this version knows {FORMAT}); nothing was changed: upgrade, or choose another cache directory"
        )
    return str(content["id"])


def find_volume_id(root: Path) -> str | None:
    """The id of the volume at `root`, without creating anything; None when it is no volume of ours."""
    try:
        content = _read_json(Layout(root).ours / "volume.json")
    except OSError:
        return None
    return None if content is None else str(content.get("id"))


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True, slots=True)
class Process:
    """A process so described that another one can tell whether it is still alive."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Process:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _boot_id(), _pid_namespace(), pid, start_time(pid) or "")

    def is_beside(self, observer: Process) -> bool:
        """True when `observer` can look into it: same boot and pid namespace."""
        return (self.boot, self.namespace) == (observer.boot, observer.namespace) and bool(self.boot)

    def is_surely_dead(self, observer: Process) -> bool:
        """True only when `observer` can know: it is beside it, and that process is gone."""
        return self.is_beside(observer) and start_time(self.pid) != self.started


class Ownership:
    """`.mx/owner`: the one registry whose server accounts for this volume's space."""

    STALE_SECONDS = 30.0
    RENEW_SECONDS = 5.0

    def __init__(self, layout: Layout, registry_id: str, owner: str) -> None:
        self._path = layout.ours / "owner"
        self._layout = layout
        self._registry_id = registry_id
        self._owner = owner
        self._process = Process.current()

    def take(self) -> bool:
        """Take the volume; False: its owner may still be alive, ask again after `STALE_SECONDS`.

        Raises Busy when the owner is surely alive or has renewed since the last look.
        """
        content = _read_json(self._path)
        if content is None or content.get("registry") == self._registry_id:
            self.renew()
            return True
        try:
            other = Process(**{name: content["process"][name] for name in Process.__slots__})
        except (KeyError, TypeError):
            return False  # not readable, so only its silence can tell
        if other.is_surely_dead(self._process):
            self.renew()
            return True
        if other.is_beside(self._process):
            raise self._busy(other)
        return False

    @classmethod
    def find_foreign(cls, layout: Layout, now: float) -> str | None:
        """For people: the living server, other than this process, that owns the volume; None: none does."""
        path, observer = layout.ours / "owner", Process.current()
        content = _read_json(path)
        try:
            other = (
                Process(**{name: content["process"][name] for name in Process.__slots__}) if content else None
            )
            is_silent = now - path.stat().st_mtime > cls.STALE_SECONDS
        except (OSError, KeyError, TypeError):
            return None
        if other is None or other == observer or other.is_surely_dead(observer):
            return None
        is_gone = is_silent and not other.is_beside(observer)
        return None if is_gone else f"process {other.pid} on {other.host}"

    def beat(self) -> int | None:
        """A number that changes whenever the owner renews; None when there is no owner."""
        try:
            return self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def renew(self) -> None:
        """Say that this volume is ours, again."""
        process = {name: getattr(self._process, name) for name in Process.__slots__}
        content = {"format": FORMAT, "registry": self._registry_id, "process": process, "beat": time.time()}
        write_durably(self._layout.staging, self._owner, self._path, json.dumps(content).encode())

    def leave(self) -> None:
        """Give the volume up."""
        content = _read_json(self._path)
        if content is not None and content.get("registry") == self._registry_id:
            self._path.unlink(missing_ok=True)

    def _busy(self, other: Process) -> Busy:
        return Busy(
            f"cache directory {self._layout.root} belongs to another server with another registry "
            f"(process {other.pid} on {other.host}); give both the same registry.path and run one of them, "
            "or give this one another cache.directory"
        )


def sweep(layout: Layout, dead_owners: frozenset[str], now: float) -> int:
    """Delete partials, staged files, trash and old notes that nobody needs any more; the bytes freed.

    A file of a session in `dead_owners` goes at once, unless it is a partial with its journal, which a
    day is given to be resumed; one of an unknown session goes a day after its last write: it may belong
    to a process on another machine, and trash to readers that a living one waits for.
    """
    freed = 0
    for folder in (layout.partials, layout.staging, layout.trash):
        for path, size in leftovers(folder, dead_owners, now):
            _log.info("removing leftover %s (%d bytes)", path, size)
            remove_tree(path)
            freed += size
    GivenOut(layout, lambda: now).prune()
    return freed


def leftovers(folder: Path, dead_owners: frozenset[str], now: float) -> list[tuple[Path, int]]:
    """What `sweep` would delete in `folder`, each with its bytes."""
    found, is_trash = [], folder.name == "trash"
    with os.scandir(folder) as listed:
        entries = list(listed)
    for entry in entries:
        owner = entry.name.partition(".")[0]
        with suppress(FileNotFoundError):  # another process has swept it
            status = entry.stat(follow_symlinks=False)
            age = now - status.st_mtime
            is_over = age > _ABANDONED_SECONDS or (is_trash and not has_writer(entry.name))
            is_dead = owner in dead_owners or is_writer_dead(entry.name)
            if is_over or (is_dead and not _is_resumable(Path(entry.path))):
                found.append((Path(entry.path), _tree_bytes(Path(entry.path))))
    return found


def _is_resumable(path: Path) -> bool:
    part, journal = path.with_suffix(PART), path.with_suffix(JOURNAL)
    # Of a file with an empty journal nothing is known; its writer died before the first line.
    return path in (part, journal) and part.is_file() and journal.is_file() and journal.stat().st_size > 0


def remove_tree(path: Path) -> None:
    """Delete a file, link or directory tree; absent is fine. Raises OSError when something resists."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Under another name first: another process may still be moving files to where it was.
    going = path.with_name(unique_name(path.name.partition(".")[0]))
    with suppress(FileNotFoundError):
        path.rename(going)
    while going.is_dir():
        try:
            shutil.rmtree(going)
        except OSError as error:
            # Another process sweeps here too, or its file came in by the old name; look again.
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise


def _tree_bytes(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())


def free_bytes(root: Path) -> int:
    """Bytes that an ordinary user can still write under `root`."""
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize


def check_writable(layout: Layout) -> None:
    """Raise StorageFailed unless the volume is there, is ours, and can be written."""
    if not (layout.ours / "volume.json").is_file():
        raise StorageFailed(f"cache directory {layout.root} has vanished; check that the volume is mounted")
    if not os.access(layout.staging, os.W_OK):
        raise StorageFailed(f"cache directory {layout.root} cannot be written; check its permissions")


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
