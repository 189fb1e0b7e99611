# SPDX-License-Identifier: Apache-2.0
"""What an origin has said of single files of commits, which can never change; bounded. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from modelexpress.domain.hub import Located

_MOST = 100_000


@dataclass(frozen=True, slots=True)
class FileKey:
    """A path at a commit of a repository."""

    name: str
    commit: str
    path: str


class KnownFiles:
    """The files that were asked about last. A path can be known not to be there."""

    def __init__(self) -> None:
        self._files: OrderedDict[FileKey, Located | None] = OrderedDict()

    def note(self, name: str, located: Located) -> None:
        """There is such a file."""
        self._put(FileKey(name, located.commit, located.entry.path), located)

    def note_absent(self, key: FileKey) -> None:
        """There is none."""
        self._put(key, None)

    def find(self, key: FileKey) -> Located | None:
        """The file; None: there is none, or nobody knows."""
        if key in self._files:
            self._files.move_to_end(key)
        return self._files.get(key)

    def is_absent(self, key: FileKey) -> bool:
        """Whether it is known that there is no such file."""
        return key in self._files and self._files[key] is None

    def _put(self, key: FileKey, located: Located | None) -> None:
        self._files[key] = located
        self._files.move_to_end(key)
        if len(self._files) > _MOST:
            self._files.popitem(last=False)
