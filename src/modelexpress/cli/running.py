# SPDX-License-Identifier: Apache-2.0
"""Running the work of a command, and its end when somebody stops it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Terminated(BaseException):
    """SIGTERM came: what KeyboardInterrupt is for SIGINT."""


def run_work(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; SIGTERM cancels it, as Ctrl-C does, and is raised once it has cleaned up."""
    is_told = False

    async def act() -> T:
        task = asyncio.current_task()
        assert task is not None

        def hear() -> None:
            nonlocal is_told
            is_told = True
            task.cancel()

        if threading.current_thread() is threading.main_thread():
            # Until the loop is closed: cleaning up is not cut off by the signal's usual effect.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, hear)
        return await work

    try:
        return asyncio.run(act())
    except BaseException as error:
        if is_told:
            raise Terminated from error
        raise


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """While the body waits for a person: a signal ends it where it is, instead of being noted for later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, _terminate),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(*_: object) -> None:
    raise Terminated
