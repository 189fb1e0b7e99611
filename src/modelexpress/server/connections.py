# SPDX-License-Identifier: Apache-2.0
"""What one connection to the data plane may cost, and how many of them one host may have."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable

from aiohttp import EMPTY_PAYLOAD, StreamReader, web

from modelexpress.server.http_status import text_answer

MOST_HEAD_BYTES = 32 * 1024
"""Of a request: its line and all its headers."""

_UNREADABLE = "this is no request of HTTP/1.1 that can be answered here"
_END = b"\r\n\r\n"
_NETWORK_BITS = 64  # of an IPv6 address: what is below is one host's own to choose


class Shares:
    """How many connections each host has: at most a quarter of all, once half of all are taken. Pure.

    A host of its own is an IPv4 address, or the /64 of an IPv6 one. This machine's own are not counted:
    a proxy on it speaks for everybody.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts = Counter[str]()
        self._total = 0

    def take(self, address: str) -> bool:
        """One more for `address`; False: it has its share, or there are none left."""
        host = host_of(address)
        is_crowded = host is not None and self._total >= self._most // 2
        if self._total >= self._most or (is_crowded and self._counts[host or ""] >= max(self._most // 4, 1)):
            return False
        self._total += 1
        self._counts[host or ""] += 1
        return True

    def give_back(self, address: str) -> None:
        """One that was taken for `address` is over."""
        host = host_of(address) or ""
        self._total -= 1
        self._counts[host] -= 1
        if not self._counts[host]:
            del self._counts[host]


def host_of(address: str) -> str | None:
    """Whose an address is; None: this machine's own, or nothing that is known."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, _NETWORK_BITS), strict=False))
    return str(found)


class Connection(web.RequestHandler):
    """One connection, whose requests have heads of a bounded size. `refuse` is called for a larger one."""

    __slots__ = ("_after", "_body", "_head_bytes", "_last", "_refuse", "head_since")

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        refuse: Callable[[Connection], None],
        **limits: object,
    ) -> None:
        super().__init__(manager, loop=loop, **limits)  # type: ignore[arg-type]
        self.head_since: float | None = None
        self._refuse = refuse
        self._body: StreamReader | None = None
        self._head_bytes = self._after = 0
        self._last = b""

    def begin(self, body: StreamReader) -> None:
        """A head has been read whole; what comes next is the body of that request, if it has one."""
        self._body = body
        if body is not EMPTY_PAYLOAD:
            self._note_head(0)
        elif self._after:
            self._note_head(max(self._after, self._head_bytes))  # of a further request, that came with it
        self._after = 0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """In our words: the library's name its version and Python's, and repeat what was sent."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, so that no other can be given")
        answer = text_answer(status, _UNREADABLE if status < 500 else "the server met an error of its own")
        answer.force_close()
        return answer

    def data_received(self, data: bytes) -> None:
        """The library bounds each header, and how many there are: 128 times 8 KiB."""
        is_body = self._body is not None and not self._body.is_eof()
        if data and not is_body and not self._has_room(data):
            self._refuse(self)
        else:
            super().data_received(data)

    def _has_room(self, data: bytes) -> bool:
        known = self._last + data
        end = known.find(_END)
        size = self._head_bytes + (len(data) if end < 0 else end + len(_END) - len(self._last))
        self._after = 0 if end < 0 else len(known) - known.rfind(_END) - len(_END)
        self._last = known[1 - len(_END) :]
        self._note_head(size if end < 0 else 0)
        return size <= MOST_HEAD_BYTES

    def _note_head(self, size: int) -> None:
        self._head_bytes = size
        self.head_since = (self.head_since or asyncio.get_running_loop().time()) if size else None
