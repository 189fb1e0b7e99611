# SPDX-License-Identifier: Apache-2.0
"""The data plane over real sockets: files that stand, files that arrive, and clients of every kind."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.plane import ACCEPT, Desk, chunks_of_bytes, put, wait_until

from modelexpress.domain.chunks import CHUNK_BYTES, DIGEST_BYTES
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.errors import Busy, Corrupt, MxError, NotFound, Unreachable
from modelexpress.domain.tickets import Tickets
from modelexpress.server.blobs_http import MOST_DIGESTS
from modelexpress.server.data import DataOptions, DataPlane, Offered
from modelexpress.server.http_status import HTTP_STATUS

SMALL = bytes(range(256)) * 4
THREE_AND_A_BIT = chunks_of_bytes(3, 12345)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        desk = Desk(tmp_path, stack)
        stack.enter_context(desk.running())
        yield desk


# -- files that stand


def test_a_whole_file_comes_with_all_that_a_client_needs_to_ask_for_parts(desk: Desk) -> None:
    offer = desk.stand(THREE_AND_A_BIT)

    answer, body = desk.fetch(desk.path(offer))

    assert answer.status == 200
    assert body == THREE_AND_A_BIT
    assert answer.headers["Content-Length"] == str(len(THREE_AND_A_BIT))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == f'"{offer.id}"'
    assert answer.headers["Cache-Control"] == "no-store"


def test_head_says_the_same_and_sends_nothing(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    with desk.line() as line:
        line.ask(desk.path(offer), "HEAD")
        status, headers = line.head()
        line.ask(desk.path(offer))

        assert (status, headers["content-length"], headers["etag"]) == (200, str(len(SMALL)), f'"{offer.id}"')
        assert line.head()[0] == 200  # and not bytes of a body
        assert line.read(len(SMALL)) == SMALL


def test_an_empty_file_is_an_answer_too(desk: Desk) -> None:
    answer, body = desk.fetch(desk.path(desk.stand(b"")))

    assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", "0")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, len(THREE_AND_A_BIT) - 1), length=st.integers(1, 2 * CHUNK_BYTES))
def test_every_range_is_a_slice(desk: Desk, first: int, length: int) -> None:
    offer = desk.stand_at(_kept(desk.root, THREE_AND_A_BIT))

    answer, body = desk.fetch(desk.path(offer), Range=f"bytes={first}-{first + length - 1}")

    expected = THREE_AND_A_BIT[first : first + length]
    assert answer.status == 206
    assert body == expected
    assert (
        answer.headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{len(THREE_AND_A_BIT)}"
    )


def _kept(root: Path, data: bytes) -> Path:
    path = root / "kept"
    if not path.exists():
        path.write_bytes(data)
    return path


def test_conditions_and_ranges_have_the_statuses_of_the_book(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    path, etag = desk.path(offer), f'"{offer.id}"'

    def ask(**headers: str) -> tuple[int, int]:
        answer, body = desk.fetch(path, **headers)
        return answer.status, len(body)

    assert ask(Range="bytes=-24") == (206, 24)
    assert ask(Range="bytes=1000-") == (206, 24)
    assert ask(Range="bytes=0-1,5-6") == (200, 1024)
    assert ask(Range="parrots") == (200, 1024)
    assert ask(If_None_Match=etag) == (304, 0)
    assert ask(If_Match='"other"')[0] == 412
    assert ask(If_Match=etag) == (200, 1024)
    assert ask(Range="bytes=0-0", If_Range='"other"') == (200, 1024)
    assert ask(Range="bytes=0-0", If_Range=etag) == (206, 1)
    answer, _ = desk.fetch(path, Range="bytes=1024-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */1024")


def test_ranges_beyond_two_gib_are_exact(desk: Desk) -> None:
    path, size = desk.root / "large", 6 * 1024**3
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(5 * 1024**3)
        file.write(b"far out")
    offer = desk.stand_at(path)

    with desk.line() as line:
        line.ask(desk.path(offer), Range=f"bytes={5 * 1024**3}-")
        status, headers = line.head()

        assert (status, headers["content-length"]) == (206, str(1024**3))
        assert line.read(7) == b"far out"
    with desk.line() as line:
        line.ask(desk.path(offer))

        assert line.head()[1]["content-length"] == str(size)


def test_one_connection_carries_many_requests_also_before_their_answers(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    with desk.line() as line:
        for _ in range(5):
            line.ask(desk.path(offer), Range="bytes=0-9")
        for _ in range(5):
            assert line.head()[0] == 206
            assert line.read(10) == SMALL[:10]
        assert desk.count("mx_data_connections") == 1


# -- who is turned away


def test_tickets_that_are_old_forged_or_nonsense_open_nothing(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    bad = [
        desk.ticket(offer, age_seconds=1000),
        Tickets.with_new_key().issue(offer.id, 1e10),
        desk.ticket(offer)[:-1] + "x",
        "",
        "a/b",
        "%2e%2e",
        "x" * 4000,
    ]
    for ticket in bad:
        for what in ("blobs", "digests"):
            answer, body = desk.fetch(f"/-/{what}/{ticket}")
            assert (answer.status, answer.headers["MX-Error-Code"]) == (403, "Forbidden")
            assert b"ask for the manifest again" in body


def test_an_offer_that_is_over_is_gone(desk: Desk) -> None:
    ticket = desk.tickets.issue("0" * 40, SYSTEM_CLOCK.wall())

    answer, body = desk.fetch(f"/-/blobs/{ticket}")

    assert answer.status == 410
    assert b"ask for the manifest again" in body


def test_a_file_that_changed_on_disk_is_not_sent(desk: Desk) -> None:
    written, swapped, folder, pipe = (desk.stand(SMALL) for _ in range(4))
    for offer in (written, swapped, folder, pipe):
        path = _path_of(offer)
        if offer is written:
            path.write_bytes(SMALL[::-1])
        elif offer is swapped:
            path.write_bytes(SMALL + b"!")
        else:
            path.unlink()
            path.mkdir() if offer is folder else os.mkfifo(path)

        answer, body = desk.fetch(desk.path(offer))

        assert answer.status == 409
        assert b"changed" in body and str(desk.root).encode() not in body


def test_a_file_that_vanished_is_gone(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    _path_of(offer).unlink()

    assert desk.fetch(desk.path(offer))[0].status == 410


def _path_of(offer: object) -> Path:
    path: Path = offer.state.path  # type: ignore[attr-defined]
    return path


def test_what_failed_is_answered_with_the_error(desk: Desk) -> None:
    for kind, status in HTTP_STATUS.items():
        offer = desk.awaited(10)
        offer.become(kind("the origin said no; try another"))

        answer, body = desk.fetch(desk.path(offer))

        assert (answer.status, answer.headers["MX-Error-Code"]) == (status, kind.code)
        assert body == b"the origin said no; try another\n"
        assert (answer.headers.get("Retry-After") is not None) == (status == 503)


@pytest.mark.parametrize("path", ["/", "/-", "/-/", "/-/blobs", "/-/healthz/x", "/x/-/healthz", "/-/nothing"])
def test_other_addresses_have_nothing(desk: Desk, path: str) -> None:
    assert desk.fetch(path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_not_answered(desk: Desk, method: str) -> None:
    answer, _ = desk.fetch(desk.path(desk.stand(SMALL)), method)

    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_body_is_never_read(desk: Desk) -> None:
    with desk.line() as line:
        line.ask("/-/healthz", "POST", **{"Content-Length": str(10**12)})

        assert line.head()[0] == 405
        line.read(10**6)  # the text, and then the end of the connection
        assert line.socket.recv(1) == b""


def test_a_header_of_a_megabyte_is_refused_and_nothing_else_happens(desk: Desk) -> None:
    with desk.line() as line, desk.line() as other:
        with suppress(ConnectionError):  # the answer comes, and the line goes, before all of it is sent
            line.socket.sendall(b"GET /-/healthz HTTP/1.1\r\nX: " + b"x" * 1024 * 1024 + b"\r\n\r\n")
        assert line.head()[0] in (400, 431)
        other.ask("/-/healthz")
        assert other.head()[0] == 200


@pytest.mark.parametrize("text", [b"GET", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 9])
def test_what_is_no_http_harms_nobody(desk: Desk, text: bytes) -> None:
    with desk.line() as line:
        line.socket.sendall(text)
        line.socket.shutdown(socket.SHUT_WR)
        line.read(10**6)

    assert desk.fetch("/-/healthz")[0].status == 200


def test_no_ticket_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    offer = desk.stand(SMALL)
    ticket = desk.ticket(offer)
    desk.fetch(f"/-/blobs/{ticket}")
    desk.fetch(f"/-/blobs/{ticket}x")
    for line in (f"GET /-/blobs/{ticket} HTTP/9.9", f"GET /-/blobs/{ticket}\x01 HTTP/1.1\r\n:", f"{ticket}"):
        with desk.line() as raw:
            raw.socket.sendall(f"{line}\r\n\r\n".encode())
            raw.socket.shutdown(socket.SHUT_WR)
            raw.read(10**6)
    desk.wait_quiet(offer)

    assert ticket.rpartition(".")[2] not in caplog.text


# -- health


def test_health_is_about_the_process_and_readiness_about_its_work(desk: Desk) -> None:
    assert desk.fetch("/-/healthz")[1] == desk.fetch("/-/readyz")[1] == b"ok\n"

    desk.problem = "the registry does not answer"

    answer, body = desk.fetch("/-/readyz")
    assert (answer.status, body) == (503, b"the registry does not answer\n")
    assert desk.fetch("/-/healthz")[0].status == 200


# -- digest lists


def test_a_digest_list_comes_in_pages(desk: Desk) -> None:
    path = desk.root / "long"
    total = MOST_DIGESTS + 5
    with path.open("wb") as file:
        file.truncate(total * CHUNK_BYTES)
    offer = desk.stand_at(path)
    digests = os.urandom(total * DIGEST_BYTES)
    path.with_suffix(".list").write_bytes(digests)

    def page(query: str) -> bytes:
        answer, body = desk.fetch(desk.path(offer, "digests") + query)
        assert (answer.status, answer.headers["MX-Chunks"]) == (200, str(total))
        return body

    assert page("") + page(f"?first={MOST_DIGESTS}") == digests
    assert page("?count=99999999") == page("")
    assert page("?first=7&count=2") == digests[7 * DIGEST_BYTES : 9 * DIGEST_BYTES]
    assert page(f"?first={total}") == b""
    for query in (
        f"?first={total + 1}",
        "?first=-1",
        "?count=0",
        "?count=",
        "?first=a",
        "?first=" + "9" * 99,
    ):
        assert desk.fetch(desk.path(offer, "digests") + query)[0].status == 400


def test_a_digest_list_that_is_not_there_or_not_its_own_is_not_found(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    listed = _path_of(offer).with_suffix(".list")

    assert desk.fetch(desk.path(offer, "digests"))[0].status == 404
    listed.write_bytes(b"x" * 33)
    assert desk.fetch(desk.path(offer, "digests"))[0].status == 404
    listed.write_bytes(b"x" * 32)
    assert desk.fetch(desk.path(offer, "digests"))[1] == b"x" * 32


def test_nothing_vouches_for_the_digests_of_an_arriving_file(desk: Desk) -> None:
    offer = desk.awaited(len(SMALL))
    assert desk.fetch(desk.path(offer, "digests"))[0].status == 409
    desk.arrive(offer)
    assert desk.fetch(desk.path(offer, "digests"))[0].status == 409
    offer.become(NotFound("no such file"))
    assert desk.fetch(desk.path(offer, "digests"))[0].status == 404


# -- files that arrive


def test_a_reader_gets_what_has_arrived_and_waits_for_the_rest(desk: Desk) -> None:
    data = THREE_AND_A_BIT
    offer = desk.awaited(len(data))
    partial = desk.arrive(offer)
    with desk.line() as line:
        line.ask(desk.path(offer), **ACCEPT)
        status, headers = line.head()  # before a single byte is there
        assert (status, headers["content-length"]) == (200, str(len(data)))
        put(partial, data, 0)
        assert line.read(CHUNK_BYTES) == data[:CHUNK_BYTES]
        put(partial, data, 3, 2)
        assert not line.has_more(0.05)
        put(partial, data, 1)
        assert line.read(len(data) - CHUNK_BYTES) == data[CHUNK_BYTES:]


def test_many_readers_follow_a_writer_in_another_thread(desk: Desk) -> None:
    data = chunks_of_bytes(8, 1)
    offer = desk.awaited(len(data))
    got: dict[int, bytes] = {}

    def read(number: int) -> None:
        got[number] = desk.fetch(desk.path(offer), **({"MX_Unproven": "accept"} if number % 2 else {}))[1]

    readers = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for reader in readers:
        reader.start()
    partial = desk.arrive(offer)
    for index in (1, 0, 3, 2, 8, 7, 4, 6, 5):
        put(partial, data, index)
    desk.prove(offer, partial)
    for reader in readers:
        reader.join()

    assert [got[number] == data for number in range(8)] == [True] * 8
    desk.wait_quiet(offer)


def test_a_range_that_is_here_does_not_wait_for_what_is_before_it(desk: Desk) -> None:
    data = THREE_AND_A_BIT
    offer = desk.awaited(len(data))
    put(desk.arrive(offer), data, 2)

    answer, body = desk.fetch(desk.path(offer), Range=f"bytes={2 * CHUNK_BYTES + 5}-{3 * CHUNK_BYTES - 1}")

    assert (answer.status, body) == (206, data[2 * CHUNK_BYTES + 5 : 3 * CHUNK_BYTES])


def test_the_last_chunk_is_held_back_until_the_proof(desk: Desk) -> None:
    data = THREE_AND_A_BIT
    offer = desk.awaited(len(data))
    partial = desk.arrive(offer)
    put(partial, data, 0, 1, 2, 3)
    with desk.line() as plain, desk.line() as ours:
        ours.ask(desk.path(offer), **ACCEPT)
        ours.head()
        assert ours.read(len(data)) == data
        plain.ask(desk.path(offer))
        plain.head()
        assert plain.read(3 * CHUNK_BYTES) == data[: 3 * CHUNK_BYTES]
        assert not plain.has_more(0.05)
        desk.prove(offer, partial)
        assert plain.read(len(data) - 3 * CHUNK_BYTES) == data[3 * CHUNK_BYTES :]


def test_who_checks_nothing_is_cut_off_when_a_part_turns_out_wrong(desk: Desk) -> None:
    data = THREE_AND_A_BIT
    offer = desk.awaited(len(data))
    partial = desk.arrive(offer)
    put(partial, bytes(CHUNK_BYTES) + data[CHUNK_BYTES:], 0, 1, 2, 3)
    with desk.line() as plain, desk.line() as ours:
        for line, headers in ((plain, dict[str, str]()), (ours, ACCEPT)):
            line.ask(desk.path(offer), **headers)
            line.head()
        assert plain.read(3 * CHUNK_BYTES)[:CHUNK_BYTES] == bytes(CHUNK_BYTES)
        partial.forget(0)
        offer.changed()
        put(partial, data, 0)
        desk.prove(offer, partial)
        assert plain.read(len(data)) == b""
        assert len(ours.read(len(data))) == len(data)  # it compares, and asks for chunk 0 again


def test_after_a_false_start_who_checks_nothing_gets_whole_files_alone(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    span = {"Range": "bytes=5-9"}
    assert desk.fetch(desk.path(offer), **span)[0].status == 206

    desk.given.note(offer.id, "somebody has bytes of another file")

    answer, body = desk.fetch(desk.path(offer), **span)
    assert (answer.status, body) == (200, SMALL)
    answer, body = desk.fetch(desk.path(offer), **span, **ACCEPT)
    assert (answer.status, body) == (206, SMALL[5:10])


def test_what_cannot_be_noted_is_held_back_until_it_is_proven(desk: Desk) -> None:
    data = THREE_AND_A_BIT
    (desk.root / ".mx/given").rmdir()
    offer = desk.awaited(len(data))
    partial = desk.arrive(offer)
    put(partial, data, 0, 1, 2, 3)
    with desk.line() as plain, desk.line() as ours:
        plain.ask(desk.path(offer))
        ours.ask(desk.path(offer), **ACCEPT)
        ours.head()
        assert ours.read(len(data)) == data
        assert not plain.has_more(0.05)
        desk.prove(offer, partial)
        assert plain.head()[0] == 200
        assert plain.read(len(data)) == data


def test_a_file_of_one_chunk_is_held_back_whole(desk: Desk) -> None:
    offer = desk.awaited(len(SMALL))
    partial = desk.arrive(offer)
    put(partial, SMALL, 0)
    with desk.line() as line:
        line.ask(desk.path(offer))
        assert not line.has_more(0.05)
        desk.prove(offer, partial)
        assert line.head()[0] == 200
        assert line.read(len(SMALL)) == SMALL


def test_an_empty_file_needs_no_chunk(desk: Desk) -> None:
    offer = desk.awaited(0)
    desk.arrive(offer)

    assert desk.fetch(desk.path(offer))[1] == b""


@pytest.mark.parametrize("how", ["begun anew", "failed", "awaited again", "proven as another file"])
def test_an_answer_ends_short_when_the_arriving_file_is(desk: Desk, how: str) -> None:
    data = THREE_AND_A_BIT
    offer = desk.awaited(len(data))
    partial = desk.arrive(offer)
    put(partial, data, 0)
    with desk.line() as line:
        line.ask(desk.path(offer), **ACCEPT)
        line.head()
        assert line.read(CHUNK_BYTES) == data[:CHUNK_BYTES]
        if how == "begun anew":
            put(desk.arrive(offer), data, 0, 1, 2, 3)
        elif how == "proven as another file":
            offer.become(desk.standing(_kept(desk.root, data)))
        else:
            offer.become(Unreachable("it is gone") if how == "failed" else None)

        assert line.read(len(data)) == b""
    wait_until(lambda: desk.count("mx_data_requests_total", code="cut") == 1)
    desk.wait_quiet(offer)


def test_a_slow_reader_of_a_wrong_file_is_not_carried_over_into_the_right_one(desk: Desk) -> None:
    wrong, right = chunks_of_bytes(5), chunks_of_bytes(5)[::-1]
    offer = desk.awaited(len(right))
    first = desk.arrive(offer)
    put(first, wrong, 0, 1, 2, 3, 4)
    with desk.line(receive_bytes=64 * 1024) as line:
        line.ask(desk.path(offer))
        line.head()
        line.read(1)
        wait_until(lambda: bool(offer._listeners))
        offer.become(None)  # all of it while the server waits for this reader
        second = desk.arrive(offer)
        put(second, right, 0, 1, 2, 3, 4)
        desk.prove(offer, second)

        body = line.read(len(wrong))
        assert len(body) < len(wrong) - 1 and wrong.startswith(b"".join([wrong[:1], body]))
    assert desk.fetch(desk.path(offer))[1] == right


def test_an_awaited_file_is_answered_once_it_begins_to_arrive(desk: Desk) -> None:
    offer = desk.awaited(len(SMALL))
    with desk.line() as line:
        line.ask(desk.path(offer))
        wait_until(lambda: bool(offer._listeners))
        partial = desk.arrive(offer)
        put(partial, SMALL, 0)
        desk.prove(offer, partial)
        assert line.head()[0] == 200
        assert line.read(len(SMALL)) == SMALL


def test_a_file_that_fails_before_its_first_byte_is_an_error_and_no_cut_answer(desk: Desk) -> None:
    offer = desk.awaited(len(SMALL))
    desk.arrive(offer)
    with desk.line() as line:
        line.ask(desk.path(offer))
        assert not line.has_more(0.05)
        offer.become(Corrupt("wrong twice"))
        assert line.head()[0] == 502


def test_a_file_that_is_begun_anew_before_its_first_byte_is_sent_whole(desk: Desk) -> None:
    offer = desk.awaited(len(SMALL))
    desk.arrive(offer)
    with desk.line() as line:
        line.ask(desk.path(offer))
        assert not line.has_more(0.05)
        partial = desk.arrive(offer)
        put(partial, SMALL, 0)
        desk.prove(offer, partial)
        assert line.head()[0] == 200 and line.read(len(SMALL)) == SMALL


def test_an_awaited_file_that_fails_is_an_error_at_once(desk: Desk) -> None:
    offer = desk.awaited(len(SMALL))
    with desk.line() as line:
        line.ask(desk.path(offer))
        wait_until(lambda: bool(offer._listeners))
        offer.become(Corrupt("wrong twice"))
        assert line.head()[0] == 502


def test_nobody_waits_for_ever_for_a_file_that_is_awaited(tmp_path: Path) -> None:
    with ExitStack() as stack:
        desk = Desk(tmp_path, stack)
        stack.enter_context(desk.running(wait_seconds=0.05))
        answer, body = desk.fetch(desk.path(desk.awaited(10)))

        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert b"ask again" in body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(
    order=st.permutations(range(4)),
    first=st.integers(0, len(THREE_AND_A_BIT) - 1),
    is_ours=st.booleans(),
    proves_after=st.integers(1, 4),
)
def test_whatever_the_order_a_reader_gets_the_slice(
    desk: Desk, order: list[int], first: int, is_ours: bool, proves_after: int
) -> None:
    data = THREE_AND_A_BIT
    offer = desk.awaited(len(data))
    partial = desk.arrive(offer)
    put(partial, data, *order[: proves_after - 1])
    with desk.line() as line:
        line.ask(desk.path(offer), Range=f"bytes={first}-", **(ACCEPT if is_ours else {}))
        wait_until(lambda: bool(offer._listeners))
        put(partial, data, *order[proves_after - 1 :])
        desk.prove(offer, partial)
        line.head()
        assert line.read(len(data) - first) == data[first:]


# -- the life of it


def test_a_port_that_is_taken_is_a_refusal_to_start(desk: Desk) -> None:
    assert desk.plane is not None and desk.plane.port is not None
    offered = Offered(desk.offers, desk.tickets, lambda: None)
    for options in (DataOptions("127.0.0.1", desk.plane.port), DataOptions("192.0.2.1", 0)):
        second = DataPlane(offered, options, desk.metrics, SYSTEM_CLOCK)
        with pytest.raises(Busy, match=r"cannot listen on .*set server\.data_port"):
            second.start()
        second.stop()


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::", "[::1]"])
def test_every_way_to_name_this_machine_is_listened_on(tmp_path: Path, host: str) -> None:
    with ExitStack() as stack:
        desk = Desk(tmp_path, stack)
        offered = Offered(desk.offers, desk.tickets, lambda: None)
        try:
            options = DataOptions(host, 0, drain_seconds=0.0)
            plane = stack.enter_context(DataPlane(offered, options, desk.metrics, SYSTEM_CLOCK))
        except Busy:
            pytest.skip(f"this machine has no {host}")
        assert plane.port is not None
        targets = {"localhost": ["localhost"], "0.0.0.0": ["127.0.0.1"], "[::1]": ["::1"]}
        for target in targets.get(host, ["127.0.0.1", "::1"]):
            connection = HTTPConnection(target, plane.port, timeout=5)
            connection.request("GET", "/-/healthz")
            assert connection.getresponse().status == 200
            connection.close()


def test_at_the_end_running_answers_may_finish_and_idle_connections_are_closed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        desk = Desk(tmp_path, stack)
        data = chunks_of_bytes(12)
        offer = desk.stand(data)
        plane = stack.enter_context(desk.running(drain_seconds=20.0))
        with desk.line(receive_bytes=64 * 1024) as busy, desk.line() as idle:
            idle.ask("/-/healthz")
            assert (idle.head()[0], idle.read(3)) == (200, b"ok\n")
            busy.ask(desk.path(offer))
            busy.head()
            stopping = threading.Thread(target=plane.stop)
            stopping.start()

            assert idle.read(1) == b""
            assert busy.read(len(data) + 1) == data
            stopping.join()
        assert desk.count("mx_data_connections") == 0


def test_a_stop_without_patience_ends_whoever_waits(desk: Desk) -> None:
    offer = desk.awaited(100)
    desk.arrive(offer)
    large = desk.stand(chunks_of_bytes(12))
    with desk.line() as line, desk.line(receive_bytes=64 * 1024) as slow:
        line.ask(desk.path(offer), **ACCEPT)
        line.head()
        slow.ask(desk.path(large))
        slow.head()
        assert desk.plane is not None
        desk.plane.stop()

        assert line.read(100) == b""
        assert len(slow.read(12 * CHUNK_BYTES)) < 12 * CHUNK_BYTES
    desk.wait_quiet(offer, large)


def test_what_happens_is_counted(desk: Desk) -> None:
    offer = desk.stand(SMALL)
    desk.fetch(desk.path(offer))
    desk.fetch(desk.path(offer), Range="bytes=0-9")
    desk.fetch(desk.path(offer), "HEAD")
    desk.fetch("/nothing")
    desk.wait_quiet(offer)

    counted = {code: desk.count("mx_data_requests_total", code=code) for code in ("200", "206", "404")}
    assert counted == {"200": 2, "206": 1, "404": 1}
    assert desk.count("mx_data_bytes_total") == len(SMALL) + 10


def test_an_error_of_ours_is_logged_and_names_nothing(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    offer = desk.awaited(10)
    offer.become("no state at all")  # type: ignore[arg-type]

    answer, body = desk.fetch(desk.path(offer))

    assert (answer.status, answer.headers["MX-Error-Code"]) == (500, "Internal")
    assert b"log entry" in body and "defect" in caplog.text
    offer.become(MxError("so that the end finds a state"))
