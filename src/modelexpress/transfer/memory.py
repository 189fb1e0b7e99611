# SPDX-License-Identifier: Apache-2.0
"""Memory of the caller as the place where a file arrives: received in place, hashed as it lands."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from modelexpress.domain.chunks import ChunkSpan, chunk_span
from modelexpress.domain.errors import Invalid
from modelexpress.transfer.arrivals import Arrivals

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def allocate(size: int) -> memoryview:
    """New memory to receive `size` bytes into, in huge pages where the system gives them.

    Receiving and hashing there takes 0.6 core-seconds per GB, in pages of 4 KiB 0.85.
    """
    if size == 0:
        return memoryview(bytearray())
    pages = mmap.mmap(-1, size)
    with suppress(OSError, AttributeError):  # a kernel without huge pages; another system
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


class MemorySink(Arrivals):
    """One file in a buffer of the caller; a `transfer.Sink`. For several threads at once.

    Raises Invalid for a buffer that cannot be written, is not contiguous or has another length than `size`.
    """

    def __init__(
        self, size: int, buffer: WriteableBuffer, on_arrival: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(size, on_arrival)
        self._bytes = _writable_bytes(size, buffer)
        self._given: dict[int, memoryview] = {}

    def give_back(self, span: ChunkSpan) -> None:
        """Whatever of a taken span has not arrived is missing again."""
        super().give_back(span)
        with self._lock:
            for index in span:
                self._given.pop(index, None)

    def view(self, index: int, most: int) -> memoryview:
        """The place of the chunk's next bytes in the buffer."""
        begun = self.begun_bytes(index)
        view = self._place(index)[begun : begun + most]
        with self._lock:
            self._given[index] = view
        return view

    def _write(self, index: int, offset: int, data: memoryview) -> None:
        with self._lock:
            is_there = self._given.pop(index, None) is data
        if not is_there:
            self._place(index)[offset : offset + len(data)] = data

    def _place(self, index: int) -> memoryview:
        span = chunk_span(index, self.size)
        return self._bytes[span.start : span.end]

    def __repr__(self) -> str:
        return f"<MemorySink {self._chunks!r}>"


def _writable_bytes(size: int, buffer: WriteableBuffer) -> memoryview:
    view = memoryview(buffer)
    if view.readonly:
        raise Invalid("the buffer for a file can only be read; give one that can be written")
    if view.nbytes != size:
        raise Invalid(
            f"a file of {size} bytes does not go into a buffer of {view.nbytes}; give one of its size"
        )
    try:
        return view.cast("B") if size else memoryview(bytearray())
    except TypeError as error:
        raise Invalid(
            "the buffer for a file is not one contiguous piece of memory; give one that is"
        ) from error
