# SPDX-License-Identifier: Apache-2.0
"""How far a pull has come, as a value that every door can show."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_KIB = 1024


class Phase(Enum):
    """What a pull is doing."""

    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    PUBLISHING = "publishing"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a pull. Byte counts include files that were already here."""

    phase: Phase = Phase.RESOLVING
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    bytes_per_second: float = 0.0

    def __str__(self) -> str:
        if self.phase is Phase.RESOLVING:
            return "resolving"
        done = f"{format_bytes(self.bytes_done)} of {format_bytes(self.bytes_total)}"
        return f"{self.phase.value}: {done}, {self.files_done} of {self.files_total} files"


def format_bytes(count: int) -> str:
    """`count` bytes for people, 1024-based with two decimals: `12 bytes`, `5.00 MB`."""
    if count < _KIB:
        return f"{count} bytes"
    amount = float(count)
    for unit in ("KB", "MB"):
        amount /= _KIB
        if amount < _KIB:
            return f"{amount:.2f} {unit}"
    return f"{amount / _KIB:.2f} GB"
