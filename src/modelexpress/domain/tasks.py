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
            if not worker.cancelling():  # a second time would tear the cleaning up after the first
                worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def finish(step: Awaitable[T]) -> T:
    """Await `step` to its end however often we are cancelled meanwhile, and only then be cancelled.

    For cleaning up: it must have happened when the one who cleans up has gone.
    """
    running = asyncio.ensure_future(step)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return running.result()
    if not running.cancelled():
        running.exception()  # retrieved: the cancellation is what the caller hears
    raise cancelled


async def finish_or_undo(start: Awaitable[T], undo: Callable[[T], Awaitable[None]]) -> T:
    """Await `start` to its end even when cancelled, and then `undo` what nobody is left to receive.

    For steps that happen in another thread or process and cannot be called back: without this, a
    cancellation at the wrong moment would leave an open file or a claim that belongs to nobody.
    """
    running = asyncio.ensure_future(start)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await finish(_undo(running, undo))
        raise


async def _undo(running: asyncio.Future[T], undo: Callable[[T], Awaitable[None]]) -> None:
    await asyncio.wait({running})
    if not running.cancelled() and running.exception() is None:
        await undo(running.result())
