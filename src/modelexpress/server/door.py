# SPDX-License-Identifier: Apache-2.0
"""The door: bytes to messages, callers, errors to statuses, counts; the same for every method.

Requests are parsed here and not by the library, so that bytes which are no message are the
caller's error and not ours.
"""

from __future__ import annotations

import inspect
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import Internal, Invalid, MxError
from modelexpress.domain.meter import Meter
from modelexpress.server.status import CODE_KEY, detail_of, status_of

_TOKEN_KEY = "x-hf-token"
_WORD = re.compile(r"(?<!^)(?=[A-Z])")

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """What a method is told beside its request. `report` names an error that goes out as a message."""

    caller: Caller
    context: Context

    @property
    def peer(self) -> str:
        """The machine that calls, without its port: for people, and to know it again."""
        text = unquote(self.context.peer())
        return text.rpartition(":")[0] if text.count(":") > 1 else text

    async def send_headers(self) -> None:
        """Let the client know that its call has arrived, before there is anything to say."""
        await self.context.send_initial_metadata(())

    def report(self, error: MxError) -> None:
        """Name the error of a call that ends well by the established wire's rules."""
        self.context.set_trailing_metadata(((CODE_KEY, error.code),))


def make_handler(service: ServiceDescriptor, implementation: object, meter: Meter) -> grpc.GenericRpcHandler:
    """Every method of `service`, answered by the method of `implementation` with its snake-case name."""
    methods = {m.name: _make_method(m, implementation, meter) for m in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _make_method(
    method: MethodDescriptor, implementation: object, meter: Meter
) -> grpc.RpcMethodHandler[Any, Any]:
    answer = getattr(implementation, _WORD.sub("_", method.name).lower())
    door = _Door(method, answer, meter)
    if inspect.isasyncgenfunction(answer):
        return grpc.unary_stream_rpc_method_handler(door.stream, response_serializer=_serialize)
    return grpc.unary_unary_rpc_method_handler(door.call, response_serializer=_serialize)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class _Door:
    """One method."""

    def __init__(self, method: MethodDescriptor, answer: Callable[..., Any], meter: Meter) -> None:
        self._method = method
        self._service = method.containing_service.full_name
        self._request = GetMessageClass(method.input_type)
        self._answer = answer
        self._meter = meter

    async def call(self, payload: bytes, context: Context) -> Message:
        answer: Callable[[Message, Call], Awaitable[Message]] = self._answer
        with self._counted() as outcome:
            try:
                message = await answer(self._parse(payload), Call(_caller(context), context))
                outcome.code = "OK"
                return message
            except Exception as error:  # noqa: BLE001 - every failure becomes a status
                outcome.code = _status_name(error)
                await self._abort(context, error)

    async def stream(self, payload: bytes, context: Context) -> AsyncIterator[Message]:
        answer: Callable[[Message, Call], AsyncIterator[Message]] = self._answer
        with self._counted() as outcome:
            try:
                async for message in answer(self._parse(payload), Call(_caller(context), context)):
                    yield message
                outcome.code = "OK"
            except Exception as error:  # noqa: BLE001 - every failure becomes a status
                outcome.code = _status_name(error)
                await self._abort(context, error)

    def _parse(self, payload: bytes) -> Message:
        try:
            return self._request.FromString(payload)
        except (DecodeError, UnicodeDecodeError) as error:
            raise Invalid(
                f"the request of {self._method.name} cannot be read: "
                f"it is no {self._method.input_type.name}, or a text in it is not UTF-8"
            ) from error

    async def _abort(self, context: Context, error: Exception) -> NoReturn:
        if not isinstance(error, MxError):
            number = secrets.token_hex(4)
            _log.exception("defect %s in %s", number, self._method.full_name, exc_info=error)
            error = Internal(f"the server met an error of its own (log entry {number}); please report it")
        else:
            _log.info("%s refused: %s: %s", self._method.name, error.code, error.message)
        await context.abort(status_of(error), detail_of(error), ((CODE_KEY, error.code),))

    @contextmanager
    def _counted(self) -> Iterator[_Outcome]:
        outcome, service, method = _Outcome(), self._service, self._method.name
        self._meter.gauge("mx_rpcs_in_flight", 1, service=service)
        try:
            yield outcome
        finally:
            self._meter.gauge("mx_rpcs_in_flight", -1, service=service)
            self._meter.count("mx_rpcs_total", service=service, method=method, code=outcome.code)


@dataclass(slots=True)
class _Outcome:
    """How a call ended; a handler that is torn away by its client changes nothing here."""

    code: str = "CANCELLED"


def _status_name(error: Exception) -> str:
    return status_of(error).name if isinstance(error, MxError) else "INTERNAL"


def _caller(context: Context) -> Caller:
    for key, value in context.invocation_metadata() or ():
        if key == _TOKEN_KEY and value:
            token = value if isinstance(value, str) else value.decode("ascii", "replace")
            if not token.isascii() or not token.isprintable() or " " in token or len(token) > 1024:
                raise Invalid(f"{_TOKEN_KEY} is no token: it is too long, or holds what no token can")
            return Caller(token)
    return ANONYMOUS
