# SPDX-License-Identifier: Apache-2.0
"""The data plane: an HTTP server on a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Busy
from modelexpress.domain.meter import Meter
from modelexpress.domain.tickets import Tickets
from modelexpress.server.blobs_http import BlobService
from modelexpress.server.connections import MOST_HEAD_BYTES, Connection, Shares
from modelexpress.server.file_answers import FileSender
from modelexpress.server.http_door import HttpDoor, health_routes
from modelexpress.server.http_status import COMMON_HEADERS
from modelexpress.server.hub import HubService
from modelexpress.server.sending import SendfileSender, StallWatch
from modelexpress.store.offers import Offers

_BACKLOG = 1024
_MOST_LINE_BYTES = 8190  # of the request line, and of each header
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_SWEEPS = 5  # within the time of silence
_CUT_SECONDS = 1.0  # for connections to be closed once their answers have ended


def _refusal(status: str, text: str, *headers: str) -> bytes:
    common = [f"{name}: {value}" for name, value in COMMON_HEADERS.items()]
    end = ["Connection: close", "Content-Type: text/plain", f"Content-Length: {len(text)}", "", text]
    return "\r\n".join([f"HTTP/1.1 {status}", *common, *headers, *end]).encode()


_FULL = _refusal("503 Service Unavailable", "too many connections\n", "Retry-After: 1")
_TOO_LARGE = _refusal("431 Request Header Fields Too Large", f"a head has at most {MOST_HEAD_BYTES} bytes\n")

_log = logging.getLogger(__name__)
# The library writes request lines it could not read into its log, and a ticket may be in them.
_silent = logging.Logger("silent", logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where to listen (port 0: any free one), and the limits.

    `wait_seconds`: for a file that nobody fetches yet. `send_timeout_seconds`: for a client that takes
    nothing; one that takes little may go on for ever. `silent_seconds`: for one that asks nothing;
    `head_seconds`: for one that does not end the head of its question. `drain_seconds`: for running answers
    at the end.
    """

    host: str
    port: int
    most_connections: int = 2000
    wait_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    silent_seconds: float = 90.0
    head_seconds: float = 10.0
    send_timeout_seconds: float = 60.0
    drain_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Offered:
    """What is served: the files, who may have them, and whether the server can do its work.

    `make_hub`: who answers for a Hub, made with how files are sent; None: nobody does.
    """

    offers: Offers
    tickets: Tickets
    find_problem: Callable[[], str | None]
    make_hub: Callable[[FileSender], HubService] | None = None


class DataPlane:
    """Answers between `start` and `stop`, or while it is entered; `port` is the bound one from then on."""

    def __init__(self, offered: Offered, options: DataOptions, meter: Meter, clock: Clock) -> None:
        self._options = options
        self._meter = meter
        self._stalls = StallWatch(options.send_timeout_seconds)
        make_sender = functools.partial(SendfileSender, watch=self._stalls)
        sender = FileSender(meter, options.wait_seconds, make_sender)
        service = BlobService(offered.offers, offered.tickets, clock, sender)
        routes = {"blobs/": service.get_blob, "digests/": service.get_digests}
        hub = None if offered.make_hub is None else offered.make_hub(sender).answer
        self._door = HttpDoor({**routes, **health_routes(offered.find_problem)}, sender, meter, hub)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self.port: int | None = None

    def __enter__(self) -> DataPlane:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen now. Raises Busy when the port is taken or the host is not one of this machine."""
        sockets = _listen(self._options)
        self.port = sockets[0].getsockname()[1]
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(sockets, started), name="mx-data", daemon=True
        )
        self._thread.start()
        started.result()

    def stop(self) -> None:
        """Accept nothing new, let running answers go on for `drain_seconds`, then end them. Blocking."""
        if self._thread is None or self._loop is None:
            return
        with suppress(RuntimeError):  # the loop is closed: it ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = None

    def _run(self, sockets: list[socket.socket], started: Future[None]) -> None:
        try:
            # The stock loop, whatever the process has as its policy: uvloop cannot send files.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve(sockets, started))
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it
            if started.done():
                _log.error("the data plane has ended by a defect", exc_info=error)
            else:
                started.set_exception(error)

    async def _serve(self, sockets: list[socket.socket], started: Future[None]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        connections = _Connections(self._door, self._options, self._meter)
        servers = [await loop.create_server(connections, sock=s, backlog=_BACKLOG) for s in sockets]
        watching = asyncio.create_task(self._stalls.run(), name="stalls")
        idling = asyncio.create_task(connections.close_silent(), name="idle connections")
        started.set_result(None)
        try:
            await self._stopping.wait()
        finally:
            watching.cancel()
            idling.cancel()
            for server in servers:
                server.close()
            connections.close_idle(self._door.transports)
            await self._door.finish(self._options.drain_seconds)
            await connections.close()


class _Connections(web.Server):
    """Makes a protocol for each connection, and knows those that are open."""

    def __init__(self, door: HttpDoor, options: DataOptions, meter: Meter) -> None:
        super().__init__(
            door.answer,
            handler_cancellation=True,  # who waits for bytes is told at once that the client has gone
            request_factory=self._make,
        )
        self._limits = {
            "keepalive_timeout": options.keep_alive_seconds,
            "lingering_time": 0,  # nobody sends bodies here
            "auto_decompress": False,
            "max_line_size": _MOST_LINE_BYTES,
            "max_field_size": _MOST_LINE_BYTES,
            "access_log": None,
            "logger": _silent,
        }
        self._shares = Shares(options.most_connections)
        self._door = door
        self._options = options
        self._made: dict[object, float] = {}
        self._meter = meter
        self._open: dict[web.RequestHandler, asyncio.Transport] = {}
        self._empty = asyncio.Event()

    def __call__(self) -> web.RequestHandler:
        return Connection(self, asyncio.get_running_loop(), self._refuse_head, **self._limits)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if not self._shares.take(_address_of(transport)):
            transport.write(_FULL)
            transport.close()
            return
        self._open[handler] = transport
        self._made[handler] = asyncio.get_running_loop().time()
        self._empty.clear()
        self._meter.gauge("mx_data_connections", 1)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._made.pop(handler, None)
        transport = self._open.pop(handler, None)
        if transport is not None:
            self._shares.give_back(_address_of(transport))
            self._meter.gauge("mx_data_connections", -1)
        if not self._open:
            self._empty.set()

    def _make(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        if isinstance(protocol, Connection):
            protocol.begin(payload)
        if message.upgrade or message.method == "CONNECT":
            # What follows may be of another protocol: the library keeps it back, and never answers it.
            message = message._replace(should_close=True)
        return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())

    async def close_silent(self) -> None:
        """End those that have asked nothing for too long, also where bytes of a question drip in."""
        loop, options = asyncio.get_running_loop(), self._options
        while True:
            await asyncio.sleep(min(options.silent_seconds, options.head_seconds) / _SWEEPS)
            busy, now = self._door.transports, loop.time()
            for handler, transport in list(self._open.items()):
                since = max(self._made.get(handler, now), self._door.ended_at(transport))
                head_since = handler.head_since if isinstance(handler, Connection) else None
                is_stuck = head_since is not None and now - head_since >= options.head_seconds
                if transport not in busy and (is_stuck or now - since >= options.silent_seconds):
                    transport.abort()

    def _refuse_head(self, handler: Connection) -> None:
        transport = self._open.get(handler)
        if transport is None or transport in self._door.transports:
            handler.force_close()  # in the middle of an answer nothing else can be said
        else:
            transport.write(_TOO_LARGE)
            transport.close()

    def close_idle(self, busy: Collection[asyncio.Transport | None]) -> None:
        """Close those on which nothing is being answered; the others take no more requests."""
        self.pre_shutdown()
        for transport in self._open.values():
            if transport not in busy:
                transport.close()

    async def close(self) -> None:
        """Close them all; those whose client does not take its last bytes too."""
        await self.shutdown(_CUT_SECONDS)
        for transport in list(self._open.values()):
            transport.abort()
        while self._open:
            await self._empty.wait()


def _address_of(transport: asyncio.Transport) -> str:
    """The address of the other side; a closed transport still knows it."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def _listen(options: DataOptions) -> list[socket.socket]:
    """A socket for each address of the host, all on one port."""
    with ExitStack() as opened:
        try:
            found = _open_all(options.host.strip("[]"), options.port, opened)
        except OSError as error:
            raise Busy(
                f"cannot listen on {options.host}:{options.port} for data: the port is taken by another "
                "process, or the address is not one of this machine; set server.data_port (--data-port) "
                "or server.host (--host)"
            ) from error
        opened.pop_all()
    return found


def _open_all(host: str, port: int, opened: ExitStack) -> list[socket.socket]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found: list[socket.socket] = []
    absent: OSError | None = None
    for family, *_, address in dict.fromkeys(infos):
        try:
            found.append(opened.enter_context(_open_socket(family, (str(address[0]), port))))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            absent = error  # 'localhost' has two addresses also where one of them cannot be used
        else:
            port = found[0].getsockname()[1]
    if absent is not None and not found:
        raise absent
    return found


def _open_socket(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    dual = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
