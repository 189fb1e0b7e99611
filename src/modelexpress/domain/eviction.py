# SPDX-License-Identifier: Apache-2.0
"""What goes first when something has to go. Pure: orders, rules and the choice; nothing is removed here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelexpress.domain.inventory import Inventory, ModelKey, SnapshotKey
from modelexpress.domain.progress import format_bytes

_GIB = 1024.0**3
_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot that may go. `bytes`: what it takes of the disk; `last_used_at`: epoch seconds.

    `uses` since it was brought; `credit` is the order's inflation at its last use (see Gdsf).
    """

    key: SnapshotKey
    bytes: int
    last_used_at: float
    uses: int = 1
    credit: float = 0.0


class EvictionOrder(Protocol):
    """Says what a snapshot is worth; what is worth least goes first."""

    def worth(self, candidate: Candidate) -> float:
        """Comparable among the candidates of one order."""
        ...


class Lru:
    """Least recently used first."""

    def worth(self, candidate: Candidate) -> float:
        """The time of its last use."""
        return candidate.last_used_at


class Gdsf:
    """Greedy-Dual-Size-Frequency (Cherkasova, 1998), at equal cost: often used and small ones stay.

    A worth is credit + uses / GiB. The credit of a use is the inflation then: the least worth of what is
    here, which rises as cheap ones go, so that old fame fades.
    """

    def worth(self, candidate: Candidate) -> float:
        """Credit and uses per GiB."""
        return candidate.credit + candidate.uses * _GIB / max(candidate.bytes, 1)

    @classmethod
    def inflation(cls, candidates: Iterable[Candidate]) -> float:
        """The credit that a use gets now."""
        return min((cls().worth(candidate) for candidate in candidates), default=0.0)


@dataclass(frozen=True, slots=True)
class EvictionRules:
    """When snapshots go though there is room: unused for so long, or of more models than so many."""

    unused_seconds: float | None = None
    max_models: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A snapshot that is to go, and why."""

    key: SnapshotKey
    reason: str


def choose_unwanted(
    candidates: Sequence[Candidate],
    held: Collection[ModelKey],
    rules: EvictionRules,
    order: EvictionOrder,
    now: float,
) -> list[Choice]:
    """What the rules say must go. `held`: models of which something has to stay; they count too."""
    chosen = _choose_unused(candidates, rules, now)
    gone = {choice.key for choice in chosen}
    by_model: dict[ModelKey, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.key not in gone:
            by_model.setdefault(candidate.key.model, []).append(candidate)
    if rules.max_models is None:
        return chosen
    excess = len({*by_model, *held}) - rules.max_models
    removable = [model for model in by_model if model not in held]
    reason = f"more than {rules.max_models} models"
    ranked = sorted(removable, key=lambda model: (max(map(order.worth, by_model[model])), model))
    for model in ranked[: max(excess, 0)]:
        chosen += [Choice(candidate.key, reason) for candidate in by_model[model]]
    return chosen


def _choose_unused(candidates: Sequence[Candidate], rules: EvictionRules, now: float) -> list[Choice]:
    if rules.unused_seconds is None:
        return []
    limit = now - rules.unused_seconds
    return [
        Choice(c.key, f"not used for {(now - c.last_used_at) / _DAY_SECONDS:.1f} days")
        for c in sorted(candidates, key=lambda c: c.key)
        if c.last_used_at < limit
    ]


def choose_for_room(
    inventory: Inventory,
    candidates: Sequence[Candidate],
    order: EvictionOrder,
    going: Iterable[SnapshotKey],
    wanted: int,
) -> list[Choice] | None:
    """The least that has to go besides `going` so that `wanted` bytes come free; None: all are too little.

    In the order of worth until there is room; then what turned out not to be needed is let off, the
    worthiest first.
    """
    gone = inventory.going(going)
    ranked = sorted((c for c in candidates if c.key not in gone), key=lambda c: (order.worth(c), c.key))
    chosen: list[SnapshotKey] = []
    for candidate in ranked:
        if gone.freed >= wanted:
            break
        chosen.append(candidate.key)
        gone.add(candidate.key)
    if gone.freed < wanted:
        return None
    for key in reversed(chosen):
        gone.discard(key)
        if gone.freed < wanted:
            gone.add(key)
    reason = f"to make room for {format_bytes(wanted)}"
    return [Choice(key, reason) for key in chosen if key in gone]
