# SPDX-License-Identifier: Apache-2.0
"""Chunks of a file: the unit of arrival, journal, verification, repair and resume. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelexpress.domain.errors import Invalid
from modelexpress.domain.spans import ByteSpan

CHUNK_BYTES = 4 * 1024 * 1024
DIGEST_BYTES = 32  # of a chunk's BLAKE3


def count_chunks(size: int) -> int:
    """How many chunks a file of `size` bytes has; an empty file has none."""
    return -(-size // CHUNK_BYTES)


def chunk_span(index: int, size: int) -> ByteSpan:
    """The bytes of chunk `index` of a file of `size` bytes. Raises Invalid when there is no such chunk."""
    if not 0 <= index < count_chunks(size):
        raise Invalid(f"a file of {size} bytes has no chunk {index}")
    start = index * CHUNK_BYTES
    return ByteSpan(start, min(start + CHUNK_BYTES, size))


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Chunks `first` (included) to `end` (excluded) of a file."""

    first: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.end:
            raise Invalid(f"chunks {self.first}..{self.end} are not a span")

    def __len__(self) -> int:
        return self.end - self.first

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))

    def bytes_of(self, size: int) -> ByteSpan:
        """The bytes of these chunks in a file of `size` bytes."""
        return ByteSpan(self.first * CHUNK_BYTES, min(self.end * CHUNK_BYTES, size))


class ChunkMap:
    """Which chunks of a file have arrived, which are under way, and what is to be fetched next.

    Not for several threads at once: its owner holds a lock. `missing` is what nobody fetches yet;
    a span that was taken ends with `arrived` for each of its chunks, or with `give_back`.
    Of a chunk under way the bytes from its front that are here are kept, also when it is given back:
    whoever goes on with it begins behind them, so that what a reader has seen stays what it was.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = count_chunks(size)
        self._has_arrived = bytearray(self.count)
        self._is_taken = bytearray(self.count)
        self._begun: dict[int, int] = {}  # bytes at the front of chunks that have not arrived
        self._arrived = 0
        self._prefix = 0  # chunks from the front without a gap
        self._front = 0  # nothing before it is missing

    @property
    def is_complete(self) -> bool:
        """True when every chunk has arrived."""
        return self._arrived == self.count

    @property
    def prefix_bytes(self) -> int:
        """How many bytes from the front are here without a gap."""
        return min(self._prefix * CHUNK_BYTES + self._begun.get(self._prefix, 0), self.size)

    @property
    def arrived_bytes(self) -> int:
        """Bytes that are here, those of chunks under way too."""
        begun = sum(self._begun.values())
        if not self.count or not self._has_arrived[-1]:
            return self._arrived * CHUNK_BYTES + begun
        return (self._arrived - 1) * CHUNK_BYTES + chunk_span(self.count - 1, self.size).length + begun

    def has_arrived(self, index: int) -> bool:
        """True when chunk `index` is here."""
        return bool(self._has_arrived[index])

    def begun_bytes(self, index: int) -> int:
        """How many bytes from the front of chunk `index` are here while the rest is not."""
        return self._begun.get(index, 0)

    def arrived_until(self, offset: int) -> int:
        """The end of the bytes that are here without a gap from byte `offset` on; `offset` if none are."""
        index = offset // CHUNK_BYTES
        gap = self._has_arrived.find(0, index)
        end = self.count if gap < 0 else gap
        return max(offset, min(end * CHUNK_BYTES + self._begun.get(end, 0), self.size))

    def take_missing(self, most: int) -> ChunkSpan | None:
        """The next span to fetch, nearest to the front, at most `most` chunks; None: nothing is missing.

        It ends before a chunk that has begun, so that one range brings all that is missing of a span.
        """
        first = self._front
        while first < self.count and (self._has_arrived[first] or self._is_taken[first]):
            first += 1
        self._front = first
        if first == self.count:
            return None
        end = first
        while end < min(first + most, self.count) and not (self._has_arrived[end] or self._is_taken[end]):
            if end > first and end in self._begun:
                break
            self._is_taken[end] = 1
            end += 1
        return ChunkSpan(first, end)

    def grown(self, index: int, count: int) -> None:
        """`count` more bytes of chunk `index`, which has not arrived, are here."""
        self._begun[index] = self._begun.get(index, 0) + count

    def begin_anew(self, index: int) -> None:
        """Nothing is left of what was here of a chunk under way."""
        self._begun.pop(index, None)

    def arrived(self, index: int) -> None:
        """Chunk `index` is here."""
        self._is_taken[index] = 0
        self._begun.pop(index, None)
        if not self._has_arrived[index]:
            self._has_arrived[index] = 1
            self._arrived += 1
        if index == self._prefix:
            gap = self._has_arrived.find(0, index)
            self._prefix = self.count if gap < 0 else gap

    def give_back(self, span: ChunkSpan) -> None:
        """Whatever of a taken span has not arrived is missing again."""
        for index in span:
            self._is_taken[index] = 0
        self._front = min(self._front, span.first)

    def forget(self, index: int) -> None:
        """Chunk `index` is not what it should be and is missing again."""
        self._is_taken[index] = 0
        self._begun.pop(index, None)
        if self._has_arrived[index]:
            self._has_arrived[index] = 0
            self._arrived -= 1
        self._prefix = min(self._prefix, index)
        self._front = min(self._front, index)

    def __repr__(self) -> str:
        return f"<ChunkMap {self._arrived} of {self.count} arrived, {sum(self._is_taken)} under way>"
