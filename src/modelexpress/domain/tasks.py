# SPDX-License-Identifier: Apache-2.0
"""Bounded fan-out that fails with the first error itself, not with a group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def run_bounded(limit: int, items: Iterable[T], job: Callable[[T], Awaitable[None]]) -> None:
    """Run `job` over `items`, at most `limit` at once; on the first error cancel the rest and raise it.

    When it returns or raises, no job is running any more.
    """
    queue = iter(items)

    async def work() -> None:
        for item in queue:
            await job(item)

    workers = [asyncio.create_task(work()) for _ in range(limit)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
