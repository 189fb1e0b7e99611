# SPDX-License-Identifier: Apache-2.0
"""The account of a volume's space: what is used, what is promised, what is left. Pure: others measure."""

from __future__ import annotations

from dataclasses import dataclass

from modelexpress.domain.errors import NoRoom
from modelexpress.domain.progress import format_bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """`budget`: bytes that everything under the cache root may take; None: as much as there is.

    `kept_free`: bytes of the disk that are never promised.
    """

    budget: int | None = None
    kept_free: int = 0


class Ledger:
    """Promises of bytes that are still to be written; not for several threads at once.

    A promise shrinks by `spend` as its bytes are written: from then on they are used. `measure` puts
    right what others did to the disk.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.used = 0
        """Bytes of the disk under the root, as measured, and as spent since."""
        self.free = 0
        """Bytes that can still be written to the disk, likewise."""
        self.written = 0
        """All that was ever spent: what is spent while somebody measures may be missed by him."""
        self._promised: dict[int, int] = {}
        self._next = 0

    @property
    def promised(self) -> int:
        """What all running pulls together may still write."""
        return sum(self._promised.values())

    @property
    def room(self) -> int:
        """Bytes that can be promised now; negative where the limits are already exceeded."""
        by_disk = self.free - self.limits.kept_free
        by_budget = by_disk if self.limits.budget is None else self.limits.budget - self.used
        return min(by_disk, by_budget) - self.promised

    def measure(self, used: int | None, free: int) -> None:
        """Take over what the disk says; `used` None: it was not looked at."""
        self.used = self.used if used is None else used
        self.free = free

    def missing(self, wanted: int) -> int:
        """Bytes that have to come free before `wanted` can be promised."""
        return max(wanted - self.room, 0) if wanted > 0 else 0

    def promise(self, what: str, wanted: int) -> int:
        """Set `wanted` bytes aside; the promise's number.

        Raises NoRoom and promises nothing when they do not fit.
        """
        if self.missing(wanted):
            raise NoRoom(self.describe(what, wanted))
        self._next += 1
        self._promised[self._next] = max(wanted, 0)
        return self._next

    def describe(self, what: str, wanted: int) -> str:
        """Why `wanted` bytes do not fit, with the numbers."""
        budget = self.limits.budget
        within = (
            ""
            if budget is None
            else f"{format_bytes(self.used)} of a budget of {format_bytes(budget)} used, "
        )
        return (
            f"{what} needs {format_bytes(wanted)}, but {format_bytes(max(self.room, 0))} can be used "
            f"({within}{format_bytes(self.free)} free on the disk, {format_bytes(self.promised)} promised to "
            f"running pulls, {format_bytes(self.limits.kept_free)} kept free)"
        )

    def spend(self, number: int, count: int) -> None:
        """Take `count` written bytes off a promise (negative: a reading was thrown away)."""
        if number in self._promised:
            self._promised[number] = max(self._promised[number] - count, 0)
            self._write(count)

    def give_back(self, number: int) -> None:
        """End a promise, whatever is left of it."""
        self._promised.pop(number, None)

    def _write(self, count: int) -> None:
        self.written += count
        self.used = max(self.used + count, 0)
        self.free = max(self.free - count, 0)

    def __repr__(self) -> str:
        return f"<Ledger {len(self._promised)} promises, {self.promised} bytes>"
