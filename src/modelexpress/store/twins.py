# SPDX-License-Identifier: Apache-2.0
"""The same bytes in several repositories: one file on the disk with several names. Blocking: disk pool.

Each repository has fetched and proven them by itself before: what is shared is space, never access.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelexpress.domain.manifest import Digest, DigestKind
from modelexpress.domain.refs import ModelRef
from modelexpress.store.disk import find_files, make_directory, unique_name
from modelexpress.store.layout import Layout, Repository, model_name_of, model_ref
from modelexpress.store.records import Owned, Records
from modelexpress.store.survey import is_model_name

LEAST_BYTES = 1024 * 1024
"""Of smaller files there is little to save, and many."""
_MOST_NAMES = 1000  # of one file; file systems end at 65,000 or earlier


@dataclass(frozen=True, slots=True)
class Twin:
    """A proven file of ours in another repository, and the time that it was proven with."""

    ref: ModelRef
    path: Path
    mtime_ns: int


class Twins:
    """Finds and joins equal files under one cache root."""

    def __init__(self, layout: Layout, records: Records, owner: str) -> None:
        self._layout = layout
        self._records = records
        self._owner = owner

    def find(self, repository: Repository, digest: Digest, size: int) -> tuple[Twin, ...]:
        """The files with these bytes in other repositories that may be joined; all have one time."""
        found: list[Twin] = []
        if digest.kind is not DigestKind.SHA256 or size < LEAST_BYTES:
            return ()
        for path in find_files(self._layout.root, f"models--*/blobs/{digest.value}"):
            name = model_name_of(path.parents[1].name)
            if name is not None and is_model_name(name) and name != repository.name:
                twin = self._check(model_ref(name), path, digest, size)
                found += [] if twin is None or (found and found[0].mtime_ns != twin.mtime_ns) else [twin]
        return tuple(found)

    def join(self, twin: Twin, blob: Path) -> int:
        """Let the twin's name lead to `blob`, which was proven last; bytes that come free.

        0 and nothing done where one of them has changed or gone, or the file system has no hard links.
        The caller has the turn of the twin's model.
        """
        temporary = self._layout.staging / unique_name(self._owner)
        with suppress(OSError):
            before, now = twin.path.lstat(), blob.lstat()
            if os.path.samestat(before, now) or now.st_nlink >= _MOST_NAMES:
                return 0
            if (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
                return 0
            make_directory(temporary.parent)
            temporary.hardlink_to(blob)
            try:
                os.replace(temporary, twin.path)
            finally:
                temporary.unlink(missing_ok=True)
            return before.st_size if before.st_nlink == 1 else 0
        return 0

    def _check(self, ref: ModelRef, path: Path, digest: Digest, size: int) -> Twin | None:
        """The file at `path` as its own records know it: ours, proven, and not touched since."""
        with suppress(OSError):
            status = path.lstat()
            for record in self._records.find_all(ref):
                for entry in record.manifest.files:
                    held = record.held.get(entry.path)
                    is_ours = record.owned.get(entry.path, Owned()).blob
                    if entry.digest == digest and held is not None and is_ours:
                        is_same = (status.st_size, status.st_mtime_ns) == (size, held.mtime_ns)
                        return Twin(ref, path, held.mtime_ns) if is_same else None
        return None
