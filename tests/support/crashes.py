# SPDX-License-Identifier: Apache-2.0
"""A process that dies between any two changes of the file system, without dying."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CHANGES = frozenset({"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.link", "os.utime"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Crash(BaseException):
    """This process is dead: nothing that it does afterwards reaches the disk."""


@dataclass
class _Fuse:
    folder: str = ""
    left: int | None = None

    def look(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.left is None or not _is_change(event, arguments):
            return
        if any(
            isinstance(a, str | os.PathLike) and str(os.fspath(a)).startswith(self.folder)
            for a in arguments[:2]
        ):
            self.left -= 1
            if self.left < 0:
                raise Crash


_fuse = _Fuse()
_is_armed = False


def _is_change(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        return len(arguments) > 2 and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
    return event in _CHANGES


@contextmanager
def crashing(folder: Path, after: int) -> Iterator[None]:
    """In the body `after` changes of names below `folder` are carried out, and every later one is a Crash."""
    global _is_armed
    if not _is_armed:
        sys.addaudithook(lambda event, arguments: _fuse.look(event, arguments))
        _is_armed = True
    _fuse.folder, _fuse.left = str(folder), after
    try:
        yield
    finally:
        _fuse.left = None
