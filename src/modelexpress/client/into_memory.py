# SPDX-License-Identifier: Apache-2.0
"""A model straight into memory of the caller: no disk is touched, and every chunk is proven all the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from modelexpress.client.peer import PeerSource, open_lanes
from modelexpress.client.results import Offered, ReceivedModel, ServerPulled
from modelexpress.client.server_calls import ServerCalls
from modelexpress.client.through import PullAtServer, is_what_came, wait_first, watched
from modelexpress.domain.errors import Corrupt, Forbidden, NotFound, Unauthenticated, Unsupported
from modelexpress.domain.held import OnProgress
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.progress import Phase, Progress
from modelexpress.domain.refs import ModelRef, shown
from modelexpress.domain.selection import Selection, is_ancillary
from modelexpress.domain.tasks import run_bounded
from modelexpress.transfer import MemorySink

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_REPAIRS = 3
_PARALLEL_FILES = 8

_log = logging.getLogger(__name__)

Allocate: TypeAlias = "Callable[[FileEntry], WriteableBuffer]"
"""Gives the memory for a file: writable, contiguous, of exactly `entry.size` bytes; called once a file."""


class IntoMemory:
    """One pull into memory. What has been received when it fails is in the buffers, and is not proven."""

    def __init__(
        self, calls: ServerCalls, connections: int, ref: ModelRef, allocate: Allocate, report: OnProgress
    ) -> None:
        self._calls = calls
        self._connections = connections
        self._ref = ref
        self._allocate = allocate
        self._report = report
        self._sinks: dict[str, MemorySink] = {}
        self._progress: Progress | None = None

    async def run(self, pull_at_server: PullAtServer) -> ReceivedModel:
        """Let the server pull, and receive what it has meanwhile. Raises the server's error first."""
        async with watched(pull_at_server, self._report_of_server) as (serving, listed):
            early: asyncio.Task[Manifest] | None = None
            try:
                await wait_first(serving, listed)
                if listed.done():
                    found = listed.result()
                    early = asyncio.create_task(self._receive(found.commit, found.selection))
                at_server = await serving
                if early is not None and is_what_came(listed.result(), at_server):
                    manifest = await self._find_received(early)
                    if manifest is not None:
                        return self._received(at_server, manifest)
                return self._received(at_server, await self._receive(at_server.commit, at_server.selection))
            finally:
                if early is not None:
                    early.cancel()
                    await asyncio.gather(early, return_exceptions=True)

    async def _find_received(self, early: asyncio.Task[Manifest]) -> Manifest | None:
        try:
            return await early
        except (Corrupt, Forbidden, NotFound, Unauthenticated) as error:
            _log.info("%s: %s; going on now that the server has it all", self._ref, error.message)
            return None

    async def _receive(self, commit: str, selection: Selection) -> Manifest:
        offered = await self._calls.find_offered(self._ref, commit, selection)
        if offered is None:
            raise Unsupported(
                f"{self._ref}: the server has no data plane, so it cannot send into memory; upgrade it, or "
                "pull to a directory"
            )
        return await self._receive_offered(offered, selection)

    async def _receive_offered(self, offered: Offered, selection: Selection) -> Manifest:
        files = offered.manifest.files
        self._progress = Progress(Phase.DOWNLOADING, 0, offered.manifest.total_bytes, files_total=len(files))
        here: list[str] = []
        lanes = open_lanes(offered, self._connections)
        source = PeerSource(self._calls, selection, offered, lanes)

        async def receive(entry: FileEntry) -> None:
            try:
                await self._receive_file(source, entry)
            except NotFound:
                if not is_ancillary(entry.path):
                    raise
                return  # listed, but its origin does not have it
            here.append(entry.path)

        try:
            async with source.open():
                await run_bounded(_PARALLEL_FILES, sorted(files, key=lambda entry: -entry.size), receive)
        finally:
            await asyncio.to_thread(lanes.close)
        return offered.manifest.only(here)

    async def _receive_file(self, source: PeerSource, entry: FileEntry) -> None:
        sink = self._sink_of(entry)
        for _ in range(_REPAIRS):
            await source.fill(entry, sink)
            differing = await source.find_differing(entry, sink.digests)
            if not differing:
                self._count(entry.size)
                return
            _log.warning(
                "%s: %d chunks of %s came wrong; again", self._ref, len(differing), shown(entry.path)
            )
            for index in differing:
                sink.forget(index)
        raise Corrupt(f"{self._ref}: {shown(entry.path)} came wrong {_REPAIRS} times; look at the network")

    def _sink_of(self, entry: FileEntry) -> MemorySink:
        """Made once: after an interruption what has arrived already is not received again."""
        if entry.path not in self._sinks:
            self._sinks[entry.path] = MemorySink(entry.size, self._allocate(entry))
        return self._sinks[entry.path]

    def _count(self, size: int) -> None:
        now = self._progress
        assert now is not None
        self._progress = replace(now, bytes_done=now.bytes_done + size, files_done=now.files_done + 1)
        self._report(self._progress)

    def _report_of_server(self, progress: Progress) -> None:
        if self._progress is None:
            self._report(progress)

    def _received(self, at_server: ServerPulled, manifest: Manifest) -> ReceivedModel:
        return ReceivedModel(
            self._ref, at_server.commit, manifest.files, at_server.is_stale, at_server.missing
        )
