# SPDX-License-Identifier: Apache-2.0
"""Byte ranges as a type, so that an end is never mistaken for a length."""

from __future__ import annotations

from dataclasses import dataclass

from modelexpress.domain.errors import Invalid


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Bytes `start` (included) to `end` (excluded) of a file."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise Invalid(f"byte span {self.start}..{self.end} is not a range")

    @property
    def length(self) -> int:
        """Number of bytes in the span."""
        return self.end - self.start

    def after(self, count: int) -> ByteSpan:
        """What is left of the span once its first `count` bytes have arrived."""
        return ByteSpan(self.start + count, self.end)
