# SPDX-License-Identifier: Apache-2.0
"""What of a snapshot is on disk already, whoever wrote it. Blocking: call it in the disk pool."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from modelexpress.domain.errors import MxError
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import ModelRef, is_commit
from modelexpress.store.layout import Layout, Repository, model_name_of, model_ref
from modelexpress.store.records import HeldEntry, Owned, SnapshotRecord


class Presence(Enum):
    """How much of a file is here."""

    PROVEN = "proven"  # proven before, and not touched since
    UNPROVEN = "unproven"  # a file of the right size, to be hashed before it counts
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Finding:
    """One file of a manifest as it stands on disk. `path`: where its bytes are, or will be.

    `mtime_ns`: the time of a proven file.
    """

    entry: FileEntry
    presence: Presence
    path: Path
    owned: Owned
    mtime_ns: int = 0


def survey(
    repository: Repository,
    manifest: Manifest,
    entries: Iterable[FileEntry],
    records: Iterable[SnapshotRecord],
) -> list[Finding]:
    """Look at each of `entries`; `records` are those of all commits of the model."""
    known = list(records)
    record = next((r for r in known if r.manifest.commit == manifest.commit), None)
    brought = {
        entry.digest for r in known for entry in r.manifest.files if r.owned.get(entry.path, Owned()).blob
    }
    said = {} if record is None else {entry.path: entry.digest for entry in record.manifest.files}
    return [
        _look(
            repository, manifest.commit, entry, record, brought, entry.digest in (None, said.get(entry.path))
        )
        for entry in entries
    ]


def _look(
    repository: Repository,
    commit: str,
    entry: FileEntry,
    record: SnapshotRecord | None,
    brought: set[Digest | None],
    is_of_record: bool,
) -> Finding:
    link = repository.snapshot(commit) / entry.path
    blob = repository.blob(entry.digest) if entry.digest is not None else link
    before = record.owned.get(entry.path) if record else None
    # Without a link the snapshot holds the bytes themselves, and no blob is brought for them.
    is_plain = not link.is_symlink() and _is_file_of_size(link, entry.size)
    is_brought = entry.digest in brought or not (is_plain or os.path.lexists(blob))
    owned = Owned(
        blob=(before is not None and before.blob) or is_brought,
        # A link to nothing is nobody's file, whoever made it.
        link=(before is not None and before.link) or not link.exists(),
    )
    # What was proven to be something else is not proven to be this.
    held = record.held.get(entry.path) if record and is_of_record else None
    place = link if record is None else place_of(repository, record, entry)
    if held is not None and is_untouched(place, entry, held):
        return Finding(entry, Presence.PROVEN, place, owned, held.mtime_ns)
    for path in (blob, link):
        if _is_file_of_size(path, entry.size):
            return Finding(entry, Presence.UNPROVEN, path, owned)
    return Finding(entry, Presence.ABSENT, blob, owned)


def is_untouched(path: Path, entry: FileEntry, held: HeldEntry) -> bool:
    """True when the file still has the size and time it had when it was proven."""
    try:
        status = path.stat()
    except OSError:
        return False
    return (
        stat.S_ISREG(status.st_mode) and status.st_size == entry.size and status.st_mtime_ns == held.mtime_ns
    )


def find_touched(
    repository: Repository, record: SnapshotRecord, entries: Iterable[FileEntry]
) -> FileEntry | None:
    """The first of `entries` that is not proven or has changed since; None when all stand as proven."""
    for entry in entries:
        held, path = record.held.get(entry.path), place_of(repository, record, entry)
        if held is None or not is_untouched(path, entry, held):
            return entry
    return None


def place_of(repository: Repository, record: SnapshotRecord, entry: FileEntry) -> Path:
    """Where the bytes of a file are: in its snapshot, or of one that no snapshot shows yet in its blob."""
    link = repository.snapshot(record.manifest.commit) / entry.path
    is_loose = entry.path in record.held and not record.selections and entry.digest is not None
    return repository.blob(entry.digest) if is_loose and not os.path.lexists(link) else link  # type: ignore[arg-type]


def _is_file_of_size(path: Path, size: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def read_refs(repository: Repository) -> dict[str, str]:
    """Branch and tag names of a repository, each with the commit it is said to be at."""
    found = {}
    for path in files_below(repository.refs):
        name = path.relative_to(repository.refs).as_posix()
        try:
            commit = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if is_commit(commit):
            found[name] = commit
    return found


def list_repositories(layout: Layout) -> list[Repository]:
    """Every Hugging Face model directory under the root, by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(layout.root) if entry.is_dir())
    except FileNotFoundError:
        return []
    found = []
    for directory in names:
        name = model_name_of(directory)
        if name is not None and is_model_name(name):
            found.append(Repository(layout.root, name))
    return found


def list_commits(repository: Repository) -> list[str]:
    """The commits that have a snapshot directory."""
    try:
        return sorted(e.name for e in os.scandir(repository.snapshots) if e.is_dir() and is_commit(e.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_foreign_manifest(repository: Repository, commit: str) -> Manifest | None:
    """The listing of a snapshot that another tool wrote: from its tree file, else from what its links say.

    A blob's name is the digest its origin gave, so a linked file can be proven without the origin. A
    plain file has no name to be proven by and gets an entry without a digest. None: nothing usable.
    """
    ref = model_ref(repository.name)
    listed = _read_tree(repository.tree(commit), ref, commit)
    if listed is not None:
        return listed
    folder = repository.snapshot(commit)
    entries = []
    for path in files_below(folder):
        try:
            size = path.stat().st_size
            entries.append(FileEntry(path.relative_to(folder).as_posix(), size, _digest_named_by(path)))
        except (OSError, MxError):
            return None  # a dangling link: this snapshot is not whole, whoever wrote it
    return Manifest(ref, commit, tuple(entries)) if entries else None


def _digest_named_by(path: Path) -> Digest | None:
    if not path.is_symlink():
        return None
    name = os.readlink(path).rpartition("/")[2]
    for kind in DigestKind:
        try:
            return Digest(kind, name)
        except MxError:
            continue
    return None


def _read_tree(path: Path, ref: ModelRef, commit: str) -> Manifest | None:
    try:
        content = json.loads(path.read_bytes())
        if content["format_version"] != 1:
            return None
        entries = tuple(_entry_of_tree(name, row) for name, row in content["files"].items())
        return Manifest(ref, commit, entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MxError):
        return None


def _entry_of_tree(name: str, row: dict[str, Any]) -> FileEntry:
    sha256 = row.get("lfs_sha256")
    digest = Digest(DigestKind.SHA256, sha256) if sha256 else Digest(DigestKind.GIT_BLOB, row["blob_id"])
    return FileEntry(name, int(row["size"]), digest, row["blob_id"], row.get("xet_hash"))


def files_below(folder: Path) -> Iterator[Path]:
    """Files and links below `folder`, in order, without following a directory link."""
    for parent, directories, names in os.walk(folder):
        directories.sort()
        for name in sorted(names):
            yield Path(parent, name)
        for name in directories:
            if os.path.islink(os.path.join(parent, name)):
                yield Path(parent, name)


def is_model_name(name: str) -> bool:
    """Whether a directory's name is that of a model; anybody may have made it."""
    try:
        model_ref(name)
    except MxError:
        return False
    return True
