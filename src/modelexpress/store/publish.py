# SPDX-License-Identifier: Apache-2.0
"""Publication: links, the listing for other tools, refs, then the record. Blocking: call it in the disk pool.

The order makes every crash harmless: the blobs are durable before anything names them, a first
snapshot appears by one rename, and the record, which alone says "complete", comes last.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelexpress.domain.errors import Internal
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import is_commit
from modelexpress.domain.selection import is_weight
from modelexpress.store.disk import make_directory, put_in_place, sync_directory, unique_name, write_durably
from modelexpress.store.layout import Layout, Repository, link_target
from modelexpress.store.records import HeldEntry, Records, SnapshotRecord
from modelexpress.store.survey import is_untouched

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to stand published: proven files of one commit, the names it goes by, and the record of it."""

    repository: Repository
    record: SnapshotRecord
    revisions: frozenset[str]


class Publisher:
    """Carries out publications under one cache root."""

    def __init__(self, layout: Layout, records: Records, owner: str) -> None:
        self._layout = layout
        self._records = records
        self._owner = owner

    def publish(self, publication: Publication) -> None:
        """Make it stand, durably; doing it again, or after a crash in the middle, ends the same."""
        repository, record = publication.repository, publication.record
        entries = record.entries_held()
        if repository.blobs.is_dir():
            sync_directory(repository.blobs)
        self._write_tree(repository, record.manifest)
        self._link(repository, record.manifest.commit, entries, record.held)
        for revision in sorted(publication.revisions):
            self.write_ref(repository, revision, record.manifest.commit)
        self._records.save(record)

    def write_ref(self, repository: Repository, revision: str, commit: str) -> None:
        """Let `revision` name `commit`, as huggingface_hub does; a full commit needs no name."""
        if is_commit(revision):
            return
        path = repository.refs / revision
        try:
            if path.is_file() and path.read_bytes() == commit.encode():
                return
            write_durably(self._layout.staging, self._owner, path, commit.encode())
        except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            # A branch 'a' and a branch 'a/b' cannot both be files; the commit itself is published.
            _log.warning("ref %s of %s cannot be written: %s", revision, repository.name, error)

    def _write_tree(self, repository: Repository, manifest: Manifest) -> None:
        path = repository.tree(manifest.commit)
        content = tree_content(manifest)
        if content is not None and not path.exists():
            write_durably(self._layout.staging, self._owner, path, content)

    def _link(
        self, repository: Repository, commit: str, entries: Iterable[FileEntry], held: Mapping[str, HeldEntry]
    ) -> None:
        snapshot = repository.snapshot(commit)
        missing = [e for e in entries if not is_untouched(snapshot / e.path, e, held[e.path])]
        if not missing:
            return
        staged = self._layout.staging / unique_name(self._owner)
        try:
            _make_links(staged, missing)
            make_directory(repository.snapshots)
            if not snapshot.exists() and _rename_whole(staged, snapshot):
                sync_directory(repository.snapshots)
                return
            _merge(staged, snapshot, missing)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def tree_content(manifest: Manifest) -> bytes | None:
    """The listing as huggingface_hub 2.x keeps it; None where the origin's ids are not known."""
    rows = {}
    for entry in manifest.files:
        if entry.blob_id is None:
            return None
        row: dict[str, str | int] = {"size": entry.size, "blob_id": entry.blob_id}
        if entry.digest is not None and entry.digest.kind is DigestKind.SHA256:
            row |= {"lfs_sha256": entry.digest.value, "lfs_size": entry.size}
        if entry.xet_hash is not None:
            row["xet_hash"] = entry.xet_hash
        rows[entry.path] = row
    return json.dumps({"format_version": 1, "files": rows}, indent=1).encode()


def _digest_of(entry: FileEntry) -> Digest:
    if entry.digest is None:
        raise Internal(f"file {entry.path} is to be published without a digest")
    return entry.digest


def _make_links(staged: Path, entries: Iterable[FileEntry]) -> None:
    make_directory(staged)
    folders = {staged}
    for entry in entries:
        link = staged / entry.path
        make_directory(link.parent)
        folders.update(parent for parent in link.parents if parent.is_relative_to(staged))
        link.symlink_to(link_target(entry, _digest_of(entry)))
    for folder in folders:
        sync_directory(folder)


def _rename_whole(staged: Path, snapshot: Path) -> bool:
    try:
        staged.rename(snapshot)
    except OSError:
        if snapshot.is_dir():
            return False  # somebody else published the same commit in this moment
        raise
    return True


def _merge(staged: Path, snapshot: Path, entries: Iterable[FileEntry]) -> None:
    # Readers find weights through their index, so it must not name files that are not there yet.
    for entry in sorted(entries, key=_rank):
        target = snapshot / entry.path
        make_directory(target.parent)
        put_in_place(staged / entry.path, target)
        sync_directory(target.parent)


def _rank(entry: FileEntry) -> tuple[bool, bool, str]:
    return entry.path.endswith(".index.json"), is_weight(entry.path), entry.path
