# SPDX-License-Identifier: Apache-2.0
"""A bound on bytes a second, over everything that goes through it. Pure: the caller waits."""

from __future__ import annotations

_BURST_SECONDS = 0.1
_MOST_PIECE_BYTES = 1024 * 1024
_LEAST_PIECE_BYTES = 4096


class Bandwidth:
    """A token bucket that may go below zero: bytes have come before they are counted.

    It fills with `bytes_per_second` and holds a tenth of a second of them.
    """

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._most = bytes_per_second * _BURST_SECONDS
        self._level = self._most
        self._filled_at: float | None = None

    @property
    def piece_bytes(self) -> int:
        """How much to move at once: little enough that nobody waits long, nor keeps others waiting."""
        return min(max(int(self._most), _LEAST_PIECE_BYTES), _MOST_PIECE_BYTES)

    def take(self, count: int, now: float) -> float:
        """Count `count` bytes at `now`; for how many seconds to hold them back."""
        passed = 0.0 if self._filled_at is None else max(now - self._filled_at, 0.0)
        self._filled_at = now
        self._level = min(self._level + passed * self._rate, self._most) - count
        return max(-self._level / self._rate, 0.0)
