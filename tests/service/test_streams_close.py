# SPDX-License-Identifier: Apache-2.0
"""Every stream ends once, with the cause, and leaves nothing open: in any mix and any order."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.caches import useless
from tests.support.calls import ADOPT, ENSURE, LIST_HELD, PULL, STREAM, VERIFY, connected, finish, wait_until
from tests.support.house import House, open_house

from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.errors import BY_CODE
from modelexpress.registry.sqlite import open_table
from modelexpress.server.app import ServerOptions, open_server
from modelexpress.server.status import STATUS
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.wire import cache_pb2, model_pb2, transfer_pb2

STREAMS_AT_ONCE = 100
SERVERS_AT_ONCE = 24
PATIENCE_SECONDS = 20.0

NEVER: dict[str, dict[str, Any]] = {
    "gone": {"kind": "resolve", "status": 404, "headers": {"X-Error-Code": "EntryNotFound"}},
    "wrong": {"kind": "body", "action": "wrong_bytes", "after": 5},
    "limited": {"kind": "resolve", "status": 429},
    "down": {"kind": "resolve", "status": 503},
    "cut": {"kind": "body", "action": "reset", "after": 3},
    "refused": {"kind": "resolve", "status": 403},
}
# What a kind of stream ends with: an error, and whether the pull had begun by then.
ENDS: dict[str, tuple[str, bool] | None] = {
    "cold": None, "warm": None, "shared": None, "slow": None,
    "gone": ("NotFound", True), "wrong": ("Corrupt", True), "limited": ("Limited", True),
    "down": ("Unreachable", True), "cut": ("Unreachable", True), "refused": ("Forbidden", True),
    "unknown": ("Unauthenticated", False), "private": ("Unauthenticated", False),
    "gated": ("Unauthenticated", True), "stranger": ("Forbidden", False), "nonsense": ("Invalid", False),
    "revision": ("NotFound", False), "elsewhere": ("Unsupported", False),
}  # fmt: skip


@dataclass
class Stream:
    """One call and all that it brought."""

    kind: str
    name: str
    is_established: bool
    cancel_after: float | None
    revision: str | None = None
    token: str | None = None
    updates: list[model_pb2.ModelStatusUpdate | transfer_pb2.PullUpdate] = field(default_factory=list)
    code: grpc.StatusCode | None = None
    details: str = ""
    error: str | None = None

    @property
    def path(self) -> str:
        return ENSURE if self.is_established else PULL

    async def run(self, channel: grpc.aio.Channel) -> None:
        call = self._call(channel)
        reading = asyncio.create_task(self._read(call))
        if self.cancel_after is not None:
            await asyncio.wait({reading}, timeout=self.cancel_after)
            call.cancel()
        await asyncio.wait_for(reading, PATIENCE_SECONDS)
        self.code, self.details = await call.code(), await call.details() or ""
        self.error = dict(await call.trailing_metadata() or ()).get("mx-error-code")

    def _call(self, channel: grpc.aio.Channel) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        metadata = [("x-hf-token", self.token)] if self.token else []
        if self.is_established:
            provider = model_pb2.NGC if self.kind == "elsewhere" else model_pb2.HUGGING_FACE
            asked = model_pb2.ModelDownloadRequest(
                model_name=self.name, revision=self.revision, provider=provider
            ).SerializeToString()
        else:
            called = "ngc" if self.kind == "elsewhere" else ""
            model = transfer_pb2.Model(name=self.name, revision=self.revision, provider=called)
            asked = transfer_pb2.PullRequest(model=model).SerializeToString()
        return channel.unary_stream(self.path)(asked, metadata=metadata)

    async def _read(self, call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> None:
        kind = model_pb2.ModelStatusUpdate if self.is_established else transfer_pb2.PullUpdate
        try:
            async for message in call:
                self.updates.append(kind.FromString(message))
        except grpc.aio.AioRpcError:
            pass
        except asyncio.CancelledError:
            if not call.cancelled():
                raise

    def check(self) -> None:
        """The end is the one that this kind of stream must have, and there is one only."""
        ends = [number for number, update in enumerate(self.updates) if _is_terminal(update)]
        assert len(ends) <= 1 and (not ends or ends[0] == len(self.updates) - 1), self
        if self.code is grpc.StatusCode.CANCELLED:
            assert self.cancel_after is not None and not ends, self
            return
        expected = ENDS[self.kind]
        if expected is None:
            self._check_success(bool(ends))
        else:
            self._check_failure(*expected, has_end=bool(ends))

    def _check_success(self, has_end: bool) -> None:
        assert self.code is grpc.StatusCode.OK and self.error is None and has_end, self
        last = self.updates[-1]
        if isinstance(last, model_pb2.ModelStatusUpdate):
            assert last.status == model_pb2.DOWNLOADED, self
            assert {(u.model_name, u.resolved_revision) for u in self.updates} == {
                (self.name, last.resolved_revision)
            }
            assert len(last.resolved_revision) == 40
        else:
            assert os.path.isdir(last.pulled.path) and last.pulled.path.endswith(last.pulled.commit)

    def _check_failure(self, error: str, has_begun: bool, has_end: bool) -> None:
        assert self.error == error, self
        said = self.details
        if has_begun and self.is_established:
            assert self.code is grpc.StatusCode.OK and has_end, self
            last = self.updates[-1]
            assert isinstance(last, model_pb2.ModelStatusUpdate) and last.status == model_pb2.ERROR, self
            said = last.message
        else:
            assert self.code is STATUS[BY_CODE[error]] and not has_end, self
            assert has_begun or not self.updates, self
        wanted = f"{self.kind}-" if self.kind in NEVER else "ngc" if self.kind == "elsewhere" else self.name
        assert wanted in said, self


def _is_terminal(update: model_pb2.ModelStatusUpdate | transfer_pb2.PullUpdate) -> bool:
    if isinstance(update, transfer_pb2.PullUpdate):
        return update.HasField("pulled")
    return update.status != model_pb2.DOWNLOADING


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub() as hub:
        hub.grant("hf_stranger")
        for kind, fault in NEVER.items():
            hub.faults.add(Fault(**{"action": "status", "path": f"{kind}-*", "times": None, **fault}))
        hub.faults.add(Fault("throttle", "body", "slow-*", times=None, rate=200_000))
        yield hub


def make_streams(hub: LocalHub, count: int, seed: int) -> list[Stream]:
    """A seeded mix; kinds whose number says so share a model, so that some wait for others."""
    chance = random.Random(seed)
    streams = []
    for number in range(count):
        kind = chance.choice(list(ENDS))
        group = number if kind == "cold" else chance.randrange(3)
        stream = Stream(kind, f"demo/{kind}-{seed}-{group}", chance.random() < 0.7, None)
        if chance.random() < 0.25:
            stream.cancel_after = chance.choice((0.0, 0.001, 0.01, 0.1)) * chance.random()
        _publish(hub, stream, seed + group)
        streams.append(stream)
    return streams


def _publish(hub: LocalHub, stream: Stream, seed: int) -> None:
    kind = stream.kind
    if kind == "warm":
        stream.name = "demo/warm"
    if kind == "nonsense":
        stream.name = "demo/../warm"
    if kind == "elsewhere":
        stream.name = "demo/warm"
    if kind == "revision":
        stream.name, stream.revision = "demo/warm", "nope"
    if kind == "stranger":
        stream.token = "hf_stranger"
    if kind in ("unknown", "nonsense", "elsewhere", "revision", "warm") or stream.name in hub._repositories:
        return
    repository = Repository(stream.name, is_private=kind == "private", is_gated=kind in ("gated", "stranger"))
    weights = random.Random(seed).randbytes(30_000)
    repository.commit({"config.json": b"{}", f"{kind}-{seed}.safetensors": weights, "a/b.txt": b"b" * seed})
    hub.add(repository)


def unfinished(before: set[asyncio.Task[object]]) -> list[asyncio.Task[object]]:
    """Tasks begun since, but for the hub's idle connections and the server's wait for its next call."""
    begun = asyncio.all_tasks() - before
    idle = ("RequestHandler.start", "AioServer._request_call")
    return [task for task in begun if not any(name in repr(task) for name in idle)]


async def wait_until_quiet(house: House, before: set[asyncio.Task[object]], where: str = "") -> None:
    await wait_until(lambda: len(house.cache._flights) == 0)
    await wait_until(lambda: in_flight(house) == 0)
    await wait_until(lambda: not unfinished(before))
    # Waited for as well: a server renews its mark on the cache every few seconds.
    try:
        await wait_until(lambda: open_below(house.root) == [])
    except TimeoutError:
        pytest.fail(f"{where} left open: {open_below(house.root)}")


def open_below(root: Path) -> list[str]:
    """What this process has open in a directory."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        found.extend([target] if target.startswith(str(root)) else [])
    return sorted(found)


def in_flight(house: House) -> int:
    return sum(counts(house, "mx_rpcs_in_flight", "service").values())


@pytest.mark.prove
async def test_any_mix_of_streams_ends_and_leaves_nothing_open(
    hub: LocalHub, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    hub.add(_warm())
    ran: list[Stream] = []
    async with open_house(hub, tmp_path) as house, connected(house.port) as channel:
        before = asyncio.all_tasks()
        await Stream("warm", "demo/warm", True, None).run(channel)
        for seed in range(-(-proof_count(200) // STREAMS_AT_ONCE)):
            streams = make_streams(hub, STREAMS_AT_ONCE, seed)
            await asyncio.gather(*(stream.run(channel) for stream in streams))
            for stream in streams:
                stream.check()
            ran += streams
            await wait_until_quiet(house, before, f"seed {seed}")
            assert await house.cache._parts.blobs._claims._table.scan("claim/") == [], seed
            assert house.cache._parts.space._ledger.promised == 0, seed
        check_counted(house, ran)
    assert {stream.kind for stream in ran} == set(ENDS)
    assert {stream.code for stream in ran} >= {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}
    assert not useless(house.root)
    assert {key.split("/")[0] for key in await rows_left(house)} == {"registry", "holding"}


async def test_a_pull_goes_on_when_its_only_caller_has_gone(hub: LocalHub, tmp_path: Path) -> None:
    hub.add(_warm())
    held = hub.faults.add(Fault("hold", "body", "model.safetensors", after=10))
    async with open_house(hub, tmp_path) as house, connected(house.port) as channel:
        before = asyncio.all_tasks()
        starter = Stream("warm", "demo/warm", True, None)
        starting = asyncio.create_task(starter.run(channel))
        await wait_until(lambda: held.applied == 1 and len(starter.updates) > 0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await wait_until(lambda: in_flight(house) == 0)
        assert len(house.cache._flights) == 1
        held.release()
        await wait_until_quiet(house, before)
        fetched = len(hub.log.of("body"))
        later = Stream("warm", "demo/warm", True, None)
        await later.run(channel)

    assert fetched == len(hub.log.of("body"))
    assert [update.message for update in later.updates] == ["Model already downloaded"]


async def test_everyone_who_waits_for_a_failing_pull_hears_its_one_cause(
    hub: LocalHub, tmp_path: Path
) -> None:
    repository = Repository("demo/wrong")
    repository.commit({"wrong-0.safetensors": b"x" * 1000})
    hub.add(repository)
    held = Fault("hang", "resolve", "wrong-0.safetensors")
    hub.faults._rules.insert(0, held)
    streams = [Stream("wrong", "demo/wrong", number % 2 == 0, None) for number in range(12)]
    async with open_house(hub, tmp_path) as house, connected(house.port) as channel:
        running = [asyncio.create_task(stream.run(channel)) for stream in streams]
        await wait_until(lambda: all(stream.updates for stream in streams))
        held.release()
        await asyncio.gather(*running)
        read = house.metrics.registry.get_sample_value
        assert read("mx_pulls_total", {"provider": "hugging-face", "outcome": "failed"}) == 1
    for stream in streams:
        stream.check()
    said = {
        s.details if isinstance(s.updates[-1], transfer_pb2.PullUpdate) else s.updates[-1].message
        for s in streams
    }
    assert len(said) == 1


@pytest.mark.prove
async def test_a_stream_that_is_cut_at_any_moment_leaves_no_open_file_and_no_task(
    hub: LocalHub, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    repository = Repository("demo/warm")
    repository.commit({f"{number}.bin": random.Random(number).randbytes(200_000) for number in range(5)})
    hub.add(repository)
    async with open_house(hub, tmp_path) as house, connected(house.port) as channel:
        before = asyncio.all_tasks()
        await Stream("warm", "demo/warm", True, None).run(channel)
        for seed in range(proof_count(30)):
            await asyncio.gather(*(cut_somewhere(house, random.Random(f"{seed}/{n}")) for n in range(4)))
        await wait_until_quiet(house, before)
        counted = counts(house, "mx_rpcs_total", "code")
    assert counted["CANCELLED"] > 0 and set(counted) <= {"CANCELLED", "OK"}


async def cut_somewhere(house: House, chance: random.Random) -> None:
    """Begin a stream, read none, some or all of it, and leave by cancelling, deadline or disconnecting."""
    model = transfer_pb2.Model(name="demo/warm")
    path, request = chance.choice(
        [
            (
                STREAM,
                model_pb2.ModelFilesRequest(model_name="demo/warm", chunk_size=chance.randrange(200, 99_999)),
            ),
            (VERIFY, cache_pb2.VerifyRequest(model=model)),
            (LIST_HELD, cache_pb2.ListHeldRequest()),
            (ADOPT, cache_pb2.AdoptRequest(model=model, is_dry_run=True)),
        ]
    )
    way = chance.choice(["cancel", "deadline", "close"])
    async with connected(house.port) as channel:
        deadline = chance.random() * 0.05 if way == "deadline" else None
        call = channel.unary_stream(path)(request.SerializeToString(), timeout=deadline)
        try:
            for _ in range(chance.randrange(8)):
                if await call.read() is grpc.aio.EOF:
                    break
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.005)))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if way == "cancel":
            call.cancel()


def _warm() -> Repository:
    repository = Repository("demo/warm")
    repository.commit({"config.json": b"{}", "model.safetensors": b"w" * 1000})
    return repository


@pytest.mark.prove
async def test_a_stop_that_cuts_unread_streams_leaves_the_process_alive(
    hub: LocalHub, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    repository = Repository("demo/large")
    repository.commit({"a.bin": bytes(3_000_000)})
    hub.add(repository)
    async with open_house(hub, tmp_path) as house, connected(house.port) as channel:
        await Stream("warm", "demo/large", True, None).run(channel)
        for _ in range(-(-proof_count(SERVERS_AT_ONCE) // SERVERS_AT_ONCE)):
            ends = await asyncio.gather(*(cut_by_a_stop(house, n * 0.001) for n in range(SERVERS_AT_ONCE)))
            assert set(ends) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        await wait_until(lambda: open_below(house.root) == [])


async def cut_by_a_stop(house: House, drain_seconds: float) -> grpc.StatusCode:
    """How a stream ends that nobody reads when its server stops."""
    options = ServerOptions("127.0.0.1", 0, drain_seconds)
    small_window = {"http2.bdp_probe": 0, "http2.lookahead_bytes": 65_536}
    async with AsyncExitStack() as stack:
        async with open_server(house.cache, options, house.metrics, SYSTEM_CLOCK) as second:
            channel = await stack.enter_async_context(connected(second.port, **small_window))
            request = model_pb2.ModelFilesRequest(model_name="demo/large")
            unread = channel.unary_stream(STREAM)(request.SerializeToString())
            await anext(aiter(unread))
        return (await finish(unread)).code


async def rows_left(house: House) -> list[str]:
    """What is left in the registry after the server has gone."""
    table = await open_table(house.loaded.settings.registry.path)
    try:
        return [row.key for row in await table.scan("")]
    finally:
        await table.close()


def check_counted(house: House, streams: list[Stream]) -> None:
    """Each call counts once; one that was cancelled at once may never have arrived."""
    counted = counts(house, "mx_rpcs_total", "method")
    sent = Counter({"EnsureModelDownloaded": 1})
    ended = Counter(sent)
    for stream in streams:
        method = stream.path.rpartition("/")[2]
        sent[method] += 1
        ended[method] += stream.code is not grpc.StatusCode.CANCELLED
    assert ended <= counted <= sent


def counts(house: House, name: str, label: str) -> Counter[str]:
    """A counter of the server, summed by one of its labels."""
    counted: Counter[str] = Counter()
    for family in house.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == name:
                counted[sample.labels[label]] += int(sample.value)
    return counted
