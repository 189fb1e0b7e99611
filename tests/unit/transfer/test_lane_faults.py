# SPDX-License-Identifier: Apache-2.0
"""Lanes to a data plane that fails: what is tried again, what is given up, and what is said then."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from tests.support.ranged_server import Fault, RangedServer, in_turn
from tests.support.sinks import LoggedSink

from modelexpress.domain.chunks import CHUNK_BYTES, count_chunks
from modelexpress.domain.errors import (
    Busy,
    Corrupt,
    Forbidden,
    MxError,
    NoRoom,
    NotFound,
    StorageFailed,
    Unreachable,
)
from modelexpress.domain.spans import ByteSpan
from modelexpress.transfer.addresses import Address
from modelexpress.transfer.answers import Broken, Head, check_head
from modelexpress.transfer.lanes import PATIENCE, Lanes, Patience

HALF = CHUNK_BYTES // 2


async def failure_of(lanes: Lanes, sink: LoggedSink, target: str = "/f") -> MxError:
    """What a bring raises; it names the server, never the target, and leaves nothing taken."""
    with pytest.raises(MxError) as raised:
        await lanes.bring(target, sink)
    sink.close()
    assert "under way" in repr(sink) and "0 under way" in repr(sink)
    assert target not in raised.value.message
    return raised.value


@pytest.fixture
def one_lane(server: RangedServer, patience: Patience) -> Lanes:
    return Lanes(Address(server.host, server.port), 1, patience)


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Forbidden), (410, NotFound), (409, Busy), (416, Corrupt), (302, Unreachable)]
)
async def test_an_answer_that_will_not_change_is_not_asked_for_twice(
    server: RangedServer, one_lane: Lanes, content: bytes, status: int, kind: type[MxError]
) -> None:
    server.script = lambda asked: Fault(status)
    with one_lane as lanes:
        error = await failure_of(lanes, LoggedSink(len(content)))
    assert type(error) is kind and f"127.0.0.1:{server.port}" in error.message
    assert len(server.asked) == 1


async def test_with_a_new_ticket_the_rest_is_brought(
    server: RangedServer, one_lane: Lanes, content: bytes
) -> None:
    server.add("/new", content)
    server.script = in_turn(None, Fault(403))
    sink = LoggedSink(len(content))
    with one_lane as lanes:
        with pytest.raises(Forbidden):
            await lanes.bring("/f", sink)
        assert 0 < sum(sink.puts.values()) < 6
        await lanes.bring("/new", sink)
    assert sink.memory == content and sink.puts == Counter(range(6))


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503, 504, 599])
async def test_an_answer_that_may_change_is_asked_for_again(
    server: RangedServer, one_lane: Lanes, content: bytes, status: int
) -> None:
    server.script = in_turn(Fault(status), Fault(status))
    sink = LoggedSink(len(content))
    with one_lane as lanes:
        await lanes.bring("/f", sink)
    assert sink.memory == content


async def test_after_some_tries_it_is_given_up(
    server: RangedServer, lanes: Lanes, patience: Patience, content: bytes
) -> None:
    server.script = lambda asked: Fault(502)
    error = await failure_of(lanes, LoggedSink(len(content)))
    assert isinstance(error, Unreachable) and "502" in error.message
    assert patience.tries <= len(server.asked) <= 4 * patience.tries


def test_the_wait_that_a_server_names_is_kept_to_within_bounds() -> None:
    assert 3 <= (PATIENCE.wait_seconds(1, named=4) or 0) <= 4
    assert (PATIENCE.wait_seconds(1, named=999999) or 0) <= PATIENCE.longest_wait_seconds
    waits = [PATIENCE.wait_seconds(tries) or 0.0 for tries in (1, 2, 3, 4)]
    assert waits == sorted(waits) and 3 < sum(waits) <= 6
    assert PATIENCE.wait_seconds(5, named=1) is None


async def test_a_named_wait_that_is_too_long_is_cut(
    server: RangedServer, one_lane: Lanes, content: bytes
) -> None:
    server.script = in_turn(Fault(503, {"Retry-After": "86400"}))
    sink = LoggedSink(len(content))
    with one_lane as lanes:
        await lanes.bring("/f", sink)
    assert sink.memory == content


@pytest.mark.parametrize("is_reset", [False, True])
async def test_an_answer_that_breaks_off_costs_only_what_was_under_way(
    server: RangedServer, one_lane: Lanes, patience: Patience, content: bytes, is_reset: bool
) -> None:
    """Every answer ends in its second chunk, more often than there are tries: each brought one."""
    server.script = lambda asked: Fault(only=CHUNK_BYTES + HALF, is_reset=is_reset)
    sink = LoggedSink(len(content))
    with one_lane as lanes:
        await lanes.bring("/f", sink)
    assert sink.memory == content and sink.puts == Counter(range(6))
    assert len(server.asked) > patience.tries


async def test_answers_without_a_whole_chunk_are_given_up(
    server: RangedServer, one_lane: Lanes, patience: Patience, content: bytes
) -> None:
    server.script = lambda asked: Fault(only=HALF)
    with one_lane as lanes:
        error = await failure_of(lanes, LoggedSink(len(content)))
    assert isinstance(error, Unreachable) and "ended short" in error.message
    assert len(server.asked) == patience.tries


async def test_a_server_that_waits_for_its_origin_is_waited_for(
    server: RangedServer, patience: Patience, content: bytes
) -> None:
    """It answers and then is silent, more often than there are tries."""
    never = threading.Event()
    server.script = in_turn(*[Fault(only=10, gate=never)] * (patience.tries + 2))
    sink = LoggedSink(len(content))
    with Lanes(Address(server.host, server.port), 1, replace(patience, stall_seconds=0.3)) as lanes:
        await lanes.bring("/f", sink)
    assert sink.memory == content


async def test_a_server_that_does_not_even_answer_is_given_up(
    server: RangedServer, patience: Patience, content: bytes
) -> None:
    server.script = lambda asked: Fault(before_head=threading.Event())
    with Lanes(Address(server.host, server.port), 1, replace(patience, stall_seconds=0.05)) as lanes:
        error = await failure_of(lanes, LoggedSink(len(content)))
    assert isinstance(error, Unreachable) and "no answer for 0.05 s" in error.message
    assert len(server.asked) == patience.tries


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-9/10"},
        {"Content-Range": None},
        {"Content-Length": "7"},
        {"Content-Length": None},
        {"Transfer-Encoding": "chunked"},
        {"Content-Encoding": "gzip"},
    ],
)
async def test_other_bytes_than_were_asked_for_are_refused(
    server: RangedServer, one_lane: Lanes, content: bytes, headers: dict[str, str | None]
) -> None:
    server.script = lambda asked: Fault(headers=headers)
    sink = LoggedSink(len(content))
    with one_lane as lanes:
        assert isinstance(await failure_of(lanes, sink), Corrupt)
    assert not sink.puts and len(server.asked) == 1


async def test_a_whole_file_may_be_answered_with_200_and_a_part_may_not(
    server: RangedServer, one_lane: Lanes, content: bytes
) -> None:
    server.add("/one", content[:100])
    server.script = lambda asked: Fault(200)
    small = LoggedSink(100)
    with one_lane as lanes:
        await lanes.bring("/one", small)
        assert small.memory == content[:100]
        assert isinstance(await failure_of(lanes, LoggedSink(len(content))), Corrupt)


def test_a_file_that_its_origin_lacks_is_told_from_an_address_that_is_none() -> None:
    for headers, kind in (({"mx-error-code": "NotFound"}, NotFound), ({}, Broken)):
        with pytest.raises(kind):
            check_head(Head(404, headers), ByteSpan(0, 5), 5, "host:1")


@pytest.mark.parametrize("length", [1, 100_000])
async def test_bytes_beyond_the_answer_cost_the_connection_and_nothing_else(
    server: RangedServer, one_lane: Lanes, content: bytes, length: int
) -> None:
    server.add("/one", content[:100])
    server.script = lambda asked: Fault(extra=bytes(length))
    with one_lane as lanes:
        # What is behind may come late, and is then met by the next request: never taken for its answer.
        for _ in range(50):
            sink = LoggedSink(100)
            await lanes.bring("/one", sink)
            assert sink.memory == content[:100]


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nContent-Length: ",
    ],
)
async def test_what_is_no_data_plane_is_unreachable(
    server: RangedServer, one_lane: Lanes, content: bytes, head: bytes
) -> None:
    server.script = lambda asked: Fault(status=404, raw_head=head, ends=True)
    with one_lane as lanes:
        assert isinstance(await failure_of(lanes, LoggedSink(len(content))), Unreachable)


async def test_nobody_at_the_address_is_said_after_some_tries(patience: Patience) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = Address("127.0.0.1", gone.getsockname()[1])
    with Lanes(address, 4, patience) as lanes:
        error = await failure_of(lanes, LoggedSink(5), "/-/blobs/secret")
    assert isinstance(error, Unreachable)
    assert str(address) in error.message and "connection refused" in error.message


async def test_a_name_that_nobody_knows_is_said_after_some_tries(patience: Patience) -> None:
    for host in ("nobody.invalid", "a" * 64 + ".invalid"):
        with Lanes(Address(host, 1), 1, patience) as lanes:
            error = await failure_of(lanes, LoggedSink(5))
        assert isinstance(error, Unreachable) and host in error.message


async def test_a_server_that_comes_up_in_time_is_found(patience: Patience, content: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    sink = LoggedSink(1000)
    with Lanes(Address("127.0.0.1", port), 1, replace(patience, tries=1)) as lanes:
        with pytest.raises(Unreachable):
            await lanes.bring("/f", sink)
        with RangedServer(port=port) as server:
            server.add("/f", content[:1000])
            await lanes.bring("/f", sink)
    assert sink.memory == content[:1000]


@pytest.mark.parametrize("error", [NoRoom("full"), StorageFailed("gone"), ValueError("a defect")])
async def test_what_the_sink_raises_ends_the_file_at_once(
    server: RangedServer, lanes: Lanes, content: bytes, error: Exception
) -> None:
    """The other lanes wait for bytes that never come, and are stopped."""
    never = threading.Event()
    server.script = lambda asked: Fault(only=HALF, gate=never) if asked.range[0] else None

    def fail(index: int) -> None:
        raise error

    sink = LoggedSink(len(content), on_put=fail)
    with pytest.raises(type(error)) as raised:
        await lanes.bring("/f", sink)
    sink.close()
    assert raised.value is error and sink.used_after_close == 0
    other = LoggedSink(100)
    server.add("/other", content[:100])
    server.script = in_turn()
    await lanes.bring("/other", other)
    assert other.memory == content[:100] and sink.used_after_close == 0


async def test_a_sink_that_cannot_be_asked_fails_its_own_file(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    class Broken(LoggedSink):
        def take_missing(self, most: int) -> None:  # type: ignore[override]
            raise StorageFailed("the map is gone")

    with pytest.raises(StorageFailed):
        await lanes.bring("/f", Broken(5))
    sink = LoggedSink(len(content))
    await lanes.bring("/f", sink)
    assert sink.memory == content


async def test_a_flipped_byte_is_one_wrong_digest_and_one_chunk_more(
    server: RangedServer, lanes: Lanes, content: bytes
) -> None:
    server.script = lambda asked: Fault(flip_at=2 * CHUNK_BYTES + 5)
    sink = LoggedSink(len(content))
    await lanes.bring("/f", sink)
    digests = [blake3(content[i : i + CHUNK_BYTES]).digest() for i in range(0, len(content), CHUNK_BYTES)]
    wrong = [i for i in range(6) if sink.digests[32 * i : 32 * i + 32] != digests[i]]
    assert wrong == [2]
    server.script = in_turn()
    sink.forget(2)
    await lanes.bring("/f", sink)
    assert sink.memory == content and sink.puts == Counter([*range(6), 2])
    assert sink.digests == b"".join(digests)


DATA = random.Random(11).randbytes(7 * CHUNK_BYTES)


@st.composite
def files(draw: st.DrawFn) -> tuple[int, set[int]]:
    """A size, and which chunks are here already."""
    whole = draw(st.integers(0, 6))
    size = whole * CHUNK_BYTES + draw(st.sampled_from([0, 1, 4095, HALF, CHUNK_BYTES - 1]))
    return size, draw(st.sets(st.integers(0, max(count_chunks(size) - 1, 0)), max_size=count_chunks(size)))


FAULTS = st.one_of(
    st.none(),
    st.builds(Fault, only=st.integers(0, 5 * CHUNK_BYTES), is_reset=st.booleans()),
    st.builds(Fault, status=st.sampled_from([404, 500, 503])),
    st.builds(Fault, headers=st.just({"Connection": "close"}), ends=st.just(True)),
)


@given(
    file=files(), faults=st.lists(FAULTS, max_size=6), connections=st.integers(1, 4), is_direct=st.booleans()
)
async def test_whatever_happens_on_the_way_a_file_is_whole_and_no_chunk_put_twice(
    file: tuple[int, set[int]], faults: list[Fault | None], connections: int, is_direct: bool
) -> None:
    size, here = file
    content = DATA[:size]
    enough = Patience(1, 10, tries=len(faults) + 1, first_wait_seconds=0.0)
    sink = LoggedSink(size, is_direct)
    sink.fill(content, here)
    with RangedServer() as server, Lanes(Address(server.host, server.port), connections, enough) as lanes:
        server.add("/f", content)
        server.script = in_turn(*faults)
        await lanes.bring("/f", sink)
    assert sink.memory == content and sink.is_complete
    assert sink.puts == Counter(set(range(count_chunks(size))) - here)
