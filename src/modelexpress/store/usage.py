# SPDX-License-Identifier: Apache-2.0
"""What stands on a cache's volume, in bytes of the disk, whoever wrote it. Blocking: in the disk pool."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from modelexpress.domain.inventory import BlobUse, Inventory, SnapshotKey
from modelexpress.store.disk import disk_bytes
from modelexpress.store.layout import Layout, Repository
from modelexpress.store.records import Owned, SnapshotRecord
from modelexpress.store.removal import loose_blobs, owned_blobs
from modelexpress.store.survey import files_below, list_commits
from modelexpress.store.volume import PART

Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of the disk under a cache root, each inode once, arriving files at their full size.

    `arriving` and `leftovers` are parts of `total`: partial files, and what waits to be deleted.
    """

    total: int
    arriving: int = 0
    leftovers: int = 0


def measure_usage(layout: Layout, in_use: frozenset[Path] = frozenset()) -> Usage:
    """Look at every file under the root; what lies on another device is not of this volume.

    `in_use`: arriving files that count by what they have of the disk, for the rest is promised.
    """
    try:
        device = os.stat(layout.root).st_dev
    except FileNotFoundError:
        return Usage(0)
    seen: set[Inode] = set()
    # Arriving files first: they become blobs, and a blob that comes meanwhile is then met only once.
    arriving = _sum_tree(layout.partials, device, seen, {path.name for path in in_use})
    leftovers = _sum_tree(layout.trash, device, seen) + _sum_tree(layout.staging, device, seen)
    return Usage(arriving + leftovers + _sum_tree(layout.root, device, seen), arriving, leftovers)


def _sum_tree(folder: Path, device: int, seen: set[Inode], in_use: Collection[str] = ()) -> int:
    total = 0
    for status, name in _walk(folder):
        inode = (status.st_dev, status.st_ino)
        if status.st_dev == device and inode not in seen:
            seen.add(inode)
            size = disk_bytes(status)
            # The header of its journal promises all of it; a file system may give blocks only later.
            is_promised = name.endswith(PART) and name not in in_use
            total += max(size, status.st_size) if is_promised else size
    return total


def _walk(folder: Path) -> Iterator[tuple[os.stat_result, str]]:
    """Everything below `folder`, without following links; what vanishes or cannot be read is passed over."""
    waiting = [os.fspath(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    yield status, entry.name
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)


@dataclass(slots=True)
class _Use:
    """An inode while it is looked for: how many of its names were met, who leads to them."""

    bytes: int
    links: int
    names: set[Path] = field(default_factory=set)
    users: set[SnapshotKey] = field(default_factory=set)
    is_kept: bool = False


def read_inventory(
    layout: Layout, records: Iterable[SnapshotRecord], kept: frozenset[Path] = frozenset()
) -> Inventory:
    """The snapshots of `records` and the inodes that the disk gets back for them, by their real links.

    `kept`: blobs that stay whatever goes.
    """
    by_repository: dict[Repository, list[SnapshotRecord]] = {}
    for record in records:
        by_repository.setdefault(layout.repository(record.manifest.ref), []).append(record)
    uses: dict[Inode, _Use] = {}
    for repository, known in by_repository.items():
        _read_repository(repository, known, uses)
    return Inventory(
        BlobUse(
            use.bytes,
            frozenset(use.users),
            use.is_kept or len(use.names) < use.links or not use.names.isdisjoint(kept),
        )
        for use in uses.values()
        if use.users
    )


def _read_repository(repository: Repository, records: list[SnapshotRecord], uses: dict[Inode, _Use]) -> None:
    ours = owned_blobs(repository, records)
    by_commit = {record.manifest.commit: record for record in records}
    for commit in list_commits(repository):
        record, folder = by_commit.get(commit), repository.snapshot(commit)
        for link in files_below(folder):
            path = link.relative_to(folder).as_posix()
            is_ours = record is not None and record.owned.get(path, Owned()).link
            name = _find_bytes(link, repository)
            use = None if name is None else _find_use(name, uses)
            if name is None or use is None:
                continue
            use.names.add(name)
            if record is not None and is_ours:
                use.users.add(SnapshotKey.of(record.manifest))
            use.is_kept |= not is_ours or (name != link and name not in ours)
    for record in records:
        _read_loose(repository, record, uses)


def _read_loose(repository: Repository, record: SnapshotRecord, uses: dict[Inode, _Use]) -> None:
    """The blobs that a record holds without showing them in a snapshot."""
    for blob in loose_blobs(repository, record):
        use = _find_use(blob, uses)
        if use is not None:
            use.names.add(blob)
            use.users.add(SnapshotKey.of(record.manifest))


def _find_bytes(link: Path, repository: Repository) -> Path | None:
    """Where the bytes of a name in a snapshot are; None: it has vanished."""
    try:
        return repository.blobs / os.path.basename(os.readlink(link))
    except OSError as error:
        return link if error.errno == errno.EINVAL else None  # a plain file, no link


def _find_use(name: Path, uses: dict[Inode, _Use]) -> _Use | None:
    try:
        status = name.lstat()
    except OSError:
        return None
    inode = (status.st_dev, status.st_ino)
    return uses.setdefault(inode, _Use(disk_bytes(status), status.st_nlink))
