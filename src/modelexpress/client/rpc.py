# SPDX-License-Identifier: Apache-2.0
"""One connection to a server: calls by name, deadlines, and errors in our words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from modelexpress.client.auth import TokenFile
from modelexpress.domain.errors import (
    BY_CODE,
    Cancelled,
    Corrupt,
    Forbidden,
    Internal,
    Invalid,
    MxError,
    NoRoom,
    NotFound,
    Unauthenticated,
    Unreachable,
    Unsupported,
)

M = TypeVar("M", bound=Message)

_MAX_MESSAGE_BYTES = 100 * 1024 * 1024
_CODE_KEY = "mx-error-code"

# For servers that do not name our error code.
_BY_STATUS: dict[grpc.StatusCode, type[MxError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.RESOURCE_EXHAUSTED: NoRoom,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.DATA_LOSS: Corrupt,
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is and how long one answer may take.

    `hub_token` goes with every call. `find_hub_token` is asked for one when the server says that a
    model needs it, so that a token crosses the wire for no other model.
    """

    host: str
    port: int
    url: str
    timeout_seconds: float = 30.0
    token_file: TokenFile | None = None
    hub_token: str | None = field(default=None, repr=False)
    find_hub_token: Callable[[], str | None] | None = None


class Connection:
    """A channel to one server, opened by `connect` or the first call; belongs to one event loop."""

    def __init__(self, target: Target) -> None:
        self.target = target
        host = f"[{target.host}]" if ":" in target.host else target.host
        self._channel = grpc.aio.insecure_channel(f"{host}:{target.port}", options=_options())

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def close(self) -> None:
        """Close the channel; calls in flight fail."""
        await self._channel.close()

    @property
    def is_ready(self) -> bool:
        """True while the server is connected; False once it has gone, also if it may be back."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def connect(self) -> None:
        """Return when the server answers. Raises Unreachable after the timeout, or at the first refusal."""
        try:
            async with asyncio.timeout(self.target.timeout_seconds):
                await self._wait_until_ready()
        except TimeoutError:
            raise self._unreachable("no answer in time") from None

    async def call(self, method: str, request: Message, answer: type[M], timeout: float | None = None) -> M:
        """One unary call; `timeout` None means the target's."""
        stub = self._channel.unary_unary(
            method, request_serializer=_serialize, response_deserializer=answer.FromString
        )
        deadline = timeout if timeout is not None else self.target.timeout_seconds
        try:
            result: M = await stub(request, timeout=deadline, metadata=self._metadata())
            return result
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise

    async def stream(self, method: str, request: Message, answer: type[M]) -> AsyncIterator[M]:
        """One streaming call. It must begin in time; then the caller sees progress and decides."""
        stub = self._channel.unary_stream(
            method, request_serializer=_serialize, response_deserializer=answer.FromString
        )
        call = stub(request, metadata=self._metadata())
        try:
            await self._wait_begun(call)
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            call.cancel()

    async def _wait_begun(self, call: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
        try:
            async with asyncio.timeout(self.target.timeout_seconds):
                await call.initial_metadata()
        except TimeoutError:
            raise self._unreachable(f"no answer began in {self.target.timeout_seconds:.0f} s") from None

    def _metadata(self) -> list[tuple[str, str]]:
        target = self.target
        token = target.token_file.read() if target.token_file else None
        bearer = [("authorization", f"Bearer {token}")] if token else []
        return bearer + ([("x-hf-token", target.hub_token)] if target.hub_token else [])

    async def _wait_until_ready(self) -> None:
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                raise self._unreachable("the connection was refused or the name is unknown")
            await self._channel.wait_for_state_change(state)

    def _raise_if_closed(self) -> None:
        # gRPC tells callers of a closed channel that they were cancelled, which they were not.
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise Cancelled(f"the connection to {self.target.url} was closed during this call") from None

    def _unreachable(self, cause: str) -> Unreachable:
        return Unreachable(
            f"no ModelExpress server at {self.target.url}: {cause}; "
            "start one with 'modelexpress serve', or set --endpoint"
        )

    def _translate(self, error: grpc.aio.AioRpcError) -> MxError:
        text = error.details() or error.code().name
        code = _find_code(error.trailing_metadata())
        kind = BY_CODE.get(code) if code else _BY_STATUS.get(error.code())
        if code is None and "larger than max" in text:
            kind = Invalid  # the library's own refusal, of a message and not of files
        if code is None and error.code() is grpc.StatusCode.UNAVAILABLE:
            return self._unreachable(text)
        if code is None and error.code() is grpc.StatusCode.CANCELLED:
            # We did not: a call of ours that we give up ends with CancelledError.
            return Unreachable(f"the server at {self.target.url} broke the call off; it may be stopping")
        return (kind or Internal)(text)


def _find_code(metadata: Any) -> str | None:
    for key, value in metadata or ():
        if key == _CODE_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _options() -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The server stands beside us; an HTTP_PROXY that is meant for the internet must not get in between.
        ("grpc.enable_http_proxy", 0),
    ]
