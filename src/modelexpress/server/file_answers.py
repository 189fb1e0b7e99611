# SPDX-License-Identifier: Apache-2.0
"""Answering with the bytes of a file: whole or a range, complete or still arriving; and with a long text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from typing import Protocol

from aiohttp import web

from modelexpress.domain.errors import Busy
from modelexpress.domain.meter import Meter
from modelexpress.domain.spans import ByteSpan
from modelexpress.server.connections import host_of
from modelexpress.server.cut_through import Reader, opened_reader
from modelexpress.server.http_ranges import choose_bytes
from modelexpress.server.http_status import COMMON_HEADERS, Refusal, text_answer
from modelexpress.server.sending import PIECE_BYTES, STEP_BYTES, CutShort, HeldTexts, Sender
from modelexpress.store.offers import Offer

_OPENINGS = 4  # while nothing has been sent of a file that is begun anew

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
        if "Content-Type" not in self.headers:
            self.content_type = "application/octet-stream"
        self.content_length = length


@dataclass(frozen=True, slots=True)
class Face:
    """How a file looks to its client: the strong validator (in quotes), `size`, and headers beside it."""

    etag: str
    size: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileSender:
    """Sends files. `make_sender` is how bytes get into a connection; `wait_seconds`: for a file to begin."""

    meter: Meter
    wait_seconds: float
    make_sender: MakeSender
    texts: HeldTexts = field(default_factory=HeldTexts)

    async def answer(
        self, request: web.BaseRequest, offer: Offer, face: Face, takes_unproven: bool = False
    ) -> web.StreamResponse:
        """The file, or what the request's headers ask of it. Raises Refusal when it cannot be had.

        Nothing is said before the first byte can be sent: until then an error can still be told. Clients of
        our own, which take what is unproven, know how to wait and get the headers at once.
        """
        for _ in range(_OPENINGS):
            with opened_reader(offer, takes_unproven) as reader:
                await reader.wait_open(self.wait_seconds)
                answer, span = _begin(request, offer, face, takes_unproven)
                if not isinstance(answer, FileAnswer):
                    return answer
                if takes_unproven or await _is_readable(request, reader, span):
                    return await self.send(request, answer, reader, span)
        raise Refusal(Busy("the file is begun anew again and again; ask later"))

    async def answer_head(self, request: web.BaseRequest, face: Face) -> web.StreamResponse:
        """What a GET is answered with, without a body, of a file that need not be here."""
        wanted = choose_bytes(request.method, request.headers, face.etag, face.size)
        if wanted.status in (412, 416):
            return _refuse(wanted.status, face)
        answer = FileAnswer(wanted.status, {"ETag": face.etag, "Accept-Ranges": "bytes", **face.headers})
        if wanted.status != 304:
            answer.announce(wanted.span.length)
        await answer.prepare(request)
        return answer

    async def send_text(self, request: web.BaseRequest, said: web.Response) -> web.StreamResponse:
        """An answer that is in memory; a long one goes with the pace of who reads it, and ends with it.

        Raises Busy while too much waits for other readers.
        """
        text = said.body
        is_empty = request.method == "HEAD" or said.status in (204, 304)
        if is_empty or not isinstance(text, bytes) or len(text) <= PIECE_BYTES:
            return said
        answer = FileAnswer(said.status, said.headers)
        answer.announce(len(text))
        with self.texts.reading(text, host_of(request.remote or "")):
            try:
                await answer.prepare(request)
                await self.make_sender(request, answer).write(text)
            except Exception as error:  # noqa: BLE001 - the headers are out: no status can follow
                _cut(request, answer, error)
        return answer

    async def send(
        self, request: web.BaseRequest, answer: FileAnswer, source: Readable, span: ByteSpan
    ) -> FileAnswer:
        """Send a span as the body of `answer`; the connection ends where bytes cannot be had."""
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


def _begin(
    request: web.BaseRequest, offer: Offer, face: Face, takes_unproven: bool
) -> tuple[web.StreamResponse, ByteSpan]:
    """How to answer, and with which bytes."""
    headers: Mapping[str, str] = request.headers
    if not takes_unproven and "Range" in request.headers and offer.is_doubted():
        # Who has a part of wrong bytes must not add the rest of right ones: all anew.
        headers = {name: value for name, value in headers.items() if name.lower() != "range"}
    wanted = choose_bytes(request.method, headers, face.etag, face.size)
    if wanted.status in (412, 416):
        return _refuse(wanted.status, face), wanted.span
    answer = FileAnswer(wanted.status, {"ETag": face.etag, "Accept-Ranges": "bytes", **face.headers})
    if wanted.status == 206:
        first, last = wanted.span.start, wanted.span.end - 1
        answer.headers["Content-Range"] = f"bytes {first}-{last}/{face.size}"
    if wanted.status != 304:
        answer.announce(wanted.span.length)
    return answer, wanted.span


async def _is_readable(request: web.BaseRequest, reader: Reader, span: ByteSpan) -> bool:
    """Wait for the first byte; False: the file was given up or begun anew before it."""
    try:
        if request.method == "GET" and span.length:
            await reader.wait_readable(span.start)
    except CutShort:
        return False
    return True


def _refuse(status: int, face: Face) -> web.Response:
    if status == 412:
        text = "this address has another file than the one that If-Match names"
        return text_answer(412, text, {"ETag": face.etag})
    text = f"the file has {face.size} bytes, and none of them in that range"
    return text_answer(416, text, {"Content-Range": f"bytes */{face.size}"})


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
