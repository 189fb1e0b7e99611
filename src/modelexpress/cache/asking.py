# SPDX-License-Identifier: Apache-2.0
"""Many who ask the same at once cost one question."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from modelexpress.domain.errors import Limited, Unreachable

_MOST_RUNNING = 1_000  # beyond that only for those who have few
_MOST_OF_ALL = 2_000
_FEW = 100
_MOST_LEFT = 8  # each holds one of the connections to the origin (64) that all share
_LEFT_SECONDS = 10.0
_AGAIN_SECONDS = 5.0

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Question:
    """One that runs. `owner`: for whom; `end`: what will stop it, while nobody waits for it."""

    task: asyncio.Task[Any]
    owner: str
    waiting: int = 0
    end: asyncio.TimerHandle | None = None


class Asking:
    """Running questions by what they are, within a number, of which nobody has so many that others have none.

    One that nobody waits for any more goes on for a while, since who asked often comes back for the answer;
    but few such do, so that who asks and leaves does not keep the origin from all others.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Question] = {}
        self._counts = Counter[str]()  # by owner
        self._left: dict[Hashable, _Question] = {}  # that nobody waits for, the oldest first
        self._tasks: set[asyncio.Task[Any]] = set()

    def find_running(self, keys: Iterable[Hashable]) -> Hashable | None:
        """The first of `keys` that is being asked."""
        return next((key for key in keys if key in self._running), None)

    async def once(
        self,
        key: Hashable,
        ask: Callable[[], Awaitable[T]],
        what: object,
        owner: str,
        seconds: float | None = None,
    ) -> T:
        """The answer to `key`, from the question that runs already or a new one; `what` it is about.

        `owner`: the fingerprint of who asks. Raises what it raises, Limited when too many run, and
        Unreachable when there is no answer within `seconds` (None: it takes what it takes).
        """
        question = self._join(key) or self._begin(key, ask, owner)
        question.waiting += 1
        try:
            await asyncio.wait({question.task}, timeout=seconds)
        finally:
            question.waiting -= 1
            if not question.waiting and not question.task.done():
                self._leave(key, question)
        if not question.task.done():
            raise Unreachable(f"the origin did not say within {seconds:g} s what {what} is; try again")
        answer: T = question.task.result()
        return answer

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _join(self, key: Hashable) -> _Question | None:
        question = self._running.get(key)
        if question is not None and question.end is not None:
            question.end.cancel()
            question.end = None
            del self._left[key]
        return question

    def _begin(self, key: Hashable, ask: Callable[[], Awaitable[T]], owner: str) -> _Question:
        running = len(self._running)
        # One whom the origin limits, or does not answer, has his questions wait for seconds each.
        if running >= _MOST_OF_ALL or (running >= _MOST_RUNNING and self._counts[owner] >= _FEW):
            raise Limited(f"{running} questions to the origin are running; try again", _AGAIN_SECONDS)
        task = asyncio.create_task(_run(ask), name="asking the origin")
        question = self._running[key] = _Question(task, owner)
        self._counts[owner] += 1
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finish(key, question))
        return question

    def _leave(self, key: Hashable, question: _Question) -> None:
        if self._running.get(key) is not question:
            return
        question.end = asyncio.get_running_loop().call_later(_LEFT_SECONDS, self._stop, key, question)
        self._left[key] = question
        if len(self._left) > _MOST_LEFT:
            self._stop(*next(iter(self._left.items())))

    def _stop(self, key: Hashable, question: _Question) -> None:
        self._forget(key, question)  # first, so that nobody joins what ends
        question.task.cancel()

    def _finish(self, key: Hashable, question: _Question) -> None:
        self._tasks.discard(question.task)
        self._forget(key, question)
        if not question.task.cancelled():
            question.task.exception()  # retrieved: everybody may have gone by now

    def _forget(self, key: Hashable, question: _Question) -> None:
        if self._running.get(key) is not question:
            return
        del self._running[key]
        self._counts[question.owner] -= 1
        if not self._counts[question.owner]:
            del self._counts[question.owner]
        if question.end is not None:
            question.end.cancel()
            del self._left[key]


async def _run(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()
