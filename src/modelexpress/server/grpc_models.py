# SPDX-License-Identifier: Apache-2.0
"""The established model service: have a model, list, stream and delete its files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from modelexpress.domain.errors import MxError, NotFound
from modelexpress.domain.held import HeldFile, HeldFiles, Pulled
from modelexpress.domain.progress import format_bytes
from modelexpress.domain.refs import ModelRef, ProviderKind, shown
from modelexpress.domain.selection import Selection, Weights
from modelexpress.server.door import Call
from modelexpress.server.port import RunningPull, ServedCache
from modelexpress.server.streaming import FileStreamer
from modelexpress.wire import model_pb2
from modelexpress.wire.models import provider_number, to_ref, to_selection

_UPDATE_SECONDS = 1.0
_HEADERS_SECONDS = 5.0  # old clients give up when no headers arrive in 30 s


class ModelService:
    """Speaks the established wire; where it records a defect, ours is right (see docs/migration.md)."""

    def __init__(self, cache: ServedCache, streamer: FileStreamer) -> None:
        self._cache = cache
        self._streamer = streamer

    async def ensure_model_downloaded(
        self, request: model_pb2.ModelDownloadRequest, call: Call
    ) -> AsyncIterator[model_pb2.ModelStatusUpdate]:
        """Progress, then exactly one terminal update that carries the cause, then the end of the stream."""
        ref = to_ref(request)
        beginning = asyncio.ensure_future(
            self._cache.begin(ref, to_selection(request.ignore_weights), call.caller)
        )
        pull = await _with_early_headers(beginning, call)
        update = _Updates(ref, pull.commit)
        async for progress in pull.updates(_UPDATE_SECONDS):
            yield update.make(model_pb2.DOWNLOADING, f"Model download in progress: {progress}")
        try:
            pulled = await pull.result()
            # Such a client looks for the files itself, at a path that it works out, and tells nobody.
            await self._cache.give_path(ref, pull.commit, call.peer)
        except MxError as error:
            call.report(error)
            yield update.make(model_pb2.ERROR, error.message)
        else:
            yield update.make(model_pb2.DOWNLOADED, _success(pulled))

    async def list_model_files(
        self, request: model_pb2.ModelFilesRequest, call: Call
    ) -> model_pb2.ModelFileList:
        """The proven files that are here, by path."""
        ref = to_ref(request)
        files = _select(request, await self._cache.held_files(ref, _selection(request), call.caller))
        return model_pb2.ModelFileList(
            model_name=ref.name,
            files=[model_pb2.ModelFileInfo(relative_path=f.path, size=f.size) for f in files],
            total_size=sum(file.size for file in files),
        )

    async def stream_model_files(
        self, request: model_pb2.ModelFilesRequest, call: Call
    ) -> AsyncIterator[model_pb2.FileChunk]:
        """The files' bytes in order of path."""
        ref = to_ref(request)
        async with self._cache.opened_files(ref, _selection(request), call.caller) as held:
            files = _select(request, held)
            if not files:
                raise NotFound(f"No files found in model directory of {ref} for this selection")
            commit = held.commit if ref.provider is ProviderKind.HUGGING_FACE else None
            async for chunk in self._streamer.stream(replace(held, files=files), request.chunk_size, commit):
                yield chunk
        if not request.HasField("file_selector"):
            # It has a copy of its own now: what it was told before about the path holds nothing any more.
            await self._cache.give_path(ref, held.commit, call.peer, 0)

    async def delete_model(
        self, request: model_pb2.DeleteModelRequest, call: Call
    ) -> model_pb2.DeleteModelResponse:
        """Remove every revision of the model, of this provider only; an unknown model is no error."""
        ref = to_ref(request)
        begins = f"Model '{ref.name}' removed from registry"
        try:
            plan = await self._cache.remove([ref], is_dry_run=False)
        except NotFound:
            return model_pb2.DeleteModelResponse(success=True, message=f"{begins} (0 record(s))")
        files = sum(removal.files_removed for removal in plan.removals)
        freed = format_bytes(plan.bytes_freed)
        said = f"{begins} ({len(plan.removals)} record(s)); {files} files, {freed} freed"
        return model_pb2.DeleteModelResponse(success=True, message="; ".join([said, *plan.notes]))


async def _with_early_headers(beginning: asyncio.Future[RunningPull], call: Call) -> RunningPull:
    try:
        done, _ = await asyncio.wait({beginning}, timeout=_HEADERS_SECONDS)
        if not done:
            await call.send_headers()
        return await beginning
    finally:
        beginning.cancel()


class _Updates:
    """Status updates of one request."""

    def __init__(self, ref: ModelRef, commit: str) -> None:
        self._ref = ref
        self._commit = commit if ref.provider is ProviderKind.HUGGING_FACE else None

    def make(self, status: model_pb2.ModelStatus, message: str) -> model_pb2.ModelStatusUpdate:
        return model_pb2.ModelStatusUpdate(
            model_name=self._ref.name,
            status=status,
            message=message,
            provider=provider_number(self._ref.provider),
            resolved_revision=self._commit,
        )


def _success(pulled: Pulled) -> str:
    said = "Model already downloaded" if pulled.was_hit else "Model download completed successfully"
    if pulled.is_stale:
        said += "; the origin did not answer, so this is the revision that was here"
    if pulled.missing:
        said += f"; the origin did not have {', '.join(map(shown, pulled.missing))}"
    return said


def _selection(request: model_pb2.ModelFilesRequest) -> Selection:
    return Selection(Weights.NONE if request.ignore_weights else Weights.ALL)


def _select(request: model_pb2.ModelFilesRequest, held: HeldFiles) -> tuple[HeldFile, ...]:
    if not request.HasField("file_selector"):
        return held.files
    by_path = {file.path: file for file in held.files}
    for path in request.file_selector.paths:
        if path not in by_path:
            raise NotFound(f"Selected file not found in model directory: {shown(path)}")
    wanted = set(request.file_selector.paths)
    return tuple(file for file in held.files if file.path in wanted)
