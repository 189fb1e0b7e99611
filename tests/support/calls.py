# SPDX-License-Identifier: Apache-2.0
"""Calls as any client could make them: bytes over a plain channel, read to their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2 as standard_pb2

from modelexpress.wire import api_pb2, cache_pb2, health_pb2, model_pb2, transfer_pb2

ENSURE, STREAM, LIST, DELETE = (
    f"/model_express.model.ModelService/{name}"
    for name in ("EnsureModelDownloaded", "StreamModelFiles", "ListModelFiles", "DeleteModel")
)
PULL, MANIFEST = (f"/model_express.transfer.TransferService/{name}" for name in ("Pull", "GetManifest"))
LIST_HELD, REMOVE, VERIFY, ADOPT = (
    f"/model_express.cache.CacheService/{name}" for name in ("ListHeld", "Remove", "Verify", "Adopt")
)
GET_HEALTH = "/model_express.health.HealthService/GetHealth"
SEND = "/model_express.api.ApiService/SendRequest"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVICES: dict[str, ServiceDescriptor] = {
    service.full_name: service
    for module in (health_pb2, api_pb2, model_pb2, transfer_pb2, cache_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for service in (*SERVICES.values(), standard_pb2.DESCRIPTOR.services_by_name["Health"])
    for method in service.methods
}


@dataclass(frozen=True)
class Answer:
    """All that came back of one call."""

    code: grpc.StatusCode
    details: str
    error: str | None
    messages: list[bytes]

    def read(self, kind: type[Any]) -> list[Any]:
        return [kind.FromString(message) for message in self.messages]


async def ask(
    channel: grpc.aio.Channel, path: str, request: bytes | Message, token: str | None = None
) -> Answer:
    """One call to its end. On the wire a single answer is a stream of one."""
    content = request if isinstance(request, bytes) else request.SerializeToString()
    metadata = [("x-hf-token", token)] if token else []
    return await finish(channel.unary_stream(path)(content, timeout=20, metadata=metadata))


async def finish(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> Answer:
    """What is still to come of a call, and how it ends."""
    messages: list[bytes] = []
    try:
        async for message in call:
            messages.append(message)
    except grpc.aio.AioRpcError:
        pass
    trailing = dict(await call.trailing_metadata() or ())
    return Answer(await call.code(), await call.details() or "", trailing.get("mx-error-code"), messages)


def begin(channel: grpc.aio.Channel, *calls: tuple[str, Message]) -> list[asyncio.Task[Answer]]:
    """Calls that run beside the test."""
    return [asyncio.create_task(ask(channel, path, request)) for path, request in calls]


@asynccontextmanager
async def connected(port: int, **options: int) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own: channels of one process share theirs otherwise."""
    named = {"use_local_subchannel_pool": 1, "max_receive_message_length": -1, **options}
    arguments = [(f"grpc.{name}", value) for name, value in named.items()]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=arguments) as channel:
        yield channel


async def wait_until(is_so: Callable[[], object]) -> None:
    """Return when `is_so` says so; TimeoutError if it never does."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


def ensure(name: str = "demo/tiny", **fields: Any) -> model_pb2.ModelDownloadRequest:
    return model_pb2.ModelDownloadRequest(model_name=name, **fields)


def pull(name: str = "demo/tiny") -> transfer_pb2.PullRequest:
    return transfer_pb2.PullRequest(model=transfer_pb2.Model(name=name))


def files(name: str = "demo/tiny", **fields: Any) -> model_pb2.ModelFilesRequest:
    return model_pb2.ModelFilesRequest(model_name=name, **fields)
