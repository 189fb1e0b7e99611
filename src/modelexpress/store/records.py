# SPDX-License-Identifier: Apache-2.0
"""Records on disk: which files of a commit are proven, which selections are complete, and whose they are."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from modelexpress.domain.errors import Invalid, MxError, Unsupported
from modelexpress.domain.manifest import Digest, FileEntry, Manifest, Proof
from modelexpress.domain.refs import DEFAULT_BRANCH, ModelRef, ProviderKind
from modelexpress.store.disk import Staged, find_files
from modelexpress.store.layout import Layout

FORMAT = 1
_MOST_NAMES = 100

_MOST_KEPT_BYTES = 32 * 1024 * 1024  # of files; what is made of them takes two to three times as much
# The clock of a file system goes in steps: what was written within the last one may be written again
# and look the same.
_STEP_NS = 2_000_000_000
_MOST_ENTRIES = 16_384

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, IsADirectoryError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """One proven file. `mtime_ns` is the file's time when it was proven: another one means prove again."""

    proof: Proof
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Owned:
    """What of one file we brought, or are about to bring, and may therefore delete."""

    blob: bool = False
    link: bool = False


@dataclass(frozen=True, slots=True)
class CompleteSelection:
    """The statement that a selection is complete. `missing`: ancillary files the origin did not have."""

    completed_at: float
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """All we know of one commit of one model. `manifest` is its whole listing.

    `owned` is saved before the first byte is fetched, so that after a crash at any point what we
    brought is still known as ours. `held` and `selections` speak only of proven files; as long as there
    is no selection, files that were read one by one stand as blobs alone, and no snapshot shows them.
    `is_listed_by_origin` False: the listing was read off a directory that another tool wrote, so
    files may be missing from it, unless `is_whole`: the origin has said that there are no others.
    `is_read_by_server`: the server's own credentials may read this commit, so bytes of it are not only for
    the caller who brought them; `is_public`: the origin has let somebody without any token read it.
    `names`: revisions that meant this commit, with the time when the origin last said so; of several records
    with the same name the newest counts. `absent`: files that the origin was asked for and does not have,
    where it has not listed the commit. `of_mirror`: files of which only a mirror has said what they are,
    while the origin did not answer: that counts until the origin can be asked.
    """

    manifest: Manifest
    is_listed_by_origin: bool = True
    is_whole: bool = False
    is_read_by_server: bool = True
    is_adopted: bool = False
    is_public: bool = False
    names: Mapping[str, float] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    of_mirror: frozenset[str] = frozenset()
    owned: Mapping[str, Owned] = field(default_factory=dict)
    held: Mapping[str, HeldEntry] = field(default_factory=dict)
    selections: Mapping[str, CompleteSelection] = field(default_factory=dict)

    @property
    def lists_all(self) -> bool:
        """Whether what is not in the listing is not in the commit."""
        return self.is_listed_by_origin or self.is_whole

    def entries_held(self) -> tuple[FileEntry, ...]:
        """The proven files of the listing, by path."""
        return tuple(entry for entry in self.manifest.files if entry.path in self.held)

    def joined(self, manifest: Manifest) -> SnapshotRecord:
        """The same with the files of `manifest`, as it has them; a mirror changes none that is known."""
        known = {entry.path: entry for entry in self.manifest.files}
        told, is_of_mirror = {entry.path: entry for entry in manifest.files}, manifest.is_of_mirror
        news = {path for path in told if path not in known or not is_of_mirror}
        changed = {path for path in news if path not in known or _is_other(known[path], told[path])}
        of_mirror = self.of_mirror | news if is_of_mirror else self.of_mirror - news
        if not changed and of_mirror == self.of_mirror:
            return self
        files = {**known, **{path: told[path] for path in changed}}
        return replace(
            self,
            manifest=replace(self.manifest, files=tuple(files.values())),
            of_mirror=of_mirror,
            held={path: held for path, held in self.held.items() if path not in changed},
        )

    def named(self, names: Mapping[str, float]) -> SnapshotRecord:
        """The same, known by `names` too since the times given; of too many the oldest go."""
        if not names:
            return self
        merged = dict(self.names)
        for name, said_at in names.items():
            merged[name] = max(said_at, merged.get(name, 0.0))
        return replace(self, names=dict(sorted(merged.items(), key=self._name_rank)[-_MOST_NAMES:]))

    def _name_rank(self, named: tuple[str, float]) -> tuple[bool, bool, float]:
        name, said_at = named
        # The beginnings of a commit are names that anybody can make up: they push no other away.
        return name == DEFAULT_BRANCH, not self.manifest.commit.startswith(name), said_at


def _is_other(one: FileEntry, other: FileEntry) -> bool:
    return (one.size, one.digest) != (other.size, other.digest)


@dataclass(frozen=True, slots=True)
class _Look:
    """By what a file is known not to have been replaced."""

    mtime_ns: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A record, and the file that said so: by its look where that tells (None: not), and by its digest."""

    record: SnapshotRecord
    size: int
    digest: bytes
    look: _Look | None


class _Kept:
    """Records as they were read, those that were asked for last. Used in any thread."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = Lock()
        self._rows: OrderedDict[Path, _Row] = OrderedDict()
        self._bytes = 0

    def find(self, path: Path) -> _Row | None:
        with self._lock:
            row = self._rows.get(path)
            if row is not None:
                self._rows.move_to_end(path)
            return row

    def note(self, path: Path, row: _Row) -> None:
        with self._lock:
            self._drop(path)
            if row.size > self._most_bytes:
                return
            self._rows[path] = row
            self._bytes += row.size
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._rows)))

    def drop(self, path: Path) -> None:
        with self._lock:
            self._drop(path)

    def _drop(self, path: Path) -> None:
        row = self._rows.pop(path, None)
        self._bytes -= 0 if row is None else row.size


class Records:
    """The record files under one cache root. Blocking: call it in the disk pool.

    A record that was read is kept while its file is the same, so that a question about a model of many
    files does not cost reading all of them; other processes may replace and delete files meanwhile.
    """

    def __init__(self, layout: Layout, owner: str, most_kept_bytes: int = _MOST_KEPT_BYTES) -> None:
        self._layout = layout
        self._owner = owner
        self._kept = _Kept(most_kept_bytes)

    def find(self, ref: ModelRef, commit: str) -> SnapshotRecord | None:
        """The record of a commit; None if there is none that this version can read."""
        return self._load(self._layout.record(ref, commit))

    def find_all(self, ref: ModelRef) -> list[SnapshotRecord]:
        """The records of every commit of a model."""
        paths = find_files(self._layout.record_folder(ref), "*.json")
        return [record for record in map(self._load, paths) if record is not None]

    def scan(self) -> Iterator[SnapshotRecord]:
        """Every readable record, in the order of provider, model, commit."""
        for path in find_files(self._layout.records, "*/*/*.json"):
            record = self._load(path, is_asked_for=False)
            if record is not None:
                yield record

    def save(self, record: SnapshotRecord) -> None:
        """Make the record durable; raises as `stage`."""
        staged = self.stage(record)
        try:
            staged.put()
        finally:
            staged.drop()

    def stage(self, record: SnapshotRecord) -> Staged:
        """The record, to be put by the last step of a publication.

        Raises Unsupported where a newer version has written one, which says more than ours could.
        """
        path = self._layout.record(record.manifest.ref, record.manifest.commit)
        if _is_newer(path):
            raise Unsupported(
                f"a newer version has written the record of {record.manifest.ref} ({path}): use that "
                "version, or another cache.directory"
            )
        # Without line breaks: a model that is read file by file is written down as often.
        content = json.dumps(_to_json(record), sort_keys=True).encode()
        return Staged(self._layout.staging, self._owner, path, content)

    def delete(self, ref: ModelRef, commit: str) -> None:
        """Forget a commit; the first step of a removal."""
        path = self._layout.record(ref, commit)
        path.unlink(missing_ok=True)
        self._kept.drop(path)

    def _load(self, path: Path, is_asked_for: bool = True) -> SnapshotRecord | None:
        try:
            # Opened though it may be kept: on a network file system only that looks at what is there now.
            with path.open("rb") as file:
                look, kept = _look_at(file.fileno()), self._kept.find(path)
                if kept is not None and kept.look == look:
                    return kept.record
                content = file.read()
            # What was written just now is known by its bytes: cheaper by far than reading them as a record.
            digest = hashlib.sha256(content).digest()
            is_same = kept is not None and kept.digest == digest
            record = kept.record if kept is not None and is_same else _parse(path, content)
        except FileNotFoundError:
            return None
        except (*_UNREADABLE, MxError) as error:
            # The blobs are still there and will be proven again; only the statement about them is lost.
            _log.warning(
                "record %s cannot be read (%s); the model will be checked again when asked for", path, error
            )
            return None
        # Going through all of them must not send away those that are asked for.
        if record is not None and is_asked_for:
            is_old = time.time_ns() - look.mtime_ns > _STEP_NS
            self._kept.note(path, _Row(record, len(content), digest, look if is_old else None))
        return record


def _look_at(descriptor: int) -> _Look:
    status = os.fstat(descriptor)
    return _Look(status.st_mtime_ns, status.st_size, status.st_ino)


def _parse(path: Path, text: bytes) -> SnapshotRecord | None:
    content = json.loads(text)
    if content["format"] > FORMAT:
        _log.warning("record %s has format %s of a newer version; left alone", path, content["format"])
        return None
    return _from_json(content)


def _is_newer(path: Path) -> bool:
    """True for a record that only a newer version can read."""
    try:
        return bool(json.loads(path.read_bytes())["format"] > FORMAT)
    except (FileNotFoundError, *_UNREADABLE):
        return False


def _to_json(record: SnapshotRecord) -> dict[str, Any]:
    ref = record.manifest.ref
    return {
        "format": FORMAT,
        "provider": ref.provider.value,
        "name": ref.name,
        "commit": record.manifest.commit,
        "is_listed_by_origin": record.is_listed_by_origin,
        "is_whole": record.is_whole,
        "is_read_by_server": record.is_read_by_server,
        "is_adopted": record.is_adopted,
        "is_public": record.is_public,
        "names": dict(record.names),
        "absent": sorted(record.absent),
        "of_mirror": sorted(record.of_mirror),
        "files": [_file_to_json(entry, record) for entry in record.manifest.files],
        "selections": {
            key: {"completed_at": done.completed_at, "missing": list(done.missing)}
            for key, done in record.selections.items()
        },
    }


def _file_to_json(entry: FileEntry, record: SnapshotRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"path": entry.path, "size": entry.size}
    if entry.digest is not None:
        row["digest"] = str(entry.digest)
    if entry.blob_id is not None:
        row["blob_id"] = entry.blob_id
    if entry.xet_hash is not None:
        row["xet_hash"] = entry.xet_hash
    held, owned = record.held.get(entry.path), record.owned.get(entry.path)
    if owned is not None:
        row["owned"] = [owned.blob, owned.link]
    if held is not None:
        row["held"] = [held.proof.value, held.mtime_ns]
    return row


def _from_json(content: dict[str, Any]) -> SnapshotRecord:
    ref = ModelRef(ProviderKind(content["provider"]), content["name"])
    owned = {row["path"]: Owned(*map(bool, row["owned"])) for row in content["files"] if "owned" in row}
    held = {row["path"]: _held_from_json(row["held"]) for row in content["files"] if "held" in row}
    selections = {
        key: CompleteSelection(float(done["completed_at"]), tuple(done["missing"]))
        for key, done in content["selections"].items()
    }
    manifest = Manifest(ref, content["commit"], tuple(_file_from_json(row) for row in content["files"]))
    return SnapshotRecord(
        manifest,
        is_listed_by_origin=bool(content["is_listed_by_origin"]),
        is_whole=bool(content.get("is_whole", False)),
        is_read_by_server=bool(content["is_read_by_server"]),
        is_adopted=bool(content["is_adopted"]),
        is_public=bool(content.get("is_public", False)),
        names=_names_from_json(content.get("names", {}), held),
        absent=frozenset(map(str, content.get("absent", ()))),
        of_mirror=frozenset(map(str, content.get("of_mirror", ()))),
        owned=owned,
        held=held,
        selections=selections,
    )


def _names_from_json(said: Any, held: Mapping[str, HeldEntry]) -> dict[str, float]:
    if isinstance(said, dict):
        return {str(name): float(said_at) for name, said_at in said.items()}
    # Of an older version, which kept no time of its own: when a file of it was read last will do.
    read_at = max((entry.mtime_ns for entry in held.values()), default=0) / 1e9
    return dict.fromkeys(map(str, said), read_at)


def _file_from_json(row: dict[str, Any]) -> FileEntry:
    return _make_entry(
        row["path"], int(row["size"]), row.get("digest"), row.get("blob_id"), row.get("xet_hash")
    )


@functools.lru_cache(_MOST_ENTRIES)  # checking them is most of the work of reading a record again
def _make_entry(
    path: str, size: int, digest: str | None, blob_id: str | None, xet_hash: str | None
) -> FileEntry:
    return FileEntry(path, size, None if digest is None else Digest.parse(digest), blob_id, xet_hash)


def _held_from_json(row: list[Any]) -> HeldEntry:
    proof, mtime_ns = row
    if not isinstance(mtime_ns, int):
        raise Invalid(f"mtime {mtime_ns!r} is not a whole number")
    return HeldEntry(Proof(proof), mtime_ns)
