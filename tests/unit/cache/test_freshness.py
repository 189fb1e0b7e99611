# SPDX-License-Identifier: Apache-2.0
"""When the origin is asked what a moving revision means, and what answers when it does not."""

from __future__ import annotations

import asyncio

import pytest

from modelexpress.cache import freshness
from modelexpress.cache.freshness import Freshness, FreshnessRules, Resolved
from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import (
    Forbidden,
    Limited,
    MxError,
    NotFound,
    Unauthenticated,
    Unreachable,
)
from modelexpress.domain.refs import ModelRef

REF = ModelRef.parse("org/name")
OLD, NEW = "1" * 40, "2" * 40


class HandClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Desk:
    """An origin and a directory, as Freshness sees them."""

    def __init__(self, rules: FreshnessRules, local: str | None = None) -> None:
        self.clock = HandClock()
        self.local = local
        self.asked = 0
        self.answer: str | MxError = NEW
        self.answers: dict[Caller, str | MxError] = {}  # to those who are answered otherwise
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.freshness = Freshness(rules, self.clock, self._ask, self._find_local)

    async def _ask(self, ref: ModelRef, caller: Caller) -> str:
        self.asked += 1
        await self.may_answer.wait()
        answer = self.answers.get(caller, self.answer)
        if isinstance(answer, MxError):
            raise answer
        return answer

    async def _find_local(self, ref: ModelRef) -> str | None:
        return self.local

    async def resolve(self, ref: ModelRef = REF, caller: Caller = ANONYMOUS) -> Resolved:
        return await self.freshness.resolve(ref, caller)


async def test_a_commit_is_never_asked_for() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0))

    assert await desk.resolve(REF.at(OLD)) == Resolved(OLD)
    assert desk.asked == 0


async def test_within_the_interval_the_origin_is_asked_once() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=60))

    for _ in range(5):
        assert await desk.resolve() == Resolved(NEW)
    assert desk.asked == 1

    desk.clock.now += 61
    await desk.resolve()
    assert desk.asked == 2


async def test_always_asks_each_time_and_never_asks_only_when_nothing_is_here() -> None:
    always = Desk(FreshnessRules(revalidate_seconds=0), local=OLD)
    assert [await always.resolve(), await always.resolve()] == [Resolved(NEW)] * 2
    assert always.asked == 2

    never = Desk(FreshnessRules(revalidate_seconds=None), local=OLD)
    assert await never.resolve() == Resolved(OLD)
    assert never.asked == 0
    never.local = None
    assert await never.resolve() == Resolved(NEW)


async def test_many_who_ask_at_once_cost_one_request() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0))
    desk.may_answer.clear()
    waiting = [asyncio.create_task(desk.resolve()) for _ in range(50)]
    await asyncio.sleep(0)

    desk.may_answer.set()

    assert await asyncio.gather(*waiting) == [Resolved(NEW)] * 50
    assert desk.asked == 1


@pytest.mark.parametrize("said", [Unauthenticated("who?"), Limited("later", 30.0), Unreachable("no answer")])
async def test_what_one_is_told_is_no_answer_to_who_has_other_rights(said: MxError) -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=60), local=OLD)
    junk = Caller("hf_junk")
    desk.answers[junk] = said
    desk.may_answer.clear()
    first = asyncio.create_task(desk.resolve(caller=junk))
    await asyncio.sleep(0)
    second = asyncio.create_task(desk.resolve())
    await asyncio.sleep(0)
    desk.may_answer.set()

    assert await second == Resolved(NEW)
    await asyncio.gather(first, return_exceptions=True)
    assert await desk.resolve() == Resolved(NEW), "and his silence is not everybody's"


async def test_one_waiter_that_gives_up_does_not_take_the_answer_from_the_others() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0))
    desk.may_answer.clear()
    first, second = (asyncio.create_task(desk.resolve()) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    desk.may_answer.set()

    assert await second == Resolved(NEW)


@pytest.mark.parametrize("outage", [Unreachable("down"), Limited("later", 5.0)])
async def test_in_an_outage_what_is_here_answers_marked_stale(outage: MxError) -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0), local=OLD)
    desk.answer = outage

    assert await desk.resolve() == Resolved(OLD, is_stale=True)


async def test_in_an_outage_the_origin_is_left_in_peace_for_a_while() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0), local=OLD)
    desk.answer = Unreachable("down")

    for _ in range(5):
        await desk.resolve()
    assert desk.asked == 1

    desk.answer = NEW
    desk.clock.now += 11
    assert await desk.resolve() == Resolved(NEW)


@pytest.mark.parametrize("refusal", [NotFound("gone"), Forbidden("no")])
async def test_a_definite_no_is_not_papered_over(refusal: MxError) -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0), local=OLD)
    desk.answer = refusal

    with pytest.raises(type(refusal)):
        await desk.resolve()


async def test_a_silent_origin_is_waited_for_only_shortly_when_something_is_here() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0, stale_after_seconds=0.01), local=OLD)
    desk.may_answer.clear()

    assert await desk.resolve() == Resolved(OLD, is_stale=True)
    await desk.freshness.close()


async def test_a_silent_origin_is_an_error_after_the_deadline_when_nothing_is_here() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=0, deadline_seconds=0.01))
    desk.may_answer.clear()

    with pytest.raises(Unreachable, match="did not say"):
        await desk.resolve()
    await desk.freshness.close()


async def test_offline_nothing_is_asked() -> None:
    desk = Desk(FreshnessRules(is_offline=True), local=OLD)
    assert await desk.resolve() == Resolved(OLD)

    desk.local = None
    with pytest.raises(NotFound, match="not found in cache"):
        await desk.resolve()
    assert desk.asked == 0


async def test_a_forgotten_model_is_asked_for_again() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=60))
    await desk.resolve()

    desk.freshness.forget(REF.at(OLD))
    await desk.resolve()

    assert desk.asked == 2


async def test_the_oldest_answers_go_where_anybody_can_ask_for_any_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(freshness, "_MOST_ANSWERS", 3, raising=False)
    desk = Desk(FreshnessRules(revalidate_seconds=60))
    refs = [ModelRef.parse(f"org/name@b{number}") for number in range(4)]
    for ref in (*refs[:3], refs[0], refs[3]):  # said again is new again
        desk.freshness.note(ref, NEW)

    assert [desk.freshness.recall(ref, None) is not None for ref in refs] == [True, False, True, True]
    assert len(desk.freshness._answers) == 3


async def test_what_comes_late_to_an_earlier_question_is_no_news() -> None:
    desk = Desk(FreshnessRules(revalidate_seconds=60))
    desk.may_answer.clear()
    asking = asyncio.create_task(desk.resolve())  # what it says is made now, and sent later
    while not desk.asked:
        await asyncio.sleep(0)
    desk.clock.now += 1
    began = desk.clock.now
    desk.clock.now += 1
    desk.freshness.note(REF, NEW, began=began)
    desk.answer = OLD
    desk.may_answer.set()

    assert await asking == Resolved(OLD)
    assert await desk.resolve() == Resolved(NEW)
    desk.freshness.note(REF, OLD, began=began - 0.5)
    assert desk.freshness.recall(REF, None) == Resolved(NEW)
    desk.freshness.note(REF, OLD, began=began + 0.5)
    assert desk.freshness.recall(REF, None) == Resolved(OLD)
