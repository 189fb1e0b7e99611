# SPDX-License-Identifier: Apache-2.0
"""What a server can be asked, in our words; an established server is asked in its own."""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator, Callable

from modelexpress.client.acceptance import StreamChecker
from modelexpress.client.results import Listed, Offered, ServerHealth, ServerPulled
from modelexpress.client.rpc import Connection
from modelexpress.domain.errors import Corrupt, Internal, MxError, NotFound, Unsupported
from modelexpress.domain.held import OnProgress, ProvenFile
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.progress import Phase, Progress
from modelexpress.domain.refs import ModelRef, shown
from modelexpress.domain.selection import Selection, Weights
from modelexpress.wire import api_pb2, health_pb2, model_pb2, transfer_pb2
from modelexpress.wire import models as model_wire
from modelexpress.wire import transfer as transfer_wire
from modelexpress.wire.transfer import from_ref

_HEALTH = "/model_express.health.HealthService"
_API = "/model_express.api.ApiService"
_MODEL = "/model_express.model.ModelService"
_TRANSFER = "/model_express.transfer.TransferService"


OnListed = Callable[[Listed], None]


def ignore_listed(listed: Listed) -> None:
    """For callers that wait for the end."""


class ServerCalls:
    """The calls of one connection. `chunk_bytes` is what is asked for when files are streamed."""

    def __init__(self, connection: Connection, chunk_bytes: int) -> None:
        self._connection = connection
        self._chunk_bytes = chunk_bytes
        self._is_established = False

    async def health(self) -> ServerHealth:
        """What the server says of itself."""
        request = health_pb2.HealthRequest()
        answer = await self._connection.call(f"{_HEALTH}/GetHealth", request, health_pb2.HealthResponse)
        return ServerHealth(answer.version, answer.status, answer.uptime)

    async def send(self, action: str, payload: bytes | None) -> bytes:
        """One call of the api service. Raises Internal with the server's words when it says no."""
        request = api_pb2.ApiRequest(id=str(uuid.uuid4()), action=action)
        if payload is not None:
            request.payload = payload
        answer = await self._connection.call(f"{_API}/SendRequest", request, api_pb2.ApiResponse)
        if not answer.success:
            raise Internal(answer.error or f"the server refused {action!r} without a reason")
        if not answer.HasField("data"):
            raise Internal(f"the server answered {action!r} without data")
        return answer.data

    async def pull(
        self,
        ref: ModelRef,
        selection: Selection | None,
        on_progress: OnProgress,
        on_listed: OnListed = ignore_listed,
    ) -> ServerPulled:
        """Let the server have the model; its progress goes to `on_progress`.

        `on_listed` hears, where the server says so, that the files can be had while they arrive there.
        """
        if not self._is_established:
            try:
                return await self._pull(ref, selection, on_progress, on_listed)
            except Unsupported as error:
                if not _is_unimplemented(error):
                    raise
                self._is_established = True
        return await self._ensure(ref, selection, on_progress)

    async def list_files(self, ref: ModelRef, commit: str) -> Manifest:
        """The files of a commit that the server has; without digests from an established server."""
        if self._is_established:
            return await self._list_established(ref, commit)
        entries: list[FileEntry] = []
        request = transfer_wire.manifest_request(ref, commit)
        while True:
            page = await self._connection.call(f"{_TRANSFER}/GetManifest", request, transfer_pb2.ManifestPage)
            if page.commit != commit:
                raise _other_commit(ref, commit, page.commit)
            entries.extend(transfer_wire.to_entries(page))
            if not page.next:
                return Manifest(ref, commit, tuple(entries))
            request.after = page.next

    async def find_offered(self, ref: ModelRef, commit: str, selection: Selection) -> Offered | None:
        """The files of a selection with tickets to the server's data plane; None: it has no such thing."""
        if self._is_established:
            return None
        entries: list[FileEntry] = []
        tickets: dict[str, str] = {}
        request = transfer_wire.manifest_request(ref, commit, selection)
        while True:
            page = await self._connection.call(f"{_TRANSFER}/GetManifest", request, transfer_pb2.ManifestPage)
            if page.commit != commit:
                raise _other_commit(ref, commit, page.commit)
            if not page.data.port:
                return None
            entries.extend(transfer_wire.to_entries(page))
            tickets.update((file.path, file.ticket) for file in page.files)
            if not page.next:
                host = page.data.host or self._connection.target.host
                return Offered(Manifest(ref, commit, tuple(entries)), host, page.data.port, tickets)
            request.after = page.next

    async def watch_proofs(
        self, ref: ModelRef, commit: str, selection: Selection
    ) -> AsyncIterator[ProvenFile]:
        """Each file of a selection once the server has proven it."""
        request = transfer_wire.manifest_request(ref, commit, selection)
        stream = self._connection.stream(f"{_TRANSFER}/WatchProofs", request, transfer_pb2.FileProof)
        async for proof in stream:
            yield ProvenFile(proof.path, proof.size, proof.root)

    async def stream_file(self, ref: ModelRef, commit: str, entry: FileEntry) -> AsyncIterator[bytes]:
        """The bytes of one file from its start."""
        request = model_wire.files_request(ref, commit, [entry.path], self._chunk_bytes)
        checker = StreamChecker(ref, commit, entry)
        stream = self._connection.stream(f"{_MODEL}/StreamModelFiles", request, model_pb2.FileChunk)
        async for chunk in stream:
            checker.check(chunk)
            yield chunk.data
        checker.check_end()

    async def keep_path(self, ref: ModelRef, commit: str, seconds: int | None = None) -> None:
        """Tell the server that a commit is read here where it stands there, so that nothing evicts it.

        `seconds` None: as long as the server's settings say; 0: not any more. A server that knows no such
        thing is told nothing.
        """
        request = transfer_pb2.KeepPathRequest(
            model=from_ref(ref.at(commit)), holder=socket.gethostname(), seconds=seconds
        )
        if self._is_established:
            return
        try:
            await self._connection.call(f"{_TRANSFER}/KeepPath", request, transfer_pb2.KeepPathAnswer)
        except Unsupported as error:
            if not _is_unimplemented(error):
                raise

    async def delete(self, ref: ModelRef) -> str:
        """Remove a model from the server; what the server says about it."""
        request = model_wire.delete_request(ref)
        answer = await self._connection.call(f"{_MODEL}/DeleteModel", request, model_pb2.DeleteModelResponse)
        if not answer.success:
            raise Internal(answer.message or f"the server did not remove {ref} and gave no reason")
        return answer.message

    async def _pull(
        self, ref: ModelRef, selection: Selection | None, on_progress: OnProgress, on_listed: OnListed
    ) -> ServerPulled:
        request = transfer_wire.pull_request(ref, selection)
        async for update in self._connection.stream(f"{_TRANSFER}/Pull", request, transfer_pb2.PullUpdate):
            if update.HasField("progress"):
                on_progress(transfer_wire.to_progress(update.progress))
            if update.HasField("listed"):
                on_listed(_to_listed(update.listed))
            if update.HasField("pulled"):
                return _server_pulled(update.pulled)
        raise Internal(f"{ref}: the server ended its answer without a result; ask again")

    async def _ensure(
        self, ref: ModelRef, selection: Selection | None, on_progress: OnProgress
    ) -> ServerPulled:
        wanted = selection if selection is not None else Selection()
        request = model_wire.download_request(ref, is_without_weights=wanted.weights is Weights.NONE)
        stream = self._connection.stream(
            f"{_MODEL}/EnsureModelDownloaded", request, model_pb2.ModelStatusUpdate
        )
        async for update in stream:
            if update.status == model_pb2.ERROR:
                raise NotFound(f"{ref}: {update.message or 'the server could not get it'}")
            if update.status == model_pb2.DOWNLOADED:
                return ServerPulled(update.resolved_revision, "", "", wanted, was_hit=False)
            on_progress(Progress(Phase.DOWNLOADING))
        raise Internal(f"{ref}: the server ended its answer without a result; ask again")

    async def _list_established(self, ref: ModelRef, commit: str) -> Manifest:
        request = model_wire.files_request(ref, commit, None, self._chunk_bytes)
        listed = await self._connection.call(f"{_MODEL}/ListModelFiles", request, model_pb2.ModelFileList)
        entries = tuple(FileEntry(file.relative_path, file.size) for file in listed.files)
        return Manifest(ref, commit, entries)


def _other_commit(ref: ModelRef, asked: str, answered: str) -> Corrupt:
    return Corrupt(f"{ref}: asked the server for commit {asked}, it answered with {shown(answered)}")


def _to_listed(message: transfer_pb2.Listed) -> Listed:
    selection = transfer_wire.to_selection(message.selection)
    return Listed(message.commit, selection, message.volume, message.path)


def _server_pulled(message: transfer_pb2.Pulled) -> ServerPulled:
    return ServerPulled(
        commit=message.commit,
        path=message.path,
        volume=message.volume,
        selection=transfer_wire.to_selection(message.selection),
        was_hit=message.was_hit,
        is_stale=message.is_stale,
        bytes_fetched=message.bytes_fetched,
        missing=tuple(message.missing),
    )


def _is_unimplemented(error: MxError) -> bool:
    cause = error.__cause__
    code = getattr(cause, "code", None)
    return callable(code) and code().name == "UNIMPLEMENTED"
