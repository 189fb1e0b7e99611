# SPDX-License-Identifier: Apache-2.0
"""Lanes to a data plane that does as it should: what is brought, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import pytest
import trustme
from tests.support.ranged_server import Fault, RangedServer
from tests.support.sinks import LoggedSink

from modelexpress.domain.chunks import CHUNK_BYTES, ChunkSpan
from modelexpress.domain.errors import Cancelled, Invalid, Unreachable
from modelexpress.transfer.addresses import Address
from modelexpress.transfer.lanes import Lanes, Patience
from modelexpress.transfer.memory import MemorySink


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("mx-lane")}


@contextlib.asynccontextmanager
async def in_background(lanes: Lanes, target: str, sink: MemorySink) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(lanes.bring(target, sink))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


@pytest.mark.parametrize("is_direct", [True, False])
async def test_every_chunk_is_put_once_and_is_right(lanes: Lanes, content: bytes, is_direct: bool) -> None:
    sink = LoggedSink(len(content), is_direct)
    await lanes.bring("/f", sink)
    assert sink.memory == content and sink.is_complete
    assert sink.puts == Counter(range(6))


async def test_a_request_says_what_a_data_plane_must_know(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    await lanes.bring("/f", LoggedSink(len(content)))
    for asked in server.asked:
        assert asked.headers["mx-unproven"] == "accept"
        assert asked.headers["accept-encoding"] == "identity"
        assert asked.headers["host"] == f"127.0.0.1:{server.port}"
    spans = sorted(asked.range for asked in server.asked)
    assert spans[0][0] == 0 and spans[-1][1] == len(content)
    assert all(one[1] == behind[0] for one, behind in pairwise(spans))


async def test_only_what_is_missing_is_asked_for(server: RangedServer, lanes: Lanes, content: bytes) -> None:
    sink = LoggedSink(len(content))
    sink.fill(content, [0, 2, 5])
    await lanes.bring("/f", sink)
    assert sink.memory == content and sink.puts == Counter([1, 3, 4])
    assert sum(end - start for start, end in (asked.range for asked in server.asked)) == 3 * CHUNK_BYTES


async def test_a_complete_file_and_an_empty_one_cost_no_request(server: RangedServer, lanes: Lanes) -> None:
    await lanes.bring("/empty", LoggedSink(0))
    assert not names()
    sink = LoggedSink(5)
    sink.fill(b"12345", [0])
    await lanes.bring("/f", sink)
    assert server.asked == [] and server.accepted == 0


async def test_small_files_share_connections(server: RangedServer, lanes: Lanes) -> None:
    files = {f"/{number}": bytes([number]) * (number + 1) for number in range(50)}
    sinks = {target: LoggedSink(len(data)) for target, data in files.items()}
    for target, data in files.items():
        server.add(target, data)
    await asyncio.gather(*(lanes.bring(target, sink) for target, sink in sinks.items()))
    assert {target: bytes(sink.memory) for target, sink in sinks.items()} == files
    assert server.accepted <= 4 and len(server.asked) == 50


async def test_the_oldest_file_goes_first_and_idle_lanes_help_the_next(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    """Three lanes cannot help the first file, of one chunk, while it waits: they bring the second."""
    gate = threading.Event()
    server.add("/small", content[:1000])
    server.script = lambda asked: Fault(only=0, gate=gate) if asked.target == "/small" else None
    small, large = LoggedSink(1000), LoggedSink(len(content))
    async with in_background(lanes, "/small", small) as first:
        await lanes.bring("/f", large)
        assert large.memory == content and not first.done()
        gate.set()
        await first
    assert small.memory == content[:1000]


async def test_a_file_that_fails_takes_no_other_with_it(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    sink = LoggedSink(len(content))
    results = await asyncio.gather(
        lanes.bring("/nowhere", LoggedSink(9 * CHUNK_BYTES)), lanes.bring("/f", sink), return_exceptions=True
    )
    assert isinstance(results[0], Unreachable) and results[1] is None
    assert sink.memory == content


async def test_cancelling_ends_all_work_on_the_sink_and_gives_back(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    server.script = lambda asked: Fault(only=CHUNK_BYTES // 2, gate=threading.Event())
    sink = LoggedSink(len(content))
    sink.fill(content, [3])
    async with in_background(lanes, "/f", sink) as task:
        await has_asked(server, 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        sink.close()
    server.script = lambda asked: None
    other = LoggedSink(len(content))
    await lanes.bring("/f", other)  # the lanes are as good as new
    assert other.memory == content
    assert sink.used_after_close == 0 and sink.left() == {0, 1, 2, 4, 5}


async def test_cancelling_waits_for_a_chunk_that_is_being_kept(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    is_in, may_go = threading.Event(), threading.Event()

    def hold(index: int) -> None:
        is_in.set()
        may_go.wait(10)

    sink = LoggedSink(len(content), on_put=hold)
    async with in_background(lanes, "/f", sink) as task:
        await happened(is_in)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # a second time while the first is being answered
        await asyncio.sleep(0)
        assert not task.done()
        may_go.set()
        await asyncio.wait({task})
        sink.close()
    assert task.cancelled() and sink.used_after_close == 0


async def test_cancelling_ends_a_connection_that_is_being_made(patience: Patience) -> None:
    """A listener whose queue is full answers no SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as queued:
        for _ in range(2):
            one = queued.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        slow = replace(patience, connect_seconds=60)
        with Lanes(Address(*full.getsockname()), 2, slow) as lanes:
            sink = LoggedSink(5)
            async with in_background(lanes, "/f", sink) as task:
                await is_taken(sink)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 5)
            assert sink.left() == {0}


async def test_closing_ends_what_waits(server: RangedServer, patience: Patience, content: bytes) -> None:
    server.script = lambda asked: Fault(before_head=threading.Event())
    lanes = Lanes(Address(server.host, server.port), 2, patience)
    sink = LoggedSink(len(content))
    async with in_background(lanes, "/f", sink) as task:
        await has_asked(server, 2)
        lanes.close()
        assert not names()
        with pytest.raises(Cancelled):
            await task
    lanes.close()
    with pytest.raises(Cancelled):
        await lanes.bring("/f", sink)
    assert sink.left() == set(range(6))


async def test_no_thread_begins_before_the_first_file(server: RangedServer, lanes: Lanes) -> None:
    assert not names()
    server.add("/one", b"1")
    await lanes.bring("/one", LoggedSink(1))
    assert names() == {"mx-lane-0", "mx-lane-1", "mx-lane-2", "mx-lane-3"}


async def test_memory_of_the_caller_is_let_go(server: RangedServer, lanes: Lanes, content: bytes) -> None:
    memory = bytearray(len(content))
    await lanes.bring("/f", MemorySink(len(content), memory))
    memory.append(0)  # raises BufferError while anybody has a view


async def test_a_span_that_the_sink_gives_late_is_brought_too(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    """One answer breaks off behind its first chunk while all other lanes have nothing left to do."""
    gate = threading.Event()
    held = Fault(only=CHUNK_BYTES // 2, gate=gate, ends=True)
    server.script = lambda asked: held if asked.number == 0 else None
    sink = LoggedSink(len(content))
    async with in_background(lanes, "/f", sink) as task:
        await happened(sink.first_put)
        server.drop_connections()
        await task
    assert sink.memory == content


async def test_a_sink_whose_chunks_somebody_else_brings_is_not_waited_for(
    lanes: Lanes, content: bytes
) -> None:
    sink = LoggedSink(len(content))
    assert MemorySink.take_missing(sink, 2) == ChunkSpan(0, 2)
    await lanes.bring("/f", sink)
    assert sink.puts == Counter(range(2, 6)) and not sink.is_complete


async def test_an_idle_connection_that_was_closed_costs_no_try(
    server: RangedServer, patience: Patience, content: bytes
) -> None:
    with Lanes(Address(server.host, server.port), 1, replace(patience, tries=1)) as lanes:
        for _ in range(3):
            await lanes.bring("/f", LoggedSink(len(content)))
            server.drop_connections()
    assert server.accepted == 3


async def test_a_server_may_end_each_connection(server: RangedServer, lanes: Lanes, content: bytes) -> None:
    server.script = lambda asked: Fault(headers={"Connection": "close"}, ends=True)
    sink = LoggedSink(len(content))
    await lanes.bring("/f", sink)
    assert sink.memory == content and server.accepted == len(server.asked)


async def test_an_address_of_ipv6_is_one(patience: Patience) -> None:
    with RangedServer("::1") as server, Lanes(Address("::1", server.port), 1, patience) as lanes:
        server.add("/f", b"six")
        sink = LoggedSink(3)
        await lanes.bring("/f", sink)
        assert sink.memory == b"six" and server.asked[0].headers["host"] == f"[::1]:{server.port}"


async def test_a_proxy_of_the_environment_is_not_asked(
    server: RangedServer, lanes: Lanes, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    sink = LoggedSink(len(content))
    await lanes.bring("/f", sink)
    assert sink.memory == content


async def test_bytes_come_over_tls_too(patience: Patience, content: bytes) -> None:
    authority = trustme.CA()
    serving, asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(serving)
    authority.configure_trust(asking)
    with RangedServer(tls=serving) as server:
        server.add("/f", content)
        with Lanes(Address("localhost", server.port, asking), 2, patience) as lanes:
            for _ in range(2):
                sink = LoggedSink(len(content))
                await lanes.bring("/f", sink)
                assert sink.memory == content
        assert server.accepted <= 2
        stranger = Address("localhost", server.port, ssl.create_default_context())
        with Lanes(stranger, 1, patience) as lanes, pytest.raises(Unreachable, match="certificate"):
            await lanes.bring("/f", LoggedSink(len(content)))


@pytest.mark.parametrize("target", ["secret", "/secret b", "/secret\r\nX: y", "/secretä", "http://x/secret"])
async def test_a_target_is_a_path_and_is_never_shown(lanes: Lanes, target: str) -> None:
    with pytest.raises(Invalid) as raised:
        await lanes.bring(target, LoggedSink(5))
    assert "secret" not in raised.value.message


@pytest.mark.parametrize(("host", "port"), [("", 1), ("h", 0), ("h", 65536)])
def test_an_address_can_be_one(host: str, port: int) -> None:
    with pytest.raises(Invalid):
        Address(host, port)


async def has_asked(server: RangedServer, count: int) -> None:
    async with asyncio.timeout(10):
        while len(server.asked) < count:
            await asyncio.sleep(0.001)


async def is_taken(sink: LoggedSink) -> None:
    async with asyncio.timeout(10):
        while "1 under way" not in repr(sink):
            await asyncio.sleep(0.001)
