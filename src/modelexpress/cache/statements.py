# SPDX-License-Identifier: Apache-2.0
"""What the origin says of commits, beside everything else: for the records that there are, and no others."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from modelexpress.cache.parts import CacheParts
from modelexpress.domain.errors import MxError
from modelexpress.domain.manifest import Listing
from modelexpress.domain.refs import DEFAULT_BRANCH, ModelRef, is_commit
from modelexpress.domain.tasks import finish
from modelexpress.store.records import SnapshotRecord

_MOST_COMMITS = 1_000
_MOST_NAMES = 100
_MOST_ABSENT = 64  # of a commit: loading a model asks for some twenty that it has not
_LONGEST_ABSENT = 255
_LATER_SECONDS = 1e-6  # so much newer than all others is what was said last, whatever the clocks say
_CLOSING_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass
class _Said:
    """What was said of one commit: the revisions that meant it, and when; which files it has, and has not."""

    names: dict[str, float] = field(default_factory=dict)
    listing: Listing | None = None
    absent: frozenset[str] = frozenset()


class Statements:
    """Remembers what was said of the commits that were spoken of last, and lets their records say it.

    A record that is made later says it too (`complete`). For a commit without a record nothing is written.
    """

    def __init__(self, parts: CacheParts) -> None:
        self._parts = parts
        self._said: OrderedDict[ModelRef, _Said] = OrderedDict()
        self._due: dict[ModelRef, set[str]] = {}  # with the names that were said just now
        self._writing: asyncio.Task[None] | None = None
        self._last = 0.0  # when something was said last

    def note_name(self, ref: ModelRef, commit: str) -> None:
        """The origin has just said what a moving revision means."""
        if is_commit(ref.revision or ""):
            return
        pinned, name = ref.at(commit), ref.revision or DEFAULT_BRANCH
        said = self._of(pinned)
        said.names.pop(name, None)
        said.names[name] = self._last = max(self._parts.clock.wall(), self._last + _LATER_SECONDS)
        if len(said.names) > _MOST_NAMES:
            del said.names[next(iter(said.names))]
        for other, names in self._due.items():
            if other.repository == ref.repository:
                names.discard(name)  # it means that no more
        self._write_later(pinned, name)

    def repeat(self, repository: ModelRef, names: Collection[str]) -> None:
        """Refs of these names have been written by a pull: what was said of them since it began counts."""
        for name in names:
            said_at = {
                pinned: said.names[name]
                for pinned, said in self._said.items()
                if pinned.repository == repository and name in said.names
            }
            if said_at:
                self._write_later(max(said_at, key=said_at.__getitem__), name)

    def note_listing(self, pinned: ModelRef, listing: Listing) -> None:
        """The origin has just said which files a commit has."""
        said = self._of(pinned)
        if said.listing is None:
            said.listing = listing
            self._write_later(pinned)

    def note_absent(self, pinned: ModelRef, path: str) -> None:
        """The origin has just said that a commit has no such file."""
        said = self._of(pinned)
        # The first ones count: whoever asks for what nobody needs drives nothing out, and nothing is written.
        if path not in said.absent and len(said.absent) < _MOST_ABSENT and len(path) <= _LONGEST_ABSENT:
            said.absent |= {path}
            self._write_later(pinned)

    def complete(self, record: SnapshotRecord) -> SnapshotRecord:
        """The record of a pull, with what was said of its commit."""
        said = self._said.get(record.manifest.ref.at(record.manifest.commit))
        return record if said is None else _told(record.named(said.names), said.listing, said.absent)

    @property
    def is_writing(self) -> bool:
        """Whether something is still to be written."""
        return self._writing is not None and not self._writing.done()

    async def close(self) -> None:
        """Write what is to be written, within a time."""
        if self._writing is None:
            return
        await asyncio.wait({self._writing}, timeout=_CLOSING_SECONDS)
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    def _of(self, pinned: ModelRef) -> _Said:
        said = self._said.setdefault(pinned, _Said())
        self._said.move_to_end(pinned)
        if len(self._said) > _MOST_COMMITS:
            del self._said[next(iter(self._said))]
        return said

    def _write_later(self, pinned: ModelRef, name: str | None = None) -> None:
        names = self._due.pop(pinned, set())  # to the end: of two commits of a name the later one is right
        self._due[pinned] = names if name is None else names | {name}
        if len(self._due) > _MOST_COMMITS:
            del self._due[next(iter(self._due))]
        if not self.is_writing:
            self._writing = asyncio.create_task(self._write_due(), name="what the origin says of commits")

    async def _write_due(self) -> None:
        while self._due:
            pinned = next(iter(self._due))
            names = self._due.pop(pinned)
            try:
                await self._write(pinned, names)
            except MxError as error:
                _log.debug("what %s is called could not be written: %s", pinned, error)

    async def _write(self, pinned: ModelRef, names: set[str]) -> None:
        said = replace(self._said.get(pinned, _Said()))  # a copy, as another thread reads it
        what = f"looking at the record of {pinned}"
        changed, news = await self._parts.pool.run(what, self._look, pinned, names, said)
        self._catch_up(said.names, news)
        if changed is None:
            return
        what = f"saving the record of {pinned}"
        async with self._parts.turns.of(pinned.name):
            await finish(self._parts.pool.run(what, self._save, pinned, names, said))

    def _save(self, pinned: ModelRef, names: set[str], said: _Said) -> None:
        changed = self._find_changed(pinned, names, said)
        if changed is not None:
            self._parts.records.save(changed)

    def _catch_up(self, names: dict[str, float], news: dict[str, float]) -> None:
        """Be later than what is on disk, also in a record that is only made after this."""
        for name, said_at in news.items():
            if name in names and names[name] < said_at:
                names[name] = self._last = max(said_at, self._last + _LATER_SECONDS)

    def _look(
        self, pinned: ModelRef, names: set[str], said: _Said
    ) -> tuple[SnapshotRecord | None, dict[str, float]]:
        changed = self._find_changed(pinned, names, said)
        return changed, self._find_news(pinned, names, said) if changed is None else {}

    def _find_changed(self, pinned: ModelRef, names: set[str], said: _Said) -> SnapshotRecord | None:
        """The record with what is new to it; None: there is no record, or it says all that already."""
        record = self._parts.records.find(pinned, pinned.revision or "")
        if record is None:
            return None
        changed = _told(record.named(self._find_news(pinned, names, said)), said.listing, said.absent)
        return None if changed is record else changed

    def _find_news(self, pinned: ModelRef, names: set[str], said: _Said) -> dict[str, float]:
        """Those of the names that do not mean this commit already, as far as the disk knows."""
        known = self._parts.names.find_all(pinned, is_held=False) if names else {}
        news: dict[str, float] = {}
        for name in names:
            before = known.get(name)
            if before is None or before.commit != pinned.revision:
                last = 0.0 if before is None else before.said_at + _LATER_SECONDS
                news[name] = max(said.names.get(name, last), last)
        return news


def _told(record: SnapshotRecord, listing: Listing | None, absent: frozenset[str]) -> SnapshotRecord:
    """The record with what was said of files: all there are, or some that there are not."""
    if record.lists_all:
        return record
    if listing is not None and listing.is_of(record.manifest):
        return replace(record, is_whole=True, absent=frozenset())
    news = sorted(absent - record.absent)[: max(_MOST_ABSENT - len(record.absent), 0)]
    return replace(record, absent=record.absent.union(news)) if news else record
