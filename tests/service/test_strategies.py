# SPDX-License-Identifier: Apache-2.0
"""How a client gets a model: shared, streamed, direct; what it does when the server is not there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.caches import (
    NAME,
    WEIGHTS,
    blob_of,
    pull,
    repository_tree,
    requested_files,
    unfinished,
    useless,
)
from tests.support.house import House, open_house
from tests.support.proxy import closed_port

from modelexpress import compose
from modelexpress.client import AsyncClient, LocalModel, Strategy, SyncClient, Transfer
from modelexpress.compose.clients import make_async_client
from modelexpress.domain.errors import (
    Cancelled,
    Corrupt,
    Forbidden,
    Invalid,
    MxError,
    NotFound,
    Unauthenticated,
    Unreachable,
)
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection, Weights
from modelexpress.store.volume import find_volume_id
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

FALLBACK, DIRECT, SERVER = Strategy.SMART_FALLBACK, Strategy.DIRECT, Strategy.SERVER_ONLY


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub([tiny_model(NAME)]) as hub:
        yield hub


def make_client(hub: LocalHub, root: Path, port: int, **settings: object) -> AsyncClient:
    """A client that may also go to the hub itself."""
    env = {"HOME": str(root.parent), "HF_ENDPOINT": hub.endpoint, "PATH": os.environ["PATH"]}
    flags: dict[str, object] = {
        "connection.endpoint": f"http://127.0.0.1:{port}",
        "cache.directory": str(root),
        "cache.shared_storage": False,
        "origin.redirect_hosts": "localhost,127.0.0.1",
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return make_async_client(compose.load_settings("client", flags, env), env)


class Relay:
    """Stands between a client and a server; cuts the connection after so many bytes to the client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.bytes_left: int | None = None
        self.port = 0

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await asyncio.gather(self._pipe(reader, there[1], False), self._pipe(there[0], writer, True))
            finally:
                there[1].close()
                writer.close()
        self._tasks.discard(task)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: bool) -> None:
        while piece := await reader.read(16_384):
            if is_cut and self.bytes_left is not None:
                self.bytes_left -= len(piece)
                if self.bytes_left < 0:
                    raise ConnectionAbortedError("cut")
            writer.write(piece)
            await writer.drain()
        writer.write_eof()


class TestWithoutServer:
    @pytest.mark.parametrize("strategy", [FALLBACK, DIRECT])
    async def test_the_origin_itself_is_pulled_from(
        self, hub: LocalHub, tmp_path: Path, strategy: Strategy
    ) -> None:
        async with make_client(hub, tmp_path / "mine", closed_port()) as client:
            model = await client.pull(NAME, strategy=strategy)
            again = await client.pull(NAME, strategy=strategy)

        assert (model.transfer, model.was_hit, again.was_hit) == (Transfer.DIRECT, False, True)
        assert model.bytes_fetched == hub.log.bytes_sent
        assert len(hub.log.of("body")) == len(requested_files())
        assert (model.path / WEIGHTS).read_bytes() == tiny_files()[WEIGHTS]

    async def test_server_only_names_the_endpoint_and_asks_nobody_else(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        port = closed_port()
        async with make_client(hub, tmp_path / "mine", port) as client:
            with pytest.raises(Unreachable, match=f"http://127.0.0.1:{port}"):
                await client.pull(NAME, strategy=SERVER)

        assert hub.log.requests == [] and not (tmp_path / "mine").exists()

    async def test_a_server_that_never_answers_is_given_up_after_the_timeout(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
            async with make_client(hub, tmp_path / "mine", port, connection__timeout_seconds=1) as client:
                with pytest.raises(Unreachable, match=f":{port}"):
                    await client.pull(NAME, strategy=SERVER)
                assert (await client.pull(NAME)).transfer is Transfer.DIRECT

    async def test_a_server_that_has_gone_is_noticed_by_a_client_that_knew_it(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            client = make_client(hub, tmp_path / "mine", house.port)
            assert (await client.pull(NAME)).transfer is Transfer.STREAMED
        async with client:
            with pytest.raises(Unreachable, match=f":{house.port}"):
                await client.pull(NAME, strategy=SERVER)
            assert (await client.pull(NAME)).transfer is Transfer.DIRECT

    async def test_a_server_that_came_back_is_used_again(self, hub: LocalHub, tmp_path: Path) -> None:
        async with (
            open_house(hub, tmp_path) as house,
            Relay(house.port) as relay,
            make_client(hub, tmp_path / "mine", relay.port) as client,
        ):
            relay.bytes_left = 0
            assert (await client.pull(NAME)).transfer is Transfer.DIRECT
            relay.bytes_left = None
            assert (await client.pull(NAME)).transfer is Transfer.STREAMED


class TestRealAnswers:
    """What a server that is there says counts: nobody goes round it."""

    @pytest.mark.parametrize("strategy", [FALLBACK, SERVER])
    async def test_an_error_of_the_server_is_the_answer(
        self, house: House, tmp_path: Path, strategy: Strategy
    ) -> None:
        gated = Repository("demo/gated", is_gated=True)
        gated.commit(tiny_files())
        house.hub.add(gated)
        house.hub.grant("hf_stranger")
        async with make_client(house.hub, tmp_path / "mine", house.port) as client:
            with pytest.raises(NotFound, match="nope"):
                await client.pull(f"{NAME}@nope", strategy=strategy)
            with pytest.raises(Unauthenticated):
                await client.pull("demo/gated", strategy=strategy)
            client._target = replace(client._target, hub_token="hf_stranger")
            await client.close()
            with pytest.raises(Forbidden):
                await client.pull("demo/gated", strategy=strategy)

        assert all("modelexpress-" in (request.via or "") for request in house.hub.log.requests)
        assert not list((tmp_path / "mine").glob("models--*"))

    async def test_an_outage_of_the_origin_is_no_outage_of_the_server(
        self, house: House, tmp_path: Path
    ) -> None:
        house.hub.faults.add(Fault("status", "any", status=503, times=None))
        async with make_client(house.hub, tmp_path / "mine", house.port) as client:
            with pytest.raises(Unreachable, match="503"):
                await client.pull(NAME)

        assert not (tmp_path / "mine").exists()

    async def test_corrupt_bytes_at_the_origin_are_not_fetched_a_second_way(
        self, house: House, tmp_path: Path
    ) -> None:
        house.hub.faults.add(Fault("wrong_bytes", "body", WEIGHTS, after=5, times=None))
        async with make_client(house.hub, tmp_path / "mine", house.port) as client:
            with pytest.raises(Corrupt, match=WEIGHTS):
                await client.pull(NAME)

        assert len(house.hub.log.of("body", WEIGHTS)) == 2 and not list(
            (tmp_path / "mine").glob("models--*/snapshots")
        )


class TestShared:
    async def test_the_same_volume_is_used_in_place(self, house: House, tmp_path: Path) -> None:
        for root in (house.root, tmp_path / "mine"):  # our own directory, or only the path that is named
            async with house.client(root, is_shared=True) as client:
                model = await client.pull(NAME)
            assert model.transfer is Transfer.SHARED and model.path.is_relative_to(house.root)
        assert not (tmp_path / "mine").exists()

    async def test_a_link_to_the_same_volume_is_the_same_volume(self, house: House, tmp_path: Path) -> None:
        (tmp_path / "mounted").symlink_to(house.root)
        async with house.client(tmp_path / "mounted", is_shared=True) as client:
            model = await client.pull(NAME)

        assert model.transfer is Transfer.SHARED and model.path.is_relative_to(tmp_path / "mounted")

    @pytest.mark.parametrize("content", ['{"format": 1, "id": "another"}', "{", None])
    async def test_a_directory_at_the_same_path_that_is_another_volume_is_not_believed(
        self, house: House, tmp_path: Path, content: str | None
    ) -> None:
        await pull(house)
        volume = house.root / ".mx/volume.json"
        if content is None:
            volume.unlink()
        else:
            volume.write_text(content)
        async with house.client(tmp_path / "mine", is_shared=True) as client:
            model = await client.pull(NAME)

        assert model.transfer is Transfer.STREAMED and model.path.is_relative_to(tmp_path / "mine")
        assert repository_tree(tmp_path / "mine") == repository_tree(house.root)

    @pytest.mark.parametrize("is_cut", [True, False])
    async def test_a_volume_where_a_file_is_not_whole_is_not_used(
        self, house: House, tmp_path: Path, is_cut: bool
    ) -> None:
        model = await pull(house)
        copy = tmp_path / "copy"
        shutil.copytree(house.root, copy, symlinks=True)
        blob = blob_of(copy / model.path.relative_to(house.root) / WEIGHTS)
        os.truncate(blob, 10) if is_cut else blob.unlink()
        async with house.client(copy, is_shared=True) as client:
            found = await client.pull(NAME)

        assert find_volume_id(copy) == find_volume_id(house.root)
        assert found.transfer is Transfer.SHARED and found.path == model.path

    async def test_who_wants_no_shared_storage_gets_copies(self, house: House, tmp_path: Path) -> None:
        async with house.client(tmp_path / "mine") as client:
            assert (await client.pull(NAME)).transfer is Transfer.STREAMED


ODD_NAMES = (
    "a b/c  d.txt", "%2e%2e/%00.txt", "-rf", "~", "*", "?", "#fragment", "q?a=b&c=d", "'\"`$(x)",
    "é-nfc", "e\u0301-nfd", "日本語/模型.json", "n" * 255, "/".join("d" * 20), ".hidden/.x", "CON", "a:b",
)  # fmt: skip


class TestTransfer:
    async def test_every_kind_of_file_arrives_as_it_stands_at_the_server(
        self, house: House, tmp_path: Path
    ) -> None:
        repository = Repository("demo/odd", lfs_bytes=1000)
        twice = os.urandom(3_000_000)
        repository.commit(
            {
                **{name: name.encode() for name in ODD_NAMES},
                "empty.safetensors": b"", "one.bin": b"x", "exact.bin": bytes(65_536),
                "big.bin": twice, "copy/of/big.bin": twice, "small": b"same", "also small": b"same",
            }
        )  # fmt: skip
        house.hub.add(repository)
        async with make_client(
            house.hub, tmp_path / "mine", house.port, cache__transfer_chunk_size=65_536
        ) as client:
            model = await client.pull("demo/odd")

        assert repository_tree(tmp_path / "mine", "demo/odd") == repository_tree(house.root, "demo/odd")
        assert all((model.path / name).read_text() == name for name in ODD_NAMES)

    async def test_only_the_files_of_the_selection_come(self, house: House, tmp_path: Path) -> None:
        async with house.client(tmp_path / "mine") as client:
            light = await client.pull(NAME, Selection(Weights.NONE, exclude=("onnx/*",)))
            sent = light.bytes_fetched
            whole = await client.pull(NAME)

        names = {p.relative_to(whole.path).as_posix() for p in whole.path.rglob("*") if p.is_file()}
        assert names == set(tiny_files()) and light.path == whole.path
        assert sent + whole.bytes_fetched == sum(
            len(c) for c in tiny_files().values() if isinstance(c, bytes)
        )

    async def test_a_missing_readme_is_missing_here_too(self, house: House, tmp_path: Path) -> None:
        gone = Fault("status", "resolve", "README.md", 404, headers={"X-Error-Code": "EntryNotFound"})
        house.hub.faults.add(replace(gone, times=None, status=404))
        async with house.client(tmp_path / "mine") as client:
            model = await client.pull(NAME)
            again = await client.pull(NAME)

        assert model.missing == again.missing == ("README.md",) and again.was_hit
        assert not (model.path / "README.md").exists()

    @pytest.mark.parametrize("after", [500, 5_000, 60_000, 150_000])
    async def test_a_stream_that_is_cut_leaves_nothing_visible_and_a_retry_completes(
        self, hub: LocalHub, tmp_path: Path, after: int
    ) -> None:
        root = tmp_path / "mine"
        async with open_house(hub, tmp_path, has_data_plane=False) as house:
            await pull(house)
            async with Relay(house.port) as relay, make_client(house.hub, root, relay.port) as client:
                await client.health()
                relay.bytes_left = after
                with pytest.raises(MxError):
                    await client.pull(NAME)
                assert not list(root.glob("models--*/snapshots")) and not list(root.glob("models--*/refs"))
                assert not useless(root)
                relay.bytes_left = None
                model = await self.pull_again(client)

            assert model.transfer is Transfer.STREAMED
            assert repository_tree(root) == repository_tree(house.root)

    async def pull_again(self, client: AsyncClient) -> LocalModel:
        """A channel may not have heard yet that its line was cut, and lose one more call to that."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await client.pull(NAME, strategy=SERVER)
                except Unreachable:
                    await asyncio.sleep(0.05)

    async def test_a_caller_that_leaves_in_the_middle_leaves_nothing(
        self, house: House, tmp_path: Path
    ) -> None:
        repository = Repository("demo/big")
        repository.commit({"model.bin": bytes(30_000_000)})
        house.hub.add(repository)
        await pull(house, "demo/big")
        async with house.client(tmp_path / "mine") as client:
            pulling = asyncio.create_task(client.pull("demo/big"))
            while not list((tmp_path / "mine").glob(".mx/partials/*")):
                await asyncio.sleep(0)
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)
            assert pulling.cancelled() and not list((tmp_path / "mine").glob("models--*/snapshots"))
            assert not useless(tmp_path / "mine")
            assert not (await client.pull("demo/big")).was_hit
            assert not unfinished(tmp_path / "mine")

    async def test_a_file_damaged_at_the_server_reaches_no_client(self, house: House, tmp_path: Path) -> None:
        model = await pull(house)
        blob = blob_of(model.path / WEIGHTS)
        status, content = blob.stat(), bytearray(blob.read_bytes())
        content[-1] ^= 1
        blob.write_bytes(content)
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
        async with house.client(tmp_path / "mine") as client:
            with pytest.raises(Corrupt, match=WEIGHTS):
                await client.pull(NAME)

        assert not list((tmp_path / "mine").glob("models--*/snapshots"))

    async def test_a_cache_of_before_the_branch_moved_is_brought_up_to_date(
        self, house: House, tmp_path: Path
    ) -> None:
        async with house.client(tmp_path / "mine") as client:
            before = await client.pull(NAME)
            house.hub._repositories[NAME].commit({"config.json": b'{"v": 2}'})
            after = await client.pull(NAME)
            pinned = await client.pull(ModelRef.parse(NAME, revision=before.commit))

        assert after.bytes_fetched == 8 and (after.path / "config.json").read_bytes() == b'{"v": 2}'
        assert pinned.was_hit and pinned.path == before.path and before.path.exists()
        assert (tmp_path / "mine/models--demo--tiny/refs/main").read_text() == after.commit

    async def test_files_that_are_here_already_are_not_sent_again(self, house: House, tmp_path: Path) -> None:
        async with make_client(house.hub, tmp_path / "mine", house.port) as client:
            direct = await client.pull(NAME, strategy=DIRECT)
            blob_of(direct.path / "config.json").unlink()
            model = await client.pull(NAME)

        assert (
            model.path == direct.path and model.bytes_fetched == (model.path / "config.json").stat().st_size
        )


class TestClosing:
    async def test_a_pull_whose_client_is_closed_ends_with_an_error_of_ours(
        self, house: House, tmp_path: Path
    ) -> None:
        held = house.hub.faults.add(Fault("hold", "body", WEIGHTS, after=10_000))
        client = house.client(tmp_path / "mine")
        pulling = asyncio.create_task(client.pull(NAME))
        while not held.applied:
            await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(Cancelled, match="closed"):
            await asyncio.wait_for(pulling, 5)
        held.release()
        async with client:
            assert (await client.pull(NAME)).path.exists()

    async def test_a_cancelled_caller_is_cancelled(self, house: House, tmp_path: Path) -> None:
        held = house.hub.faults.add(Fault("hold", "body", WEIGHTS, after=10_000))
        async with house.client(tmp_path / "mine") as client:
            pulling = asyncio.create_task(client.pull(NAME))
            while not held.applied:
                await asyncio.sleep(0.01)
            pulling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pulling


class TestSyncClient:
    @pytest.fixture
    def client(self, house: House, tmp_path: Path) -> SyncClient:
        return SyncClient(make_client(house.hub, tmp_path / "mine", house.port))

    async def test_many_threads_may_use_one_client(self, client: SyncClient) -> None:
        with ThreadPoolExecutor(8) as pool:
            loop = asyncio.get_running_loop()
            pulls = [loop.run_in_executor(pool, client.pull, NAME) for _ in range(8)]
            models: list[LocalModel] = await asyncio.gather(*pulls)
            await asyncio.to_thread(client.close)

        assert len({model.path for model in models}) == 1
        assert not [t for t in threading.enumerate() if t.name == "mx-client"]

    async def test_it_may_be_closed_often_and_used_again(self, client: SyncClient) -> None:
        def use() -> None:
            client.close()
            with client:
                assert client.health().status == "ok"
            client.close()
            client.close()
            assert client.pull(NAME).path.exists()
            client.close()

        await asyncio.to_thread(use)
        assert not [t for t in threading.enumerate() if t.name == "mx-client"]

    async def test_it_blocks_and_works_inside_a_running_loop(self, tmp_path: Path) -> None:
        with (
            LocalHub([tiny_model(NAME)]).running_in_thread() as hub,
            SyncClient(make_client(hub, tmp_path / "mine", closed_port())) as client,
        ):
            assert client.pull(NAME, strategy=DIRECT).path.exists()
            with pytest.raises(Unreachable):
                client.health()

    async def test_closing_ends_the_calls_of_other_threads(self, house: House, client: SyncClient) -> None:
        held = house.hub.faults.add(Fault("hold", "body", WEIGHTS, after=10_000))
        pulling = asyncio.create_task(asyncio.to_thread(client.pull, NAME))
        while not held.applied:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(client.close)
        with pytest.raises(Cancelled):
            await asyncio.wait_for(pulling, 5)
        held.release()

        assert not [t for t in threading.enumerate() if t.name == "mx-client"]

    async def test_its_progress_is_told_on_its_own_thread(self, client: SyncClient) -> None:
        names: set[str] = set()
        errors: list[Exception] = []

        def hear(progress: Progress) -> None:
            names.add(threading.current_thread().name)
            for call in (client.health, client.close):
                try:
                    call()
                except Invalid as error:
                    errors.append(error)

        await asyncio.to_thread(client.pull, NAME, on_progress=hear)
        await asyncio.to_thread(client.close)

        assert names == {"mx-client"} and len(errors) >= 2
