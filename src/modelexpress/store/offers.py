# SPDX-License-Identifier: Apache-2.0
"""What readers may have now or soon: files that are awaited, arriving, or standing proven.

The bridge between the loop that decides and the threads that move bytes; safe for both.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelexpress.domain.errors import MxError, Unreachable
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.store.given import GivenOut
from modelexpress.store.partial import Partial

_MOST_OFFERS = 100_000
_RENEW_SECONDS = 3600.0  # of a note that bytes were given out, which counts for a day


@dataclass(frozen=True, slots=True)
class Standing:
    """A proven file: where it is, the time it had when it was proven, where its digest list is or will be.

    `aside`: where it is going to be, while it is removed from under its readers.
    """

    path: Path
    mtime_ns: int
    digest_list: Path
    aside: Path | None = None

    @property
    def places(self) -> tuple[Path, ...]:
        """Where it may stand at this moment; one of them leads to it."""
        return (self.path,) if self.aside is None else (self.path, self.aside)

    def is_unchanged(self, found: os.stat_result, size: int) -> bool:
        """Whether `found` is still the file that was proven, `size` bytes long, by its size and time."""
        return stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (size, self.mtime_ns)


State = Partial | Standing | MxError | None
"""Arriving, standing, failed, or (None) awaited."""


class Offer:
    """One file, and those who want to hear when its `state` changes or bytes of it arrive.

    `given`: where it is noted that unproven bytes were given out; None: nowhere.
    """

    def __init__(self, offer_id: str, size: int, given: GivenOut | None = None) -> None:
        self.id = offer_id
        self.size = size
        self.holders = 0
        self._state: State = None
        self._root: str | None = None
        self._given = given
        self._noted: Partial | None = None
        self._noted_at = float("-inf")
        self._proven: Partial | None = None
        self._lock = threading.Lock()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._state_listeners: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._left_at = float("-inf")

    @property
    def state(self) -> State:
        """What can be read now."""
        return self._state

    @property
    def root(self) -> str | None:
        """The root of the digest list of what can be read now, from when it is proven and known on."""
        return self._root

    def become(self, state: State) -> None:
        """Enter another state, and tell all listeners."""
        if not isinstance(state, Standing) or not self._is_known_as(state):
            self._root = None
        self._state = state
        self._tell_all()

    def _is_known_as(self, state: Standing) -> bool:
        """Whether it is the file whose root is known: as it arrived, or just moved aside."""
        before = self._state
        if isinstance(before, Standing):
            return replace(state, aside=None) == before
        return isinstance(before, Partial)

    def prove(self, root: str) -> None:
        """What can be read now is proven and has this root; all listeners are told."""
        if isinstance(self._state, Partial):
            self._proven = self._state
        self._root = root
        self._tell_all()

    # -- what was given out before it was proven; all of it blocks but `is_noted` and `is_note_due`

    def is_noted(self, partial: Partial) -> bool:
        """Whether unproven bytes of `partial` may be given out: it is written down that they are."""
        return self._noted is partial

    def is_note_due(self, partial: Partial) -> bool:
        """Whether it has to be written down, or once more: a reader may take days."""
        is_old = time.monotonic() - self._noted_at > _RENEW_SECONDS
        return (is_old or not self.is_noted(partial)) and self._proven is not partial

    def note_given(self, partial: Partial) -> None:
        """Write down that bytes of `partial` are given out unproven. Raises OSError; then they may not be."""
        if self._given is not None:
            self._given.note(self.id, partial.path.name)
        self._noted, self._noted_at = partial, time.monotonic()
        if self._proven is partial:  # meanwhile, and who proved it may have found nothing to erase
            self.erase_note(partial)

    def note_wrong(self) -> None:
        """Write down that bytes which were given out are about to be replaced in the same file."""
        if self._given is not None:
            self._given.note_wrong(self.id)

    def move_note(self, before: str, partial: Partial) -> None:
        """All bytes of the partial file named `before` are in `partial`, which goes on with it."""
        if self._given is not None:
            self._given.move(self.id, before, partial.path.name)

    def erase_note(self, partial: Partial) -> None:
        """What was given out of `partial` has been proven since."""
        if self._given is not None:
            self._given.erase(self.id, partial.path.name)

    def is_doubted(self) -> bool:
        """Whether somebody may have bytes of it that are not those that can be read now.

        He must not get a part that he would add to them.
        """
        state = self._state
        partial = state.path.name if isinstance(state, Partial) else None
        return self._given is not None and self._given.has_other(self.id, partial)

    def _tell_all(self) -> None:
        with self._lock:
            listeners = [*self._listeners.values(), *self._state_listeners.values()]
        for listener in listeners:
            listener()

    def changed(self) -> None:
        """Bytes have arrived: tell those who listen to that, in the caller's thread."""
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener()

    @contextmanager
    def listened(self, listener: Callable[[], None], is_of_states: bool = False) -> Iterator[None]:
        """Call `listener` while the body runs, from any thread; it must not block.

        It is called at every change of state, when the file is proven and, unless `is_of_states`, when
        bytes arrive.
        """
        listeners = self._state_listeners if is_of_states else self._listeners
        with self._lock:
            number, self._next = self._next, self._next + 1
            listeners[number] = listener
        try:
            yield
        finally:
            with self._lock:
                del listeners[number]
                self._left_at = self._left_at if is_of_states else time.monotonic()

    def count_readers(self, idle_seconds: float) -> int:
        """Those who read it now; one who left so short a time ago counts: he is between two ranges."""
        is_just_left = time.monotonic() - self._left_at < idle_seconds
        return max(len(self._listeners), int(is_just_left))

    def __repr__(self) -> str:
        return f"<Offer {self.id[:12]} {self._state!r}>"


class Offers:
    """The files of running pulls, and those whose addresses were given out not long ago."""

    def __init__(self, given: GivenOut | None = None) -> None:
        self._offers: dict[str, Offer] = {}
        self._given = given
        self._lock = threading.Lock()

    def find(self, offer_id: str) -> Offer | None:
        """The offer of that id, if there is one."""
        return self._offers.get(offer_id)

    def of(self, manifest: Manifest) -> list[Offer]:
        """The offers that there are of a manifest's files."""
        ids = {offer_id_of(manifest.ref.name, manifest.commit, entry) for entry in manifest.files}
        return [offer for offer in map(self._offers.get, ids) if offer is not None]

    def of_all(self, manifests: Iterable[Manifest]) -> list[Offer]:
        """Those of several manifests, each once."""
        return list({offer.id: offer for manifest in manifests for offer in self.of(manifest)}.values())

    def stand(self, repository: str, commit: str, entry: FileEntry, standing: Standing) -> Offer:
        """Offer a file that is proven and here."""
        offer = self._open(repository, commit, entry)
        if offer.state != standing and not isinstance(offer.state, Partial):
            offer.become(standing)
        return offer

    @contextmanager
    def pulled(
        self, repository: str, commit: str, entries: Iterable[FileEntry], here: Container[str] = ()
    ) -> Iterator[dict[str, Offer]]:
        """Offer the files of a pull, by path; those that have not come by its end fail.

        `here`: the paths of those that stand proven already.
        """
        offers = {entry.path: self._open(repository, commit, entry) for entry in entries}
        with self._lock:
            for offer in offers.values():
                offer.holders += 1
        for path, offer in offers.items():
            # What an earlier pull left: a failure that this one may not meet, a file that has gone since.
            if offer.holders == 1 and path not in here and not isinstance(offer.state, Partial):
                offer.become(None)
        reason: MxError | None = None
        try:
            yield offers
        except MxError as error:
            reason = error
            raise
        finally:
            self._leave(offers.values(), reason)

    def _leave(self, offers: Iterable[Offer], reason: MxError | None) -> None:
        for offer in offers:
            with self._lock:
                offer.holders -= 1
                is_over = offer.holders == 0 and (offer.state is None or isinstance(offer.state, Partial))
                if is_over:
                    self._offers.pop(offer.id, None)
            if is_over:
                offer.become(reason or Unreachable("the pull of this file was stopped; ask again"))

    def _open(self, repository: str, commit: str, entry: FileEntry) -> Offer:
        offer_id = offer_id_of(repository, commit, entry)
        with self._lock:
            found = self._offers.get(offer_id)
            if found is None:
                self._make_room()
                found = self._offers[offer_id] = Offer(offer_id, entry.size, self._given)
        return found

    def _make_room(self) -> None:
        if len(self._offers) >= _MOST_OFFERS:
            for old in [o.id for o in self._offers.values() if not o.holders][: _MOST_OFFERS // 10]:
                del self._offers[old]

    def __len__(self) -> int:
        return len(self._offers)


def offer_id_of(repository: str, commit: str, entry: FileEntry) -> str:
    """Equal for equal bytes of one repository, never across repositories."""
    bytes_are = f"{commit}/{entry.path}" if entry.digest is None else str(entry.digest)
    return hashlib.sha256(f"{repository}\0{bytes_are}".encode()).hexdigest()[:40]
