# SPDX-License-Identifier: Apache-2.0
"""Many who ask the same at once cost one question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from modelexpress.domain.errors import Unreachable

T = TypeVar("T")


class Asking:
    """Running questions by what they are. One goes on when those who asked it have gone."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def once(
        self, key: Hashable, ask: Callable[[], Awaitable[T]], what: object, seconds: float | None = None
    ) -> T:
        """The answer to `key`, from the question that runs already or a new one; `what` it is about.

        Raises what it raises, and Unreachable when there is no answer within `seconds` (None: it takes
        what it takes).
        """
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(_run(ask), name="asking the origin")
            self._running[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise Unreachable(f"the origin did not say within {seconds:g} s what {what} is; try again")
        answer: T = task.result()
        return answer

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finish(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieved: everybody may have gone by now


async def _run(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()
