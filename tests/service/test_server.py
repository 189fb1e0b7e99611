# SPDX-License-Identifier: Apache-2.0
"""The server at its wire: statuses, readiness, reflection, pings, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2 as standard_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tests.support.calls import (
    CHECK,
    DELETE,
    ENSURE,
    GET_HEALTH,
    LIST,
    LIST_HELD,
    METHODS,
    PULL,
    REFLECT,
    SERVICES,
    STREAM,
    WATCH,
    Answer,
    ask,
    begin,
    connected,
    ensure,
    files,
    finish,
    pull,
    wait_until,
)  # fmt: skip
from tests.support.house import House

from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.errors import ALL_ERRORS, Busy, NotFound
from modelexpress.server.app import Listening, ServerOptions, open_server
from modelexpress.server.readiness import Readiness
from modelexpress.server.run import run_server
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_model
from modelexpress.wire import health_pb2, model_pb2, transfer_pb2

NAME = "demo/tiny"
SERVING, NOT_SERVING = standard_pb2.HealthCheckResponse.SERVING, standard_pb2.HealthCheckResponse.NOT_SERVING
Code = grpc.StatusCode
Provocation = Callable[[House, grpc.aio.Channel], Awaitable[Answer]]


# -- statuses


async def provoke_storage_failed(house: House, channel: grpc.aio.Channel) -> Answer:
    partials = house.root / ".mx/partials"
    partials.rmdir()
    partials.write_bytes(b"in the way")
    return await ask(channel, PULL, pull())


async def provoke_no_room(house: House, channel: grpc.aio.Channel) -> Answer:
    repository = tiny_model("demo/huge")
    commit = repository._commits[repository.branches["main"]]
    commit["pytorch_model.bin"] = replace(commit["pytorch_model.bin"], size=10**17)
    house.hub.add(repository)
    return await ask(channel, PULL, pull("demo/huge"))


async def provoke_forbidden(house: House, channel: grpc.aio.Channel) -> Answer:
    house.hub.grant("hf_stranger")
    gated = Repository("demo/gated", is_gated=True)
    gated.commit({"config.json": b"{}"})
    house.hub.add(gated)
    return await ask(channel, PULL, pull("demo/gated"), token="hf_stranger")


async def provoke_cancelled(house: House, channel: grpc.aio.Channel) -> Answer:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=10))
    [pulling] = begin(channel, (PULL, pull()))
    await wait_until(lambda: held.applied)
    assert (await ask(channel, DELETE, model_pb2.DeleteModelRequest(model_name=NAME))).code is Code.OK
    return await pulling


def send(path: str, request: Message, fault: Fault | None = None) -> Provocation:
    """A call that fails by itself, or because of the origin."""

    async def provoke(house: House, channel: grpc.aio.Channel) -> Answer:
        if fault is not None:
            house.hub.faults.add(replace(fault))
        return await ask(channel, path, request)

    return provoke


WRONG = Fault("wrong_bytes", "body", "model.safetensors", after=9, times=None)
DOWN = Fault("status", "api", status=503, times=None)
LATER = Fault("status", "api", status=429, headers={"Retry-After": "900"})
# By the code of the error: its status, who brings it about, and what its text names.
PROVOKED: dict[str, tuple[grpc.StatusCode, Provocation, str]] = {
    "Invalid": (Code.INVALID_ARGUMENT, send(PULL, pull("../x")), "'../x'"),
    "Unsupported": (Code.FAILED_PRECONDITION, send(ENSURE, ensure("org/x", provider=model_pb2.NGC)), "ngc"),
    "NotFound": (Code.NOT_FOUND, send(ENSURE, ensure(revision="nope")), f"{NAME}@nope"),
    "Unauthenticated": (Code.PERMISSION_DENIED, send(PULL, pull("demo/nothing")), "demo/nothing"),
    "Forbidden": (Code.PERMISSION_DENIED, provoke_forbidden, "demo/gated"),
    "NoRoom": (Code.RESOURCE_EXHAUSTED, provoke_no_room, "demo/huge"),
    "Limited": (Code.UNAVAILABLE, send(PULL, pull(), LATER), "900 s"),
    "Corrupt": (Code.DATA_LOSS, send(PULL, pull(), WRONG), "'model.safetensors'"),
    "Unreachable": (Code.UNAVAILABLE, send(PULL, pull(), DOWN), "503"),
    "StorageFailed": (Code.INTERNAL, provoke_storage_failed, ".mx/partials"),
    "Cancelled": (Code.ABORTED, provoke_cancelled, NAME),
}


@pytest.mark.parametrize("error", PROVOKED)
async def test_each_error_arrives_as_its_status_with_its_code_and_words(
    house: House, channel: grpc.aio.Channel, error: str
) -> None:
    code, provoke, named = PROVOKED[error]
    answer = await provoke(house, channel)

    assert (answer.code, answer.error) == (code, error), answer
    assert named in answer.details


def test_no_error_is_left_out_but_those_that_no_caller_can_bring_about() -> None:
    assert {kind.code for kind in ALL_ERRORS} - set(PROVOKED) == {"Busy", "Internal"}


class Failing:
    """A cache that fails to tell what it holds."""

    def __init__(self, house: House, error: Exception) -> None:
        self._house = house
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name in ("list_held", "held_files", "opened_files"):
            raise self._error
        return getattr(self._house.cache, name)


async def test_a_defect_is_internal_and_its_cause_stays_in_the_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Failing(house, ZeroDivisionError("secret cause"))
    async with open_second(house, cache=cache) as second, connected(second.port) as channel:
        for path in (LIST, STREAM, LIST_HELD):
            answer = await ask(channel, path, files())
            assert (answer.code, answer.error) == (Code.INTERNAL, "Internal")
            assert "secret" not in answer.details
            number = answer.details.partition("log entry ")[2][:8]
            assert any(number in record.getMessage() and record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "text", ["x" * 9000, "%" * 9000, "\U0001f600" * 9000, "a\udcff" * 4000, "\0\n" * 5000]
)
async def test_words_of_any_length_and_kind_arrive_cut_to_what_a_status_can_carry(
    house: House, text: str
) -> None:
    cache = Failing(house, NotFound(text))
    async with open_second(house, cache=cache) as second, connected(second.port) as channel:
        answer = await ask(channel, LIST, files())
    assert (answer.code, answer.error) == (Code.NOT_FOUND, "NotFound")
    assert answer.details.endswith("…") and len(answer.details) > 300
    assert text.encode(errors="backslashreplace").decode().startswith(answer.details[:-1])


@asynccontextmanager
async def open_second(
    house: House, drain_seconds: float = 1.0, cache: Any = None
) -> AsyncIterator[Listening]:
    """Another server over the same cache."""
    options = ServerOptions("127.0.0.1", 0, drain_seconds, "2.0.0")
    async with open_server(cache or house.cache, options, house.metrics, SYSTEM_CLOCK) as listening:
        yield listening


async def test_a_port_that_is_taken_is_said_to_be(house: House) -> None:
    for host in ("127.0.0.1", "192.0.2.1"):
        options = ServerOptions(host, house.port)
        with pytest.raises(Busy, match=f"{host}:{house.port}.*server.port"):
            async with open_server(house.cache, options, house.metrics, SYSTEM_CLOCK):
                pass


# -- readiness


def statuses(answer: Answer) -> list[int]:
    return [said.status for said in answer.read(standard_pb2.HealthCheckResponse)]


async def watch(channel: grpc.aio.Channel, seen: list[int]) -> grpc.StatusCode:
    """Note what a watcher of the whole server hears, to the end of the stream."""
    call = channel.unary_stream(WATCH)(standard_pb2.HealthCheckRequest().SerializeToString())
    try:
        async for message in call:
            seen.append(standard_pb2.HealthCheckResponse.FromString(message).status)
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code


async def test_standard_health_knows_the_server_and_each_service(channel: grpc.aio.Channel) -> None:
    for name in ("", *SERVICES):
        answer = await ask(channel, CHECK, standard_pb2.HealthCheckRequest(service=name))
        assert statuses(answer) == [SERVING], name
    answer = await ask(channel, CHECK, standard_pb2.HealthCheckRequest(service="nobody"))
    assert (answer.code, answer.error) == (Code.NOT_FOUND, "NotFound") and "nobody" in answer.details
    unknown = channel.unary_stream(WATCH)(
        standard_pb2.HealthCheckRequest(service="nobody").SerializeToString()
    )
    said = standard_pb2.HealthCheckResponse.FromString(await anext(aiter(unknown)))
    assert said.status == standard_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


@pytest.mark.skipif(
    "/grpc.health.v1.Health/List" not in METHODS, reason="this version of the service has no List"
)
async def test_newer_clients_get_the_states_of_all_services_at_once(channel: grpc.aio.Channel) -> None:
    answer = await ask(channel, "/grpc.health.v1.Health/List", health_pb2.HealthRequest())
    [said] = answer.read(GetMessageClass(standard_pb2.DESCRIPTOR.message_types_by_name["HealthListResponse"]))
    assert {name: state.status for name, state in said.statuses.items()} == dict.fromkeys(
        ["", *SERVICES], SERVING
    )


async def test_our_health_tells_version_age_and_state(house: House, channel: grpc.aio.Channel) -> None:
    [said] = (await ask(channel, GET_HEALTH, health_pb2.HealthRequest())).read(health_pb2.HealthResponse)
    assert (said.version, said.status) == ("1.0.0", "ok") and said.uptime < 60


async def test_whoever_watches_hears_that_the_server_stops_and_holds_nobody_up(house: House) -> None:
    seen: list[int] = []
    async with AsyncExitStack() as stack, open_second(house, drain_seconds=600) as second:
        channel = await stack.enter_async_context(connected(second.port))
        watching = asyncio.create_task(watch(channel, seen))
        await wait_until(lambda: seen)
        second.readiness.drain()
        assert await watching is Code.OK
        answer = await ask(channel, CHECK, standard_pb2.HealthCheckRequest())
        ours = await ask(channel, GET_HEALTH, health_pb2.HealthRequest())
        late: list[int] = []
        assert await watch(channel, late) is Code.OK
    assert seen == [SERVING, NOT_SERVING] and late == statuses(answer) == [NOT_SERVING]
    assert ours.read(health_pb2.HealthResponse)[0].status == "stopping"


async def test_a_watcher_is_nobody_that_a_stop_waits_for(house: House) -> None:
    seen: list[int] = []
    async with AsyncExitStack() as stack:
        async with open_second(house, drain_seconds=600) as second:
            channel = await stack.enter_async_context(connected(second.port))
            watching = asyncio.create_task(watch(channel, seen))
            await wait_until(lambda: seen)
        assert await watching is Code.OK
    assert seen == [SERVING, NOT_SERVING]


async def test_a_body_that_raises_stops_the_server_as_well(house: House) -> None:
    seen: list[int] = []
    async with AsyncExitStack() as stack:
        with pytest.raises(ZeroDivisionError):
            async with open_second(house, drain_seconds=600) as second:
                channel = await stack.enter_async_context(connected(second.port))
                watching = asyncio.create_task(watch(channel, seen))
                await wait_until(lambda: seen)
                raise ZeroDivisionError
        assert await watching is Code.OK
    assert seen == [SERVING, NOT_SERVING] and second.readiness.problem == "stopping"


async def test_a_cache_that_vanishes_makes_the_server_unready_until_it_is_back(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    readiness, away = Readiness(house.cache, look_seconds=0.01), house.root.with_name("away")
    async with readiness.watched():
        assert readiness.problem is None
        house.root.rename(away)
        await readiness.changed.wait()
        assert str(house.root) in (readiness.problem or "")
        async with open_second(house) as second, connected(second.port) as channel:
            answer = await ask(channel, CHECK, standard_pb2.HealthCheckRequest())
            assert statuses(answer) == [NOT_SERVING]
        away.rename(house.root)
        await readiness.changed.wait()
        assert readiness.problem is None
    assert any(r.levelno == logging.WARNING and str(house.root) in r.getMessage() for r in caplog.records)


async def test_an_ordinary_stop_is_no_warning(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "modelexpress"):
        async with open_second(house):
            pass
    assert any("stopping" in record.getMessage() for record in caplog.records)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


# -- stopping


async def wait_refused(port: int) -> None:
    """Return when nobody listens any more. No call is made: one in the very moment of a stop gets lost."""
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.005)


async def test_a_stop_takes_no_new_calls_and_lets_running_ones_finish(house: House) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=10))
    leave = asyncio.Event()

    async def serve(opened: asyncio.Future[Listening]) -> None:
        async with open_second(house, drain_seconds=600) as second:
            opened.set_result(second)
            await leave.wait()

    opened: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(opened))
    port = (await opened).port
    async with connected(port) as channel, connected(port) as other, asyncio.timeout(20):
        running = begin(channel, (ENSURE, ensure()), (PULL, pull()))
        await wait_until(lambda: held.applied)
        leave.set()
        await wait_refused(port)
        refused = await ask(other, ENSURE, ensure())
        held.release()
        ensured, pulled = await asyncio.gather(*running)
        await serving
    assert refused.code is Code.UNAVAILABLE
    assert ensured.read(model_pb2.ModelStatusUpdate)[-1].status == model_pb2.DOWNLOADED
    assert pulled.code is Code.OK and pulled.read(transfer_pb2.PullUpdate)[-1].HasField("pulled")


async def test_when_the_time_is_over_pulls_hear_why_and_the_rest_is_cut(hub: LocalHub, house: House) -> None:
    large = Repository("demo/large")
    large.commit({"model.bin": bytes(12_000_000)})
    hub.add(large)
    async with connected(house.port) as channel:
        assert (await ask(channel, PULL, pull("demo/large"))).code is Code.OK
    held = hub.faults.add(Fault("hold", "body", "model.safetensors", after=10))
    small_window = {"http2.bdp_probe": 0, "http2.lookahead_bytes": 65_536}
    async with AsyncExitStack() as stack:
        async with open_second(house, drain_seconds=0.05) as second:
            channel = await stack.enter_async_context(connected(second.port, **small_window))
            running = begin(channel, (ENSURE, ensure()), (PULL, pull()))
            unread = channel.unary_stream(STREAM)(files("demo/large").SerializeToString())
            await anext(aiter(unread))
            await wait_until(lambda: held.applied)
        ensured, pulled = await asyncio.gather(*running)
        cut = await finish(unread)

    last = ensured.read(model_pb2.ModelStatusUpdate)[-1]
    assert last.status == model_pb2.ERROR and "the server is stopping" in last.message
    assert ensured.error == "Cancelled"
    assert (pulled.code, pulled.error) == (Code.ABORTED, "Cancelled")
    assert cut.code in (Code.CANCELLED, Code.UNAVAILABLE)


# -- reflection and pings


async def test_reflection_lists_every_service_and_shows_its_messages(channel: grpc.aio.Channel) -> None:
    kind = reflection_pb2.ServerReflectionResponse
    [said] = (await ask(channel, REFLECT, reflection_pb2.ServerReflectionRequest(list_services=""))).read(
        kind
    )
    listed = {service.name for service in said.list_services_response.service}
    assert listed == {*SERVICES} | {
        "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip
    for service in SERVICES.values():
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service.full_name)
        [said] = (await ask(channel, REFLECT, request)).read(kind)
        found = [
            FileDescriptorProto.FromString(f) for f in said.file_descriptor_response.file_descriptor_proto
        ]
        methods = {m.name for file in found for s in file.service if s.name == service.name for m in s.method}
        assert methods == {method.name for method in service.methods}


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    head = await reader.readexactly(9)
    return head[3], head[4], await reader.readexactly(int.from_bytes(head[:3]))


async def test_pings_without_calls_are_answered_however_many(house: House) -> None:
    settings, ping, goaway, ack = 4, 6, 7, 1
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings) + frame(settings, flags=ack))
    answered = []
    for number in range(200):
        writer.write(frame(ping, struct.pack(">Q", number)))
        while True:
            kind, flags, payload = await read_frame(reader)
            assert kind != goaway, payload
            if kind == ping and flags == ack:
                answered.append(struct.unpack(">Q", payload)[0])
                break
    writer.close()
    await writer.wait_closed()
    assert answered == list(range(200))


async def test_a_client_that_pings_all_the_time_keeps_its_call(house: House) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=10))
    options = {"keepalive_time_ms": 10, "keepalive_timeout_ms": 5000, "keepalive_permit_without_calls": 1,
               "http2.max_pings_without_data": 0}  # fmt: skip
    async with connected(house.port, **options) as channel:
        pulling = asyncio.create_task(ask(channel, PULL, pull()))
        await wait_until(lambda: held.applied)
        await asyncio.sleep(0.4)  # the time for some pings, before the next update
        held.release()
        assert (await pulling).code is Code.OK


async def test_a_server_that_is_cancelled_is_gone_afterwards(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "modelexpress"):
        options = ServerOptions("127.0.0.1", 0, 600, "2.0.0")
        running = asyncio.create_task(run_server(house.cache, options, house.metrics, SYSTEM_CLOCK))
        await wait_until(lambda: "serving gRPC on" in caplog.text)
    port = int(caplog.text.partition("serving gRPC on 127.0.0.1:")[2].partition(",")[0])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
    await wait_refused(port)
