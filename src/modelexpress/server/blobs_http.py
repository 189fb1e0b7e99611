# SPDX-License-Identifier: Apache-2.0
"""Blobs and digest lists over HTTP: by ticket, by range, complete or still arriving."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO

from aiohttp import web

from modelexpress.domain.chunks import DIGEST_BYTES, count_chunks
from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Busy, Invalid, MxError, NotFound
from modelexpress.domain.spans import ByteSpan
from modelexpress.domain.tickets import Tickets
from modelexpress.server.file_answers import Face, FileAnswer, FileSender
from modelexpress.server.http_status import Refusal
from modelexpress.store.offers import Offer, Offers, Standing

UNPROVEN_HEADER = "MX-Unproven"
CHUNKS_HEADER = "MX-Chunks"
MOST_DIGESTS = 32_768
"""Of one answer: a MiB, for 128 GiB of file."""

_LIST_WAIT_SECONDS = 10.0  # less than a client waits for an answer

_NUMBER = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True)
class BlobService:
    """The handlers."""

    offers: Offers
    tickets: Tickets
    clock: Clock
    sender: FileSender

    async def get_blob(self, request: web.BaseRequest, ticket: str) -> web.StreamResponse:
        """The file that a ticket opens, or a range of it."""
        offer = self._find(ticket)
        takes_unproven = request.headers.get(UNPROVEN_HEADER, "").strip().lower() == "accept"
        return await self.sender.answer(request, offer, Face(etag_of(offer), offer.size), takes_unproven)

    async def get_digests(self, request: web.BaseRequest, ticket: str) -> web.StreamResponse:
        """A page of the digest list of the file that a ticket opens: 32 bytes a chunk, in order."""
        offer = self._find(ticket)
        state = await self._wait_standing(offer)
        total = count_chunks(offer.size)
        span = _choose_page(request, total)
        with _opened_list(state, total) as page:
            answer = FileAnswer(200, {CHUNKS_HEADER: str(total)})
            answer.announce(span.length)
            return await self.sender.send(request, answer, page, span)

    async def _wait_standing(self, offer: Offer) -> Standing:
        """The proven file; of one that is proven and being put in place its coming is waited for."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def hear() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(changed.set)

        with offer.listened(hear, is_of_states=True), suppress(TimeoutError):
            async with asyncio.timeout(min(self.sender.wait_seconds, _LIST_WAIT_SECONDS)):
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


def etag_of(offer: Offer) -> str:
    """The strong validator of an offered file: equal for equal bytes."""
    return f'"{offer.id}"'


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
