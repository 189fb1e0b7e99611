# SPDX-License-Identifier: Apache-2.0
"""Counting what happens, without knowing who counts."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Where numbers go. Names and labels are those of docs/metrics.md; calls are cheap and never fail."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add `amount` to a counter."""
        ...

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put `value` into a histogram."""
        ...

    def gauge(self, name: str, change: float, **labels: str) -> None:
        """Move a gauge by `change`."""
        ...


class NoMeter:
    """Counts nothing."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Forget it."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Forget it."""

    def gauge(self, name: str, change: float, **labels: str) -> None:
        """Forget it."""


NO_METER = NoMeter()
