# SPDX-License-Identifier: Apache-2.0
"""A cache's space as it is shown: what is used by what, what may go, and why the rest may not."""

from __future__ import annotations

from dataclasses import dataclass

from modelexpress.domain.held import HeldSnapshot, RemovalPlan
from modelexpress.domain.pins import Pin


@dataclass(frozen=True, slots=True)
class VolumeUse:
    """Bytes of the disk under a cache root, each inode once, arriving files at their full size.

    `used` is all of it; `removable`, `arriving` and `leftovers` (what waits to be deleted) are parts of
    it. `budget` None: as much as there is. `promised`: what running pulls may still write. `room`: what
    could be promised now without removing anything, negative where the limits are exceeded.
    """

    used: int
    removable: int
    arriving: int
    leftovers: int
    free: int
    kept_free: int
    promised: int
    room: int
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot that may not go, and what keeps it."""

    provider: str
    name: str
    commit: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What goes, what is kept from going, and the space as it was before.

    `missing`: bytes of what was wanted that even the removal of everything that may go does not free;
    nothing goes for it then.
    """

    use: VolumeUse
    removal: RemovalPlan
    kept: tuple[Kept, ...] = ()
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Explained:
    """Why one snapshot is still here, and when it goes.

    `rank`: it is the n-th to go when room is needed, counted from 1; None: it does not go. `fate` says the
    same in words. `bytes_alone`: what the disk gets back when it alone goes.
    """

    held: HeldSnapshot
    bytes_alone: int
    rank: int | None
    fate: str
    pins: tuple[Pin, ...] = ()
    readers: tuple[str, ...] = ()
    leases: tuple[tuple[str, float], ...] = ()
