# SPDX-License-Identifier: Apache-2.0
"""The client: lets a server have a model, then makes it readable on this machine."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType

from modelexpress.client.into_memory import Allocate, IntoMemory
from modelexpress.client.remote_control import RemoteControl
from modelexpress.client.results import (
    CacheStats,
    LocalModel,
    ReceivedModel,
    ServerHealth,
    ServerPulled,
    Transfer,
)
from modelexpress.client.rpc import Connection, Target
from modelexpress.client.server_calls import OnListed, ServerCalls, ignore_listed
from modelexpress.client.through import LocalSide, Through, model_from
from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import Forbidden, Unauthenticated, Unreachable
from modelexpress.domain.held import HeldSnapshot, OnProgress
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection
from modelexpress.domain.strategy import Strategy

_UPDATE_SECONDS = 0.5

_log = logging.getLogger(__name__)


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

    async def keep(self, model: LocalModel, seconds: int | None = None) -> None:
        """Say of a pulled model whether it is still read where the server has it; nothing evicts it then.

        `seconds` None: as long as the server's settings say, which is also the most; 0: it is read no more.
        A model that was brought to this machine is nobody else's, and nothing is said of it.
        """
        if model.transfer is Transfer.SHARED:
            await (await self._connect()).keep_path(model.ref, model.commit, seconds)

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
        except Unreachable as error:
            if strategy is Strategy.SERVER_ONLY:
                raise
            _log.warning("%s. Pulling from the origin instead", error.message)
            return await self._pull_direct(ref, selection, report)
        return await Through(calls, self._local, ref, report).run(
            lambda report, on_listed: self._pull_at_server(calls, ref, selection, report, on_listed)
        )

    async def pull_into(
        self,
        model: ModelRef | str,
        allocate: Allocate,
        selection: Selection | None = None,
        on_progress: OnProgress | None = None,
    ) -> ReceivedModel:
        """Receive the model into memory; `allocate` gives a writable buffer of `entry.size` bytes a file.

        No disk is touched. Every chunk is proven by what the server has proven; when it raises, nothing
        in the buffers is. Raises Unsupported when the server has no data plane.
        """
        ref, report = as_ref(model), on_progress or _ignore
        calls = await self._connect()
        return await IntoMemory(calls, self._local.connections, ref, allocate, report).run(
            lambda report, on_listed: self._pull_at_server(calls, ref, selection, report, on_listed)
        )

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
        self,
        calls: ServerCalls,
        ref: ModelRef,
        selection: Selection | None,
        report: OnProgress,
        on_listed: OnListed = ignore_listed,
    ) -> ServerPulled:
        """Let the server pull; once more with this user's Hub token when it says that one is needed."""
        try:
            return await calls.pull(ref, selection, report, on_listed)
        except (Unauthenticated, Forbidden) as error:
            if not self._take_hub_token():
                raise
            _log.info("%s; asking again with the Hub token of this user", error.message)
        return await calls.pull(ref, selection, report, on_listed)

    def _take_hub_token(self) -> bool:
        """From now on send the token that can be found; False when there is no new one."""
        if self._target.hub_token is not None or self._target.find_hub_token is None:
            return False
        token = self._target.find_hub_token()
        if token is None or self._connected is None:
            return False
        self._target = self._connected[0].target = replace(self._target, hub_token=token)
        return True

    async def _pull_direct(
        self, ref: ModelRef, selection: Selection | None, report: OnProgress
    ) -> LocalModel:
        async with self._local.open_origins() as cache:
            flight = await cache.begin(ref, selection, self._caller())
            async for progress in flight.updates(_UPDATE_SECONDS):
                report(progress)
            pulled = await flight.result()
            await cache.give_path(ref, flight.commit, "a direct pull")
            return model_from(ref, flight.selection, pulled, Transfer.DIRECT, pulled.is_stale)

    def _caller(self) -> Caller:
        return ANONYMOUS if self._target.hub_token is None else Caller(self._target.hub_token)


def as_ref(model: ModelRef | str) -> ModelRef:
    """`model` itself, or what its text means. Raises Invalid."""
    return ModelRef.parse(model) if isinstance(model, str) else model


def _ignore(progress: Progress) -> None:
    pass
