# SPDX-License-Identifier: Apache-2.0
"""Removing snapshots: a plan that can be shown, and the same plan carried out in a crash-safe order.

Blocking: call it in the disk pool. Only what we brought, or adopted, is ever in a plan.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelexpress.domain.held import Removal
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import ModelRef
from modelexpress.store.disk import make_directory, unique_name
from modelexpress.store.layout import Layout, Repository
from modelexpress.store.records import Owned, Records, SnapshotRecord
from modelexpress.store.survey import files_below, list_commits, read_refs
from modelexpress.store.volume import remove_tree

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RepositoryRemoval:
    """What goes of one repository: whole steps in the order in which they are carried out."""

    repository: Repository
    ref: ModelRef
    commits: tuple[str, ...]
    refs: tuple[Path, ...]
    links: tuple[Path, ...]
    trees: tuple[Path, ...]
    blobs: tuple[Path, ...]
    removals: tuple[Removal, ...]


def plan_removal(
    layout: Layout, ref: ModelRef, records: Records, commits: frozenset[str], reason: str
) -> RepositoryRemoval:
    """What removing `commits` of a model would delete. Reads the repository's real links.

    A blob stays while any link that stays points at it, whoever made that link.
    """
    repository = layout.repository(ref)
    known = records.find_all(ref)
    going = [record for record in known if record.manifest.commit in commits]
    links = [
        repository.snapshot(record.manifest.commit) / entry.path
        for record in going
        for entry in record.manifest.files
        if record.owned.get(entry.path, Owned()).link
    ]
    links = [link for link in links if os.path.lexists(link)]
    staying = _blobs_linked(repository, except_links=frozenset(links))
    owned = _owned_blobs(repository, known)
    removable = {blob for blob in owned if blob.name not in staying and blob.exists()}
    emptied = _emptied_commits(repository, [r.manifest.commit for r in going], frozenset(links))
    return RepositoryRemoval(
        repository=repository,
        ref=ref,
        commits=tuple(sorted(record.manifest.commit for record in going)),
        refs=_refs_to(repository, emptied),
        links=tuple(sorted(links)),
        trees=tuple(repository.tree(commit) for commit in sorted(emptied)),
        blobs=tuple(sorted(removable)),
        removals=_describe(repository, going, removable | _plain_files(links), reason),
    )


def carry_out(layout: Layout, owner: str, plan: RepositoryRemoval, records: Records) -> None:
    """Record, refs, links, blobs: after a crash at any step nothing here claims more than is true."""
    for commit in plan.commits:
        records.delete(plan.ref, commit)
    for path in plan.refs:
        path.unlink(missing_ok=True)
    # Renamed first: a rename is one step, and a reader that has the file open keeps it.
    trash = layout.trash / unique_name(owner)
    make_directory(trash)
    for number, path in enumerate((*plan.links, *plan.trees, *plan.blobs)):
        _move_away(path, trash / str(number))
    for link in plan.links:
        _drop_empty_folders(link.parent, plan.repository.path)
    for folder in (plan.repository.refs, plan.repository.path / "trees", plan.repository.blobs):
        _drop_empty_tree(folder, plan.repository.path)
    _drop_empty_folders(layout.record_folder(plan.ref), layout.records)
    remove_tree(trash)


def _blobs_linked(repository: Repository, except_links: frozenset[Path]) -> set[str]:
    return {
        os.path.basename(os.readlink(path))
        for commit in list_commits(repository)
        for path in files_below(repository.snapshot(commit))
        if path not in except_links and path.is_symlink()
    }


def _emptied_commits(repository: Repository, commits: list[str], links: frozenset[Path]) -> set[str]:
    # Where files of somebody else stay in the snapshot, its refs and its listing stay with them.
    return {c for c in commits if all(path in links for path in files_below(repository.snapshot(c)))}


def _owned_blobs(repository: Repository, records: Iterable[SnapshotRecord]) -> set[Path]:
    # Of all records, not only of those that go: a blob brought for one commit and kept only for
    # another one is still ours to delete with the last of them.
    return {
        repository.blob(entry.digest)
        for record in records
        for entry in record.manifest.files
        if entry.digest is not None and record.owned.get(entry.path, Owned()).blob
    }


def _refs_to(repository: Repository, commits: set[str]) -> tuple[Path, ...]:
    # A ref to a snapshot that is no longer there makes offline clients fail in a confusing way.
    return tuple(
        repository.refs / name for name, commit in sorted(read_refs(repository).items()) if commit in commits
    )


def _describe(
    repository: Repository, going: Iterable[SnapshotRecord], files: set[Path], reason: str
) -> tuple[Removal, ...]:
    described = []
    counted: set[Path] = set()
    for record in going:
        removed = freed = 0
        for entry in record.manifest.files:
            paths = {_find_blob(repository, entry), repository.snapshot(record.manifest.commit) / entry.path}
            going_now = (files & paths) - counted
            counted |= going_now
            freed += entry.size * len(going_now)
            removed += bool(going_now)
        ref, kept = record.manifest.ref, len(record.held) - removed
        described.append(
            Removal(ref.provider, ref.name, record.manifest.commit, freed, removed, max(kept, 0), reason)
        )
    return tuple(described)


def _plain_files(links: Iterable[Path]) -> set[Path]:
    # On a file system without links, or after a copy that followed them, a snapshot holds the bytes.
    return {path for path in links if not path.is_symlink()}


def _find_blob(repository: Repository, entry: FileEntry) -> Path | None:
    return None if entry.digest is None else repository.blob(entry.digest)


def _move_away(path: Path, target: Path) -> None:
    while os.path.lexists(path):
        with suppress(FileNotFoundError, FileExistsError):  # another process sweeps the trash: again
            make_directory(target.parent)
            path.rename(target)


def _drop_empty_folders(folder: Path, top: Path) -> None:
    """Remove `folder` and its parents up to and with `top` as far as they are empty."""
    while folder.is_relative_to(top):
        try:
            folder.rmdir()
        except OSError:
            return  # not empty, or gone
        folder = folder.parent


def _drop_empty_tree(folder: Path, top: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        _drop_empty_folders(Path(parent), top)
