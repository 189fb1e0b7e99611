# SPDX-License-Identifier: Apache-2.0
"""Publication: links, the listing for other tools, refs, then the record. Blocking: call it in the disk pool.

The order makes every crash harmless: the blobs are durable before anything names them, a first
snapshot appears by one rename, and the record, which alone says "complete", comes last. Everything
that takes room is written before the first name appears, so that a full disk leaves nothing half done.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from modelexpress.domain.errors import Internal
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import is_commit
from modelexpress.domain.selection import is_weight
from modelexpress.store.disk import Staged, make_directory, put_in_place, sync_directory, unique_name
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
        """Make it stand, durably; doing it again, or after a crash in the middle, ends the same.

        As long as no selection is complete nothing is shown of it: a snapshot that has some files only
        would be taken for the whole by other tools.
        Raises Vanished, and changes nothing, when another program has taken a proven file away.
        """
        repository, record = publication.repository, publication.record
        entries = record.entries_held()
        _check_present(repository, record, entries)
        if repository.blobs.is_dir():
            sync_directory(repository.blobs)
        if not (record.selections or repository.snapshot(record.manifest.commit).is_dir()):
            self._records.save(record)
            return
        with ExitStack() as stack:
            tree = self._stage_tree(stack, repository, record.manifest)
            commit, revisions = record.manifest.commit, sorted(publication.revisions)
            refs = [self._stage_ref(stack, repository, name, commit) for name in revisions]
            staged = self._records.stage(record)
            stack.callback(staged.drop)
            if tree is not None:
                tree.put()
            self._link(repository, commit, entries, record.held)
            for ref in refs:
                _put_ref(ref, repository)
            staged.put()

    def write_ref(self, repository: Repository, revision: str, commit: str) -> None:
        """Let `revision` name `commit`, as huggingface_hub does; a full commit needs no name."""
        with ExitStack() as stack:
            _put_ref(self._stage_ref(stack, repository, revision, commit), repository)

    def _stage_ref(
        self, stack: ExitStack, repository: Repository, revision: str, commit: str
    ) -> Staged | None:
        path, content = repository.refs / revision, commit.encode()
        with suppress(OSError):  # whatever stands there, `put` says what is wrong with it
            if is_commit(revision) or path.read_bytes() == content:
                return None
        return self._stage(stack, path, content)

    def _stage_tree(self, stack: ExitStack, repository: Repository, manifest: Manifest) -> Staged | None:
        path = repository.tree(manifest.commit)
        content = tree_content(manifest)
        return None if content is None or path.exists() else self._stage(stack, path, content)

    def _stage(self, stack: ExitStack, path: Path, content: bytes) -> Staged:
        staged = Staged(self._layout.staging, self._owner, path, content)
        stack.callback(staged.drop)
        return staged

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


def _put_ref(staged: Staged | None, repository: Repository) -> None:
    try:
        if staged is not None:
            staged.put()
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        # A branch 'a' and a branch 'a/b' cannot both be files; the commit itself is published.
        _log.warning("a ref of %s cannot be written: %s", repository.name, error)


class Vanished(Exception):
    """Files that were proven are not there any more; `paths` in the repository."""

    def __init__(self, paths: frozenset[str]) -> None:
        super().__init__(f"gone: {', '.join(sorted(paths))}")
        self.paths = paths


def _check_present(repository: Repository, record: SnapshotRecord, entries: Iterable[FileEntry]) -> None:
    snapshot = repository.snapshot(record.manifest.commit)
    gone = [
        entry.path
        for entry in entries
        if not is_untouched(snapshot / entry.path, entry, record.held[entry.path])
        and not is_untouched(repository.blob(_digest_of(entry)), entry, record.held[entry.path])
    ]
    if gone:
        raise Vanished(frozenset(gone))


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
