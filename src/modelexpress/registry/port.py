# SPDX-License-Identifier: Apache-2.0
"""The table: the one small thing a registry back end must provide."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

MAX_VALUE_BYTES = 16 * 1024
MAX_KEY_BYTES = 512


@dataclass(frozen=True, slots=True)
class Row:
    """A stored value. `version` is opaque, compared only for equality, and never repeats for a key."""

    key: str
    value: bytes
    version: str


class Table(Protocol):
    """Keys to small values with compare-and-set. There is no expiry, and no order but in `scan`.

    Raises Invalid for a key or value over the limits, Unreachable when the store does not answer,
    StorageFailed when its disk refuses.
    """

    is_exclusive: bool
    """True when no other process can be using the same table."""

    async def get(self, key: str) -> Row | None:
        """The row, or None."""
        ...

    async def put(self, key: str, value: bytes, expected: str | None) -> Row | None:
        """Store if the key's version is `expected` (None: the key is absent); None if it is not."""
        ...

    async def delete(self, key: str, expected: str) -> bool:
        """Remove if the key's version is `expected`; False if it is not, or the key is absent."""
        ...

    async def scan(self, prefix: str, after: str = "", limit: int = 500) -> list[Row]:
        """Up to `limit` rows whose key starts with `prefix`, in key order, from just behind key `after`."""
        ...

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Keys under `prefix` that change while the body runs. A hint: it may lose, repeat and reorder."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...
