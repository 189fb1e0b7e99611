# SPDX-License-Identifier: Apache-2.0
"""The bookkeeping of every place that a file arrives at: which chunks are here, and their digests."""

from __future__ import annotations

import threading

from modelexpress.domain.chunks import DIGEST_BYTES, ChunkMap, ChunkSpan


class Arrivals:
    """What has arrived of one file of `size` bytes. For several threads at once.

    That it has arrived says nothing of its being right: that is for a proof to say.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.forgotten = 0
        """How often a chunk turned out to be wrong: who has read some of it may have read that."""
        self._lock = threading.Lock()
        self._chunks = ChunkMap(size)
        self._digests = bytearray(self._chunks.count * DIGEST_BYTES)

    @property
    def is_complete(self) -> bool:
        """True when every chunk has arrived."""
        with self._lock:
            return self._chunks.is_complete

    @property
    def prefix_bytes(self) -> int:
        """How many bytes from the front have arrived without a gap."""
        with self._lock:
            return self._chunks.prefix_bytes

    @property
    def arrived_bytes(self) -> int:
        """Bytes of all chunks that have arrived."""
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

    def note(self, index: int, digest: bytes) -> None:
        """Chunk `index` is here and has this BLAKE3."""
        with self._lock:
            self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = digest
            self._chunks.arrived(index)

    def forget(self, index: int) -> None:
        """Chunk `index` is not what it should be: it is missing again."""
        with self._lock:
            self.forgotten += 1
            self._chunks.forget(index)
            self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = bytes(DIGEST_BYTES)
