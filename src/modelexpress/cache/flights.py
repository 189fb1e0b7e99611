# SPDX-License-Identifier: Apache-2.0
"""Pulls under way: one for each (model, commit, selection), however many callers wait for it.

Callers with tokens of their own have pulls of their own, that no refusal of one is heard by another;
the files are fetched once all the same, because each has one claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from modelexpress.domain.errors import Cancelled, NotFound
from modelexpress.domain.held import Pulled
from modelexpress.domain.manifest import Manifest
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.selection import Selection

Confirm = Callable[[], Awaitable[None]]

_INTERRUPTED = "the server is stopping; ask again when it is back, what was proven is kept"


@dataclass(frozen=True, slots=True)
class FlightKey:
    """What makes two pulls the same pull. `caller`: with whose rights the origin is read."""

    provider: ProviderKind
    name: str
    commit: str
    selection_key: str
    caller: str = ""


@dataclass
class PullState:
    """A running pull as its waiters see it. `revisions`: the names asked for, to be written as refs.

    `manifest`: the chosen files, once they are known and can be read as they arrive; `whole`: all files
    of the commit.
    """

    key: FlightKey
    progress: Progress = field(default_factory=Progress)
    revisions: set[str] = field(default_factory=set)
    cancel_reason: str = _INTERRUPTED
    manifest: Manifest | None = None
    whole: Manifest | None = None
    listed: asyncio.Event = field(default_factory=asyncio.Event)

    def list(self, whole: Manifest, chosen: Manifest) -> None:
        """Say which files are on their way."""
        self.whole, self.manifest = whole, chosen
        self.listed.set()


class Flight:
    """One caller's view of a pull that runs, or of an answer that is there already.

    Letting go of it, or being cancelled while waiting, does not end the pull: others may wait for
    it, and what it brings is wanted the next time too. `confirm` is asked before the result is given
    out: it raises when this caller may not have what another one's pull brought.
    """

    def __init__(
        self,
        ref: ModelRef,
        commit: str,
        selection: Selection,
        ending: asyncio.Future[Pulled],
        state: PullState,
        confirm: Confirm | None = None,
    ) -> None:
        self.ref = ref
        self.commit = commit
        self.selection = selection
        self._ending = ending
        self._state = state
        self._confirm = confirm

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._state.progress

    @property
    def is_done(self) -> bool:
        """True when `result` will not wait."""
        return self._ending.done()

    async def updates(self, interval_seconds: float) -> AsyncIterator[Progress]:
        """The latest progress, at once and then every interval; ends when the pull has ended."""
        while not self._ending.done():
            yield self._state.progress
            await asyncio.wait({self._ending}, timeout=interval_seconds)

    async def wait_listed(self, seconds: float | None = None) -> bool:
        """Wait until the files can be read while they arrive; False when the pull has ended before."""
        listed = asyncio.ensure_future(self._state.listed.wait())
        either: set[asyncio.Future[Any]] = {listed, self._ending}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listed.cancel()
        return not self._ending.done()

    async def check_exists(self, seconds: float) -> None:
        """Raise NotFound if the origin says within `seconds` that there is no such commit."""
        is_going_on = await self.wait_listed(seconds)
        if not is_going_on and not self._ending.cancelled() and not self._state.listed.is_set():
            error = self._ending.exception()
            if isinstance(error, NotFound):
                raise error

    async def result(self) -> Pulled:
        """Wait for the end. Raises what the pull raised, the same for every waiter."""
        await asyncio.wait({self._ending})
        if self._ending.cancelled():
            raise Cancelled(f"pull of {self.ref} was stopped: {self._state.cancel_reason}")
        pulled = self._ending.result()
        if self._confirm is not None:
            await self._confirm()
        return pulled


class Flights:
    """The running pulls of this process. It owns their tasks: `close` leaves none behind."""

    def __init__(self) -> None:
        self._running: dict[FlightKey, tuple[asyncio.Task[Pulled], PullState]] = {}

    def is_running(self, key: FlightKey) -> bool:
        """True while a pull of `key` is under way."""
        return key in self._running

    def find_listing(self, key: FlightKey) -> Manifest | None:
        """The files of the running pull of `key`; None: there is none, or it does not know them yet."""
        found = self._running.get(key)
        return None if found is None else found[1].manifest

    def find_whole(self, ref: ModelRef, caller: str) -> Manifest | None:
        """All files of a pinned `ref` that this caller is pulling; None: not, or they are not known yet."""
        wanted = (ref.provider, ref.name, ref.revision, caller)
        for key, (_, state) in self._running.items():
            if (key.provider, key.name, key.commit, key.caller) == wanted and state.whole is not None:
                return state.whole
        return None

    def join(
        self, key: FlightKey, revision: str | None, start: Callable[[PullState], Awaitable[Pulled]]
    ) -> tuple[asyncio.Task[Pulled], PullState]:
        """The running pull of `key`, or a new one from `start`; `revision` is added to its refs."""
        found = self._running.get(key)
        if found is None:
            state = PullState(key)
            task = asyncio.create_task(_run(start, state), name=f"pull {key.name}@{key.commit}")
            found = self._running[key] = (task, state)
            task.add_done_callback(lambda done: self._finish(key, done))
        if revision is not None:
            found[1].revisions.add(revision)
        return found

    async def cancel(self, provider: ProviderKind, name: str, reason: str) -> None:
        """Stop the pulls of a model and wait until they have cleaned up."""
        await self._stop([k for k in self._running if (k.provider, k.name) == (provider, name)], reason)

    async def close(self) -> None:
        """Stop every pull and wait until they have cleaned up."""
        await self._stop(list(self._running), _INTERRUPTED)

    async def _stop(self, keys: list[FlightKey], reason: str) -> None:
        tasks = []
        for key in keys:
            task, state = self._running[key]
            state.cancel_reason = reason
            task.cancel()
            tasks.append(task)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finish(self, key: FlightKey, task: asyncio.Task[Pulled]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # retrieved: every waiter may have gone by now

    def __len__(self) -> int:
        return len(self._running)


async def _run(start: Callable[[PullState], Awaitable[Pulled]], state: PullState) -> Pulled:
    return await start(state)


def landed(ref: ModelRef, selection: Selection, pulled: Pulled, confirm: Confirm | None = None) -> Flight:
    """A flight that has ended before it began: everything was here."""
    ending: asyncio.Future[Pulled] = asyncio.get_running_loop().create_future()
    ending.set_result(pulled)
    key = FlightKey(ref.provider, ref.name, pulled.manifest.commit, selection.key)
    return Flight(ref, pulled.manifest.commit, selection, ending, PullState(key), confirm)
