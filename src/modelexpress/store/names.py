# SPDX-License-Identifier: Apache-2.0
"""What branches and tags mean, as far as the disk knows. Blocking: call it in the disk pool."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelexpress.domain.refs import DEFAULT_BRANCH, ModelRef, is_commit
from modelexpress.store.layout import Layout
from modelexpress.store.records import Records
from modelexpress.store.survey import files_below

_MOST_READ = 20_000  # one model with more of them would cost reading all of them at each question
_RECORD = ".json"
_YOUNG_NS = 1_000_000_000  # a file can be replaced twice within one tick of the clock of its times


@dataclass(frozen=True, slots=True)
class Meaning:
    """The commit of a name, and when that was said."""

    commit: str
    said_at: float


@dataclass(frozen=True, slots=True)
class _Named:
    """What one record says of names."""

    commit: str
    names: Mapping[str, float]
    is_held: bool
    completed_at: float | None


def commits_of(names: Mapping[str, Meaning]) -> dict[str, str]:
    """The commits of branches and tags. The first digits of a commit, which some ask by, are neither."""
    return {name: said.commit for name, said in names.items() if not said.commit.startswith(name)}


class Names:
    """What the records say, and the refs of the layout, which other tools write too: the newest counts."""

    def __init__(self, layout: Layout, records: Records) -> None:
        self._layout = layout
        self._records = records
        self._recall = functools.lru_cache(_MOST_READ)(self._read)

    def find_commit(self, ref: ModelRef) -> str | None:
        """What a ref means here: what was last said of it and is here; a commit means itself."""
        if ref.is_pinned:
            return ref.revision
        records = list(self._records_of(ref))
        said = self._newest(ref, [one for one in records if one.is_held]).get(ref.revision or DEFAULT_BRANCH)
        if said is not None:
            return said.commit
        complete = [one for one in records if one.completed_at is not None and ref.revision is None]
        newest = max(complete, key=lambda one: one.completed_at or 0.0, default=None)
        return None if newest is None else newest.commit

    def find_all(self, ref: ModelRef, is_held: bool = True) -> dict[str, Meaning]:
        """Every name of a repository; `is_held` False: also those of records that hold no file yet."""
        records = self._records_of(ref)
        return self._newest(ref, [one for one in records if one.is_held or not is_held])

    def list_names(self, ref: ModelRef) -> dict[str, str]:
        """The branches and tags of a repository by which something is here, each with its commit."""
        return commits_of(self.find_all(ref))

    def _newest(self, ref: ModelRef, records: list[_Named]) -> dict[str, Meaning]:
        found = dict(self._read_refs(ref))
        for record in records:
            for name, said_at in record.names.items():
                before = found.get(name)
                if not is_commit(name) and (before is None or before.said_at < said_at):
                    found[name] = Meaning(record.commit, said_at)
        return found

    def _read_refs(self, ref: ModelRef) -> Iterator[tuple[str, Meaning]]:
        folder = self._layout.repository(ref).refs
        for path in files_below(folder):
            try:
                commit = path.read_text(encoding="ascii").strip()
                said_at = path.stat().st_mtime
            except (OSError, ValueError):
                continue
            if is_commit(commit):
                yield path.relative_to(folder).as_posix(), Meaning(commit, said_at)

    def _records_of(self, ref: ModelRef) -> Iterator[_Named]:
        repository, now = ref.repository, time.time_ns()
        for file in _find_records(self._layout.record_folder(ref)):
            try:
                status = file.stat()
            except OSError:
                continue
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            read = self._read if now - status.st_mtime_ns < _YOUNG_NS else self._recall
            found = read(repository, file.name.removesuffix(_RECORD), stamp)
            if found is not None:
                yield found

    def _read(self, repository: ModelRef, commit: str, stamp: tuple[int, int, int]) -> _Named | None:
        """What a record says; for each `stamp` of its file it is read once."""
        record = self._records.find(repository, commit)
        if record is None:
            return None
        times = [done.completed_at for done in record.selections.values()]
        return _Named(commit, record.names, bool(record.held), max(times, default=None))


def _find_records(folder: Path) -> list[os.DirEntry[str]]:
    """The records in a folder, by name; a path for each would take longer than all the rest."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as files:
        return sorted((file for file in files if file.name.endswith(_RECORD)), key=lambda file: file.name)
    return []
