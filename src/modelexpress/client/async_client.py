# SPDX-License-Identifier: Apache-2.0
"""The client: lets a server have a model, then makes it readable on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from modelexpress.cache import ModelCache
from modelexpress.client.remote_control import RemoteControl
from modelexpress.client.results import CacheStats, LocalModel, ServerHealth, ServerPulled, Transfer
from modelexpress.client.rpc import Connection, Target
from modelexpress.client.server_calls import ServerCalls
from modelexpress.client.server_provider import ServerProvider
from modelexpress.client.shared import find_shared_snapshot
from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import Forbidden, NotFound, Unauthenticated, Unreachable
from modelexpress.domain.held import HeldSnapshot, OnProgress, Pulled
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.selection import Selection
from modelexpress.domain.strategy import Strategy
from modelexpress.providers import Provider

_UPDATE_SECONDS = 0.5

_log = logging.getLogger(__name__)

OpenOrigins = Callable[[], AbstractAsyncContextManager[ModelCache]]
OpenWith = Callable[[Mapping[ProviderKind, Provider]], AbstractAsyncContextManager[ModelCache]]


@dataclass(frozen=True, slots=True)
class LocalSide:
    """The client's own cache directory: `open_origins` pulls into it from the origins themselves,
    `open_with` from the providers given. `is_shared`: the server's volume may be mounted here.
    """

    root: Path
    is_shared: bool
    chunk_bytes: int
    open_origins: OpenOrigins
    open_with: OpenWith


class AsyncClient:
    """A client of one server, for one event loop; use it with `async with`. Several pulls may run at once."""

    def __init__(self, target: Target, local: LocalSide) -> None:
        self.endpoint = target.url
        self._target = target
        self._local = local
        self._stack = AsyncExitStack()
        self._connected: tuple[Connection, ServerCalls] | None = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the client opens a new one if it is used again."""
        self._connected = None
        await self._stack.aclose()

    async def health(self) -> ServerHealth:
        """What the server says of itself. Raises Unreachable when nobody answers."""
        return await (await self._connect()).health()

    async def send(self, action: str, payload: bytes | None = None) -> bytes:
        """One call of the api service; the answer's data."""
        return await (await self._connect()).send(action, payload)

    async def delete(self, model: ModelRef | str) -> str:
        """Remove a model from the server; the server's words about it."""
        return await (await self._connect()).delete(as_ref(model))

    async def list_held(self) -> list[HeldSnapshot]:
        """What the server holds."""
        return await RemoteControl(await self._connection()).list_held()

    async def stats(self) -> CacheStats:
        """How much the server holds."""
        held = await self.list_held()
        models = {(snapshot.provider, snapshot.name) for snapshot in held}
        return CacheStats(len(models), len(held), sum(snapshot.bytes_added for snapshot in held))

    async def ensure(
        self, model: ModelRef | str, selection: Selection | None = None, on_progress: OnProgress | None = None
    ) -> ServerPulled:
        """Let the server have the model; nothing is brought to this machine."""
        return await self._pull_at_server(
            await self._connect(), as_ref(model), selection, on_progress or _ignore
        )

    async def pull(
        self,
        model: ModelRef | str,
        selection: Selection | None = None,
        strategy: Strategy = Strategy.SMART_FALLBACK,
        on_progress: OnProgress | None = None,
    ) -> LocalModel:
        """Make the model (`org/name`, `org/name@revision`) readable here and return where it is.

        `selection` None means the server's setting for this model. Raises what the server or the
        origin raised; with SMART_FALLBACK only a connection that cannot be made leads to the origin.
        """
        ref, report = as_ref(model), on_progress or _ignore
        if strategy is Strategy.DIRECT:
            return await self._pull_direct(ref, selection, report)
        try:
            calls = await self._connect()
        except Unreachable:
            if strategy is Strategy.SERVER_ONLY:
                raise
            return await self._pull_direct(ref, selection, report)
        at_server = await self._pull_at_server(calls, ref, selection, report)
        path = await self._find_shared(calls, ref, at_server)
        if path is not None:
            return _local_model(ref, at_server, path)
        return await self._transfer(calls, ref, at_server, report)

    async def _connection(self) -> Connection:
        return (await self._open())[0]

    async def _connect(self) -> ServerCalls:
        return (await self._open())[1]

    async def _open(self) -> tuple[Connection, ServerCalls]:
        if self._connected is None or not self._connected[0].is_ready:
            connection = Connection(self._target)
            try:
                await connection.connect()
            except BaseException:
                await connection.close()
                raise
            await self._stack.enter_async_context(connection)
            self._connected = connection, ServerCalls(connection, self._local.chunk_bytes)
        return self._connected

    async def _pull_at_server(
        self, calls: ServerCalls, ref: ModelRef, selection: Selection | None, report: OnProgress
    ) -> ServerPulled:
        """Let the server pull; once more with this user's Hub token when it says that one is needed."""
        try:
            return await calls.pull(ref, selection, report)
        except (Unauthenticated, Forbidden) as error:
            if not self._take_hub_token():
                raise
            _log.info("%s; asking again with the Hub token of this user", error.message)
        return await calls.pull(ref, selection, report)

    def _take_hub_token(self) -> bool:
        """From now on send the token that can be found; False when there is no new one."""
        if self._target.hub_token is not None or self._target.find_hub_token is None:
            return False
        token = self._target.find_hub_token()
        if token is None or self._connected is None:
            return False
        self._target = self._connected[0].target = replace(self._target, hub_token=token)
        return True

    async def _find_shared(self, calls: ServerCalls, ref: ModelRef, at_server: ServerPulled) -> Path | None:
        if not self._local.is_shared:
            return None
        manifest = await calls.list_files(ref, at_server.commit)
        chosen = [e for e in at_server.selection.choose(manifest.files) if e.path not in at_server.missing]
        return await find_shared_snapshot(self._local.root, ref, at_server, chosen)

    async def _transfer(
        self, calls: ServerCalls, ref: ModelRef, at_server: ServerPulled, report: OnProgress
    ) -> LocalModel:
        providers = {ref.provider: ServerProvider(ref.provider, calls)}
        async with self._local.open_with(providers) as cache:
            pulled = await _run(cache, ref, at_server.selection, report, at_server.commit)
        return _model_from(ref, at_server.selection, pulled, Transfer.STREAMED, at_server.is_stale)

    async def _pull_direct(
        self, ref: ModelRef, selection: Selection | None, report: OnProgress
    ) -> LocalModel:
        async with self._local.open_origins() as cache:
            flight = await cache.begin(ref, selection, self._caller())
            async for progress in flight.updates(_UPDATE_SECONDS):
                report(progress)
            pulled = await flight.result()
            return _model_from(ref, flight.selection, pulled, Transfer.DIRECT, pulled.is_stale)

    def _caller(self) -> Caller:
        return ANONYMOUS if self._target.hub_token is None else Caller(self._target.hub_token)


def as_ref(model: ModelRef | str) -> ModelRef:
    """`model` itself, or what its text means. Raises Invalid."""
    return ModelRef.parse(model) if isinstance(model, str) else model


async def _run(
    cache: ModelCache, ref: ModelRef, selection: Selection, report: OnProgress, commit: str
) -> Pulled:
    if not commit:
        raise NotFound(f"{ref}: the server names no commit, so its files cannot be told apart; upgrade it")
    flight = await cache.begin(ref, selection, ANONYMOUS, commit)
    async for progress in flight.updates(_UPDATE_SECONDS):
        report(progress)
    return await flight.result()


def _local_model(ref: ModelRef, at_server: ServerPulled, path: Path) -> LocalModel:
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


def _model_from(
    ref: ModelRef, selection: Selection, pulled: Pulled, transfer: Transfer, is_stale: bool
) -> LocalModel:
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


def _ignore(progress: Progress) -> None:
    pass
