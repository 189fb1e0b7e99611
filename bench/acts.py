# SPDX-License-Identifier: Apache-2.0
"""What a worker can be told to do: pulls of ours and of others, each with its preparation and cleaning up."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bench.onto_gpu import OntoGpu
from bench.raw import Receiver, spans_of
from bench.touched import TouchedFiles

from modelexpress import AsyncClient, Client
from modelexpress.client import Strategy
from modelexpress.client.server_calls import ServerCalls
from modelexpress.domain.manifest import FileEntry
from modelexpress.transfer.memory import allocate

_STEP_BYTES = 4 * 1024 * 1024

Order = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the clock runs over. `own_bytes` are buffers of the caller; `folder` is what it writes."""

    act: Callable[[], object]
    own_bytes: int = 0
    folder: Path | None = None

    def files(self) -> list[Path]:
        """The files that were written."""
        return [] if self.folder is None else _files_below(self.folder)


class Acts:
    """The acts by name; buffers are kept from one round to the next."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, str, int], memoryview] = {}
        self._gpu: OntoGpu | None = None

    def prepared(self, name: str, order: Order) -> AbstractContextManager[Prepared]:
        """Prepare an act; it is cleaned up on the way out."""
        make: Callable[[Order], AbstractContextManager[Prepared]] = getattr(self, name)
        return make(order)

    @contextmanager
    def raw(self, order: Order) -> Iterator[Prepared]:
        """Receive ranges and throw them away."""
        receiver = Receiver(order["port"], order["connections"])
        spans = spans_of([(target, size) for target, size in order["files"]])
        yield Prepared(lambda: receiver.receive(spans))

    @contextmanager
    def disk(self, order: Order) -> Iterator[Prepared]:
        """Our pull without shared storage into an empty cache."""
        with _empty_folder(order) as folder, _touched_files(order, folder):
            yield Prepared(lambda: _pull(order, folder), folder=folder)

    @contextmanager
    def stream(self, order: Order) -> Iterator[Prepared]:
        """The same where the server has no data plane: StreamModelFiles."""

        async def find_none(*_: object) -> None:
            return None

        no_plane = mock.patch.object(ServerCalls, "find_offered", find_none)
        with _empty_folder(order) as folder, _touched_files(order, folder), no_plane:
            yield Prepared(lambda: _pull(order, folder), folder=folder)

    @contextmanager
    def hub(self, order: Order) -> Iterator[Prepared]:
        """huggingface_hub into an empty cache."""
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read once, by the import
        download = importlib.import_module("huggingface_hub").snapshot_download
        with _empty_folder(order) as folder:
            yield Prepared(
                lambda: download(order["name"], endpoint=order["endpoint"], cache_dir=folder) and None,
                folder=folder,
            )

    @contextmanager
    def memory(self, order: Order) -> Iterator[Prepared]:
        """Our pull into buffers, by `clients` clients of this process at once."""
        buffers = self._take_buffers(order)
        yield Prepared(
            lambda: asyncio.run(_pull_all_into(order, buffers)),
            own_bytes=sum(buffer.nbytes for buffer in self._buffers.values()),
        )

    @contextmanager
    def nothing(self, order: Order) -> Iterator[Prepared]:
        """What is wanted is here already."""
        yield Prepared(lambda: None)

    @contextmanager
    def gpu(self, order: Order) -> Iterator[Prepared]:
        """The act that `before` names, and all tensors onto the GPU: they are checked after the clock."""
        self._gpu = gpu = self._gpu or OntoGpu(Path(order["like"]))
        found: dict[str, Any] = {}
        with self.prepared(order["before"], order) as before:
            folder = before.folder or Path(order["like"])

            def act() -> None:
                before.act()
                if order["before"] == "memory":
                    [buffers] = self._take_buffers(order)
                    found.update(gpu.load_buffers(buffers))
                else:
                    found.update(gpu.load_files(folder))

            yield Prepared(act, before.own_bytes, before.folder)
            gpu.check(found)

    @contextmanager
    def direct(self, order: Order) -> Iterator[Prepared]:
        """A plain download, one file after the other, into a folder or, without one, into memory."""
        if "folder" in order:
            with _empty_folder(order) as folder:
                yield Prepared(lambda: _download_to_disk(order["urls"], folder), folder=folder)
        else:
            buffer = memoryview(bytearray(_STEP_BYTES))
            yield Prepared(lambda: _download_and_forget(order["urls"], buffer))

    def _take_buffers(self, order: Order) -> list[dict[str, memoryview]]:
        """For each client its buffers by path, every page of them written before."""
        distinct = 1 if order.get("is_shared") else order["clients"]
        for client in range(distinct):
            for path, size in order["sizes"].items():
                if (client, path, size) not in self._buffers:
                    self._buffers[client, path, size] = self._allocate(size)
        own = [
            {path: self._buffers[client, path, size] for path, size in order["sizes"].items()}
            for client in range(distinct)
        ]
        return [own[client % distinct] for client in range(order["clients"])]

    def _allocate(self, size: int) -> memoryview:
        return _touched(allocate(size)) if self._gpu is None else self._gpu.pinned(size)


def _pull(order: Order, cache: Path) -> None:
    """A client of its own, as a process that starts would make it."""
    with Client(endpoint=order["endpoint"], cache_directory=cache, shared_storage=False) as client:
        client.pull(order["name"], strategy=Strategy.SERVER_ONLY)


async def _pull_all_into(order: Order, buffers: list[dict[str, memoryview]]) -> None:
    async def pull(own: dict[str, memoryview]) -> None:
        def find(entry: FileEntry) -> memoryview:
            return own[entry.path]

        async with AsyncClient(endpoint=order["endpoint"]) as client:
            await client.pull_into(order["name"], find)

    await asyncio.gather(*(pull(own) for own in buffers))


@contextmanager
def _touched_files(order: Order, folder: Path) -> Iterator[None]:
    """With `touched`, a folder: the files that are going to be written are some that were written before."""
    if "touched" not in order:
        yield
        return
    files = TouchedFiles(Path(order["touched"]))
    files.fill(order["sizes"])
    with files.in_use():
        yield
    files.put_back([path for path in _files_below(folder) if path.stat().st_size in order["sizes"]])


@contextmanager
def _empty_folder(order: Order) -> Iterator[Path]:
    """An empty folder. With `touch_bytes` so many pages of its file system were in use a moment ago."""
    folder = Path(order["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _touch_pages(folder / "touched", order.get("touch_bytes", 0))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _touch_pages(path: Path, count: int) -> None:
    step = bytes(_STEP_BYTES)
    with path.open("wb", buffering=0) as file:
        for _ in range(0, count, len(step)):
            file.write(step)
    path.unlink()


def _touched(buffer: memoryview) -> memoryview:
    step = bytes(_STEP_BYTES)
    for start in range(0, len(buffer), len(step)):
        end = min(start + len(step), len(buffer))
        buffer[start:end] = step[: end - start]
    return buffer


def _download_to_disk(urls: Mapping[str, str], folder: Path) -> None:
    buffer = memoryview(bytearray(_STEP_BYTES))
    for path, url in urls.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb", buffering=0) as file:
            while count := answer.readinto(buffer):
                file.write(buffer[:count])


def _download_and_forget(urls: Mapping[str, str], buffer: memoryview) -> None:
    for url in urls.values():
        with urllib.request.urlopen(url, timeout=60) as answer:
            while answer.readinto(buffer):
                pass
