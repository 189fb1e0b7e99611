# SPDX-License-Identifier: Apache-2.0
"""Space promised to pulls before their first byte. Pure: the caller measures the disk."""

from __future__ import annotations

from modelexpress.domain.errors import NoRoom
from modelexpress.domain.progress import format_bytes


class Ledger:
    """Promises of bytes that are still to be written; not for several threads at once.

    Bytes that have been written are on the disk's own account, so a promise shrinks by `spend`.
    """

    def __init__(self, reserve_bytes: int) -> None:
        self._reserve = reserve_bytes
        self._promised: dict[int, int] = {}
        self._next = 0

    @property
    def promised_bytes(self) -> int:
        """What all running pulls together may still write."""
        return sum(self._promised.values())

    def promise(self, what: str, wanted: int, free: int) -> int:
        """Set `wanted` bytes aside when `free` bytes suffice for all; the promise's number.

        Raises NoRoom and promises nothing when they do not.
        """
        available = free - self._reserve - self.promised_bytes
        if wanted > max(available, 0):
            raise NoRoom(
                f"{what} needs {format_bytes(wanted)}, but {format_bytes(max(available, 0))} can be used "
                f"({format_bytes(free)} free, {format_bytes(self.promised_bytes)} promised to running pulls, "
                f"{format_bytes(self._reserve)} kept free); "
                "make room with 'modelexpress cache prune' or 'modelexpress cache rm MODEL'"
            )
        self._next += 1
        self._promised[self._next] = wanted
        return self._next

    def spend(self, number: int, count: int) -> None:
        """Take `count` written bytes off a promise (negative: a reading was thrown away)."""
        if number in self._promised:
            self._promised[number] = max(self._promised[number] - count, 0)

    def give_back(self, number: int) -> None:
        """End a promise, whatever is left of it."""
        self._promised.pop(number, None)

    def __repr__(self) -> str:
        return f"<Ledger {len(self._promised)} promises, {self.promised_bytes} bytes>"
