# SPDX-License-Identifier: Apache-2.0
"""Serving until a signal says stop; a second signal does not wait."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Busy
from modelexpress.domain.meter import Meter
from modelexpress.server.app import ServerOptions, open_server
from modelexpress.server.port import ServedCache

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


async def run_server(cache: ServedCache, options: ServerOptions, meter: Meter, clock: Clock) -> None:
    """Serve `cache` until SIGTERM or SIGINT, then drain; the second signal ends the draining.

    Raises Busy after a stop that nobody asked for: others took this process for dead.
    """
    with _stop_signals() as (stop, stop_now):
        serving = asyncio.create_task(_serve(cache, options, meter, clock, stop), name="serving")
        impatience = asyncio.create_task(stop_now.wait())
        loss = asyncio.create_task(cache.wait_lost())
        try:
            await asyncio.wait({serving, impatience, loss}, return_when=asyncio.FIRST_COMPLETED)
            if loss.done():
                raise Busy(
                    "the registry could not be kept up to date and takes this server for dead, so its work "
                    "may be another's by now; it stops. Look at the registry's disk, and start it again"
                )
            if not serving.done():
                _log.warning("second signal: running calls are cut off")
                serving.cancel()
            await asyncio.gather(serving, return_exceptions=stop_now.is_set())
        finally:  # also when we are cancelled ourselves
            for task in (serving, impatience, loss):
                task.cancel()
            await asyncio.gather(serving, impatience, loss, return_exceptions=True)


async def _serve(
    cache: ServedCache, options: ServerOptions, meter: Meter, clock: Clock, stop: asyncio.Event
) -> None:
    async with open_server(cache, options, meter, clock) as listening:
        host, port, data_port = listening.host, listening.port, listening.data_port
        _log.info("serving gRPC on %s:%d, data on %s, cache in %s", host, port, data_port, cache.root)
        await stop.wait()
        _log.info("stopping: running calls have %.0f s to finish", options.drain_seconds)


@contextmanager
def _stop_signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    loop = asyncio.get_running_loop()
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def hear() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, hear)
    try:
        yield stop, stop_now
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
