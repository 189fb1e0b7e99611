# SPDX-License-Identifier: Apache-2.0
"""Removing snapshots: a plan that can be shown, and the same plan carried out in a crash-safe order.

Blocking: call it in the disk pool. Only what we brought, or adopted, is ever in a plan.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelexpress.domain.errors import MxError
from modelexpress.domain.held import Removal
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.store.disk import make_directory
from modelexpress.store.intents import Intent, describe_files, is_still, read_interrupted, write_intent
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
    layout: Layout,
    ref: ModelRef,
    records: Records,
    commits: frozenset[str],
    reason: str,
    kept: frozenset[Path] = frozenset(),
) -> RepositoryRemoval:
    """What removing `commits` of a model would delete. Reads the repository's real links.

    A blob stays while any link that stays points at it, whoever made that link, or it is one of `kept`.
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
    staying = linked_blobs(repository, except_links=frozenset(links))
    staying |= held_blobs(record for record in known if record.manifest.commit not in commits)
    owned = owned_blobs(repository, known)
    removable = {blob for blob in owned - kept if blob.name not in staying and blob.exists()}
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


def owned_blobs(repository: Repository, records: Iterable[SnapshotRecord]) -> set[Path]:
    """The blobs of a model that we brought or adopted, going by the records of all its commits.

    Of all, not only of those that go: a blob brought for one commit and kept only for another one is
    still ours to delete with the last of them.
    """
    return {
        repository.blob(entry.digest)
        for record in records
        for entry in record.manifest.files
        if entry.digest is not None and record.owned.get(entry.path, Owned()).blob
    }


def held_blobs(records: Iterable[SnapshotRecord]) -> set[str]:
    """The names of the blobs that records count as theirs, also those that no snapshot shows."""
    held = (entry.digest for record in records for entry in record.entries_held())
    return {digest.value for digest in held if digest is not None}


def loose_blobs(repository: Repository, record: SnapshotRecord) -> list[Path]:
    """The blobs of a record that its snapshot does not show, and that we brought."""
    folder = repository.snapshot(record.manifest.commit)
    return [
        repository.blob(entry.digest)
        for entry in record.entries_held()
        if entry.digest is not None
        and record.owned.get(entry.path, Owned()).blob
        and not os.path.lexists(folder / entry.path)
    ]


def linked_blobs(repository: Repository, except_links: frozenset[Path] = frozenset()) -> set[str]:
    """The names of the blobs that snapshots lead to, whoever made the links."""
    targets = (
        _target_of(path)
        for commit in list_commits(repository)
        for path in files_below(repository.snapshot(commit))
        if path not in except_links
    )
    return {os.path.basename(target) for target in targets if target is not None}


def _target_of(path: Path) -> str | None:
    """Where a link leads; None for what is none, or has gone: others remove and link at the same time."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def note_removal(layout: Layout, owner: str, plan: RepositoryRemoval) -> Path:
    """Write down what is going to go, so that a crash stops it nowhere halfway; the note."""
    top = plan.repository.path
    intent = Intent(
        provider=plan.ref.provider.value,
        name=plan.ref.name,
        commits=plan.commits,
        refs=tuple(path.relative_to(top).as_posix() for path in plan.refs),
        files=describe_files(top, (*plan.links, *plan.trees, *plan.blobs)),
    )
    return write_intent(layout, owner, intent)


def trash_of(layout: Layout, noted: Path) -> Path:
    """The folder to which a noted removal takes what stood in the repository, by its path there."""
    return layout.trash / noted.stem


def carry_out(
    layout: Layout, noted: Path, plan: RepositoryRemoval, records: Records, has_readers: bool = False
) -> Path:
    """Record, refs, links, blobs: after a crash at any step nothing here claims more than is true.

    Returns the folder in the trash, to be deleted when nobody reads there. `has_readers`: each file can
    be opened at one of its two places at every moment, where the file system has hard links.
    """
    trash = trash_of(layout, noted)
    _remove(layout, plan, records, _Mover(plan.repository.path, trash, has_readers))
    noted.unlink(missing_ok=True)
    return trash


def finish_removals(layout: Layout, dead_owners: frozenset[str], records: Records) -> int:
    """Carry out to the end what processes that died in the middle had begun; how many those were.

    A model that has been brought anew since stays as it is.
    """
    count = 0
    for noted, intent in read_interrupted(layout, dead_owners):
        try:
            ref = ModelRef(ProviderKind(intent.provider), intent.name)
        except (ValueError, MxError) as error:
            _log.warning("removal %s names no model (%s) and is not finished", noted, error)
            noted.unlink(missing_ok=True)
            continue
        if not any(_is_newer(layout.record(ref, commit), noted) for commit in intent.commits):
            repository = layout.repository(ref)
            plan = _plan_again(repository, ref, intent, records)
            remove_tree(carry_out(layout, noted, plan, records))
            count += 1
        noted.unlink(missing_ok=True)
    return count


def _plan_again(repository: Repository, ref: ModelRef, intent: Intent, records: Records) -> RepositoryRemoval:
    top = repository.path
    # Those that have gone already too: the folders that they leave empty go with them.
    meant = [(top / file.name, file) for file in intent.files]
    still = [path for path, file in meant if is_still(top, file) or not os.path.lexists(path)]
    links = frozenset(path for path in still if path.is_relative_to(repository.snapshots))
    # Another snapshot may have come to need a blob since.
    others = (one for one in records.find_all(ref) if one.manifest.commit not in intent.commits)
    needed = linked_blobs(repository, except_links=links) | held_blobs(others)
    named = read_refs(repository)
    refs = [top / name for name in intent.refs]
    return RepositoryRemoval(
        repository=repository,
        ref=ref,
        commits=intent.commits,
        refs=tuple(r for r in refs if named.get(r.relative_to(repository.refs).as_posix()) in intent.commits),
        links=tuple(sorted(links)),
        trees=tuple(path for path in still if path.is_relative_to(top / "trees")),
        blobs=tuple(p for p in still if p.is_relative_to(repository.blobs) and p.name not in needed),
        removals=(),
    )


def _is_newer(record: Path, noted: Path) -> bool:
    try:
        return record.stat().st_mtime_ns > noted.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def _remove(layout: Layout, plan: RepositoryRemoval, records: Records, mover: _Mover) -> None:
    for commit in plan.commits:
        records.delete(plan.ref, commit)
    for path in plan.refs:
        path.unlink(missing_ok=True)
    mover.keep_readable(plan)
    for path in (*plan.links, *plan.trees, *plan.blobs):
        mover.move(path)
    for link in plan.links:
        _drop_empty_folders(link.parent, plan.repository.path)
    for folder in (plan.repository.refs, plan.repository.path / "trees", plan.repository.blobs):
        _drop_empty_tree(folder, plan.repository.path)
    _drop_empty_folders(layout.record_folder(plan.ref), layout.records)


class _Mover:
    """Takes files out of a repository. A rename is one step, and a reader that has the file open keeps it."""

    def __init__(self, repository: Path, trash: Path, has_readers: bool) -> None:
        self._repository = repository
        self._trash = trash
        self._has_readers = has_readers

    def keep_readable(self, plan: RepositoryRemoval) -> None:
        """Second names for the bytes before the first link moves, so that no link ever leads nowhere."""
        if self._has_readers:
            targets = (target for target in map(_target_of, plan.links) if target is not None)
            linked = {plan.repository.blobs / os.path.basename(target) for target in targets}
            for blob in linked.union(plan.blobs):
                target = self._target(blob)
                with suppress(OSError):  # no hard links here, or no room: whoever opens tries again
                    make_directory(target.parent)
                    target.hardlink_to(blob)

    def move(self, path: Path) -> None:
        """Take `path` away; absent is fine."""
        target = self._target(path)
        while os.path.lexists(path):
            with suppress(FileNotFoundError, FileExistsError):  # another process sweeps the trash: again
                if not self._has_room(target.parent) or _is_same(path, target):
                    path.unlink()  # renaming one name of a file to another does nothing
                else:
                    path.rename(target)

    def _has_room(self, folder: Path) -> bool:
        """Make a folder in the trash; False on a full disk, where deleting at once is what helps."""
        try:
            make_directory(folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True

    def _target(self, path: Path) -> Path:
        return self._trash / path.relative_to(self._repository)


def _is_same(path: Path, target: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), target.lstat())
    except FileNotFoundError:
        return False


def _emptied_commits(repository: Repository, commits: list[str], links: frozenset[Path]) -> set[str]:
    # Where files of somebody else stay in the snapshot, its refs and its listing stay with them.
    return {c for c in commits if all(path in links for path in files_below(repository.snapshot(c)))}


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
            freed += entry.size * sum(_is_last_name(path) for path in going_now if path is not None)
            removed += bool(going_now)
        ref, kept = record.manifest.ref, len(record.held) - removed
        described.append(
            Removal(ref.provider, ref.name, record.manifest.commit, freed, removed, max(kept, 0), reason)
        )
    return tuple(described)


def _is_last_name(path: Path) -> bool:
    # The same bytes in another repository are one file with two names.
    try:
        return path.lstat().st_nlink == 1
    except FileNotFoundError:
        return False


def _plain_files(links: Iterable[Path]) -> set[Path]:
    # On a file system without links, or after a copy that followed them, a snapshot holds the bytes.
    return {path for path in links if not path.is_symlink()}


def _find_blob(repository: Repository, entry: FileEntry) -> Path | None:
    return None if entry.digest is None else repository.blob(entry.digest)


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
