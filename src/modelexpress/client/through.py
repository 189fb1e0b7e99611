# SPDX-License-Identifier: Apache-2.0
"""A pull through a server: the files are brought to this machine while the server still receives them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelexpress.cache import MakeSource, ModelCache
from modelexpress.client.peer import PeerSource, open_lanes
from modelexpress.client.results import Listed, LocalModel, Offered, ServerPulled, Transfer
from modelexpress.client.server_calls import OnListed, ServerCalls
from modelexpress.client.server_provider import ServerProvider
from modelexpress.client.shared import find_shared_snapshot, is_volume_here
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.errors import (
    Forbidden,
    MxError,
    NoRoom,
    NotFound,
    StorageFailed,
    Unauthenticated,
    Unreachable,
)
from modelexpress.domain.held import OnProgress, Pulled
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.selection import Selection
from modelexpress.providers import Provider

_UPDATE_SECONDS = 0.5

_log = logging.getLogger(__name__)

OpenOrigins = Callable[[], AbstractAsyncContextManager[ModelCache]]
OpenWith = Callable[
    [Mapping[ProviderKind, Provider], MakeSource | None], AbstractAsyncContextManager[ModelCache]
]
PullAtServer = Callable[[OnProgress, OnListed], Awaitable[ServerPulled]]


@dataclass(frozen=True, slots=True)
class LocalSide:
    """The client's own cache directory: `open_origins` pulls into it from the origins themselves,
    `open_with` from the providers given. `is_shared`: the server's volume may be mounted here.
    `connections`: to the server's data plane, at once.
    """

    root: Path
    is_shared: bool
    chunk_bytes: int
    open_origins: OpenOrigins
    open_with: OpenWith
    connections: int = 4


class Through:
    """One pull through a server."""

    def __init__(self, calls: ServerCalls, local: LocalSide, ref: ModelRef, report: OnProgress) -> None:
        self._calls = calls
        self._local = local
        self._ref = ref
        self._report = report
        self._is_bringing = False

    async def run(self, pull_at_server: PullAtServer) -> LocalModel:
        """Let the server pull, and make what it has readable here. Raises the server's error first."""
        async with watched(pull_at_server, self._report_of_server) as (serving, listed):
            early: asyncio.Task[Pulled | None] | None = None
            try:
                await wait_first(serving, listed)
                if listed.done() and not await self._may_be_shared(listed.result()):
                    early = asyncio.create_task(self._bring_early(listed.result()), name="bringing")
                    await wait_first(serving, early)
                    _raise_if_hopeless(early)
                at_server = await serving
                if early is not None and is_what_came(listed.result(), at_server):
                    pulled = await self._find_brought(early)
                    if pulled is not None:
                        return self._model(at_server, pulled)
                return await self._bring_late(at_server)
            finally:
                if early is not None:
                    early.cancel()
                    await asyncio.gather(early, return_exceptions=True)

    async def _find_brought(self, early: asyncio.Task[Pulled | None]) -> Pulled | None:
        """What came while the server was still pulling; None: it has to be brought now."""
        try:
            return await early
        except (NoRoom, StorageFailed):
            raise
        except MxError as error:
            # What arrived is kept; now that the server has it all, its own troubles cannot be the cause.
            _log.info("%s: %s; going on", self._ref, error.message)
            return None

    async def _bring_late(self, at_server: ServerPulled) -> LocalModel:
        path = await self._find_shared(at_server)
        if path is not None:
            await self._calls.keep_path(self._ref, at_server.commit)
            return _shared_model(self._ref, at_server, path)
        return await self._transfer(at_server)

    def _model(self, at_server: ServerPulled, pulled: Pulled) -> LocalModel:
        return model_from(self._ref, at_server.selection, pulled, Transfer.STREAMED, at_server.is_stale)

    async def _may_be_shared(self, listed: Listed) -> bool:
        if not self._local.is_shared:
            return False
        return await is_volume_here(self._local.root, listed.volume, listed.path)

    async def _bring_early(self, listed: Listed) -> Pulled | None:
        try:
            offered = await self._calls.find_offered(self._ref, listed.commit, listed.selection)
        except (NotFound, Forbidden, Unauthenticated, Unreachable) as error:
            _log.debug("%s cannot be read while it arrives: %s", self._ref, error.message)
            return None  # at the end of the server's pull there is another answer
        return await self._bring(offered, listed.commit, listed.selection)

    async def _transfer(self, at_server: ServerPulled) -> LocalModel:
        """Everything is at the server: from its data plane, else by the established stream."""
        if not at_server.commit:
            raise NotFound(
                f"{self._ref}: the server names no commit, so its files cannot be told apart; upgrade it"
            )
        offered = await self._calls.find_offered(self._ref, at_server.commit, at_server.selection)
        pulled = await self._bring(offered, at_server.commit, at_server.selection)
        if pulled is None:
            pulled = await self._run(None, at_server.commit, at_server.selection)
        return self._model(at_server, pulled)

    async def _bring(self, offered: Offered | None, commit: str, selection: Selection) -> Pulled | None:
        """Bring the files from the data plane; None where there is none that answers."""
        if offered is None:
            return None
        lanes = open_lanes(offered, self._local.connections)
        source = PeerSource(self._calls, selection, offered, lanes)
        try:
            async with source.open():
                return await self._run(lambda *_: source, commit, selection)
        except Unreachable as error:
            if source.failure is None:
                raise
            _log.warning("%s; the files come over gRPC instead, which is slower", error.message)
            return None
        finally:
            await asyncio.to_thread(lanes.close)

    async def _run(self, make_source: MakeSource | None, commit: str, selection: Selection) -> Pulled:
        providers = {self._ref.provider: ServerProvider(self._ref.provider, self._calls)}
        async with self._local.open_with(providers, make_source) as cache:
            flight = await cache.begin(self._ref, selection, ANONYMOUS, commit)
            self._is_bringing = True
            async for progress in flight.updates(_UPDATE_SECONDS):
                self._report(progress)
            return await flight.result()

    async def _find_shared(self, at_server: ServerPulled) -> Path | None:
        if not self._local.is_shared:
            return None
        manifest = await self._calls.list_files(self._ref, at_server.commit)
        chosen = [e for e in at_server.selection.choose(manifest.files) if e.path not in at_server.missing]
        return await find_shared_snapshot(self._local.root, self._ref, at_server, chosen)

    def _report_of_server(self, progress: Progress) -> None:
        if not self._is_bringing:
            self._report(progress)


@asynccontextmanager
async def watched(
    pull_at_server: PullAtServer, report: OnProgress
) -> AsyncIterator[tuple[asyncio.Future[ServerPulled], asyncio.Future[Listed]]]:
    """A pull at the server, and what it says before it ends; we stop watching it with the body."""
    listed: asyncio.Future[Listed] = asyncio.get_running_loop().create_future()

    def on_listed(found: Listed) -> None:
        if not listed.done():
            listed.set_result(found)

    serving = asyncio.ensure_future(pull_at_server(report, on_listed))
    try:
        yield serving, listed
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def wait_first(*either: asyncio.Future[Any]) -> None:
    """Return when one of them has ended, however it did."""
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)


def _raise_if_hopeless(early: asyncio.Task[Pulled | None]) -> None:
    """What is wrong with this machine does not get better by waiting for the server."""
    error = early.exception() if early.done() and not early.cancelled() else None
    if isinstance(error, NoRoom | StorageFailed):
        raise error


def is_what_came(listed: Listed, at_server: ServerPulled) -> bool:
    """Whether the server ended with what it had begun."""
    return (listed.commit, listed.selection) == (at_server.commit, at_server.selection)


def _shared_model(ref: ModelRef, at_server: ServerPulled, path: Path) -> LocalModel:
    return LocalModel(
        ref=ref,
        commit=at_server.commit,
        path=path,
        selection=at_server.selection,
        transfer=Transfer.SHARED,
        was_hit=at_server.was_hit,
        is_stale=at_server.is_stale,
        bytes_fetched=at_server.bytes_fetched,
        missing=at_server.missing,
    )


def model_from(
    ref: ModelRef, selection: Selection, pulled: Pulled, transfer: Transfer, is_stale: bool
) -> LocalModel:
    """A pull into the local cache as its caller is told of it."""
    return LocalModel(
        ref=ref,
        commit=pulled.manifest.commit,
        path=Path(pulled.path),
        selection=selection,
        transfer=transfer,
        was_hit=pulled.was_hit,
        is_stale=is_stale,
        bytes_fetched=pulled.bytes_fetched,
        missing=pulled.missing,
    )
