# SPDX-License-Identifier: Apache-2.0
"""Part `eviction`: what each order keeps of replayed days, and what a decision costs among 100,000 models."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.figures import Figure, Found, lowest
from bench.scene import Scene, out
from bench.traces import Asked, Trace, make_traces

from modelexpress.domain.eviction import (
    Candidate,
    EvictionOrder,
    EvictionRules,
    Gdsf,
    Lru,
    choose_for_room,
    choose_unwanted,
    rank,
)
from modelexpress.domain.inventory import BlobUse, Inventory, ModelKey, SnapshotKey

_SEED = 1
_NEXT = 10
_ROUNDS = 9
_ROOM = 10_000_000_000
_YEAR = 365 * 86_400.0


def measure_eviction(scene: Scene) -> Found:
    """Replay, and then the decision."""
    models, requests = (100, 1_000) if scene.small else (200, 4_000)
    found = Found()
    for trace in make_traces(models, requests, _SEED):
        for share in (0.1, 0.25):
            figures, note = _replay_all(trace, share)
            found.add(Found(figures=figures, notes=[note]))
    out.print("eviction: replayed; deciding among many models")
    found.add(_measure_decision(10_000 if scene.small else 100_000))
    return found


# -- replay


@dataclass(slots=True)
class Outcome:
    """Of one trace: requests and bytes that were here already, and forecasts of what goes next."""

    hits: int = 0
    requests: int = 0
    bytes_here: int = 0
    bytes_asked: int = 0
    forecasts: int = 0
    right: int = 0

    @property
    def hit_ratio(self) -> float:
        """Of the requests."""
        return self.hits / self.requests

    @property
    def byte_hit_ratio(self) -> float:
        """Of the bytes."""
        return self.bytes_here / self.bytes_asked


@dataclass(slots=True)
class _Seen:
    """What the cache knows of a snapshot it holds."""

    blobs: dict[str, int]
    used_at: float
    uses: int = 1
    credit: float = 0.0


@dataclass(slots=True)
class Replay:
    """A cache of `capacity` bytes that evicts in an order; no disk, the real choice."""

    capacity: int
    order: EvictionOrder
    held: dict[SnapshotKey, _Seen] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)

    def ask(self, asked: Asked, now: float) -> None:
        """One request: a hit, or a pull that makes room; what is larger than the cache is passed through."""
        key = SnapshotKey(ModelKey("hugging-face", asked.model), f"{asked.revision:040x}")
        here = self._blobs_here()
        lacking = sum(size for blob, size in asked.blobs.items() if blob not in here)
        outcome = self.outcome
        outcome.requests += 1
        outcome.bytes_asked += asked.bytes
        outcome.bytes_here += asked.bytes - lacking
        credit = Gdsf.inflation(self.candidates()) if isinstance(self.order, Gdsf) else 0.0
        if key in self.held:
            outcome.hits += 1
            seen = self.held[key]
            seen.used_at, seen.uses, seen.credit = now, seen.uses + 1, credit
        elif asked.bytes <= self.capacity:
            self._make_room(sum(here.values()) + lacking - self.capacity, asked)
            self.held[key] = _Seen(dict(asked.blobs), now, credit=credit)

    def forecast(self) -> None:
        """Are the next that go, one after the other, those that `cache explain` would name?"""
        said = [candidate.key for _, candidate in zip(range(_NEXT), rank(self.candidates(), self.order))]  # noqa: B905
        held, self.held = self.held, dict(self.held)
        for key in said:
            [choice] = choose_for_room(self._inventory(), self.candidates(), self.order, (), 1) or []
            self.outcome.forecasts += 1
            self.outcome.right += choice.key == key
            del self.held[choice.key]
        self.held = held

    def candidates(self) -> list[Candidate]:
        """Everything that is here."""
        return [
            Candidate(key, sum(seen.blobs.values()), seen.used_at, seen.uses, seen.credit)
            for key, seen in sorted(self.held.items())
        ]

    def _blobs_here(self) -> dict[str, int]:
        return {blob: size for seen in self.held.values() for blob, size in seen.blobs.items()}

    def _inventory(self) -> Inventory:
        users: dict[str, set[SnapshotKey]] = {}
        for key, seen in self.held.items():
            for blob in seen.blobs:
                users.setdefault(blob, set()).add(key)
        sizes = self._blobs_here()
        return Inventory(BlobUse(sizes[blob], frozenset(who)) for blob, who in users.items())

    def _make_room(self, wanted: int, asked: Asked) -> None:
        needed = [c for c in self.candidates() if not self.held[c.key].blobs.keys() & asked.blobs.keys()]
        candidates = needed if wanted > 0 else []
        chosen = choose_for_room(self._inventory(), candidates, self.order, (), wanted)
        if chosen is None:  # blobs that the new one needs too are in the way of nobody
            chosen = choose_for_room(self._inventory(), self.candidates(), self.order, (), wanted) or []
        for choice in chosen:
            del self.held[choice.key]


class Foreseen:
    """What is asked for again last goes first: what an order could know at best."""

    def __init__(self, trace: Trace) -> None:
        self.now = 0
        self._times: dict[tuple[str, int], list[int]] = {}
        for place, asked in reversed(list(enumerate(trace.requests))):
            self._times.setdefault((asked.model, asked.revision), []).append(place)

    def worth(self, candidate: Candidate) -> float:
        """Minus the time until it is asked for again."""
        times = self._times[candidate.key.model.name, int(candidate.key.commit, 16)]
        while times and times[-1] < self.now:
            times.pop()
        return -float(times[-1]) if times else float("-inf")


def replay(trace: Trace, share: float, order: EvictionOrder, forecasts: int = 0) -> Outcome:
    """A whole trace, in a cache of a share of its bytes, with so many forecasts on the way."""
    cache = Replay(int(trace.bytes * share), order)
    every = len(trace.requests) // (forecasts + 1)
    for place, asked in enumerate(trace.requests):
        if isinstance(order, Foreseen):
            order.now = place
        cache.ask(asked, float(place))
        if forecasts and place % every == every - 1 and len(cache.held) > _NEXT:
            cache.forecast()
    return cache.outcome


def _replay_all(trace: Trace, share: float) -> tuple[list[Figure], str]:
    lru, gdsf = replay(trace, share, Lru(), 20), replay(trace, share, Gdsf(), 20)
    best = replay(trace, share, Foreseen(trace))
    where = f"{trace.name}, {share:.0%}"
    figures = [
        Figure(f"forecasts right, {where}, {name}", one.right / max(one.forecasts, 1), bar="== 1")
        for name, one in (("LRU", lru), ("GDSF", gdsf))
    ]
    told = ", ".join(
        f"{name} {one.hit_ratio:.3f} of requests and {one.byte_hit_ratio:.3f} of bytes"
        for name, one in (("LRU", lru), ("GDSF", gdsf), ("foreseen", best))
    )
    return figures, f"hit ratio, {where}: {told}"


# -- the decision


def _measure_decision(count: int) -> Found:
    chance = random.Random(_SEED)
    tracemalloc.start()
    keys = [SnapshotKey(ModelKey("hugging-face", f"org/m{n}"), f"{n:040x}") for n in range(count)]
    inventory = Inventory(BlobUse(int(chance.lognormvariate(23, 1.5)), frozenset({key})) for key in keys)
    candidates = [
        Candidate(key, inventory.bytes_of(key), chance.random() * _YEAR, chance.randint(1, 99))
        for key in keys
    ]
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    rules = EvictionRules(_YEAR, count)
    found = Found(notes=[f"{count} models in the inventory: {megabytes:.0f} MB"])
    for name, order in (("LRU", Lru()), ("GDSF", Gdsf())):

        def decide(order: EvictionOrder = order) -> None:
            choose_unwanted(candidates, (), rules, order, _YEAR)
            assert choose_for_room(inventory, candidates, order, (), _ROOM)

        what = f"a decision among {count} models, {name}: ms"
        found.figures.append(lowest(what, [_time(decide) for _ in range(_ROUNDS)], "<= 50"))
    return found


def _time(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3
