# SPDX-License-Identifier: Apache-2.0
"""Made-up days of a cache: which model is asked for in which order, how large it is, what revisions share."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

# Gigabytes of published weights, from an embedding model to a mixture of experts, and how common they are.
_GIGABYTES = {0.1: 20, 0.5: 20, 1: 20, 3: 15, 8: 10, 16: 10, 30: 5, 70: 3, 140: 2, 400: 1}
_GIGABYTE = 1_000_000_000
_SKEW = 0.9


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: a revision of a model, and its blobs with their bytes."""

    model: str
    revision: int
    blobs: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Of the whole snapshot."""
        return sum(self.blobs.values())


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in their order."""

    name: str
    requests: Sequence[Asked]

    @property
    def bytes(self) -> int:
        """All different blobs together."""
        return sum({blob: size for asked in self.requests for blob, size in asked.blobs.items()}.values())


def make_traces(models: int, requests: int, seed: int) -> list[Trace]:
    """The four kinds, with the same models."""
    kinds: dict[str, Callable[[_World], Iterator[Asked]]] = {
        "zipf": _zipf,
        "scan": _scan,
        "release day": _release_day,
        "revision churn": _churn,
    }
    return [
        Trace(name, list(itertools.islice(make(_World(models, seed)), requests)))
        for name, make in kinds.items()
    ]


class _World:
    """Models by their popularity, with sizes; each has one revision, until more are made."""

    def __init__(self, models: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.names = [f"demo/m{number}" for number in range(models)]
        self.weights = [1 / (place + 1) ** _SKEW for place in range(models)]
        self._snapshots = {name: [self._fresh(name, 0)] for name in self.names}

    def popular(self, names: Sequence[str] | None = None) -> str:
        """One of `names` (all), those in front more often."""
        names = self.names if names is None else names
        return self.chance.choices(names, self.weights[: len(names)])[0]

    def ask(self, name: str) -> Asked:
        """The newest revision."""
        known = self._snapshots[name]
        return Asked(name, len(known) - 1, known[-1])

    def revise(self, name: str) -> None:
        """A commit: to the configuration alone, or to the weights too."""
        known = self._snapshots[name]
        fresh = self._fresh(name, len(known))
        if self.chance.random() < 0.5:  # the weights stay
            fresh = {blob: size for blob, size in known[-1].items() if "weights" in blob} | {
                blob: size for blob, size in fresh.items() if "weights" not in blob
            }
        known.append(fresh)

    def release(self, number: int) -> str:
        """A new model, that nobody knew."""
        name = f"demo/new{number}"
        self._snapshots[name] = [self._fresh(name, 0)]
        return name

    def _fresh(self, name: str, revision: int) -> dict[str, int]:
        [gigabytes] = self.chance.choices(list(_GIGABYTES), list(_GIGABYTES.values()))
        return {
            f"{name} {revision} weights": int(gigabytes * _GIGABYTE * self.chance.uniform(0.7, 1.3)),
            f"{name} {revision} config": 100_000,
        }


def _zipf(world: _World) -> Iterator[Asked]:
    """A few models most of the time, many once in a while; nothing changes."""
    while True:
        yield world.ask(world.popular())


def _scan(world: _World) -> Iterator[Asked]:
    """The same, and now and then somebody goes through everything once (an evaluation, a mirror)."""
    while True:
        for _ in range(2 * len(world.names)):
            yield world.ask(world.popular())
        for name in world.chance.sample(world.names, len(world.names)):
            yield world.ask(name)


def _release_day(world: _World) -> Iterator[Asked]:
    """Every so often models come out that everybody wants, for a while; then they are like all others."""
    for day in itertools.count():
        news = [world.release(3 * day + number) for number in range(3)]
        for step in range(300):
            is_news = world.chance.random() < 0.7 * (1 - step / 300)
            yield world.ask(world.popular(news if is_news else None))


def _churn(world: _World) -> Iterator[Asked]:
    """Commits to the popular ones; every request is for the newest."""
    while True:
        name = world.popular()
        if world.chance.random() < 0.1:
            world.revise(name)
        yield world.ask(name)
