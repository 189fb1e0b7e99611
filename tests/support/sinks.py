# SPDX-License-Identifier: Apache-2.0
"""A sink for tests that remembers what was done with it, and what nobody may see done with it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable

from modelexpress.domain.chunks import CHUNK_BYTES, ChunkSpan
from modelexpress.transfer.memory import MemorySink


class LoggedSink(MemorySink):
    """A MemorySink over memory of its own that counts; `is_direct` False: chunks are received elsewhere.

    `on_put` is called in the lane's thread before a chunk is kept, and may raise.
    """

    def __init__(
        self, size: int, is_direct: bool = True, on_put: Callable[[int], None] | None = None
    ) -> None:
        self.memory = bytearray(size)
        super().__init__(size, self.memory)
        self.is_direct = is_direct
        self.puts: Counter[int] = Counter()
        self.is_closed = False
        self.used_after_close = 0
        self.first_put = threading.Event()
        self._on_put = on_put
        self._count = threading.Lock()

    def fill(self, content: bytes, indexes: Iterable[int]) -> None:
        """These chunks are here already."""
        for index in indexes:
            data = memoryview(content)[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            MemorySink.put(self, index, data)

    def close(self) -> None:
        """From now on nothing may touch it."""
        self.is_closed = True

    def take_missing(self, most: int) -> ChunkSpan | None:
        self._check()
        return super().take_missing(most)

    def view(self, index: int, most: int) -> memoryview | None:  # type: ignore[override]
        self._check()
        return super().view(index, most) if self.is_direct else None

    def give_back(self, span: ChunkSpan) -> None:
        self._check()
        super().give_back(span)

    def put(self, index: int, data: memoryview) -> None:
        self._check()
        with self._count:
            self.puts[index] += 1
        if self._on_put is not None:
            self._on_put(index)
        super().put(index, data)
        self.first_put.set()
        self._check()

    def left(self) -> set[int]:
        """What can be taken now, which is taken."""
        found: set[int] = set()
        while (span := MemorySink.take_missing(self, 1)) is not None:
            found.update(span)
        return found

    def _check(self) -> None:
        self.used_after_close += self.is_closed
