# SPDX-License-Identifier: Apache-2.0
"""Where moved bytes go: a file that is arriving, or memory of the caller."""

from __future__ import annotations

from typing import Protocol

from modelexpress.domain.chunks import ChunkSpan


class Sink(Protocol):
    """One file's place at the receiver. Every method may be called from several threads at once.

    A span that `take_missing` gave out belongs to the caller until each of its chunks was `put`, or
    until `give_back`; so no chunk is moved twice.
    """

    size: int
    """Bytes of the whole file."""

    def take_missing(self, most: int) -> ChunkSpan | None:
        """The next chunks to bring, nearest to the front, at most `most`; None: nothing is missing now."""
        ...

    def view(self, index: int) -> memoryview | None:
        """Where chunk `index` may be received directly; None: receive it anywhere and `put` copies it.

        Bytes that were received there need no copy if `put` gets this very object.
        """
        ...

    def put(self, index: int, data: memoryview) -> None:
        """Chunk `index` has arrived: hash it and keep it. `data` is the caller's again on return.

        Raises StorageFailed or NoRoom when it cannot be kept.
        """
        ...

    def give_back(self, span: ChunkSpan) -> None:
        """Whatever of a taken span was not `put` is missing again."""
        ...
