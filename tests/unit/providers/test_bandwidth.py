# SPDX-License-Identifier: Apache-2.0
"""A bound on bytes a second: kept over any stretch of time, and not wasted."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.providers.bandwidth import Bandwidth
from modelexpress.testing.clock import FakeClock


def test_a_tenth_of_a_second_passes_at_once_and_the_rest_waits_its_turn() -> None:
    bandwidth = Bandwidth(1000)

    assert bandwidth.take(100, 5.0) == 0.0
    assert bandwidth.take(500, 5.0) == 0.5
    assert bandwidth.take(500, 5.0) == 1.0
    assert bandwidth.take(0, 6.0) == 0.0
    assert bandwidth.take(100, 100.0) == 0.0, "what was not used for long is not saved up"
    assert bandwidth.take(100, 100.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("rate", "piece"), [(1, 4096), (100_000, 10_000), (10**9, 1024 * 1024), (5_000_000, 500_000)]
)
def test_pieces_are_so_small_that_nobody_waits_long(rate: int, piece: int) -> None:
    assert Bandwidth(rate).piece_bytes == piece


async def test_readers_at_once_share_the_bound_by_the_clock() -> None:
    clock, bandwidth, done = FakeClock(), Bandwidth(1000), list[float]()
    started = clock.monotonic()

    async def read() -> None:
        for _ in range(10):
            await clock.sleep(bandwidth.take(100, clock.monotonic()))
        done.append(clock.monotonic() - started)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(read())
        for _ in range(80):
            await clock.advance(0.05)

    assert all(3.5 < seconds <= 3.95 for seconds in done) and len(done) == 4


@pytest.mark.prove
@given(
    rate=st.integers(1, 10**10),
    events=st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 100, allow_nan=False)), max_size=100),
)
def test_no_stretch_of_time_lets_through_more_than_the_rate_and_one_burst(
    rate: int, events: list[tuple[int, float]]
) -> None:
    bandwidth, now, passed = Bandwidth(rate), 0.0, 0
    for count, seconds in events:
        now += seconds
        wait = bandwidth.take(count, now)
        passed += count
        now += wait
        assert wait >= 0.0
        # One after the other: when a reader goes on, everything up to there was due.
        assert passed <= (now * rate + rate * 0.1) * (1 + 1e-9) + 1


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bandwidth = Bandwidth(1000)
    bandwidth.take(100, 10.0)
    assert bandwidth.take(100, 9.0) == pytest.approx(0.1)
