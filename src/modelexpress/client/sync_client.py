# SPDX-License-Identifier: Apache-2.0
"""The client for code without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, TypeVar

from modelexpress.client.async_client import AsyncClient
from modelexpress.client.into_memory import Allocate
from modelexpress.client.results import CacheStats, LocalModel, ReceivedModel, ServerHealth, ServerPulled
from modelexpress.domain.errors import Cancelled, Invalid
from modelexpress.domain.held import HeldSnapshot, OnProgress
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection
from modelexpress.domain.strategy import Strategy

T = TypeVar("T")


class SyncClient:
    """AsyncClient with blocking calls, from any thread; a thread of its own runs the loop.

    The thread begins with the first call, so a client may be made before a fork and used after it.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.endpoint = client.endpoint
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread; calls of other threads end with Cancelled."""
        self._check_thread()
        with self._starting:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def health(self) -> ServerHealth:
        """What the server says of itself. Raises Unreachable when nobody answers."""
        return self._call(self._client.health())

    def send(self, action: str, payload: bytes | None = None) -> bytes:
        """One call of the api service; the answer's data."""
        return self._call(self._client.send(action, payload))

    def delete(self, model: ModelRef | str) -> str:
        """Remove a model from the server; the server's words about it."""
        return self._call(self._client.delete(model))

    def keep(self, model: LocalModel, seconds: int | None = None) -> None:
        """Say of a pulled model whether it is still read where the server has it; nothing evicts it then.

        `seconds` None: as long as the server's settings say, which is also the most; 0: it is read no more.
        """
        return self._call(self._client.keep(model, seconds))

    def list_held(self) -> list[HeldSnapshot]:
        """What the server holds."""
        return self._call(self._client.list_held())

    def stats(self) -> CacheStats:
        """How much the server holds."""
        return self._call(self._client.stats())

    def ensure(
        self, model: ModelRef | str, selection: Selection | None = None, on_progress: OnProgress | None = None
    ) -> ServerPulled:
        """Let the server have the model; nothing is brought to this machine."""
        return self._call(self._client.ensure(model, selection, on_progress))

    def pull(
        self,
        model: ModelRef | str,
        selection: Selection | None = None,
        strategy: Strategy = Strategy.SMART_FALLBACK,
        on_progress: OnProgress | None = None,
    ) -> LocalModel:
        """Make the model readable here; see `AsyncClient.pull`. `on_progress` runs on the client's thread."""
        return self._call(self._client.pull(model, selection, strategy, on_progress))

    def pull_into(
        self,
        model: ModelRef | str,
        allocate: Allocate,
        selection: Selection | None = None,
        on_progress: OnProgress | None = None,
    ) -> ReceivedModel:
        """Receive the model into memory (see `AsyncClient`); `allocate` runs on the client's thread."""
        return self._call(self._client.pull_into(model, allocate, selection, on_progress))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_thread()
        except Invalid:
            coroutine.close()
            raise
        with self._starting:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        try:
            return future.result()
        except CancelledError:
            raise Cancelled(f"the client of {self.endpoint} was closed while this call was running") from None
        except BaseException:
            future.cancel()  # Ctrl-C in the caller's thread ends the call in ours
            raise

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="mx-client", daemon=True)
            self._thread.start()
        return self._loop

    async def _end(self) -> None:
        await self._client.close()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise Invalid("on_progress cannot call its own client: that call would wait for itself")
