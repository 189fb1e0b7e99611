# SPDX-License-Identifier: Apache-2.0
"""How far a pull has come, as a value that every door can show; and sizes as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from modelexpress.domain.errors import Invalid

_KIB = 1024
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([kmgtp]?)(i?b|bytes?)?", re.IGNORECASE)
_PREFIXES = ("", "k", "m", "g", "t", "p")
_MOST_SHOWN = 60


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


def parse_bytes(text: str) -> int:
    """Bytes of a size as `format_bytes` writes it, 1024-based: `1234`, `40GB`, `1.5 TiB`. Raises Invalid."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise Invalid(f"{text[:_MOST_SHOWN]!a} is no size: give bytes (1234) or a size such as 40GB")
    factor = _KIB ** _PREFIXES.index(found[2].lower())
    return int(found[1]) * factor if found[1].isdigit() else int(float(found[1]) * factor)
