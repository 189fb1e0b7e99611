# SPDX-License-Identifier: Apache-2.0
"""Where moved bytes go: a file that is arriving, or memory of the caller."""

from __future__ import annotations

from typing import Protocol

from modelexpress.domain.chunks import ChunkSpan


class Sink(Protocol):
    """One file's place at the receiver. Every method may be called from several threads at once.

    A span that `take_missing` gave out belongs to the caller until each of its chunks was `put` whole,
    or until `give_back`; so nothing is moved twice.
    """

    size: int
    """Bytes of the whole file."""

    def take_missing(self, most: int) -> ChunkSpan | None:
        """The next chunks to bring, nearest to the front, at most `most`; None: nothing is missing now.

        Of these only the first may have begun.
        """
        ...

    def begun_bytes(self, index: int) -> int:
        """How many bytes from the front of chunk `index` are here already: go on behind them."""
        ...

    def view(self, index: int, most: int) -> memoryview | None:
        """Where the next bytes of chunk `index`, at most `most`, may be received directly.

        None: receive them anywhere and `put` copies them. Bytes that were received there need no copy
        if `put` gets this very object.
        """
        ...

    def put(self, index: int, data: memoryview) -> None:
        """The next bytes of chunk `index` have come: hash and keep them. `data` is the caller's on return.

        Raises StorageFailed or NoRoom when they cannot be kept.
        """
        ...

    def give_back(self, span: ChunkSpan) -> None:
        """Whatever of a taken span was not `put` whole is missing again, behind what was."""
        ...
