# SPDX-License-Identifier: Apache-2.0
"""What every place that a file arrives at has in common: the chunks that are here, hashed as they come."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from blake3 import blake3

from modelexpress.domain.chunks import DIGEST_BYTES, ChunkMap, ChunkSpan, chunk_span


class Arrivals(ABC):
    """What has arrived of one file of `size` bytes; a Sink but for `view`. For several threads at once.

    That it has arrived says nothing of its being right: that is for a proof to say. What is here of a
    chunk under way can be read, stays what it is, and is gone on from by whoever takes the chunk next.
    `on_arrival` is called with the number of bytes after every `put`, in the thread that brought them.
    """

    def __init__(self, size: int, on_arrival: Callable[[int], None] | None = None) -> None:
        self.size = size
        self.forgotten = 0
        """How often a chunk turned out to be wrong: who has read some of it may have read that."""
        self._on_arrival = on_arrival
        self._lock = threading.Lock()
        self._chunks = ChunkMap(size)
        self._digests = bytearray(self._chunks.count * DIGEST_BYTES)
        self._hashers: dict[int, blake3] = {}  # of chunks that have begun

    @property
    def is_complete(self) -> bool:
        """True when every chunk has arrived."""
        with self._lock:
            return self._chunks.is_complete

    @property
    def prefix_bytes(self) -> int:
        """How many bytes from the front are here without a gap."""
        with self._lock:
            return self._chunks.prefix_bytes

    @property
    def arrived_bytes(self) -> int:
        """Bytes that are here, those of chunks under way too."""
        with self._lock:
            return self._chunks.arrived_bytes

    @property
    def digests(self) -> bytes:
        """The BLAKE3 of every chunk in order, 32 bytes each; zeros where a chunk has not arrived."""
        with self._lock:
            return bytes(self._digests)

    def has_arrived(self, index: int) -> bool:
        """True when chunk `index` is here."""
        with self._lock:
            return self._chunks.has_arrived(index)

    def begun_bytes(self, index: int) -> int:
        """How many bytes from the front of chunk `index` are here while the rest is not."""
        with self._lock:
            return self._chunks.begun_bytes(index)

    def arrived_until(self, offset: int) -> int:
        """The end of the bytes that are here without a gap from `offset` on."""
        with self._lock:
            return self._chunks.arrived_until(offset)

    def take_missing(self, most: int) -> ChunkSpan | None:
        """The next chunks to bring, nearest to the front, at most `most`; None: nothing is missing now."""
        with self._lock:
            return self._chunks.take_missing(most)

    def give_back(self, span: ChunkSpan) -> None:
        """Whatever of a taken span has not arrived is missing again."""
        with self._lock:
            self._chunks.give_back(span)

    def put(self, index: int, data: memoryview) -> None:
        """The next bytes of chunk `index` have come, behind those that are here; its last make it whole.

        Raises ValueError for more than the chunk has, and changes nothing then. Raises what keeping them
        raises; the chunk then begins anew, and the file has to be given up: readers may have seen more.
        """
        begun, length = self.begun_bytes(index), chunk_span(index, self.size).length
        if begun + len(data) > length:
            raise ValueError(f"chunk {index} has {length} bytes, {begun} are here, {len(data)} more came")
        try:
            self._write(index, begun, data)
            with self._lock:
                hasher = self._hashers.pop(index, None) or blake3()
            hasher.update(data)
            self._keep(index, begun + len(data), hasher)
        except BaseException:
            self._begin_anew(index)
            raise
        if self._on_arrival is not None:
            self._on_arrival(len(data))

    def note(self, index: int, digest: bytes) -> None:
        """Chunk `index` is here and has this BLAKE3."""
        with self._lock:
            self._hashers.pop(index, None)
            self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = digest
            self._chunks.arrived(index)

    def forget(self, index: int) -> None:
        """Chunk `index` is not what it should be: it is missing again."""
        with self._lock:
            self.forgotten += 1
            self._chunks.forget(index)
            self._hashers.pop(index, None)
            self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = bytes(DIGEST_BYTES)

    @abstractmethod
    def _write(self, index: int, offset: int, data: memoryview) -> None:
        """Put `data` at `offset` of chunk `index`."""

    def _record(self, index: int, length: int, digest: bytes) -> None:  # noqa: B027 - nothing in memory
        """The first `length` bytes of chunk `index`, which have this BLAKE3, are about to count as here."""

    def _keep(self, index: int, length: int, hasher: blake3) -> None:
        """The first `length` bytes of chunk `index` are written, and `hasher` has seen them."""
        digest = hasher.digest()
        self._record(index, length, digest)
        if length == chunk_span(index, self.size).length:
            self.note(index, digest)
            return
        with self._lock:
            self._hashers[index] = hasher
            self._chunks.grown(index, length - self._chunks.begun_bytes(index))

    def _begin_anew(self, index: int) -> None:
        with self._lock:
            self._hashers.pop(index, None)
            self._chunks.begin_anew(index)
