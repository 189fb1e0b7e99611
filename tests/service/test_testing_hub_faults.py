# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on demand at the local Hub goes wrong as it says, and huggingface_hub meets it."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from huggingface_hub import constants, hf_hub_download
from tests.support.hub_client import Answer, address_of, ask

from modelexpress.testing.hub import Fault, Faults, HubOptions, LocalHub
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME = "demo/tiny"
WEIGHTS = "model.safetensors"
CONTENT = {path: text for path, text in tiny_files().items() if isinstance(text, bytes)}
BODY_ACTIONS = ("truncate", "wrong_bytes", "throttle", "hold", "ignore_range", "etag")


@pytest.fixture(autouse=True)
def no_errors_are_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR] == []


@pytest.fixture(params=["cdn", "in place"])
def hub(request: pytest.FixtureRequest) -> Iterator[LocalHub]:
    options = HubOptions(has_cdn=request.param == "cdn")
    with LocalHub([tiny_model(NAME)], options).running_in_thread() as hub:
        yield hub


def source_of(hub: LocalHub, file: str) -> str:
    """Where the bytes of a file come from."""
    in_place = f"/{NAME}/resolve/main/{file}"
    return in_place if file == WEIGHTS and not hub._options.has_cdn else address_of(hub, NAME, file)


@contextmanager
def reading(hub: LocalHub, file: str, **headers: str) -> Iterator[socket.socket]:
    """A connection on which the answer to a request for the bytes of `file` begins to arrive."""
    source = urlsplit(source_of(hub, file))
    lines = [f"GET {source.path}?{source.query} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    port = urlsplit(hub.endpoint).port
    with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        yield connection


def read_to_the_end(connection: socket.socket) -> tuple[bytes, bytes, bool]:
    """Head and body of an answer as far as they come, and whether the connection was reset."""
    said, is_reset = b"", False
    try:
        while piece := connection.recv(65_536):
            said += piece
    except ConnectionResetError:
        is_reset = True
    head, _, body = said.partition(b"\r\n\r\n")
    return head, body, is_reset


def read_body(connection: socket.socket, size: int) -> bytes:
    """The first `size` bytes of a body."""
    said = b""
    while b"\r\n\r\n" not in said or len(said.partition(b"\r\n\r\n")[2]) < size:
        piece = connection.recv(65_536)
        assert piece, said
        said += piece
    return said.partition(b"\r\n\r\n")[2]


def get(hub: LocalHub, file: str, **headers: str) -> Answer:
    return ask(hub, source_of(hub, file), **headers)


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_status_answers_instead_with_its_headers_as_often_as_it_says(hub: LocalHub, file: str) -> None:
    fault = hub.faults.add(Fault("status", "body", file, status=418, headers={"Retry-After": "7"}, times=2))
    answers = [get(hub, file) for _ in range(3)]

    assert [answer.status for answer in answers] == [418, 418, 200]
    assert answers[0].headers["retry-after"] == "7" and answers[2].body == CONTENT[file]
    assert fault.applied == 2 and hub.log.of("body", file, "GET")[0].status == 418


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("api", f"/api/models/{NAME}"),
        ("api", f"/api/models/{NAME}/refs"),
        ("api", "/api/whoami-v2"),
        ("tree", f"/api/models/{NAME}/tree/main"),
        ("resolve", f"/{NAME}/resolve/main/config.json"),
    ],
)
def test_each_kind_of_request_has_faults_of_its_own(hub: LocalHub, kind: str, path: str) -> None:
    before = ask(hub, path).status
    for other in {"api", "tree", "resolve", "body"} - {kind}:
        hub.faults.add(Fault("status", other, times=None))  # type: ignore[arg-type]
    assert ask(hub, path).status == before

    hub.faults.add(Fault("status", kind, times=None))  # type: ignore[arg-type]
    assert ask(hub, path).status == 503
    assert ask(hub, path, "HEAD").status == 503


def test_reset_cuts_before_any_answer(hub: LocalHub) -> None:
    hub.faults.add(Fault("reset", "body", WEIGHTS))
    with reading(hub, WEIGHTS) as connection:
        assert read_to_the_end(connection) == (b"", b"", True)
    hub.faults.add(Fault("reset", "api"))
    with pytest.raises(ConnectionResetError):
        ask(hub, f"/api/models/{NAME}")

    assert get(hub, WEIGHTS).body == CONTENT[WEIGHTS]


@pytest.mark.parametrize("after", [1, 65_536, 70_000, 100_000])
def test_reset_cuts_within_the_body(hub: LocalHub, after: int) -> None:
    fault = hub.faults.add(Fault("reset", "body", WEIGHTS, after=after))
    with reading(hub, WEIGHTS) as connection:
        head, body, is_reset = read_to_the_end(connection)

    assert head.startswith(b"HTTP/1.1 200") and is_reset
    assert len(body) <= after and CONTENT[WEIGHTS].startswith(body)
    assert fault.applied == 1 and hub.log.bytes_sent == after


@pytest.mark.parametrize("after", [0, 1, 65_536, 70_000])
def test_truncate_ends_in_order_at_that_byte(hub: LocalHub, after: int) -> None:
    hub.faults.add(Fault("truncate", "body", WEIGHTS, after=after))
    with reading(hub, WEIGHTS) as connection:
        head, body, is_reset = read_to_the_end(connection)

    assert f"content-length: {len(CONTENT[WEIGHTS])}" in head.decode().lower() and not is_reset
    assert body == CONTENT[WEIGHTS][:after] and hub.log.bytes_sent == after


@pytest.mark.parametrize("action", ["reset", "truncate"])
def test_a_range_is_cut_at_the_same_byte_of_the_file(hub: LocalHub, action: str) -> None:
    hub.faults.add(Fault(action, "body", WEIGHTS, after=1000, times=None))  # type: ignore[arg-type]
    for wanted, sent in (
        ("bytes=900-1999", 100),
        ("bytes=1000-1999", 0),
        ("bytes=2000-", 0),
        ("bytes=0-99", 100),
    ):
        hub.log.clear()
        with reading(hub, WEIGHTS, Range=wanted) as connection:
            head, body, is_reset = read_to_the_end(connection)
        assert head.startswith(b"HTTP/1.1 206") or is_reset
        assert len(body) <= sent and hub.log.bytes_sent == sent
        assert is_reset == (action == "reset" and wanted != "bytes=0-99")


@pytest.mark.parametrize("after", [0, 65_535, 65_536, len(CONTENT[WEIGHTS]) - 1])
def test_wrong_bytes_are_one_wrong_byte_at_that_place(hub: LocalHub, after: int) -> None:
    hub.faults.add(Fault("wrong_bytes", "body", WEIGHTS, after=after, times=None))
    answer = get(hub, WEIGHTS)
    wrong = [n for n, (a, b) in enumerate(zip(answer.body, CONTENT[WEIGHTS], strict=True)) if a != b]

    assert answer.status == 200 and wrong == [after]
    assert get(hub, WEIGHTS, Range=f"bytes={after}-{after}").body == answer.body[after : after + 1]
    assert get(hub, WEIGHTS, Range="bytes=1-99").body == CONTENT[WEIGHTS][1:100]


def test_throttle_sends_slowly_and_does_not_mind_that_one_leaves(hub: LocalHub) -> None:
    hub.faults.add(Fault("throttle", "body", WEIGHTS, rate=20_000))
    with reading(hub, WEIGHTS) as connection:
        assert CONTENT[WEIGHTS].startswith(read_body(connection, 1))
        assert 0 < hub.log.bytes_sent < len(CONTENT[WEIGHTS]) // 2

    assert get(hub, WEIGHTS).body == CONTENT[WEIGHTS]
    hub.faults.add(Fault("throttle", "body", WEIGHTS, rate=10_000_000))
    assert get(hub, WEIGHTS).body == CONTENT[WEIGHTS]


@pytest.mark.parametrize("after", [0, 1, 65_536, 70_000])
def test_hold_stops_at_that_byte_until_it_is_released_from_any_thread(hub: LocalHub, after: int) -> None:
    held = hub.faults.add(Fault("hold", "body", WEIGHTS, after=after))
    with reading(hub, WEIGHTS) as connection:
        before = read_body(connection, after)
        assert before == CONTENT[WEIGHTS][:after]
        connection.settimeout(0.02)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert hub.log.bytes_sent == after
        held.release()
        connection.settimeout(20)
        rest = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert before + rest == CONTENT[WEIGHTS]


def test_hold_is_for_as_many_requests_as_it_says_and_clearing_lets_go(hub: LocalHub) -> None:
    held = hub.faults.add(Fault("hold", "body", WEIGHTS, after=10, times=1))
    with reading(hub, WEIGHTS) as connection:
        before = read_body(connection, 10)
        assert get(hub, WEIGHTS).body == CONTENT[WEIGHTS]
        hub.faults.clear()
        rest = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert held.applied == 1 and before + rest == CONTENT[WEIGHTS]
    assert get(hub, WEIGHTS).body == CONTENT[WEIGHTS]


@pytest.mark.parametrize("kind", ["api", "tree", "resolve", "body"])
def test_hang_answers_nothing_until_it_is_released(hub: LocalHub, kind: str) -> None:
    hanging = hub.faults.add(Fault("hang", kind))  # type: ignore[arg-type]
    paths = {"api": f"/api/models/{NAME}", "tree": f"/api/models/{NAME}/tree/main"}
    path = paths.get(kind, f"/{NAME}/resolve/main/config.json")
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(get(hub, "config.json") if kind == "body" else ask(hub, path))
    )
    asking.start()
    while not hanging.applied:
        time.sleep(0.002)
    assert ask(hub, "/-/sent").status == 200
    assert answers == [] and hub.log.of(kind)[-1].status == 0
    hanging.release()
    asking.join()

    assert [answer.status for answer in answers] == [307 if kind == "resolve" else 200]


def test_ignore_range_sends_the_whole_file_and_says_so(hub: LocalHub) -> None:
    hub.faults.add(Fault("ignore_range", "body", WEIGHTS))
    for wanted in ("bytes=100-199", "bytes=999999-"):
        hub.faults.add(Fault("ignore_range", "body", WEIGHTS))
        answer = get(hub, WEIGHTS, Range=wanted)
        assert (answer.status, answer.body) == (200, CONTENT[WEIGHTS])
        assert "content-range" not in answer.headers

    hub.faults.clear()
    assert get(hub, WEIGHTS, Range="bytes=100-199").status == 206


def test_etag_is_another_one_on_the_same_bytes(hub: LocalHub) -> None:
    before = get(hub, WEIGHTS).headers["etag"]
    hub.faults.add(Fault("etag", "body", WEIGHTS, times=2))
    answers = [get(hub, WEIGHTS), ask(hub, source_of(hub, WEIGHTS), "HEAD"), get(hub, WEIGHTS)]

    assert answers[0].headers["etag"] == answers[1].headers["etag"] == '"' + "f" * 64 + '"' != before
    assert answers[0].body == CONTENT[WEIGHTS] and answers[2].headers["etag"] == before


def test_faults_of_bodies_pass_over_all_other_requests(hub: LocalHub) -> None:
    faults = [hub.faults.add(Fault(action, after=1, rate=10**9)) for action in BODY_ACTIONS]  # type: ignore[arg-type]
    faults.append(hub.faults.add(Fault("reset", after=1)))
    answers = [ask(hub, f"/api/models/{NAME}{word}").status for word in ("", "/tree/main", "/refs")]
    answers.append(ask(hub, f"/{NAME}/resolve/main/config.json").status)

    assert answers == [200, 200, 200, 307]
    assert [fault.applied for fault in faults] == [0] * len(faults)


def test_a_head_request_does_not_use_up_what_happens_to_bytes(hub: LocalHub) -> None:
    fault = hub.faults.add(Fault("wrong_bytes", "body", after=0))
    source = source_of(hub, WEIGHTS)

    assert ask(hub, source, "HEAD").status == 200 and fault.applied == 0
    assert ask(hub, source).body != CONTENT[WEIGHTS] and fault.applied == 1


def test_the_first_fault_that_fits_is_the_fault_of_a_request() -> None:
    faults = Faults()
    first = faults.add(Fault("status", "body", "a*", status=500))
    second = faults.add(Fault("status", "any", "*", status=502, times=None))

    assert faults.take("body", "b") is second and faults.take("api", "a") is second
    assert faults.take("body", "a/b") is first and faults.take("body", "a/b") is second
    assert (first.applied, second.applied) == (1, 3)
    faults.clear()
    assert faults.take("body", "a") is None


def test_chance_is_the_same_for_the_same_seed() -> None:
    def taken(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(Fault("status", times=None, chance=0.5))
        return [faults.take("api", "") is not None for _ in range(200)]

    assert taken(1) == taken(1) != taken(2)
    assert 60 < sum(taken(1)) < 140


def test_huggingface_hub_resumes_after_a_cut_and_has_every_byte(hub: LocalHub, tmp_path: Path) -> None:
    # It resumes where its last whole piece ended.
    size, piece = 12_000_000, constants.DOWNLOAD_CHUNK_SIZE
    content = random.Random(0).randbytes(size)
    hub._repositories[NAME].commit({"big.bin": content})
    hub.faults.add(Fault("truncate", "body", "big.bin", after=11_000_000))
    path = hf_hub_download(NAME, "big.bin", cache_dir=tmp_path, endpoint=hub.endpoint, token=False)

    assert Path(path).read_bytes() == content
    assert [(r.range, r.status, r.bytes_sent) for r in hub.log.of("body", "big.bin", "GET")] == [
        (None, 200, 11_000_000),
        (f"bytes={piece}-", 206, size - piece),
    ]


def test_huggingface_hub_starts_anew_where_ranges_are_ignored(hub: LocalHub, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(12_000_000)
    hub._repositories[NAME].commit({"big.bin": content})
    hub.faults.add(Fault("truncate", "body", "big.bin", after=11_000_000))
    hub.faults.add(Fault("ignore_range", "body", "big.bin"))
    path = hf_hub_download(NAME, "big.bin", cache_dir=tmp_path, endpoint=hub.endpoint, token=False)
    bodies = hub.log.of("body", "big.bin", "GET")

    assert Path(path).read_bytes() == content
    assert bodies[1].range is not None and [r.bytes_sent for r in bodies] == [11_000_000, 12_000_000]


def test_huggingface_hub_keeps_wrong_bytes_so_they_really_are_wrong(hub: LocalHub, tmp_path: Path) -> None:
    hub.faults.add(Fault("wrong_bytes", "body", WEIGHTS, after=50_000))
    path = hf_hub_download(NAME, WEIGHTS, cache_dir=tmp_path, endpoint=hub.endpoint, token=False)
    found = Path(path).read_bytes()

    assert found != CONTENT[WEIGHTS] and len(found) == len(CONTENT[WEIGHTS])
    assert found[:50_000] + found[50_001:] == CONTENT[WEIGHTS][:50_000] + CONTENT[WEIGHTS][50_001:]


async def test_on_one_loop_a_fault_is_released_and_a_hub_closes_with_requests_waiting() -> None:
    async with aiohttp.ClientSession() as session, LocalHub([tiny_model(NAME)]) as hub:
        hanging = hub.faults.add(Fault("hang", "api", times=2))
        asking = [
            asyncio.create_task(_status(session, f"{hub.endpoint}/api/models/{NAME}")) for _ in range(2)
        ]
        while hanging.applied < 2:
            await asyncio.sleep(0.002)
        assert not any(task.done() for task in asking)
        hanging.release()
        assert await asyncio.gather(*asking) == [200, 200]
        hub.faults.add(Fault("hang", "api"))
        last = asyncio.create_task(_status(session, f"{hub.endpoint}/api/models/{NAME}"))
        while len(hub.log.requests) < 3:
            await asyncio.sleep(0.002)
        await hub.__aexit__(None, None, None)
        await asyncio.gather(last, return_exceptions=True)


async def _status(session: aiohttp.ClientSession, address: str) -> int:
    async with session.get(address) as response:
        return response.status
