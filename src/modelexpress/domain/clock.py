# SPDX-License-Identifier: Apache-2.0
"""Time and chance as protocols, so that a test or the simulator can hold them."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from, and how to let it pass."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything, only in this process."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, for people and records; never for deciding who is alive."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""
        ...


class Random(Protocol):
    """Chance, for jitter and random ids."""

    def uniform(self, a: float, b: float) -> float:
        """A float between `a` and `b`."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds of `time.time`."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
SYSTEM_RANDOM: Random = random.SystemRandom()
