# SPDX-License-Identifier: Apache-2.0
"""How many ranges at once: grows while it pays, finds the knee and stays there, halves on trouble."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.providers.pace import Pace

TICK = 0.02
MB = 1_000_000


class SteadyOrigin:
    """Gives each range `per_range` bytes a second, and all of them at most `total`."""

    def __init__(self, per_range: float, total: float, noise: float = 0.0, seed: int = 0) -> None:
        self.per_range = per_range
        self.total = total
        self._noise = noise
        self._chance = random.Random(seed)
        self._left: list[float] = []
        self.now = 0.0

    def run(self, pace: Pace, seconds: float, range_bytes: float = 4 * MB) -> Iterator[int]:
        """What is allowed after each tick, with as many ranges open as that, each ending in its time."""
        for _ in range(round(seconds / TICK)):
            while len(self._left) < pace.allowed:
                self._left.append(range_bytes * self._chance.uniform(0.5, 1.0))
                pace.note_open(self.now)
            self.now += TICK
            count = len(self._left)
            rate = min(count * self.per_range, self.total) * (1 + self._chance.gauss(0, self._noise))
            share = max(rate, 0.0) * TICK / count
            for _ in range(count):
                pace.note_bytes(round(share), self.now)
            self._left = [rest - share for rest in self._left if rest > share]
            for _ in range(count - len(self._left)):
                pace.note_done(self.now)
            yield pace.allowed

    def leave(self, pace: Pace) -> None:
        """End all ranges that are open."""
        for _ in self._left:
            pace.note_done(self.now)
        self._left.clear()


@pytest.mark.parametrize("knee", [1, 2, 3, 4, 5, 8, 13, 20, 29, 31, 32])
def test_on_a_steady_origin_it_finds_the_knee_and_stays(knee: int) -> None:
    pace, origin = Pace(most=32), SteadyOrigin(20 * MB, knee * 20 * MB)
    before = list(origin.run(pace, 120))
    after = list(origin.run(pace, 400))

    assert before[0] == 4
    assert {abs(allowed - knee) for allowed in after} <= {0, 1}
    assert after.count(knee) > 0.9 * len(after)


@pytest.mark.parametrize("knee", [2.5, 5.3, 9.9])
def test_a_knee_between_two_numbers_is_found_as_well(knee: float) -> None:
    pace, origin = Pace(most=32), SteadyOrigin(20 * MB, knee * 20 * MB)
    list(origin.run(pace, 120))

    assert {round(allowed - knee) for allowed in origin.run(pace, 300)} <= {-1, 0, 1, 2}


def test_an_uneven_origin_is_not_a_reason_to_run_away() -> None:
    for seed in range(4):
        pace, origin = Pace(most=32), SteadyOrigin(20 * MB, 160 * MB, noise=0.3, seed=seed)
        list(origin.run(pace, 120))
        found = list(origin.run(pace, 300))
        assert 6 <= sum(found) / len(found) <= 11, seed


def test_it_never_allows_more_than_the_most_and_uses_it_where_it_pays() -> None:
    pace, origin = Pace(most=12), SteadyOrigin(5 * MB, 10_000 * MB)
    seen = list(origin.run(pace, 200))

    assert max(seen) == 12
    assert seen[-1] >= 11


def test_an_origin_that_becomes_faster_is_noticed() -> None:
    pace, origin = Pace(most=32), SteadyOrigin(20 * MB, 80 * MB)
    list(origin.run(pace, 200))
    origin.total = 240 * MB
    assert list(origin.run(pace, 400))[-1] in (11, 12, 13)


def test_trouble_halves_once_for_what_comes_together_and_recovery_is_slow() -> None:
    pace, origin = Pace(most=32), SteadyOrigin(20 * MB, 16 * 20 * MB)
    list(origin.run(pace, 100))
    assert pace.allowed in (15, 16, 17)
    before = pace.allowed
    for _ in range(before):
        pace.note_trouble(origin.now)
    assert pace.allowed == before // 2

    soon = list(origin.run(pace, 10))
    assert max(soon) == before // 2
    later = list(origin.run(pace, 20))
    assert before // 2 < later[-1] < before - 2
    assert abs(list(origin.run(pace, 120))[-1] - 16) <= 1


def test_trouble_without_end_leaves_one_range() -> None:
    pace = Pace(most=32, initial=20)
    for second in range(0, 100, 5):
        pace.note_trouble(float(second))
    assert pace.allowed == 1


def test_throughput_with_fewer_ranges_than_allowed_says_nothing() -> None:
    pace = Pace(most=32)
    pace.note_open(0.0)
    for tick in range(10_000):
        pace.note_bytes(tick * 1000, tick / 100)
    assert pace.allowed == 4


def test_a_pause_between_pulls_changes_nothing() -> None:
    pace, origin = Pace(most=32), SteadyOrigin(20 * MB, 160 * MB)
    for _ in range(5):
        list(origin.run(pace, 60))
        origin.leave(pace)
        origin.now += 500
    assert abs(pace.allowed - 8) <= 1


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["open", "bytes", "done", "trouble"]),
        st.integers(0, 10**12),
        st.floats(0, 30, allow_nan=False),
    ),
    max_size=200,
)


@pytest.mark.prove
@given(most=st.integers(-2, 64), initial=st.integers(-2, 100), events=EVENTS)
def test_whatever_happens_it_stays_between_one_and_the_most(
    most: int, initial: int, events: list[tuple[str, int, float]]
) -> None:
    pace, now = Pace(most, initial), 0.0
    for kind, count, seconds in events:
        now += seconds
        before = pace.allowed
        if kind == "bytes":
            pace.note_bytes(count, now)
        else:
            tell: Callable[[float], None] = getattr(pace, f"note_{kind}")
            tell(now)
        assert 1 <= pace.allowed <= max(most, 1)
        assert pace.allowed <= before + 1
        if kind != "trouble":
            assert pace.allowed >= before - 1
