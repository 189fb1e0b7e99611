# SPDX-License-Identifier: Apache-2.0
"""A server that speaks the established services alone, with the habits that clients must live with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

from modelexpress.wire import health_pb2, model_pb2

Chunks = Callable[[Iterator[model_pb2.FileChunk]], Iterator[model_pb2.FileChunk]]


def unchanged(chunks: Iterator[model_pb2.FileChunk]) -> Iterator[model_pb2.FileChunk]:
    return chunks


@dataclass
class Established:
    """One model, its files, and how the server behaves.

    `ending`: "twice" (the result is told twice, and the stream stays open), "error", "silent" (the
    stream ends without a result). `bend` changes the chunks of a file stream.
    """

    name: str
    commit: str
    files: Mapping[str, bytes]
    ending: str = "twice"
    bend: Chunks = unchanged
    chunk_sizes: list[int] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    async def health(self, request: health_pb2.HealthRequest, _: object) -> health_pb2.HealthResponse:
        return health_pb2.HealthResponse(version="0.5.0", status="ok", uptime=0)

    async def ensure(
        self, request: model_pb2.ModelDownloadRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[model_pb2.ModelStatusUpdate]:
        if request.model_name != self.name:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"Failed to resolve revision for model '{request.model_name}'"
            )
        yield self._update(model_pb2.DOWNLOADING, "Model download in progress")
        await asyncio.sleep(0.01)
        if self.ending == "silent":
            return
        if self.ending == "error":
            yield self._update(model_pb2.ERROR, "Download failed: no space left")
            yield self._update(model_pb2.ERROR, "Model download failed")
            return
        yield self._update(model_pb2.DOWNLOADED, "Model download completed successfully")
        yield self._update(model_pb2.DOWNLOADED, "Model download completed successfully")
        await asyncio.Event().wait()

    async def list_files(self, request: model_pb2.ModelFilesRequest, _: object) -> model_pb2.ModelFileList:
        files = [
            model_pb2.ModelFileInfo(relative_path=path, size=len(content))
            for path, content in self.files.items()
        ]
        return model_pb2.ModelFileList(model_name=self.name, files=files)

    async def stream(
        self, request: model_pb2.ModelFilesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[model_pb2.FileChunk]:
        self.chunk_sizes.append(request.chunk_size)
        assert request.revision == self.commit
        for chunk in self.bend(self._chunks(list(request.file_selector.paths))):
            yield chunk

    async def delete(self, request: model_pb2.DeleteModelRequest, _: object) -> model_pb2.DeleteModelResponse:
        self.deleted.append(request.model_name)
        return model_pb2.DeleteModelResponse(success=True, message="Deleted 1 record(s)")

    def _update(self, status: model_pb2.ModelStatus, message: str) -> model_pb2.ModelStatusUpdate:
        return model_pb2.ModelStatusUpdate(
            model_name=self.name, status=status, message=message, resolved_revision=self.commit
        )

    def _chunks(self, paths: list[str]) -> Iterator[model_pb2.FileChunk]:
        is_first = True
        for path in paths:
            content, step = self.files[path], 32 * 1024
            for offset in range(0, max(len(content), 1), step):
                data = content[offset : offset + step]
                is_last_chunk = offset + len(data) == len(content)
                yield model_pb2.FileChunk(
                    relative_path=path,
                    data=data,
                    offset=offset,
                    total_size=len(content),
                    is_last_chunk=is_last_chunk,
                    is_last_file=is_last_chunk and path == paths[-1],
                    commit_hash=self.commit if is_first else None,
                )
                is_first = False


@asynccontextmanager
async def running(established: Established) -> AsyncIterator[int]:
    """The server on a free port of 127.0.0.1, which is given."""
    server = grpc.aio.server()
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    request, answer = model_pb2.ModelFilesRequest.FromString, model_pb2.ModelFileList.SerializeToString
    methods = {
        "EnsureModelDownloaded": stream(
            established.ensure,
            model_pb2.ModelDownloadRequest.FromString,
            model_pb2.ModelStatusUpdate.SerializeToString,
        ),
        "StreamModelFiles": stream(established.stream, request, model_pb2.FileChunk.SerializeToString),
        "ListModelFiles": unary(established.list_files, request, answer),
        "DeleteModel": unary(
            established.delete,
            model_pb2.DeleteModelRequest.FromString,
            model_pb2.DeleteModelResponse.SerializeToString,
        ),
    }
    health = unary(
        established.health,
        health_pb2.HealthRequest.FromString,
        health_pb2.HealthResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("model_express.model.ModelService", methods),
            grpc.method_handlers_generic_handler("model_express.health.HealthService", {"GetHealth": health}),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
