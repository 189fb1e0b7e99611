# SPDX-License-Identifier: Apache-2.0
"""What the records of commits say for good of who may read them: what survives a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from modelexpress.cache.parts import CacheParts
from modelexpress.domain.caller import Caller
from modelexpress.domain.errors import MxError
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.tasks import finish
from modelexpress.store.records import SnapshotRecord

_log = logging.getLogger(__name__)


class Marks:
    """Sets and takes back what the record of a commit says of strangers (`is_public`) and of this server.

    A yes of the origin is written down for the commit it was said of alone; a no is about the repository,
    and takes the mark from every commit of it. Of callers with tokens nothing is ever written down.
    """

    def __init__(self, parts: CacheParts) -> None:
        self._parts = parts
        self._watched: dict[ModelRef, list[set[str]]] = {}

    @contextmanager
    def watching(self, repository: ModelRef) -> Iterator[set[str]]:
        """Whose rights to `repository` were refused since the body began, by their fingerprints."""
        refused: set[str] = set()
        self._watched.setdefault(repository, []).append(refused)
        try:
            yield refused
        finally:
            left = [one for one in self._watched[repository] if one is not refused]
            if left:
                self._watched[repository] = left
            else:
                del self._watched[repository]

    async def set(self, ref: ModelRef, commit: str, rights: Caller, is_refused: Callable[[], bool]) -> None:
        """The origin lets `rights` read this commit: its record says so, if it is here.

        `is_refused`: whether the origin has said no since.
        """
        if rights.hub_token is not None:
            return
        find, what = self._parts.records.find, f"reading the record of {ref.name}"

        def mark() -> None:
            record = find(ref, commit)
            marked = None if record is None else _marked(record, rights)
            if marked is not None and not is_refused():
                self._parts.records.save(marked)

        try:
            record = await self._parts.pool.run(what, find, ref, commit)
            if record is None or _marked(record, rights) is None:
                return
            async with self._parts.turns.of(ref.name):
                await finish(self._parts.pool.run(f"marking {ref.name}", mark))
        except MxError as error:
            # Whoever asked may have it all the same; it is asked again after a restart.
            _log.warning("who may read %s@%s is not written down: %s", ref.name, commit, error.message)

    async def clear(self, repository: ModelRef, rights: Caller) -> None:
        """The origin does not let `rights` read the repository: no record says so any more."""
        if rights.hub_token is not None:
            return
        for refused in self._watched.get(repository, ()):
            refused.add(rights.fingerprint)

        def close() -> None:
            for record in self._parts.records.find_all(repository):
                closed = _closed(record, rights)
                if closed != record:
                    self._parts.records.save(closed)

        try:
            async with self._parts.turns.of(repository.name):
                await finish(self._parts.pool.run(f"closing {repository}", close))
        except MxError as error:
            # He is refused all the same, until this server ends.
            _log.warning("that %s is closed is not written down: %s", repository.name, error.message)


def is_open(record: SnapshotRecord, rights: Caller) -> bool:
    """Whether a record says that who has no token of his own may read its commit."""
    if rights.hub_token is not None:
        return False
    return record.is_public if rights.is_stranger else record.is_read_by_server


def _marked(record: SnapshotRecord, rights: Caller) -> SnapshotRecord | None:
    """The record that says it; None where it does already, or nothing of the commit is here."""
    if rights.hub_token is not None or not record.held or is_open(record, rights):
        return None
    return replace(record, is_read_by_server=True, is_public=record.is_public or rights.is_stranger)


def _closed(record: SnapshotRecord, rights: Caller) -> SnapshotRecord:
    if rights.is_stranger:
        return replace(record, is_public=False)
    return replace(record, is_read_by_server=False)
