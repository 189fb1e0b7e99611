# SPDX-License-Identifier: Apache-2.0
"""The established calls on files and models: streams that clients accept, lists, removal, many at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from tests.support.caches import requested_files
from tests.support.calls import (
    DELETE,
    ENSURE,
    LIST,
    LIST_HELD,
    PULL,
    STREAM,
    ask,
    begin,
    connected,
    ensure,
    files,
    pull,
    wait_until,
)  # fmt: skip
from tests.support.house import House

from modelexpress.client.acceptance import StreamChecker
from modelexpress.domain.errors import BY_CODE
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.server.status import STATUS
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model
from modelexpress.wire import cache_pb2, model_pb2

NAME = "demo/tiny"
Code = grpc.StatusCode


ODD = {
    "a.bin": bytes(range(256)) * 16,  # a whole number of chunks
    "b/c.bin": bytes(1025),
    "b.txt": b"x",
    "empty.txt": b"",
    "z/deep/er/empty": b"",
    "w.safetensors": bytes(3000),
}


def accept(chunks: list[Any], expected: dict[str, bytes], commit: str) -> None:
    """All that the strictest of the established clients insist on, for a stream of several files."""
    received: dict[str, bytes] = {}
    for number, chunk in enumerate(chunks):
        assert chunk.commit_hash == (commit if number == 0 else ""), number
        path = chunk.relative_path
        if path not in received:
            assert number == 0 or chunks[number - 1].is_last_chunk
            received[path] = b""
        assert path == list(received)[-1], "a file that had ended goes on"
        assert chunk.offset == len(received[path]) and chunk.total_size == len(expected[path])
        received[path] += chunk.data
        assert chunk.is_last_chunk == (len(received[path]) == chunk.total_size)
        assert chunk.data or chunk.total_size == 0
        assert chunk.is_last_file == (number == len(chunks) - 1)
    assert received == expected and list(received) == sorted(expected)


@pytest.fixture
async def odd(hub: LocalHub, channel: grpc.aio.Channel) -> str:
    """The commit of a model with files of odd sizes, which the server has."""
    repository = Repository("demo/odd")
    commit = repository.commit({**ODD})
    repository.tags["v1"] = commit
    hub.add(repository)
    assert (await ask(channel, PULL, pull("demo/odd"))).code is Code.OK
    return commit


@pytest.mark.parametrize("chunk_size", [0, 1, 7, 256, 4096, 4097, 2**31])
async def test_a_stream_of_files_is_what_clients_accept(
    channel: grpc.aio.Channel, odd: str, chunk_size: int
) -> None:
    answer = await ask(channel, STREAM, files("demo/odd", chunk_size=chunk_size))
    chunks = answer.read(model_pb2.FileChunk)

    accept(chunks, ODD, odd)
    assert answer.code is Code.OK
    assert all(len(chunk.data) <= (chunk_size or 2**20) for chunk in chunks)


async def test_a_chunk_of_the_largest_size_fits_what_clients_take(hub: LocalHub, house: House) -> None:
    repository = Repository("demo/large")
    commit = repository.commit({"a.bin": bytes(5_000_000)})
    hub.add(repository)
    async with connected(house.port, max_receive_message_length=4 * 1024 * 1024) as channel:
        assert (await ask(channel, PULL, pull("demo/large"))).code is Code.OK
        answer = await ask(channel, STREAM, files("demo/large", chunk_size=2**32 - 1))
    assert answer.code is Code.OK
    accept(answer.read(model_pb2.FileChunk), {"a.bin": bytes(5_000_000)}, commit)


async def test_each_single_file_passes_our_clients_checks(channel: grpc.aio.Channel, odd: str) -> None:
    ref = ModelRef(ProviderKind.HUGGING_FACE, "demo/odd")
    for path, content in ODD.items():
        selector = model_pb2.ModelFileSelector(paths=[path])
        answer = await ask(
            channel, STREAM, files("demo/odd", file_selector=selector, revision=odd, chunk_size=999)
        )
        checker = StreamChecker(ref, odd, FileEntry(path, len(content), None))
        for chunk in answer.read(model_pb2.FileChunk):
            checker.check(chunk)
        checker.check_end()


async def test_a_listing_and_a_stream_hold_the_same_selected_files(
    channel: grpc.aio.Channel, odd: str
) -> None:
    light = {path: content for path, content in ODD.items() if not path.endswith((".bin", ".safetensors"))}
    some = {path: ODD[path] for path in ("b.txt", "empty.txt")}
    selected = model_pb2.ModelFileSelector(paths=["empty.txt", "b.txt", "b.txt"])
    for expected, fields in (
        (ODD, {}), (ODD, {"revision": "main"}), (ODD, {"revision": "v1"}), (ODD, {"revision": odd}),
        (light, {"ignore_weights": True}), (some, {"file_selector": selected}),
    ):  # fmt: skip
        if fields.get("revision") == "v1":
            assert (await ask(channel, LIST, files("demo/odd", **fields))).code is Code.NOT_FOUND
            await ask(channel, ENSURE, ensure("demo/odd", revision="v1"))
        [listed] = (await ask(channel, LIST, files("demo/odd", **fields))).read(model_pb2.ModelFileList)
        assert {f.relative_path: f.size for f in listed.files} == {p: len(c) for p, c in expected.items()}
        assert listed.total_size == sum(map(len, expected.values())) and listed.model_name == "demo/odd"
        assert [f.relative_path for f in listed.files] == sorted(expected)
        streamed = await ask(channel, STREAM, files("demo/odd", **fields))
        accept(streamed.read(model_pb2.FileChunk), expected, odd)


async def test_a_selector_that_names_nothing_is_an_empty_list_and_no_stream(
    channel: grpc.aio.Channel, odd: str
) -> None:
    nothing = files("demo/odd", file_selector=model_pb2.ModelFileSelector())
    listed = await ask(channel, LIST, nothing)
    streamed = await ask(channel, STREAM, nothing)
    assert listed.read(model_pb2.ModelFileList) == [model_pb2.ModelFileList(model_name="demo/odd")]
    assert streamed.code is Code.NOT_FOUND and "demo/odd" in streamed.details


@pytest.mark.parametrize(
    ("content", "error"), [(None, "NotFound"), (b"short", "Corrupt"), (bytes(9999), "Corrupt")]
)
async def test_a_file_that_changed_on_disk_ends_the_stream_with_its_name(
    house: House, channel: grpc.aio.Channel, odd: str, content: bytes | None, error: str
) -> None:
    blob = next(house.root.glob("models--demo--odd/snapshots/*/w.safetensors")).resolve()
    blob.unlink()
    if content is not None:
        blob.write_bytes(content)
    answer = await ask(channel, STREAM, files("demo/odd", chunk_size=1000))

    assert (answer.code, answer.error) == (
        STATUS[BY_CODE[error]],
        error,
    ) and "w.safetensors" in answer.details
    assert not any(chunk.is_last_file for chunk in answer.read(model_pb2.FileChunk))


async def test_what_is_not_here_is_not_found_and_not_asked_for(
    house: House, channel: grpc.aio.Channel
) -> None:
    for path in (LIST, STREAM):
        answer = await ask(channel, path, files())
        assert (answer.code, answer.error) == (Code.NOT_FOUND, "NotFound") and NAME in answer.details
    assert house.hub.log.requests == []


# -- removing, and many at once


async def test_deleting_takes_one_model_of_one_provider(
    hub: LocalHub, house: House, channel: grpc.aio.Channel
) -> None:
    names = [NAME, "demo/tiny2", "demo", "other/tiny"]
    for seed, name in enumerate(names):
        hub.add(tiny_model(name, seed))
        assert (await ask(channel, PULL, pull(name))).code is Code.OK

    async def delete(name: str, **fields: Any) -> str:
        [said] = (await ask(channel, DELETE, model_pb2.DeleteModelRequest(model_name=name, **fields))).read(
            model_pb2.DeleteModelResponse
        )
        assert said.success
        return str(said.message)

    async def held() -> list[str]:
        answer = await ask(channel, LIST_HELD, cache_pb2.ListHeldRequest())
        return sorted(snapshot.name for snapshot in answer.read(cache_pb2.HeldSnapshot))

    assert await delete(NAME, provider=model_pb2.NGC) == f"Model '{NAME}' removed from registry (0 record(s))"
    assert await delete("gs://demo/tiny/", provider=model_pb2.GCS) == (
        "Model 'gs://demo/tiny' removed from registry (0 record(s))"
    )
    assert await held() == sorted(names)
    assert f"Model '{NAME}' removed from registry (1 record(s)); 10 files" in await delete(NAME)
    assert await held() == sorted(names[1:])
    assert "(0 record(s))" in await delete(NAME)
    for name in names[1:]:
        answer = await ask(channel, STREAM, files(name))
        accept(
            answer.read(model_pb2.FileChunk),
            tiny_files(names.index(name)),
            hub._repositories[name].branches["main"],
        )


async def test_thirty_two_callers_share_one_download_though_the_first_hangs_up(
    hub: LocalHub, house: House
) -> None:
    held = hub.faults.add(Fault("hold", "body", "model.safetensors", after=50_000))
    async with AsyncExitStack() as stack:
        starter = await stack.enter_async_context(connected(house.port))
        begun = starter.unary_stream(ENSURE)(ensure().SerializeToString())
        first = model_pb2.ModelStatusUpdate.FromString(await anext(aiter(begun)))
        await wait_until(lambda: held.applied)
        channels = [await stack.enter_async_context(connected(house.port)) for _ in range(31)]
        running = [task for channel in channels for task in begin(channel, (ENSURE, ensure()))]
        await wait_until(lambda: house.metrics.registry.get_sample_value(
            "mx_rpcs_in_flight", {"service": "model_express.model.ModelService"}) == 32)  # fmt: skip
        await starter.close()
        held.release()
        answers = await asyncio.gather(*running)

    assert first.status == model_pb2.DOWNLOADING
    for answer in answers:
        *before, last = answer.read(model_pb2.ModelStatusUpdate)
        assert answer.code is Code.OK and last.status == model_pb2.DOWNLOADED
        assert last.message == "Model download completed successfully"
        assert {update.status for update in before} == {model_pb2.DOWNLOADING}
    bodies = Counter(request.file for request in hub.log.of("body"))
    assert bodies == dict.fromkeys(requested_files(), 1)
