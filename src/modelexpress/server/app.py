# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: bound, ready, drained and stopped as a context."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Busy
from modelexpress.domain.meter import Meter
from modelexpress.domain.tasks import finish
from modelexpress.domain.tickets import Tickets
from modelexpress.server.data import DataOptions, DataPlane, Offered
from modelexpress.server.door import make_handler
from modelexpress.server.file_answers import FileSender
from modelexpress.server.grpc_api import ApiService
from modelexpress.server.grpc_cache import CacheService
from modelexpress.server.grpc_health import HealthService
from modelexpress.server.grpc_models import ModelService
from modelexpress.server.grpc_standard_health import StandardHealth
from modelexpress.server.grpc_transfer import DataAddress, TransferService
from modelexpress.server.hub import Crossing, HubOptions, HubService
from modelexpress.server.port import ServedCache
from modelexpress.server.readiness import Readiness
from modelexpress.server.streaming import FileStreamer
from modelexpress.wire import api_pb2, cache_pb2, model_pb2, transfer_pb2
from modelexpress.wire import health_pb2 as mx_health_pb2

_LAST_WORDS_SECONDS = 1.0  # for telling those who still wait, once the time to finish is over
# The library's own time limit is never to be reached: one that runs out while calls are cut by another
# stop touches a server that is gone, and takes the process with it.
_NEVER_SECONDS = 1e6
_MOST_REQUEST_BYTES = 4 * 1024 * 1024
_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # else a second server on the port would take half of the calls, silently
    ("grpc.max_receive_message_length", _MOST_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1000),
    # Clients of the established system ping every 30 s, also between calls; the library's default
    # takes that for abuse and hangs up in the middle of long downloads.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen (port 0: any free one) and how long running calls may take to finish at the end.

    `data` None: no data plane. `advertised`: host and port where clients reach it; None: where they
    reach this server.
    """

    host: str
    port: int
    drain_seconds: float = 30.0
    version: str = ""
    data: DataOptions | None = None
    hub: HubOptions = field(default_factory=HubOptions)
    advertised: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that answers: its bound port, and what to call before leaving to let nobody new in."""

    host: str
    port: int
    data_port: int | None
    readiness: Readiness


@dataclass(frozen=True, slots=True)
class _Parts:
    """What services share."""

    readiness: Readiness
    streamer: FileStreamer
    data: DataAddress | None


@asynccontextmanager
async def open_server(
    cache: ServedCache, options: ServerOptions, meter: Meter, clock: Clock
) -> AsyncIterator[Listening]:
    """A server that answers while the body runs; then it drains: no new calls, running ones may finish.

    Raises Busy when a port is taken or the host is not one of this machine.
    """
    readiness, streamer = Readiness(cache), FileStreamer(meter)
    try:
        async with _data_plane(cache, options, readiness, meter, clock) as data:
            services = _services(cache, _Parts(readiness, streamer, data), options.version, clock)
            async with _grpc_server(cache, options, readiness, meter, services) as port:
                data_port = None if data is None else data.bound_port
                yield Listening(options.host, port, data_port, readiness)
    finally:
        streamer.close()


@asynccontextmanager
async def _data_plane(
    cache: ServedCache, options: ServerOptions, readiness: Readiness, meter: Meter, clock: Clock
) -> AsyncIterator[DataAddress | None]:
    """The data plane while the body runs, and how others find it; None where there is to be none."""
    if options.data is None:
        yield None
        return
    crossing = Crossing()

    def make_hub(sender: FileSender) -> HubService:
        return HubService(cache.hub_files, cache.hub_documents, crossing, sender, options.hub, meter)

    offered = Offered(cache.offers, Tickets.with_new_key(), lambda: readiness.problem, make_hub)
    data = DataPlane(offered, options.data, meter, clock)
    try:
        await finish(asyncio.to_thread(data.start))
        assert data.port is not None
        host, port = options.advertised or ("", data.port)
        yield DataAddress(host, port, data.port, offered.tickets)
    finally:
        await finish(asyncio.to_thread(data.stop))


@asynccontextmanager
async def _grpc_server(
    cache: ServedCache,
    options: ServerOptions,
    readiness: Readiness,
    meter: Meter,
    services: list[tuple[ServiceDescriptor, object]],
) -> AsyncIterator[int]:
    """The gRPC server while the body runs, by its port."""
    server = grpc.aio.server(options=_OPTIONS)
    for descriptor, implementation in services:
        server.add_generic_rpc_handlers((make_handler(descriptor, implementation, meter),))
    reflection.enable_server_reflection([*_names(services), reflection.SERVICE_NAME], server)
    port = _bind(server, options)
    await server.start()
    grace_seconds = 0.0  # after an error or a second signal nobody is waited for
    try:
        async with readiness.watched():
            try:
                yield port
            finally:
                readiness.drain()
        grace_seconds = options.drain_seconds
    finally:
        await _stop(server, cache, grace_seconds)


async def _stop(server: grpc.aio.Server, cache: ServedCache, drain_seconds: float) -> None:
    """Let running calls finish; who still waits for a pull then hears why it ends, before calls are cut."""
    stopping = asyncio.create_task(server.stop(_NEVER_SECONDS), name="draining")
    try:
        await asyncio.wait({stopping}, timeout=drain_seconds)
    finally:  # also when a second signal ends the waiting
        await cache.interrupt()
        await asyncio.wait({stopping}, timeout=_LAST_WORDS_SECONDS)
        await server.stop(None)
        await stopping


def _names(services: list[tuple[ServiceDescriptor, object]]) -> list[str]:
    return [descriptor.full_name for descriptor, _ in services]


def _services(
    cache: ServedCache, parts: _Parts, version: str, clock: Clock
) -> list[tuple[ServiceDescriptor, object]]:
    services: list[tuple[ServiceDescriptor, object]] = [
        (_service(mx_health_pb2, "HealthService"), HealthService(version, parts.readiness, clock)),
        (_service(api_pb2, "ApiService"), ApiService()),
        (_service(model_pb2, "ModelService"), ModelService(cache, parts.streamer)),
        (_service(transfer_pb2, "TransferService"), TransferService(cache, parts.data, clock)),
        (_service(cache_pb2, "CacheService"), CacheService(cache)),
    ]
    return [*services, (_service(health_pb2, "Health"), StandardHealth(parts.readiness, _names(services)))]


def _service(module: object, name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]  # type: ignore[attr-defined]
    return found


def _bind(server: grpc.aio.Server, options: ServerOptions) -> int:
    host = options.host.strip("[]")
    address = f"[{host}]:{options.port}" if ":" in host else f"{host}:{options.port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _not_bound(options) from error
    if not port:
        raise _not_bound(options)
    return port


def _not_bound(options: ServerOptions) -> Busy:
    return Busy(
        f"cannot listen on {options.host}:{options.port}: the port is taken by another process, or the "
        "address is not one of this machine; set server.port (--port) or server.host (--host)"
    )
