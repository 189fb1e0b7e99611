# SPDX-License-Identifier: Apache-2.0
"""What is shared by many is not held by who only lets time pass: it is given back, and taken again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from modelexpress.domain.clock import Clock

GiveBack = Callable[[], AbstractAsyncContextManager[None]]
"""In its body the holder does without; after it he holds again."""

# Who waits is far below who holds, with readers of all kinds in between. With the task that holds: those
# that it starts have its context too.
_held: ContextVar[tuple[asyncio.Task[Any] | None, GiveBack] | None] = ContextVar("what is held", default=None)


@contextmanager
def holding(give_back: GiveBack) -> Iterator[None]:
    """In the body, `rest` gives back what this task holds."""
    token = _held.set((asyncio.current_task(), give_back))
    try:
        yield
    finally:
        _held.reset(token)


async def rest(clock: Clock, seconds: float) -> None:
    """Let `seconds` pass, without what this task holds."""
    held = _held.get()
    if held is None or held[0] is not asyncio.current_task():
        await clock.sleep(seconds)
        return
    async with held[1]():
        await clock.sleep(seconds)
