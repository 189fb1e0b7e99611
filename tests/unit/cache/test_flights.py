# SPDX-License-Identifier: Apache-2.0
"""One pull for all who want the same; nobody's leaving ends it, and everybody hears the end."""

from __future__ import annotations

import asyncio

import pytest

from modelexpress.cache.flights import Flight, FlightKey, Flights, PullState
from modelexpress.domain.errors import Cancelled, NotFound
from modelexpress.domain.held import Pulled
from modelexpress.domain.manifest import Manifest, Proof
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.selection import ALL_FILES

REF = ModelRef.parse("org/name")
KEY = FlightKey(ProviderKind.HUGGING_FACE, "org/name", "1" * 40, "all")
PULLED = Pulled(Manifest(REF, "1" * 40, ()), "/x", "v", Proof.DIGEST, was_hit=False)


class Runway:
    """A pull that ends when it is told to."""

    def __init__(self) -> None:
        self.started = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, state: PullState) -> Pulled:
        self.started += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return PULLED


def join(flights: Flights, runway: Runway, revision: str = "main") -> Flight:
    task, state = flights.join(KEY, revision, runway)
    return Flight(REF, KEY.commit, ALL_FILES, task, state)


async def test_all_who_join_share_one_pull_and_its_result() -> None:
    flights, runway = Flights(), Runway()
    waiting = [asyncio.create_task(join(flights, runway).result()) for _ in range(32)]
    await asyncio.sleep(0)

    runway.may_end.set()

    assert await asyncio.gather(*waiting) == [PULLED] * 32
    assert runway.started == 1 and len(flights) == 0


async def test_the_starter_may_leave_and_the_rest_succeed() -> None:
    flights, runway = Flights(), Runway()
    starter = asyncio.create_task(join(flights, runway).result())
    other = asyncio.create_task(join(flights, runway).result())
    await asyncio.sleep(0)

    starter.cancel()
    await asyncio.gather(starter, return_exceptions=True)
    runway.may_end.set()

    assert await other == PULLED


async def test_every_waiter_hears_the_cause_of_a_failure() -> None:
    flights, runway = Flights(), Runway()
    runway.error = NotFound("weight file x is not there")
    waiting = [asyncio.create_task(join(flights, runway).result()) for _ in range(3)]
    runway.may_end.set()

    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, NotFound) and "weight file x" in str(ended)


async def test_a_failure_that_nobody_waits_for_is_no_warning_and_the_next_one_starts_anew() -> None:
    flights, runway = Flights(), Runway()
    runway.error = NotFound("x")
    runway.may_end.set()
    task, _ = flights.join(KEY, None, runway)
    await asyncio.wait({task})
    await asyncio.sleep(0)

    runway.error = None
    assert await join(flights, runway).result() == PULLED
    assert runway.started == 2


async def test_stopping_a_model_tells_its_waiters_why_and_spares_others() -> None:
    flights, runway, other = Flights(), Runway(), Runway()
    waiting = asyncio.create_task(join(flights, runway).result())
    other_key = FlightKey(KEY.provider, "org/other", KEY.commit, "all")
    spared, _ = flights.join(other_key, None, other)
    await asyncio.sleep(0)

    await flights.cancel(KEY.provider, KEY.name, "the model was removed")

    with pytest.raises(Cancelled, match="the model was removed"):
        await waiting
    other.may_end.set()
    assert await spared == PULLED


async def test_closing_stops_everything_and_leaves_no_task() -> None:
    flights, runway = Flights(), Runway()
    waiting = asyncio.create_task(join(flights, runway).result())
    await asyncio.sleep(0)

    await flights.close()

    with pytest.raises(Cancelled, match="stopping"):
        await waiting
    assert len(flights) == 0


async def test_updates_come_at_once_and_end_with_the_pull() -> None:
    flights, runway = Flights(), Runway()
    flight = join(flights, runway)
    seen = []
    async for progress in flight.updates(0.005):
        seen.append(progress)
        if len(seen) == 3:
            runway.may_end.set()

    assert len(seen) >= 3 and flight.is_done


async def test_every_name_asked_for_is_remembered() -> None:
    flights, runway = Flights(), Runway()
    join(flights, runway, "main")
    _, state = flights.join(KEY, "v1", runway)

    assert state.revisions == {"main", "v1"}
    await flights.close()
