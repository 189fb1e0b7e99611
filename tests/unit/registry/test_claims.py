# SPDX-License-Identifier: Apache-2.0
"""Claims: one holder at a time, taken over from the dead once, and never left to nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests.support.tables import FaultyTable, keys, pass_time

from modelexpress.domain.clock import Clock
from modelexpress.domain.tasks import run_bounded
from modelexpress.registry import Claims, Session, Sessions, Table
from modelexpress.registry.memory import MemoryTable
from modelexpress.registry.sessions import DEAD_AFTER_SECONDS
from modelexpress.testing.clock import FakeClock


@asynccontextmanager
async def claims_of(table: Table, clock: Clock) -> AsyncIterator[Claims]:
    """The claims of one process."""
    sessions = Sessions(table, clock, "node")
    async with sessions.open() as session:
        yield Claims(table, session, sessions, clock)


async def test_a_claim_is_one_sessions_until_it_is_given_back(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, clock) as ours, claims_of(table, clock) as theirs:
        claim = await ours.acquire("a", "what")
        assert claim is not None and await ours.is_mine(claim)
        assert await theirs.acquire("a", "what") is None
        assert await theirs.acquire("b", "what") is not None
        await ours.release(claim)
        assert not await ours.is_mine(claim)
        assert await theirs.acquire("a", "what") is not None


async def test_two_tasks_of_one_session_exclude_each_other_too(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, clock) as ours:
        claim = await ours.acquire("a", "first")
        assert claim is not None and await ours.acquire("a", "second") is None


async def test_of_many_sessions_that_ask_at_once_one_gets_it(table: Table, clock: FakeClock) -> None:
    async with AsyncExitStack() as stack:
        everybody = [await stack.enter_async_context(claims_of(table, clock)) for _ in range(12)]
        taken = await asyncio.gather(*(claims.acquire("a", "") for claims in everybody))
        assert sum(claim is not None for claim in taken) == 1


async def test_a_claim_of_a_silent_session_is_taken_over_once_and_only_when_it_is_dead(
    table: Table, clock: FakeClock
) -> None:
    async with AsyncExitStack() as stack:
        hanging = await stack.enter_async_context(claims_of(table, FakeClock()))
        others = [await stack.enter_async_context(claims_of(table, clock)) for _ in range(8)]
        old = await hanging.acquire("a", "")
        assert old is not None
        assert await asyncio.gather(*(claims.acquire("a", "") for claims in others)) == [None] * 8
        await pass_time(table, DEAD_AFTER_SECONDS - 1, clock)
        assert await asyncio.gather(*(claims.acquire("a", "") for claims in others)) == [None] * 8
        await pass_time(table, 1, clock)
        taken = await asyncio.gather(*(claims.acquire("a", "") for claims in others))
        assert sum(claim is not None for claim in taken) == 1
        winner = next(number for number, claim in enumerate(taken) if claim is not None)
        # The one who was taken for dead wakes up: what it holds is no longer its own.
        assert not await hanging.is_mine(old)
        await hanging.release(old)
        claim = taken[winner]
        assert claim is not None and await others[winner].is_mine(claim)
        assert await hanging.acquire("a", "") is None


async def test_claims_of_the_process_before_do_not_block_the_only_process(
    exclusive: Table, clock: FakeClock
) -> None:
    async with claims_of(exclusive, FakeClock()) as killed:
        assert await killed.acquire("a", "") is not None
        async with claims_of(exclusive, clock) as now:
            claim = await now.acquire("a", "")
            assert claim is not None and await now.is_mine(claim)


async def test_giving_back_twice_takes_nothing_from_the_next_holder(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, clock) as ours, claims_of(table, clock) as theirs:
        claim = await ours.acquire("a", "")
        assert claim is not None
        await ours.release(claim)
        await ours.release(claim)
        their_claim = await theirs.acquire("a", "")
        assert their_claim is not None
        await ours.release(claim)
        assert await theirs.is_mine(their_claim)


async def test_a_claim_taken_again_is_another_claim(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, clock) as ours:
        first = await ours.acquire("a", "")
        assert first is not None
        await ours.release(first)
        second = await ours.acquire("a", "")
        assert second is not None and second.row.version != first.row.version
        assert not await ours.is_mine(first) and await ours.is_mine(second)


@pytest.mark.parametrize("value", [b"", b"not json", b"[]", b"null", b"{}", b'"text"', b"\xff"])
async def test_a_claim_that_cannot_be_read_is_not_honoured(
    table: Table, clock: FakeClock, value: bytes
) -> None:
    async with claims_of(table, clock) as ours:
        claim = await ours.acquire("a", "")
        assert claim is not None
        assert await table.put(claim.row.key, value, claim.row.version) is not None
        assert await ours.acquire("a", "") is not None


async def test_waiters_wake_when_the_claim_is_given_back(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, clock) as ours, claims_of(table, clock) as theirs:
        claim = await ours.acquire("a", "")
        assert claim is not None
        waiting = [asyncio.create_task(theirs.wait_released("a", 60)) for _ in range(20)]
        await pass_time(table, 5, clock)
        assert not any(task.done() for task in waiting)
        await ours.release(claim)
        # The clock stands still: it is the hint that wakes them.
        async with asyncio.timeout(5):
            assert await asyncio.gather(*waiting) == [True] * 20


async def test_a_lost_hint_costs_two_seconds(table: Table, clock: FakeClock) -> None:
    deaf = FaultyTable(table, has_hints=False)
    async with claims_of(table, clock) as ours, claims_of(deaf, clock) as theirs:
        claim = await ours.acquire("a", "")
        assert claim is not None
        waiting = asyncio.create_task(theirs.wait_released("a", 60))
        await pass_time(table, 5, clock)
        await ours.release(claim)
        await pass_time(table, 2, clock)
        assert waiting.done() and waiting.result()


async def test_waiters_wake_when_the_holder_has_died(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, FakeClock()) as hanging, claims_of(table, clock) as theirs:
        assert await hanging.acquire("a", "") is not None
        waiting = asyncio.create_task(theirs.wait_released("a", 120))
        await pass_time(table, DEAD_AFTER_SECONDS - 2, clock)
        assert not waiting.done()
        await pass_time(table, 5, clock)
        assert waiting.done() and waiting.result()


async def test_waiting_ends_at_its_deadline(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, clock) as ours, claims_of(table, clock) as theirs:
        assert await ours.acquire("a", "") is not None
        waiting = asyncio.create_task(theirs.wait_released("a", 10))
        await pass_time(table, 8, clock)
        assert not waiting.done()
        await pass_time(table, 4, clock)
        assert waiting.done() and not waiting.result()


async def test_what_goes_wrong_in_the_body_gives_the_claim_back(table: Table, clock: FakeClock) -> None:
    async with claims_of(table, clock) as ours:
        with pytest.raises(ZeroDivisionError):
            async with ours.held("a", ""):
                assert len(await keys(table, "claim/")) == 1
                raise ZeroDivisionError
        assert await keys(table, "claim/") == []


async def hold(claims: Claims, name: str, turns: int = 0) -> None:
    async with claims.held(name, ""):
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_cancelled_at_any_turn_and_however_often_no_claim_is_left(
    exclusive: Table, clock: FakeClock, cancels: int
) -> None:
    slow = FaultyTable(exclusive, turns=3)
    async with claims_of(slow, clock) as ours:
        for turns in range(30):
            task = asyncio.create_task(hold(ours, f"a{turns}", turns=5))
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(task, return_exceptions=True)
            await settle(exclusive)
            assert await keys(exclusive, "claim/") == [], f"after {turns} turns"


@pytest.mark.prove
async def test_a_cancelled_group_leaves_no_claim(proof_count: Callable[[int], int]) -> None:
    """As a pull does it: several files at once, and the whole is cancelled somewhere."""
    for seed in range(proof_count(60)):
        chance, clock = random.Random(seed), FakeClock()
        table = FaultyTable(MemoryTable(), turns=chance.randrange(6))
        async with claims_of(table, clock) as ours:
            names = [f"file {number}" for number in range(chance.randrange(1, 20))]

            async def job(name: str, ours: Claims = ours, chance: random.Random = chance) -> None:
                await hold(ours, name, chance.randrange(10))

            pulling = asyncio.create_task(run_bounded(chance.randrange(1, 9), names, job))
            for _ in range(chance.randrange(120)):
                await asyncio.sleep(0)
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)
            assert await keys(table, "claim/") == [], f"seed {seed}"


async def settle(table: Table) -> None:
    for _ in range(20):
        await table.get("nothing")
        await asyncio.sleep(0)


class Bodies:
    """Who is inside which claim: never two."""

    def __init__(self) -> None:
        self.inside: dict[str, Session | str] = {}
        self.entered = 0

    async def visit(self, claims: Claims, name: str, chance: random.Random) -> None:
        async with claims.held(name, "visit"):
            assert name not in self.inside, f"{name} has two holders"
            self.inside[name] = claims.session_id
            self.entered += 1
            try:
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(0)
                if chance.random() < 0.1:
                    raise ZeroDivisionError
            finally:
                del self.inside[name]


async def contend(seed: int, table: Table) -> None:
    """Living sessions with many tasks, some cancelled, and sessions that fell silent holding claims."""
    chance, clock, bodies = random.Random(seed), FakeClock(), Bodies()
    names = [f"n{number}" for number in range(chance.randrange(1, 4))]
    async with AsyncExitStack() as stack:
        for name in names:
            if chance.random() < 0.5:
                silent = await stack.enter_async_context(claims_of(table, FakeClock()))
                await silent.acquire(name, "and never again")
        living = [await stack.enter_async_context(claims_of(table, clock)) for _ in range(3)]
        tasks = [
            asyncio.create_task(bodies.visit(chance.choice(living), chance.choice(names), chance))
            for _ in range(25)
        ]
        for task in chance.sample(tasks, 6):
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            task.cancel()
        for _ in range(200):
            if all(task.done() for task in tasks):
                break
            await pass_time(table, 2, clock)
        assert all(task.done() for task in tasks), f"seed {seed}: somebody waits for ever"
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        unexpected = [
            e for e in ended if not isinstance(e, ZeroDivisionError | asyncio.CancelledError | None)
        ]
        assert not unexpected and bodies.entered >= 25 - 6, f"seed {seed}: {unexpected}"
        left = {row.split("/")[1] for row in await keys(table, "claim/")}
        assert len(left) <= len(names) and not bodies.inside


@pytest.mark.prove
async def test_many_tasks_contend_and_a_claim_never_has_two_holders(
    table: Table, proof_count: Callable[[int], int]
) -> None:
    for seed in range(proof_count(6)):
        await contend(seed, table)
        for row in await table.scan(""):
            await table.delete(row.key, row.version)
