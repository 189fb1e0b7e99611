# SPDX-License-Identifier: Apache-2.0
"""Fan-out that ends as a whole, and cleaning up that no cancellation tears."""

from __future__ import annotations

import asyncio

import pytest

from modelexpress.domain.tasks import finish, finish_or_undo, run_bounded


class Step:
    """Something that ends when it is told to."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.ended = 0

    async def __call__(self, *_: object) -> int:
        await self.may_end.wait()
        self.ended += 1
        return self.ended


@pytest.mark.parametrize("times", [0, 1, 2, 3])
async def test_a_last_step_is_finished_however_often_it_is_cancelled(times: int) -> None:
    step = Step()
    task = asyncio.create_task(finish(step()))
    for _ in range(times):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    step.may_end.set()

    if times:
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert await task == 1
    assert step.ended == 1


async def test_the_error_of_a_last_step_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await finish(fail())


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_what_nobody_is_left_to_receive_is_undone_before_the_cancellation_is_heard(times: int) -> None:
    step, undone = Step(), Step()
    undone.may_end.set()
    task = asyncio.create_task(finish_or_undo(step(), undone))
    for _ in range(times):
        await asyncio.sleep(0)
        task.cancel()
    step.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (step.ended, undone.ended) == (1, 1)


async def test_when_the_first_job_fails_the_others_have_cleaned_up_before_its_error_is_heard() -> None:
    cleaned = []

    async def clean(number: int) -> None:
        await asyncio.sleep(0.01 * number)
        cleaned.append(number)

    async def job(number: int) -> None:
        try:
            if number in (1, 2):
                raise ValueError(f"job {number}")
            await asyncio.Event().wait()
        finally:
            await finish(clean(number))

    with pytest.raises(ValueError, match="job 1"):
        await run_bounded(4, range(4), job)

    assert sorted(cleaned) == [0, 1, 2, 3]


async def test_no_more_jobs_than_the_limit_run_at_once() -> None:
    running, most, done = 0, 0, 0

    async def job(_: int) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done += 1

    await run_bounded(3, range(20), job)

    assert (most, done) == (3, 20)
