# SPDX-License-Identifier: Apache-2.0
"""The folder of arriving files: begun anew, or taken over from whoever was interrupted. Blocking."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import shown
from modelexpress.store.disk import disk_bytes, unique_name
from modelexpress.store.journal import Header, Journal, Journalled, read_journal
from modelexpress.store.layout import Layout, Repository
from modelexpress.store.partial import Partial
from modelexpress.store.volume import JOURNAL, PART, Process

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Leftover:
    """A partial file that somebody left. `is_ours`: its writer is gone for good, or was this session."""

    part: Path
    journal: Path
    said: Journalled
    is_ours: bool


class Partials:
    """Opens partial files for one session. The claim on a file's bytes is held by whoever calls."""

    def __init__(self, layout: Layout, owner: str) -> None:
        self._layout = layout
        self._owner = owner
        self._process = Process.current()
        self.in_use: set[Path] = set()
        """Those that are open now."""

    def open(
        self,
        repository: Repository,
        entry: FileEntry,
        on_arrival: Callable[[int], None],
        is_resumed: bool = True,
    ) -> Partial:
        """A file for `entry`; `is_resumed`: with all that a predecessor's journal can prove of it.

        Raises OSError when there is no room for it or it cannot be written; it leaves nothing then.
        """
        name = unique_name(f"{self._owner}.{_key(repository, entry)}")
        path = self._layout.partials / (name + PART)
        before = self._find_best(repository, entry) if is_resumed else None
        if before is not None and before.is_ours and not _share(before.part, path):
            before = replace(before, is_ours=False)  # somebody else goes on with it too: copy what is there
        header = Header(repository.name, entry.path, entry.size, _vouched(entry), self._process)
        partial = self._begin(path, header, on_arrival)
        if before is not None:
            partial.is_taken_over = True
            os.utime(path)  # an old file that is gone on with is not abandoned
            if self._take_over(partial, before) and self._has_all(before):
                partial.continues = before.part.name
            for old in self._find(f"*.{_key(repository, entry)}.*"):
                _remove(old)
        return partial

    def _begin(self, path: Path, header: Header, on_arrival: Callable[[int], None]) -> Partial:
        journal = None
        self.in_use.add(path)  # before it is there: nobody who looks for leftovers may find it without
        try:
            journal = Journal(path.with_suffix(JOURNAL), header)
            partial = Partial(path, header.size, journal, on_arrival)
        except BaseException:
            self.in_use.discard(path)
            path.unlink(missing_ok=True)
            if journal is not None:
                journal.close()
                journal.path.unlink(missing_ok=True)
            raise
        return partial

    def release(self, partial: Partial, is_kept: bool) -> None:
        """`partial` is used no more: it stays to be resumed if `is_kept`, else it is deleted."""
        partial.leave()
        partial.close()
        self.in_use.discard(partial.path)
        if not is_kept or not partial.path.exists():  # a file that became a blob leaves its journal
            partial.delete()

    def allocated_bytes(self, repository: Repository, entries: list[FileEntry]) -> int:
        """Bytes of the disk that files to be resumed hold already."""
        total = 0
        for entry in entries:
            best = self._find_best(repository, entry)
            if best is not None and best.is_ours:
                with suppress(FileNotFoundError):
                    total += min(disk_bytes(best.part.stat()), entry.size)
        return total

    def delete_of(self, repository: Repository, entries: Iterable[FileEntry] | None = None) -> int:
        """Delete what interrupted pulls of a model left, where their writers are gone; bytes freed.

        `entries`: of these files alone.
        """
        keys = [f"{_repository_key(repository)}-*"]
        if entries is not None:
            keys = [f"{_key(repository, entry)}.*" for entry in entries]
        return sum(_remove(leftover) for key in keys for leftover in self._find(f"*.{key}"))

    def dead_bytes(self, except_model: str | None) -> int:
        """Bytes of the disk that `delete_dead` would free."""
        dead = (found.part.stat() for found in self._find_dead(except_model))
        return sum(disk_bytes(status) for status in dead if status.st_nlink == 1)

    def delete_dead(self, except_model: str | None) -> int:
        """Delete the files whose writers are gone for good, but those of one model; bytes freed."""
        return sum(_remove(found) for found in self._find_dead(except_model))

    def _find_dead(self, except_model: str | None) -> list[_Leftover]:
        dead = (found for found in self._find("*") if found.is_ours)
        return [found for found in dead if found.said.header.repository != except_model]

    def find_dead(self) -> list[tuple[Path, int]]:
        """Files whose writers are gone for good, each with its bytes."""
        found = [path for dead in self._find("*") if dead.is_ours for path in (dead.part, dead.journal)]
        return [(path, path.stat().st_size) for path in found if path.is_file()]

    def _find_best(self, repository: Repository, entry: FileEntry) -> _Leftover | None:
        fitting = [
            leftover
            for leftover in self._find(f"*.{_key(repository, entry)}.*")
            if _fits(leftover.said.header, repository, entry)
        ]
        return max(fitting, key=lambda found: (found.is_ours, found.said.arrived_bytes), default=None)

    def _find(self, pattern: str) -> Iterator[_Leftover]:
        for journal in sorted(self._layout.partials.glob(pattern + JOURNAL)):
            part = journal.with_suffix(PART)
            said = read_journal(journal) if part not in self.in_use and part.is_file() else None
            if said is None:
                continue
            is_own = journal.name.startswith(f"{self._owner}.")
            writer = said.header.process
            is_dead = said.is_left or (writer is not None and writer.is_surely_dead(self._process))
            if writer is not None and not (is_own or is_dead) and writer.is_beside(self._process):
                continue  # alive beside us, with a directory or a registry of its own: not to be disturbed
            yield _Leftover(part, journal, said, is_ours=is_own or is_dead)

    def _has_all(self, before: _Leftover) -> bool:
        """Whether what was read of a leftover is in its journal: its writer is gone, the machine is not."""
        writer = before.said.header.process
        return before.is_ours and writer is not None and writer.boot == self._process.boot != ""

    def _take_over(self, partial: Partial, before: _Leftover) -> bool:
        """Go on with the bytes of a leftover; whether all that its journal names are there."""
        try:
            source = os.open(partial.path if before.is_ours else before.part, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            taken = partial.resume(source, before.said.pieces, before.said.etags)
        finally:
            os.close(source)
        header = before.said.header
        _log.info("%s: %s goes on with %d bytes", header.repository, shown(header.path), taken)
        return taken == before.said.arrived_bytes


def _share(part: Path, path: Path) -> bool:
    """Give the file a second name: until all of it is journalled again, the first one still finds it.

    False: another process has done the same, and two must never write into one file.
    """
    try:
        path.hardlink_to(part)
    except FileNotFoundError:
        return True
    except OSError:
        part.rename(path)  # a file system without hard links
        return True
    if path.stat().st_nlink > 2:
        path.unlink()
        return False
    return True


def _remove(leftover: _Leftover) -> int:
    """Delete one whose writer is gone; the bytes that the disk gets back."""
    freed = 0
    if leftover.is_ours:
        with suppress(FileNotFoundError):
            status = leftover.part.stat()
            freed = disk_bytes(status) if status.st_nlink == 1 else 0
        leftover.part.unlink(missing_ok=True)
        leftover.journal.unlink(missing_ok=True)
    return freed


def _key(repository: Repository, entry: FileEntry) -> str:
    """Names the bytes of `entry`: the same ones under two paths have one key."""
    return f"{_repository_key(repository)}-{_short(_vouched(entry) or entry.path)}"


def _repository_key(repository: Repository) -> str:
    return _short(repository.name)


def _vouched(entry: FileEntry) -> str:
    return "" if entry.digest is None else str(entry.digest)


def _fits(header: Header, repository: Repository, entry: FileEntry) -> bool:
    # Bytes that nothing vouches for are never mixed with those of another day.
    return entry.digest is not None and (header.repository, header.size, header.digest) == (
        repository.name,
        entry.size,
        str(entry.digest),
    )


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
