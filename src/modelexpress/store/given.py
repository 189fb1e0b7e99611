# SPDX-License-Identifier: Apache-2.0
"""Notes of files that were given out before they were proven, so that nobody adds other bytes to those.

`.mx/given/FILE/PARTIAL`, an empty file, says that bytes of that partial file may be in somebody's hands and
were not proven. It stands before the first of them goes out, so that it does not matter when this process
is killed: what is found here later and is not of the file that is read now, is doubted. Blocking.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from modelexpress.store.layout import Layout

_KEPT_SECONDS = 24 * 3600.0
_PRUNE_SECONDS = 3600.0
_WRONG = "wrong"

_log = logging.getLogger(__name__)


class GivenOut:
    """The notes of one cache directory, by the ids of offers; other servers on it see them too.

    They are not fsynced: that would flush the very file that arrives. A power cut may cost those of the
    last seconds.
    """

    def __init__(self, layout: Layout, wall: Callable[[], float] = time.time) -> None:
        self._folder = layout.given
        self._wall = wall
        self._pruned_at = time.monotonic()

    def note(self, file: str, partial: str) -> None:
        """Bytes of `partial` are about to be given out, or still are."""
        path, now = self._folder / file / partial, self._wall()
        while True:
            path.parent.mkdir(exist_ok=True)  # not more: a volume that has gone is not to be made anew
            with suppress(FileNotFoundError):  # another note was the last one there, and was erased just now
                path.touch()
                os.utime(path, (now, now))
                return

    def note_wrong(self, file: str) -> None:
        """Bytes that were given out of a partial file are replaced in that same one."""
        self.note(file, _WRONG)

    def move(self, file: str, before: str, partial: str) -> None:
        """`partial` has all the bytes of `before`: who has some of those may go on with it."""
        with suppress(FileNotFoundError):
            os.rename(self._folder / file / before, self._folder / file / partial)

    def erase(self, file: str, partial: str) -> None:
        """`partial` is proven: whoever has some of it has right bytes."""
        try:
            (self._folder / file / partial).unlink(missing_ok=True)
            _remove_empty(self._folder / file)
            if time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
                self.prune()
        except OSError as error:  # it costs somebody a second reading
            _log.warning("a note in %s cannot be taken away: %s", self._folder, error)

    def has_other(self, file: str, partial: str | None) -> bool:
        """Whether somebody may have unproven bytes of `file` that are not those of `partial`."""
        try:
            with os.scandir(self._folder / file) as notes:
                return any(note.name != partial and not self._is_over(note) for note in notes)
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def prune(self) -> None:
        """Take away what a day has passed over."""
        self._pruned_at = time.monotonic()
        with suppress(FileNotFoundError), os.scandir(self._folder) as files:
            for file in files:
                with suppress(OSError), os.scandir(file) as notes:
                    for note in notes:
                        if self._is_over(note):
                            os.unlink(note)
                    _remove_empty(Path(file))

    def _is_over(self, note: os.DirEntry[str]) -> bool:
        try:
            return self._wall() - note.stat(follow_symlinks=False).st_mtime > _KEPT_SECONDS
        except FileNotFoundError:
            return True


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
