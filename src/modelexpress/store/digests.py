# SPDX-License-Identifier: Apache-2.0
"""Digest lists: the BLAKE3 of every chunk of a proven file, so that one chunk can be checked alone.

A list is authority once the node that proved the whole file has recorded its root. Blocking.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from modelexpress.domain.chunks import DIGEST_BYTES, count_chunks
from modelexpress.domain.errors import Corrupt
from modelexpress.domain.manifest import Digest
from modelexpress.store.disk import write_durably
from modelexpress.store.layout import Layout

_SHOWN_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class DigestList:
    """The BLAKE3 of every chunk of a file of `size` bytes, 32 bytes each, in order."""

    size: int
    digests: bytes

    def __post_init__(self) -> None:
        expected = count_chunks(self.size) * DIGEST_BYTES
        if len(self.digests) != expected:
            raise Corrupt(
                f"a digest list of {len(self.digests)} bytes cannot be that of a file of {self.size} bytes: "
                f"{expected} were due"
            )

    @property
    def root(self) -> str:
        """One digest for the whole list and the size, lower-case hexadecimal."""
        head = b"modelexpress digest list 1\0" + self.size.to_bytes(8, "big")
        return blake3(head + self.digests).hexdigest()

    def of_chunk(self, index: int) -> bytes:
        """The digest of chunk `index`."""
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def describe(self, indices: list[int]) -> str:
        """For people: `chunks 3, 7 of 12`, counted from 1; of many only the first are named."""
        named = ", ".join(str(index + 1) for index in indices[:_SHOWN_CHUNKS])
        more = f" and {len(indices) - _SHOWN_CHUNKS} more" if len(indices) > _SHOWN_CHUNKS else ""
        word = "chunk" if len(indices) == 1 else "chunks"
        return f"{word} {named}{more} of {count_chunks(self.size)}"

    def find_differing(self, digests: bytes) -> list[int]:
        """The chunks whose digests are not those of `digests`, a list of the same length."""
        if digests == self.digests:
            return []
        DigestList(self.size, digests)  # of another length they cannot be compared
        return [
            n
            for n in range(count_chunks(self.size))
            if self.of_chunk(n) != digests[n * DIGEST_BYTES : (n + 1) * DIGEST_BYTES]
        ]


class DigestLists:
    """The lists under one cache root."""

    def __init__(self, layout: Layout, owner: str) -> None:
        self._layout = layout
        self._owner = owner

    def path(self, digest: Digest) -> Path:
        """Where the list of the bytes with this digest is, or will be."""
        return self._layout.digest_list(digest)

    def find(self, digest: Digest, size: int) -> DigestList | None:
        """The recorded list; None: there is none that fits."""
        try:
            return DigestList(size, self.path(digest).read_bytes())
        except (FileNotFoundError, Corrupt):
            return None

    def forget(self, digest: Digest) -> None:
        """Drop a list that turned out to be wrong."""
        self.path(digest).unlink(missing_ok=True)

    def save(self, digest: Digest, found: DigestList) -> None:
        """Record the list of a file that was proven here against `digest`."""
        write_durably(self._layout.staging, self._owner, self.path(digest), found.digests)
