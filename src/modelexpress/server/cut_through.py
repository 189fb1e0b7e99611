# SPDX-License-Identifier: Apache-2.0
"""One reader of one offered file: opens what there is, waits for what is still to come, never pads."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from modelexpress.domain.chunks import CHUNK_BYTES, count_chunks
from modelexpress.domain.errors import Busy, Corrupt, MxError, NotFound, StorageFailed
from modelexpress.server.http_status import Refusal
from modelexpress.server.sending import CutShort
from modelexpress.store.offers import Offer, Standing
from modelexpress.store.partial import Partial

_log = logging.getLogger(__name__)


class Reader:
    """Belongs to one event loop. `file` is open from `wait_open` on, and closed by who made the reader."""

    file: FileIO

    def __init__(self, offer: Offer, takes_unproven: bool) -> None:
        self._offer = offer
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._is_told = False
        self._partial: Partial | None = None
        self._standing: Standing | None = None
        self._lost: Partial | None = None
        self._forgotten = 0
        self._takes_unproven = takes_unproven
        self._is_noting = False
        # Bytes that may turn out wrong go whole only to who can throw them away: the last ones are held.
        self._held_from = max(count_chunks(offer.size) - 1, 0) * CHUNK_BYTES

    def hear(self) -> None:
        """The offer has changed; called in any thread.

        It sees every state: a partial file that was replaced is noticed even while a slow send runs.
        """
        partial, state = self._partial, self._offer.state
        if partial is not None and state is not partial and not isinstance(state, Standing):
            self._lost = partial
        if not self._is_told:
            self._is_told = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._changed.set)

    async def wait_open(self, seconds: float) -> None:
        """Open the file, complete or not; wait while nobody has begun to fetch it. Raises Refusal."""
        try:
            async with asyncio.timeout(seconds):
                while not self._open():
                    await self._wait_changed()
        except TimeoutError:
            raise Refusal(
                Busy(
                    f"the file has not begun to arrive in {seconds:g} s; the server is still busy: ask again"
                )
            ) from None

    async def wait_readable(self, position: int) -> int:
        """The end of the bytes that can be sent from `position` on, at least one. Raises CutShort."""
        self._note()
        while (end := self._readable_until(position)) <= position:
            await self._wait_changed()
        return end

    async def _wait_changed(self) -> None:
        await self._changed.wait()
        # Before the caller looks at the offer again: whatever happens from here on wakes it again.
        self._changed.clear()
        self._is_told = False

    def _open(self) -> bool:
        state = self._offer.state
        if isinstance(state, MxError):
            raise Refusal(state)
        if isinstance(state, Standing):
            try:
                self.file = _open_standing(state, self._offer.size)
            except Refusal:
                if self._offer.state is not state:
                    return self._open()  # it is just being removed, and stands elsewhere for a while
                raise
            self._standing = state
            return True
        return state is not None and self._open_partial(state)

    def _open_partial(self, partial: Partial) -> bool:
        self._partial, self._forgotten = partial, partial.forgotten
        with suppress(OSError):
            self.file = FileIO(partial.open_reader(), "rb")
            # An offer leaves a partial file before that is closed, so this one was open a moment ago;
            # otherwise its number may have been another file's.
            if self._offer.state is partial:
                self._note()
                return True
            self.file.close()
        self._partial = None
        return False

    def _note(self) -> None:
        """Have it written down that unproven bytes go out; until that is done none of them does."""
        partial = self._partial if self._standing is None and not self._takes_unproven else None
        if partial is None or not self._held_from or self._is_noting or not self._offer.is_note_due(partial):
            return
        self._is_noting = True
        self._loop.run_in_executor(None, self._offer.note_given, partial).add_done_callback(self._hear_noted)

    def _hear_noted(self, noting: asyncio.Future[None]) -> None:
        if noting.cancelled():
            return
        error = noting.exception()
        if error is None:
            self._is_noting = False
        else:
            _log.warning("%r is held back until it is proven: %s", self._offer, error)
        self._changed.set()

    def _readable_until(self, position: int) -> int:
        # Before the state: the root of a state that has come meanwhile must not vouch for this one.
        root = self._offer.root
        if self._standing is None:
            partial, state = self._partial, self._offer.state
            if partial is not None and not self._takes_unproven and partial.forgotten != self._forgotten:
                raise CutShort("a part of the file was wrong, and may have been sent")
            if partial is not None and state is partial and self._lost is not partial:
                here = partial.arrived_until(position)
                is_held = not self._takes_unproven and root is None
                held_from = self._held_from if self._offer.is_noted(partial) else 0
                return min(here, held_from) if is_held else here
            if self._lost is partial or not isinstance(state, Standing):
                raise CutShort("the arriving file was given up or begun anew")
            if not any(_is_same_file(self.file, path) for path in state.places):
                raise CutShort("the file was proven as another one than the one that was sent")
            self._standing = state
        if not self._standing.is_unchanged(os.fstat(self.file.fileno()), self._offer.size):
            raise CutShort("the file changed while it was sent")
        return self._offer.size


@contextmanager
def opened_reader(offer: Offer, takes_unproven: bool) -> Iterator[Reader]:
    """A reader that hears of the offer's changes while the body runs; nothing stays open after it."""
    reader = Reader(offer, takes_unproven)
    with offer.listened(reader.hear):
        try:
            yield reader
        finally:
            if hasattr(reader, "file"):
                reader.file.close()


def _open_standing(standing: Standing, size: int) -> FileIO:
    descriptor = None
    for path in standing.places:
        with suppress(FileNotFoundError, NotADirectoryError):
            descriptor = _open_path(path)
            break
    if descriptor is None:
        gone = NotFound("the file is no longer on the server's disk; ask for the manifest again")
        raise Refusal(gone, status=410)
    if not standing.is_unchanged(os.fstat(descriptor), size):
        os.close(descriptor)
        changed = Corrupt("the file changed on the server's disk since it was proven; pull the model again")
        raise Refusal(changed, status=409)
    return FileIO(descriptor, "rb")


def _open_path(path: Path) -> int:
    try:
        # Not to hang on a pipe that somebody put there; it means nothing for a file.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise Refusal(
            StorageFailed(f"the file cannot be opened: {error.strerror}; look at the server")
        ) from error


def _is_same_file(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
