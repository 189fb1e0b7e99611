# SPDX-License-Identifier: Apache-2.0
"""Questions to an origin: one for all who ask the same, few for those who have gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from modelexpress.cache import asking
from modelexpress.cache.asking import Asking
from modelexpress.domain.errors import Limited, Unreachable


class Origin:
    """Answers when it may; how often it was asked, and how often that was broken off."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = self.broken_off = 0

    async def ask(self) -> str:
        self.asked += 1
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        return "answer"


async def leave(task: asyncio.Task[str]) -> None:
    await asyncio.sleep(0)  # it has asked
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_leaves_takes_the_answer_from_nobody() -> None:
    questions, origin = Asking(), Origin()
    tasks = [asyncio.create_task(questions.once("x", origin.ask, "x", "me")) for _ in range(3)]
    await leave(tasks[0])
    await leave(tasks[2])
    origin.may_answer.set()

    assert await tasks[1] == "answer" and (origin.asked, origin.broken_off) == (1, 0)


async def test_who_comes_back_in_time_has_the_answer_of_the_first_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions, origin = Asking(), Origin()
    with pytest.raises(Unreachable):
        await questions.once("x", origin.ask, "x", "me", 0.0)
    monkeypatch.setattr(asking, "_LEFT_SECONDS", 0.0)
    again = asyncio.create_task(questions.once("x", origin.ask, "x", "me"))
    await turn()
    origin.may_answer.set()

    assert await again == "answer" and origin.asked == 1
    assert not questions._running and not questions._left and not questions._tasks


async def test_what_nobody_waits_for_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_LEFT_SECONDS", 0.01)
    questions, origin = Asking(), Origin()
    await leave(asyncio.create_task(questions.once("x", origin.ask, "x", "me")))
    assert questions._running
    async with asyncio.timeout(5):
        while not origin.broken_off:
            await asyncio.sleep(0.01)
    await turn()

    assert not questions._running and not questions._left and not questions._tasks


async def test_few_that_nobody_waits_for_go_on_and_who_asks_again_joins_none_that_ends() -> None:
    questions, origin = Asking(), Origin()
    for number in range(50):
        await leave(asyncio.create_task(questions.once(number, origin.ask, number, "me")))
    again = asyncio.create_task(questions.once(0, origin.ask, 0, "me"))
    await turn()
    assert origin.broken_off == 50 - asking._MOST_LEFT and origin.asked == 51
    origin.may_answer.set()

    assert await again == "answer"
    await turn()
    assert not questions._running and not questions._left


async def test_no_more_run_than_a_number_and_those_can_still_be_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "_MOST_OF_ALL", 2)
    questions, origin = Asking(), Origin()
    tasks = [asyncio.create_task(questions.once(number, origin.ask, number, "me")) for number in (0, 1, 0)]
    await turn()
    with pytest.raises(Limited) as refused:
        await questions.once(2, origin.ask, 2, "me")
    assert refused.value.retry_after_seconds
    origin.may_answer.set()
    assert await asyncio.gather(*tasks) == ["answer"] * 3
    assert await questions.once(2, origin.ask, 2, "me") == "answer"


async def test_no_caller_has_so_many_that_others_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in {"_MOST_RUNNING": 10, "_MOST_OF_ALL": 16, "_FEW": 3}.items():
        monkeypatch.setattr(asking, name, number)
    questions, origin, tasks, refused = Asking(), Origin(), list[asyncio.Task[str]](), list[str]()
    for owner in ("greedy",) * 12 + ("one",) * 4 + ("two",) * 4 + ("three",):
        key = len(tasks)
        tasks.append(asyncio.create_task(questions.once(key, origin.ask, key, owner)))
        await turn()
        refused += [owner] * tasks[-1].done()
    joined = asyncio.create_task(questions.once(0, origin.ask, 0, "three"))
    origin.may_answer.set()

    assert refused == ["greedy", "greedy", "one", "two", "three"] and await joined == "answer"
    await asyncio.gather(*tasks, return_exceptions=True)
    await turn()
    assert not questions._counts and await questions.once("x", origin.ask, "x", "greedy") == "answer"


async def test_closing_ends_those_that_nobody_waits_for_too() -> None:
    questions, origin = Asking(), Origin()
    await leave(asyncio.create_task(questions.once("x", origin.ask, "x", "me")))
    await questions.close()

    assert origin.broken_off == 1
