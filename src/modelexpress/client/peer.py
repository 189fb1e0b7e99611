# SPDX-License-Identifier: Apache-2.0
"""A server's data plane as a source: ranges that are proven by what the server has proven, chunk by chunk."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelexpress.client.results import Offered
from modelexpress.client.server_calls import ServerCalls
from modelexpress.domain.chunks import CHUNK_BYTES, DIGEST_BYTES, count_chunks
from modelexpress.domain.errors import Busy, Corrupt, Forbidden, MxError, NotFound, Unreachable
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import ModelRef, shown
from modelexpress.domain.selection import Selection
from modelexpress.store.digests import DigestList
from modelexpress.transfer import Address, Lanes, Sink

_PAGE_CHUNKS = 32_768
_TICKETS = 5  # that may expire or be refused in a row, for one file
_HTTP_SECONDS = 30.0
_LISTS = 5  # readings of a digest list, until one is what the server has proven
_LIST_REST_SECONDS = 0.2  # after one that did not come


class Roots:
    """What the server has proven, heard as it happens. Belongs to one task group: see `watched`."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._end: MxError | None = None

    async def get(self, path: str) -> str:
        """Wait for the root of a file's digest list. Raises what ended the watching before it came."""
        while path not in self._known:
            if self._end is not None:
                raise self._end
            await self._changed.wait()
        return self._known[path]

    @asynccontextmanager
    async def watched(
        self, calls: ServerCalls, ref: ModelRef, commit: str, selection: Selection
    ) -> AsyncIterator[None]:
        """Listen to the server while the body runs."""
        watching = asyncio.create_task(self._watch(calls, ref, commit, selection), name="proofs")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, calls: ServerCalls, ref: ModelRef, commit: str, selection: Selection) -> None:
        try:
            async for proven in calls.watch_proofs(ref, commit, selection):
                self._known[proven.path] = proven.root
                self._wake()
            self._end = NotFound(f"{ref}: the server has proven all it has, and this file is not among it")
        except MxError as error:
            self._end = error
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class PeerSource:
    """A VouchingSource over a server's data plane, for the files of one selection."""

    vouches_chunks = True

    def __init__(self, calls: ServerCalls, selection: Selection, offered: Offered, lanes: Lanes) -> None:
        self._calls = calls
        self._selection = selection
        self._offered = offered
        self._lanes = lanes
        self._roots = Roots()
        self._asking = asyncio.Lock()
        self.failure: Unreachable | None = None
        """Set when the data plane itself could not be reached: the files have to come in another way."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PeerSource]:
        """Listen for proofs while the body runs."""
        manifest = self._offered.manifest
        async with self._roots.watched(self._calls, manifest.ref, manifest.commit, self._selection):
            yield self

    async def fill(self, entry: FileEntry, sink: Sink) -> None:
        """Bring every chunk that is missing. Raises Unreachable, naming the address, if nobody answers."""
        for attempt in range(1, _TICKETS + 1):
            ticket = self._ticket(entry)
            try:
                await self._lanes.bring(f"/-/blobs/{ticket}", sink)
                return
            except Unreachable as error:
                self.failure = error
                raise
            except (Forbidden, NotFound, Busy):
                # Tickets die with their time and with the server; a new one tells whether the file is there.
                if attempt == _TICKETS:
                    raise
                await self._ask_again(ticket, entry)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def find_differing(self, entry: FileEntry, digests: bytes) -> list[int]:
        """Wait until the server has proven the file; the chunks that are not what it proved."""
        root = await self._roots.get(entry.path)
        if DigestList(entry.size, digests).root == root:
            return []
        if entry.size <= CHUNK_BYTES:
            return list(range(count_chunks(entry.size)))
        return (await self._get_list(entry, root)).find_differing(digests)

    async def _get_list(self, entry: FileEntry, root: str) -> DigestList:
        """The list with this root; damage on the way costs another reading of the list, and no chunk."""
        for attempt in range(1, _LISTS + 1):
            ticket = self._ticket(entry)
            try:
                listed = DigestList(entry.size, await self._read_list(entry))
                if listed.root == root:
                    return listed
            except (Forbidden, NotFound):
                await self._ask_again(ticket, entry)
            except (Corrupt, Unreachable):
                if attempt == _LISTS:
                    raise
                await asyncio.sleep(_LIST_REST_SECONDS * attempt)
        raise Corrupt(f"the server's digest list of {shown(entry.path)} is not the one it has proven")

    def _ticket(self, entry: FileEntry) -> str:
        try:
            return self._offered.tickets[entry.path]
        except KeyError:
            raise NotFound(f"the server does not offer {shown(entry.path)}") from None

    async def _ask_again(self, refused: str, entry: FileEntry) -> None:
        async with self._asking:
            if self._offered.tickets.get(entry.path) != refused:
                return  # somebody else has asked meanwhile
            manifest = self._offered.manifest
            offered = await self._calls.find_offered(manifest.ref, manifest.commit, self._selection)
            if offered is None:
                raise Unreachable(f"the server at {self._offered.host} has no data plane any more")
            self._offered = offered

    async def _read_list(self, entry: FileEntry) -> bytes:
        target = f"/-/digests/{self._ticket(entry)}"
        pages = []
        for first in range(0, count_chunks(entry.size), _PAGE_CHUNKS):
            pages.append(await asyncio.to_thread(self._get, f"{target}?first={first}&count={_PAGE_CHUNKS}"))
        return b"".join(pages)

    def _get(self, target: str) -> bytes:
        connection = http.client.HTTPConnection(self._offered.host, self._offered.port, timeout=_HTTP_SECONDS)
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            content = answer.read(_PAGE_CHUNKS * DIGEST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"the data plane at {self._where} does not give a digest list: {error}"
            ) from error
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.FORBIDDEN:
            raise Forbidden(f"the data plane at {self._where} does not accept the ticket of a digest list")
        if answer.status == http.HTTPStatus.GONE:
            raise NotFound(f"the data plane at {self._where} no longer has this digest list")
        if answer.status != http.HTTPStatus.OK:
            raise Unreachable(f"the data plane at {self._where} answers {answer.status} to a digest list")
        return content

    @property
    def _where(self) -> str:
        return f"{self._offered.host}:{self._offered.port}"


def open_lanes(offered: Offered, connections: int) -> Lanes:
    """Lanes to where the files are on offer."""
    return Lanes(Address(offered.host, offered.port), connections)
