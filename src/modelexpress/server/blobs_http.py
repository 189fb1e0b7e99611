# SPDX-License-Identifier: Apache-2.0
"""Blobs and digest lists over HTTP: by ticket, by range, complete or still arriving."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import Protocol

from aiohttp import web

from modelexpress.domain.chunks import DIGEST_BYTES, count_chunks
from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Busy, Invalid, MxError, NotFound
from modelexpress.domain.meter import Meter
from modelexpress.domain.spans import ByteSpan
from modelexpress.domain.tickets import Tickets
from modelexpress.server.cut_through import opened_reader
from modelexpress.server.http_ranges import choose_bytes
from modelexpress.server.http_status import COMMON_HEADERS, Refusal, text_answer
from modelexpress.server.sending import STEP_BYTES, CutShort, Sender
from modelexpress.store.offers import Offer, Offers, Standing

UNPROVEN_HEADER = "MX-Unproven"
CHUNKS_HEADER = "MX-Chunks"
MOST_DIGESTS = 32_768
"""Of one answer: a MiB, for 128 GiB of file."""

_LIST_WAIT_SECONDS = 10.0  # less than a client waits for an answer

_NUMBER = re.compile(r"[0-9]{1,15}")

_log = logging.getLogger(__name__)

MakeSender = Callable[[web.BaseRequest, web.StreamResponse], Sender]


class Readable(Protocol):
    """An open file of which some bytes may be still to come."""

    @property
    def file(self) -> FileIO:
        """The file."""
        ...

    async def wait_readable(self, position: int) -> int:
        """The end of the bytes that can be sent from `position` on. Raises CutShort."""
        ...


class FileAnswer(web.StreamResponse):
    """An answer whose body is sent beside aiohttp.

    `outcome` is its status, or, when it ended before its announced length: `cut` by us, or `left`.
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status=status, headers={**COMMON_HEADERS, **headers})
        self.outcome = str(status)

    def announce(self, length: int) -> None:
        """There is a body of so many bytes."""
        self.content_type = "application/octet-stream"
        self.content_length = length


@dataclass(frozen=True)
class BlobService:
    """The handlers. `make_sender` is how bytes get into a connection."""

    offers: Offers
    tickets: Tickets
    meter: Meter
    clock: Clock
    wait_seconds: float
    make_sender: MakeSender

    async def get_blob(self, request: web.BaseRequest, ticket: str) -> web.StreamResponse:
        """The file that a ticket opens, or a range of it."""
        offer = self._find(ticket)
        takes_unproven = request.headers.get(UNPROVEN_HEADER, "").strip().lower() == "accept"
        with opened_reader(offer, takes_unproven) as reader:
            await reader.wait_open(self.wait_seconds)
            headers: Mapping[str, str] = request.headers
            if offer.had_false_start and not takes_unproven:
                # Who has a part of the wrong bytes must not add the rest of the right ones: all anew.
                headers = {name: value for name, value in headers.items() if name.lower() != "range"}
            wanted = choose_bytes(request.method, headers, etag_of(offer), offer.size)
            if wanted.status in (412, 416):
                return _refuse(wanted.status, offer)
            answer = FileAnswer(wanted.status, {"ETag": etag_of(offer), "Accept-Ranges": "bytes"})
            if wanted.status == 206:
                first, last = wanted.span.start, wanted.span.end - 1
                answer.headers["Content-Range"] = f"bytes {first}-{last}/{offer.size}"
            if wanted.status != 304:
                answer.announce(wanted.span.length)
            return await self._send(request, answer, reader, wanted.span)

    async def get_digests(self, request: web.BaseRequest, ticket: str) -> web.StreamResponse:
        """A page of the digest list of the file that a ticket opens: 32 bytes a chunk, in order."""
        offer = self._find(ticket)
        state = await self._wait_standing(offer)
        total = count_chunks(offer.size)
        span = _choose_page(request, total)
        with _opened_list(state, total) as page:
            answer = FileAnswer(200, {CHUNKS_HEADER: str(total)})
            answer.announce(span.length)
            return await self._send(request, answer, page, span)

    async def _wait_standing(self, offer: Offer) -> Standing:
        """The proven file; of one that is proven and being put in place its coming is waited for."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def hear() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(changed.set)

        with offer.listened(hear, is_of_states=True), suppress(TimeoutError):
            async with asyncio.timeout(min(self.wait_seconds, _LIST_WAIT_SECONDS)):
                while offer.root is not None and not isinstance(offer.state, Standing):
                    await changed.wait()
                    changed.clear()
        state = offer.state
        if isinstance(state, MxError):
            raise Refusal(state)
        if not isinstance(state, Standing):
            raise Refusal(
                Busy("the file is not proven and in its place yet, so there is no list; ask again"),
                status=409,
            )
        return state

    def _find(self, ticket: str) -> Offer:
        offer = self.offers.find(self.tickets.check(ticket, self.clock.wall()))
        if offer is None:
            error = NotFound("the file of this address is offered no more; ask for the manifest again")
            raise Refusal(error, status=410)
        return offer

    async def _send(
        self, request: web.BaseRequest, answer: FileAnswer, source: Readable, span: ByteSpan
    ) -> FileAnswer:
        sender, position = self.make_sender(request, answer), span.start
        try:
            await answer.prepare(request)
            while position < span.end and request.method == "GET":
                end = min(await source.wait_readable(position), span.end, position + STEP_BYTES)
                await sender.send(source.file, position, end - position)
                self.meter.count("mx_data_bytes_total", end - position)
                position = end
        except Exception as error:  # noqa: BLE001 - the headers are out: no status can follow
            _cut(request, answer, error)
        return answer


def etag_of(offer: Offer) -> str:
    """The strong validator of an offered file: equal for equal bytes."""
    return f'"{offer.id}"'


def _refuse(status: int, offer: Offer) -> web.Response:
    if status == 412:
        text = "this address has another file than the one that If-Match names"
        return text_answer(412, text, {"ETag": etag_of(offer)})
    text = f"the file has {offer.size} bytes, and none of them in that range"
    return text_answer(416, text, {"Content-Range": f"bytes */{offer.size}"})


def _cut(request: web.BaseRequest, answer: FileAnswer, error: Exception) -> None:
    """End the connection now, so that the client sees that bytes are missing."""
    answer.force_close()
    if request.transport is not None:
        request.transport.abort()
    answer.outcome = "cut"
    if isinstance(error, ConnectionError | TimeoutError):
        answer.outcome = "left"  # or it took nothing for too long
    elif isinstance(error, CutShort | OSError):
        _log.warning("%s was ended before its length: %s", answer.headers.get("ETag", "a list"), error)
    else:
        _log.error("defect while %s was sent", answer.headers.get("ETag", "a list"), exc_info=error)


def _choose_page(request: web.BaseRequest, total: int) -> ByteSpan:
    numbers = {"first": 0, "count": MOST_DIGESTS}
    for name in numbers:
        text = request.rel_url.query.get(name)
        if text is not None and not _NUMBER.fullmatch(text):
            raise Invalid(
                f"'{name}' is a number of chunks, such as 0 or {MOST_DIGESTS}; leave it out otherwise"
            )
        numbers[name] = numbers[name] if text is None else int(text)
    first, count = numbers["first"], numbers["count"]
    if first > total or count < 1:
        raise Invalid(f"the list has {total} chunks: 'first' is at most that, 'count' at least 1")
    end = min(first + min(count, MOST_DIGESTS), total)
    return ByteSpan(first * DIGEST_BYTES, end * DIGEST_BYTES)


@dataclass(frozen=True)
class _ListFile:
    """A digest list, all of it here."""

    file: FileIO
    size: int

    async def wait_readable(self, position: int) -> int:
        return self.size


@contextmanager
def _opened_list(standing: Standing, total: int) -> Iterator[_ListFile]:
    try:
        file = FileIO(standing.digest_list, "rb")
    except FileNotFoundError:
        raise NotFound("no digest list is kept of this file; check it as a whole") from None
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != total * DIGEST_BYTES:
            raise NotFound("the digest list of this file cannot be its own; check the file as a whole")
        yield _ListFile(file, found.st_size)
