# SPDX-License-Identifier: Apache-2.0
"""Whom to ask next: the origin, then its mirrors, then the origin with all patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from modelexpress.domain.errors import Corrupt, Limited, NotFound, Unreachable
from modelexpress.providers.addresses import Places
from modelexpress.providers.endpoints import Endpoint, Endpoints, Rota
from modelexpress.providers.http import Outgoing, OutgoingOptions
from modelexpress.providers.retry import RetryPolicy
from modelexpress.testing.clock import FakeClock

POLICY = RetryPolicy()
SHORT = POLICY.shortened()


def make(clock: FakeClock, *bases: str, most_troubled: int = 1) -> Endpoints:
    endpoints = [
        Endpoint(base, Outgoing(OutgoingOptions(Places(URL(base), frozenset()), "test", "here")), number == 0)
        for number, base in enumerate(bases)
    ]
    return Endpoints(endpoints, POLICY, clock, most_troubled)


def order(endpoints: Endpoints) -> list[tuple[str, bool]]:
    """Who is asked, and whether with all patience."""
    return [(visit.endpoint.base[-1], visit.retry == POLICY) for visit in endpoints.visits()]


async def test_without_mirrors_the_origin_is_asked_once_with_all_patience() -> None:
    endpoints = make(FakeClock(), "http://o")
    assert order(endpoints) == [("o", True)]
    [visit] = endpoints.visits()
    for error in (Unreachable("x"), NotFound("x")):
        with pytest.raises(type(error)):
            endpoints.pass_over(visit, error)
    assert order(endpoints) == [("o", True)]


async def test_with_mirrors_the_first_turns_are_short() -> None:
    endpoints = make(FakeClock(), "http://o", "http://a", "http://b")
    assert order(endpoints) == [("o", False), ("a", False), ("b", False), ("o", True)]
    assert [visit.endpoint.base for visit in endpoints.visits(has_mirrors=False)] == ["http://o"]
    assert (SHORT.max_attempts, SHORT.patience_seconds) == (3, 5.0)
    assert RetryPolicy(max_attempts=1, patience_seconds=1.0).shortened() == RetryPolicy(
        max_attempts=1, patience_seconds=1.0
    )


async def test_who_does_not_answer_comes_last_for_a_while() -> None:
    clock = FakeClock()
    endpoints = make(clock, "http://o", "http://a")
    endpoints.pass_over(endpoints.visits()[0], Unreachable("x"))
    assert order(endpoints) == [("a", False), ("o", True)]
    await clock.advance(29.9)
    assert order(endpoints) == [("a", False), ("o", True)]
    await clock.advance(0.1)
    assert order(endpoints) == [("o", False), ("a", False), ("o", True)]


async def test_what_limits_one_client_is_passed_over_and_keeps_its_turn() -> None:
    endpoints = make(FakeClock(), "http://o", "http://a")
    origin = endpoints.visits()[0]
    endpoints.pass_over(origin, Limited("x", 90.0))
    with pytest.raises(Limited):
        endpoints.pass_over(origin, Limited("x"), passed=(Unreachable,))

    assert order(endpoints) == [("o", False), ("a", False), ("o", True)]


@pytest.mark.parametrize("is_answered", [False, True])
async def test_trouble_with_one_address_is_not_trouble_with_all(is_answered: bool) -> None:
    endpoints = make(FakeClock(), "http://o", "http://a", most_troubled=3)
    origin = endpoints.visits()[0]
    for address in ("x", "x", "y", "y"):
        endpoints.pass_over(origin, Unreachable("500", address))
    assert order(endpoints)[0] == ("o", False)
    if is_answered:
        endpoints.note_answer(origin)
    endpoints.pass_over(origin, Unreachable("500", "z"))
    assert order(endpoints)[0] == ("o" if is_answered else "a", False)


async def test_of_who_may_read_the_origin_has_the_first_word_while_it_can_be_reached() -> None:
    clock = FakeClock()
    endpoints = make(clock, "http://o", "http://a")
    origin = endpoints.visits()[0]
    endpoints.pass_over(origin, Unreachable("500", "x"))

    first, *rest = endpoints.visits(is_about_rights=True)
    assert first.endpoint.is_origin and first.seconds is not None and not first.is_last
    assert (first.retry.max_attempts, first.retry.patience_seconds) == (1, 0.0), "a wait is not its silence"
    assert [visit.endpoint.base[-1] for visit in rest] == ["a", "o"] == [base for base, _ in order(endpoints)]
    assert all(visit.seconds is None for visit in rest)

    gone = Unreachable("nobody", "x", is_gone=True)
    endpoints.pass_over(first, gone)
    assert endpoints.visits(is_about_rights=True) == endpoints.visits() == rest
    endpoints.note_answer(origin)
    assert endpoints.visits(is_about_rights=True)[0] == first
    endpoints.pass_over(first, gone)
    await clock.advance(30.0)
    assert endpoints.visits(is_about_rights=True) == endpoints.visits()
    assert order(endpoints)[0] == ("o", False)


async def test_an_origin_that_has_answered_keeps_its_turn_and_a_mirror_does_not() -> None:
    endpoints = make(FakeClock(), "http://o", "http://a", "http://b")
    for visit in endpoints.visits()[:2]:
        endpoints.pass_over(visit, Unreachable("400", has_answered=True))

    assert order(endpoints) == [("o", False), ("b", False), ("a", False), ("o", True)]


async def test_where_nobody_is_others_are_asked_at_once() -> None:
    endpoints = make(FakeClock(), "http://o", "http://a", most_troubled=3)
    endpoints.pass_over(endpoints.visits()[0], Unreachable("gone", "x", is_gone=True))

    assert order(endpoints)[0] == ("a", False)


async def test_a_no_counts_from_the_origin_and_not_from_a_mirror() -> None:
    endpoints = make(FakeClock(), "http://o", "http://a")
    origin, mirror, last = endpoints.visits()
    for error in (NotFound("x"), Corrupt("x")):
        endpoints.pass_over(mirror, error)
        with pytest.raises(type(error)):
            endpoints.pass_over(origin, error)
        with pytest.raises(type(error)):
            endpoints.pass_over(last, error)
    assert order(endpoints) == [("o", False), ("a", False), ("o", True)], "no one was in trouble"


@given(
    count=st.integers(1, 5),
    events=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(1, 60)), max_size=40),
)
def test_everybody_has_a_turn_those_in_trouble_after_all_others(
    count: int, events: list[tuple[int, int, int]]
) -> None:
    rota, until, now = Rota(count), [0] * count, 0
    for number, passed, seconds in events:
        now += passed
        number %= count
        assert rota.note_trouble(number, now, seconds) == (until[number] <= now)
        until[number] = max(until[number], now + seconds)
        well = [index for index in range(count) if until[index] <= now]
        assert rota.order(now) == well + [index for index in range(count) if index not in well]
