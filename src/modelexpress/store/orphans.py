# SPDX-License-Identifier: Apache-2.0
"""What broken-off pulls and removals left, and nothing leads to any more. Blocking: in the disk pool.

A day is waited: what looks lost may be on its way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from modelexpress.domain.refs import ModelRef
from modelexpress.store.layout import Layout
from modelexpress.store.records import Records
from modelexpress.store.removal import held_blobs, linked_blobs, owned_blobs

_AGE_SECONDS = 24 * 3600.0


def find_orphans(layout: Layout, records: Records, ref: ModelRef, now: float) -> list[Path]:
    """Blobs of ours that no snapshot of a model links, and no record counts as here."""
    repository, known = layout.repository(ref), records.find_all(ref)
    linked = linked_blobs(repository) | held_blobs(known)
    ours = owned_blobs(repository, known)
    return [blob for blob in sorted(ours) if blob.name not in linked and _is_old(blob, now)]


def find_void(layout: Layout, records: Records, ref: ModelRef, now: float) -> frozenset[str]:
    """Commits of which a broken-off pull only said what it was going to bring, and may have brought some."""
    void = (r for r in records.find_all(ref) if not r.held and not r.selections)
    commits = (record.manifest.commit for record in void)
    return frozenset(commit for commit in commits if _is_old(layout.record(ref, commit), now))


def find_stray_lists(layout: Layout, records: Records, now: float) -> list[Path]:
    """Digest lists of bytes that no record knows."""
    entries = (entry for record in records.scan() for entry in record.manifest.files)
    known = {layout.digest_list(entry.digest) for entry in entries if entry.digest is not None}
    return [path for path in _files_in(layout.digests) if path not in known and _is_old(path, now)]


def _files_in(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from [Path(entry.path) for entry in entries]


def _is_old(path: Path, now: float) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    # A file that was joined or repaired keeps its old time of writing: the inode's own counts.
    return now - max(status.st_mtime, status.st_ctime) > _AGE_SECONDS
