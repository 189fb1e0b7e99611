# SPDX-License-Identifier: Apache-2.0
"""Sessions: alive while they are renewed, dead by what an observer has seen, and told when they are lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from tests.support.tables import FaultyTable, keys, pass_time

from modelexpress.registry import Sessions, Table
from modelexpress.registry.sessions import (
    DEAD_AFTER_SECONDS,
    LOST_AFTER_SECONDS,
    RENEW_SECONDS,
    Liveness,
)
from modelexpress.testing.clock import FakeClock


async def test_a_session_that_is_renewed_stays_alive(table: Table, clock: FakeClock) -> None:
    observer = Sessions(table, clock, "other")
    async with Sessions(table, clock, "node").open() as session:
        for _ in range(12):
            assert not await observer.is_dead(session.id)
            await pass_time(table, 10, clock)
        assert not session.lost.is_set()


async def test_a_session_is_dead_thirty_seconds_after_it_fell_silent_and_not_before(
    table: Table, clock: FakeClock
) -> None:
    # A process that hangs: no time passes for it.
    async with Sessions(table, FakeClock(), "hanging").open() as session:
        observer = Sessions(table, clock, "other")
        assert not await observer.is_dead(session.id)
        await pass_time(table, DEAD_AFTER_SECONDS - 1, clock)
        assert not await observer.is_dead(session.id)
        await pass_time(table, 1, clock)
        assert await observer.is_dead(session.id)


async def test_silence_counts_from_the_first_look_whatever_the_clocks_say(
    table: Table, clock: FakeClock
) -> None:
    for start in (0.0, 1e12):
        async with Sessions(table, FakeClock(start), "elsewhere").open() as session:
            await pass_time(table, 100, clock, step=50)
            observer = Sessions(table, clock, "late")
            assert not await observer.is_dead(session.id)
            await pass_time(table, DEAD_AFTER_SECONDS, clock, step=10)
            assert await observer.is_dead(session.id)


async def test_one_heartbeat_makes_a_silent_session_live_again(table: Table, clock: FakeClock) -> None:
    its_clock = FakeClock()
    async with Sessions(table, its_clock, "slow").open() as session:
        observer = Sessions(table, clock, "other")
        await observer.is_dead(session.id)
        await pass_time(table, DEAD_AFTER_SECONDS - 1, clock)
        await pass_time(table, RENEW_SECONDS, its_clock)
        assert not await observer.is_dead(session.id)
        await pass_time(table, DEAD_AFTER_SECONDS - 1, clock)
        assert not await observer.is_dead(session.id)


async def test_a_session_without_a_row_is_dead(table: Table, clock: FakeClock) -> None:
    assert await Sessions(table, clock, "node").is_dead("0" * 16)


async def test_in_a_table_of_ours_alone_every_other_session_is_dead_at_once(
    exclusive: Table, clock: FakeClock
) -> None:
    before = Sessions(exclusive, FakeClock(), "killed")
    async with before.open() as killed:
        mine = Sessions(exclusive, clock, "now")
        async with mine.open() as session:
            assert await mine.is_dead(killed.id) and not await mine.is_dead(session.id)
            assert await mine.bury() == [killed.id]
            assert await keys(exclusive, "session/") == [f"session/{session.id}"]
            assert await mine.bury() == []


async def test_burying_takes_the_dead_and_nobody_else(table: Table, clock: FakeClock) -> None:
    observer = Sessions(table, clock, "observer")
    async with (
        Sessions(table, clock, "living").open() as living,
        Sessions(table, FakeClock(), "hanging").open() as hanging,
        observer.open() as mine,
    ):
        assert await observer.bury() == []
        await pass_time(table, DEAD_AFTER_SECONDS, clock)
        assert await observer.bury() == [hanging.id]
        assert await keys(table, "session/") == sorted(f"session/{s.id}" for s in (living, mine))


async def test_of_many_who_bury_at_once_one_says_so(table: Table, clock: FakeClock) -> None:
    async with Sessions(table, FakeClock(), "hanging").open() as hanging:
        observers = [Sessions(table, clock, f"o{number}") for number in range(8)]
        for observer in observers:
            await observer.bury()
        await pass_time(table, DEAD_AFTER_SECONDS, clock, step=10)
        buried = await asyncio.gather(*(observer.bury() for observer in observers))
    assert sorted(buried) == [[]] * 7 + [[hanging.id]]


async def test_who_comes_back_from_a_pause_too_late_learns_that_it_is_lost(
    table: Table, clock: FakeClock
) -> None:
    its_clock = FakeClock()
    async with Sessions(table, its_clock, "paused").open() as session:
        observer = Sessions(table, clock, "other")
        await observer.bury()
        await pass_time(table, DEAD_AFTER_SECONDS, clock, step=10)
        assert await observer.bury() == [session.id] and not session.lost.is_set()
        await pass_time(table, RENEW_SECONDS, its_clock)
        assert session.lost.is_set()
    assert await keys(table, "session/") == []


async def test_leaving_takes_the_row_away_and_stops_the_heartbeat(table: Table, clock: FakeClock) -> None:
    async with Sessions(table, clock, "node").open():
        assert len(await keys(table, "session/")) == 1
    await pass_time(table, 20, clock, step=5)
    assert await keys(table, "session/") == []


async def test_leaving_a_registry_that_is_closed_is_logged_and_no_error(
    table: Table, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Sessions(table, clock, "node").open() as session:
        await table.close()
    assert f"session {session.id} could not sign off" in caplog.text


async def test_a_registry_that_is_away_for_a_moment_loses_nobody(table: Table, clock: FakeClock) -> None:
    faulty = FaultyTable(table)
    async with Sessions(faulty, clock, "node").open() as session:
        faulty.is_unreachable = True
        await pass_time(table, LOST_AFTER_SECONDS - RENEW_SECONDS, clock)
        faulty.is_unreachable = False
        await pass_time(table, 4 * LOST_AFTER_SECONDS, clock)
        assert not session.lost.is_set()


async def test_a_session_that_cannot_be_renewed_is_lost_before_others_may_take_it_for_dead(
    table: Table, clock: FakeClock
) -> None:
    faulty = FaultyTable(table)
    observer = Sessions(table, clock, "other")
    async with Sessions(faulty, clock, "node").open() as session:
        await observer.is_dead(session.id)
        faulty.is_unreachable = True
        await pass_time(table, LOST_AFTER_SECONDS, clock)
        assert session.lost.is_set() and not await observer.is_dead(session.id)
        faulty.is_unreachable = False


@pytest.mark.prove
def test_liveness_agrees_with_a_model_that_keeps_every_observation(
    proof_count: Callable[[int], int],
) -> None:
    for seed in range(proof_count(50)):
        chance, liveness, now = random.Random(seed), Liveness(), 0.0
        seen: dict[str, list[tuple[float, str]]] = {}
        for _ in range(60):
            now += chance.choice([0, 1, 7, 29, 30, 31])
            name, version = chance.choice("abc"), chance.choice("12")
            step = chance.random()
            if step < 0.6:
                liveness.observe(name, version, now)
                seen.setdefault(name, []).append((now, version))
            elif step < 0.7:
                liveness.forget(name)
                seen.pop(name, None)
            for one in "abc":
                assert liveness.is_dead(one, now) == _is_dead(seen.get(one, []), now), seed


def _is_dead(seen: list[tuple[float, str]], now: float) -> bool:
    unchanged = [at for at, _ in seen]
    for number, (_, version) in enumerate(seen):
        if version != seen[-1][1]:
            unchanged = [at for at, _ in seen[number + 1 :]]
    return bool(unchanged) and now - unchanged[0] >= DEAD_AFTER_SECONDS
