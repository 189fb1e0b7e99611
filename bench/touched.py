# SPDX-License-Identifier: Apache-2.0
"""Target files whose pages have been written before: our client finds them under the names it would create.

Fresh pages cost what the host takes to give them, up to ten times the copy into them, and a page cache
that was freed may have gone back to the host. So the files of one round stand in for those of the next.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from modelexpress.store.partial import Partial

_STEP_BYTES = 4 * 1024 * 1024


class TouchedFiles:
    """A folder of written files, taken by size; on the file system of the caches that use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def fill(self, sizes: Sequence[int]) -> None:
        """Have one file, written and durable, for each size."""
        here = [path.stat().st_size for path in self._folder.iterdir()]
        for number, size in enumerate(sizes):
            if size in here:
                here.remove(size)
            else:
                _write(self._folder / f"{size}.new{number}", size)

    def put_back(self, files: Sequence[Path]) -> None:
        """Keep the files of a round that is over."""
        for path in files:
            path.rename(self._folder / f"{path.stat().st_size}.{secrets.token_hex(8)}")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the body runs, a new partial file is one of these."""
        begin = Partial.__init__

        def begin_touched(partial: Partial, path: Path, size: int, *rest: object) -> None:
            self._take(size, path)
            begin(partial, path, size, *rest)  # type: ignore[arg-type]

        with mock.patch.object(Partial, "__init__", begin_touched):
            yield

    def _take(self, size: int, path: Path) -> None:
        with self._lock:
            found = next(self._folder.glob(f"{size}.*"), None)
            if found is not None:
                found.rename(path)


def _write(path: Path, size: int) -> None:
    step = bytes(range(256)) * (_STEP_BYTES // 256)
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, len(step)):
            file.write(step[: size - start])
        os.fsync(file.fileno())
