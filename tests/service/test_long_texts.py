# SPDX-License-Identifier: Apache-2.0
"""Long answers that are no files: they go with the pace of who reads them, and hold no copy for each."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web
from tests.support.plane import Desk

from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.errors import Busy
from modelexpress.server.data import DataOptions, DataPlane, Offered
from modelexpress.server.file_answers import FileSender
from modelexpress.server.hub import HubService
from modelexpress.server.sending import HeldTexts

TEXT = bytes(range(256)) * 32 * 1024  # more than the kernel takes for who reads nothing
ASKED = b"GET /api/models HTTP/1.1\r\nHost: x\r\n\r\n"


class Saying:
    """Answers every question with the same long text."""

    def __init__(self, sender: FileSender) -> None:
        del sender

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=TEXT)


@contextmanager
def plane(root: Path, **options: float) -> Iterator[DataPlane]:
    with ExitStack() as stack:
        desk = Desk(root, stack)
        offered = Offered(
            desk.offers, desk.tickets, lambda: None, lambda sender: cast(HubService, Saying(sender))
        )
        chosen = DataOptions("127.0.0.1", 0, **{"drain_seconds": 0.0, **options})  # type: ignore[arg-type]
        with DataPlane(offered, chosen, desk.metrics, SYSTEM_CLOCK) as running:
            yield running


@contextmanager
def asking(plane: DataPlane, method: bytes = b"GET") -> Iterator[socket.socket]:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", plane.port))
        connection.sendall(ASKED.replace(b"GET", method))
        yield connection


def read(connection: socket.socket, pause: float = 0.0) -> bytes:
    """What comes, until the other side closes or everything is there."""
    said = bytearray()
    with suppress(ConnectionError):
        while len(said) < len(TEXT) or not said.endswith(TEXT[-256:]):
            piece = connection.recv(256 * 1024)
            if not piece:
                break
            said += piece
            if pause and len(said) // 2**20 > (len(said) - len(piece)) // 2**20:
                time.sleep(pause)
    return bytes(said).partition(b"\r\n\r\n")[2]


def test_who_reads_slowly_gets_all_of_it(tmp_path: Path) -> None:
    with plane(tmp_path, silent_seconds=0.5) as running, asking(running) as connection:
        assert read(connection, pause=0.2) == TEXT


def test_who_reads_nothing_is_cut_off_and_costs_no_copy(tmp_path: Path) -> None:
    with plane(tmp_path, send_timeout_seconds=1.0) as running, ExitStack() as stack:
        tracemalloc.start()
        try:
            connections = [stack.enter_context(asking(running)) for _ in range(5)]
            time.sleep(0.3)
            assert tracemalloc.get_traced_memory()[0] < len(TEXT) // 2
        finally:
            tracemalloc.stop()
        time.sleep(1.5)
        assert all(len(read(connection)) < len(TEXT) for connection in connections)


def test_what_is_asked_next_on_the_connection_is_answered(tmp_path: Path) -> None:
    with plane(tmp_path) as running, asking(running, b"HEAD") as connection:
        head = connection.recv(10_000)
        assert b"Content-Length: %d\r\n" % len(TEXT) in head and head.endswith(b"\r\n\r\n")
        for _ in range(2):
            connection.sendall(ASKED)
            assert read(connection) == TEXT


def test_texts_are_held_within_their_bytes_and_one_of_many_readers_counts_once() -> None:
    texts, one, other = HeldTexts(most_bytes=100), b"1" * 100, b"2" * 100
    with texts.reading(one):
        with texts.reading(one), pytest.raises(Busy), texts.reading(other):
            pass
        with pytest.raises(Busy), texts.reading(other):
            pass
    with texts.reading(other):
        pass


def test_no_host_holds_so_much_that_others_have_no_room() -> None:
    texts, is_refused = HeldTexts(most_bytes=800), list[str]()
    with ExitStack() as stack:

        def read(host: str | None, size: int) -> None:
            try:
                stack.enter_context(texts.reading(bytes(size), host))
            except Busy:
                is_refused.append(f"{host} {size}")

        for _ in range(9):
            read("greedy", 100)
        for host, size in (("one", 100), ("one", 1), ("greedy", 1), ("other", 200), (None, 90), (None, 20)):
            read(host, size)

    assert is_refused == ["greedy 100", "one 1", "greedy 1", "None 20"]
    assert (texts._bytes, texts._readers, texts._hosts) == (0, {}, {})
