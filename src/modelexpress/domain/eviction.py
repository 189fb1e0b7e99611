# SPDX-License-Identifier: Apache-2.0
"""What goes first when something has to go. Pure: orders, rules and the choice; nothing is removed here."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelexpress.domain.inventory import Inventory, ModelKey, SnapshotKey
from modelexpress.domain.progress import format_bytes

_GIB = 1024.0**3
_DAY_SECONDS = 86_400.0
_FEW = 64


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
        return candidate.credit + candidate.uses * _GIB / (candidate.bytes or 1)

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
    if rules.max_models is None or len(candidates) + len(held) <= rules.max_models:
        return chosen
    gone = {choice.key for choice in chosen}
    staying = [candidate for candidate in candidates if candidate.key not in gone] if gone else candidates
    excess = len({candidate.key.model for candidate in staying}.union(held)) - rules.max_models
    if excess <= 0:
        return chosen
    by_model: dict[ModelKey, list[Candidate]] = {}
    for candidate in staying:
        by_model.setdefault(candidate.key.model, []).append(candidate)
    reason = f"more than {rules.max_models} models"
    worths = (
        (max(map(order.worth, revisions)), model)
        for model, revisions in by_model.items()
        if model not in held
    )
    for _, model in heapq.nsmallest(excess, worths):
        chosen += [Choice(candidate.key, reason) for candidate in by_model[model]]
    return chosen


def _choose_unused(candidates: Sequence[Candidate], rules: EvictionRules, now: float) -> list[Choice]:
    if rules.unused_seconds is None:
        return []
    limit = now - rules.unused_seconds
    return [
        Choice(c.key, f"not used for {(now - c.last_used_at) / _DAY_SECONDS:.1f} days")
        for c in candidates
        if c.last_used_at < limit
    ]


def rank(candidates: Sequence[Candidate], order: EvictionOrder) -> Iterator[Candidate]:
    """In the order in which they go; those of equal worth as they were given.

    Of very many usually only a few are taken; the others are not put in order until they are asked for.
    """
    worths = [order.worth(candidate) for candidate in candidates]
    places = range(len(candidates))
    yield from (candidates[n] for n in heapq.nsmallest(_FEW, places, key=worths.__getitem__))
    if len(candidates) > _FEW:
        yield from (candidates[n] for n in sorted(places, key=worths.__getitem__)[_FEW:])


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
    chosen: list[SnapshotKey] = []
    ranked = rank(candidates, order) if gone.freed < wanted else iter(())
    for candidate in ranked:
        if candidate.key not in gone:
            chosen.append(candidate.key)
            gone.add(candidate.key)
        if gone.freed >= wanted:
            break
    if gone.freed < wanted:
        return None
    for key in reversed(chosen):
        gone.discard(key)
        if gone.freed < wanted:
            gone.add(key)
    reason = f"to make room for {format_bytes(wanted)}"
    return [Choice(key, reason) for key in chosen if key in gone]
