# SPDX-License-Identifier: Apache-2.0
"""Files as a stream of chunks, read ahead by one chunk in threads of their own."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from modelexpress.domain.errors import Corrupt, NotFound, StorageFailed
from modelexpress.domain.held import HeldFile, HeldFiles
from modelexpress.domain.meter import Meter
from modelexpress.domain.refs import shown
from modelexpress.domain.tasks import finish, finish_or_undo
from modelexpress.wire import model_pb2

DEFAULT_CHUNK_BYTES = 1024 * 1024
# Established clients accept messages of at most 4 MiB, and a chunk carries a path beside its bytes.
MOST_CHUNK_BYTES = 2 * 1024 * 1024
_LOOKS, _LOOK_SECONDS = 3, 0.01

P = ParamSpec("P")
T = TypeVar("T")


class FileStreamer:
    """Reads held files for streams; `close` it after the last one."""

    def __init__(self, meter: Meter, workers: int = 8) -> None:
        self._meter = meter
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="mx-stream")

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stream(
        self, held: HeldFiles, chunk_size: int, commit: str | None
    ) -> AsyncIterator[model_pb2.FileChunk]:
        """The chunks of the files one after another; `commit` stands on the first chunk alone.

        `chunk_size` 0 is the default; others are brought between 1 byte and MOST_CHUNK_BYTES. Raises
        NotFound or Corrupt when a file has vanished or changed its size: never a short stream.
        """
        length = min(chunk_size or DEFAULT_CHUNK_BYTES, MOST_CHUNK_BYTES)
        for number, file in enumerate(held.files):
            is_last_file = number == len(held.files) - 1
            async for offset, data in self._read(held, file, length):
                is_last_chunk = offset + len(data) >= file.size
                self._meter.count("mx_streamed_bytes_total", len(data))
                yield model_pb2.FileChunk(
                    relative_path=file.path,
                    data=data,
                    offset=offset,
                    total_size=file.size,
                    is_last_chunk=is_last_chunk,
                    is_last_file=is_last_chunk and is_last_file,
                    commit_hash=commit if number == 0 and offset == 0 else None,
                )

    async def _read(self, held: HeldFiles, file: HeldFile, length: int) -> AsyncIterator[tuple[int, bytes]]:
        descriptor = await finish_or_undo(self._submit(_open, held, file), _close_now)
        offset = 0
        ahead = self._submit(_read_at, descriptor, file, offset, length)
        try:
            while True:
                data = await asyncio.shield(ahead)  # its thread cannot be called back
                following = offset + len(data)
                if following < file.size:
                    ahead = self._submit(_read_at, descriptor, file, following, length)
                yield offset, data
                offset = following
                if offset >= file.size:
                    return
        finally:
            # Who leaves at the last moment must not leave a file open either.
            await finish(_close(descriptor, ahead))

    def _submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        call = functools.partial(job, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._threads, call)


async def _close(descriptor: int, ahead: asyncio.Future[bytes]) -> None:
    # The descriptor must outlive the read that may still be running in its thread.
    await asyncio.wait({ahead})
    if not ahead.cancelled():
        ahead.exception()
    os.close(descriptor)


async def _close_now(descriptor: int) -> None:
    os.close(descriptor)


def _open(held: HeldFiles, file: HeldFile) -> int:
    for _ in range(_LOOKS):
        for path in held.places(file.path):
            with suppress(FileNotFoundError):
                return _open_at(path, file)
        time.sleep(_LOOK_SECONDS)  # it is just being moved from one place to the other
    raise NotFound(f"file {shown(file.path)} is no longer here; pull the model again")


def _open_at(path: Path, file: HeldFile) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageFailed(f"file {shown(file.path)} cannot be opened: {error.strerror}") from error
    found = os.fstat(descriptor).st_size
    if found != file.size:
        os.close(descriptor)
        raise Corrupt(
            f"file {shown(file.path)} has {found} bytes instead of {file.size}; pull the model again"
        )
    return descriptor


def _read_at(descriptor: int, file: HeldFile, offset: int, length: int) -> bytes:
    wanted = min(length, file.size - offset)
    try:
        data = os.pread(descriptor, wanted, offset)
    except OSError as error:
        raise StorageFailed(f"file {shown(file.path)} cannot be read: {error.strerror}") from error
    if len(data) == 0 and wanted > 0:
        raise Corrupt(f"file {shown(file.path)} became shorter while it was read; pull the model again")
    return data
