# SPDX-License-Identifier: Apache-2.0
"""A transfer in trouble: origins, disks, tickets and ports that change while it is under way."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.arrivals import bury_writers, content_of, wait_until
from tests.support.caches import unfinished, useless
from tests.support.data_relay import Damage, DataRelay, relaying
from tests.support.house import House
from tests.support.mounts import read_only
from tests.support.transfers import held_chunks, open_relayed_house

from modelexpress.client import LocalModel, Strategy, Transfer
from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Cancelled, MxError, StorageFailed
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry
from modelexpress.domain.refs import ModelRef
from modelexpress.store.layout import Layout
from modelexpress.store.partials import Partials
from modelexpress.store.volume import open_volume, sweep
from modelexpress.testing.hub import Fault, LocalHub, Repository

NAME = "demo/trouble"
REF = ModelRef.parse(NAME)
LARGE = "a.safetensors"  # five chunks, of which an origin is asked for four at once
CONTENT = {
    LARGE: content_of(4 * CHUNK_BYTES + 500_000),
    "b.safetensors": content_of(CHUNK_BYTES + 7, seed=1),
    "config.json": b"{}",
}
TOTAL = sum(map(len, CONTENT.values()))
LANES = 4  # connections of a client to the data plane
HELD_AT = 4 * CHUNK_BYTES + 5  # of the large file: four chunks have arrived, and the last is under way


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    repository = Repository(NAME)
    repository.commit(CONTENT)
    async with LocalHub([repository]) as hub:
        yield hub


@pytest.fixture
def relay() -> Iterator[DataRelay]:
    with relaying() as relay:
        yield relay


@pytest.fixture
async def house(hub: LocalHub, relay: DataRelay, tmp_path: Path) -> AsyncIterator[House]:
    async with open_relayed_house(hub, relay, tmp_path) as house:
        yield house


async def pull(house: House, root: Path, is_clean: bool = True) -> LocalModel:
    async with house.client(root) as client:
        model = await client.pull(NAME, strategy=Strategy.SERVER_ONLY)
    for path, content in CONTENT.items():
        assert (model.path / path).read_bytes() == content
    assert not is_clean or not unfinished(root)
    return model


async def ensure(house: House) -> None:
    async with house.client(house.root, is_shared=True) as client:
        await client.ensure(NAME)


def kept(house: House, root: Path) -> int:
    repository = house.hub._repositories[NAME]
    files = repository.files(repository.branches["main"])
    return held_chunks(root, NAME, files).bytes


class Halfway:
    """A pull of which the server, and the client with it, waits for the origin in the large file."""

    def __init__(self, house: House, root: Path) -> None:
        self.house, self.root = house, root
        self.held = house.hub.faults.add(Fault("hold", "body", LARGE, after=HELD_AT, times=None))
        self.pulling = asyncio.create_task(pull(house, root))

    async def wait(self) -> None:
        """Return when what can be there is: the other files, proven, and four chunks of the large one."""
        there = TOTAL - len(CONTENT[LARGE]) + 4 * CHUNK_BYTES
        await wait_until(lambda: self.held.applied > 0 and kept(self.house, self.root) >= there)
        await wait_until(lambda: len(list(self.root.glob(".mx/partials/*"))) == 2)

    async def fail(self) -> MxError:
        self.held.release()
        with pytest.raises(MxError) as caught:
            await asyncio.wait_for(self.pulling, 20)
        return caught.value


@pytest.fixture
async def halfway(house: House, tmp_path: Path) -> AsyncIterator[Halfway]:
    made = Halfway(house, tmp_path / "mine")
    await made.wait()
    yield made
    made.held.release()
    made.pulling.cancel()
    await asyncio.gather(made.pulling, return_exceptions=True)


class TestOrigin:
    async def test_a_file_that_changes_between_two_ranges_starts_over_and_nothing_else(
        self, house: House, tmp_path: Path
    ) -> None:
        changed = house.hub.faults.add(Fault("etag", "body", LARGE))
        await pull(house, tmp_path / "mine")

        assert changed.applied == 1
        sent = house.hub.log.bytes_by_file()
        assert len(CONTENT[LARGE]) < sent.pop(f"{NAME}/{LARGE}") <= 2 * len(CONTENT[LARGE])
        assert sent == {f"{NAME}/{path}": len(CONTENT[path]) for path in CONTENT if path != LARGE}

    async def test_who_reads_while_it_arrives_hears_the_servers_own_cause(self, halfway: Halfway) -> None:
        removing = asyncio.create_task(halfway.house.cache.remove([REF], is_dry_run=False))
        error = await halfway.fail()
        await removing

        assert isinstance(error, Cancelled) and "the model was removed" in error.message
        assert not list(halfway.root.glob("models--*/snapshots")) and not useless(halfway.root)


class TestDisk:
    async def test_a_directory_that_vanishes_at_the_client_is_named_and_the_next_pull_begins_anew(
        self, halfway: Halfway
    ) -> None:
        shutil.rmtree(halfway.root)
        error = await halfway.fail()

        assert isinstance(error, StorageFailed), repr(error)
        assert not list(halfway.root.glob("models--*/snapshots"))
        await pull(halfway.house, halfway.root)

    async def test_a_directory_that_vanishes_at_the_server_is_told_to_the_client(
        self, halfway: Halfway
    ) -> None:
        away = halfway.house.root.with_name("away")
        halfway.house.root.rename(away)
        error = await halfway.fail()

        assert isinstance(error, StorageFailed), repr(error)
        for root in (halfway.root, away, halfway.house.root):
            assert not list(root.glob("models--*/snapshots"))
        shutil.rmtree(halfway.house.root, ignore_errors=True)
        away.rename(halfway.house.root)
        await pull(halfway.house, halfway.root)

    @pytest.mark.parametrize("where", ["client", "server"])
    async def test_a_disk_that_becomes_read_only_is_a_clear_error_and_nothing_is_published(
        self, halfway: Halfway, where: str
    ) -> None:
        root = halfway.root if where == "client" else halfway.house.root
        with read_only(root):
            error = await halfway.fail()
            assert isinstance(error, StorageFailed) and "read-only" in error.message, repr(error)
            assert not list(root.glob("models--*/snapshots"))
        # What could not be taken away from a read-only disk has a day to go.
        await pull(halfway.house, halfway.root, is_clean=False)


class TestDataPlane:
    @pytest.mark.parametrize("status", [403, 410])
    async def test_tickets_that_died_with_a_restart_cost_a_question_and_what_was_under_way(
        self, house: House, relay: DataRelay, tmp_path: Path, status: int
    ) -> None:
        await ensure(house)
        relay.refusals["blobs"] = [status] * 3
        model = await pull(house, tmp_path / "mine")

        assert model.transfer is Transfer.STREAMED and relay.refused == [status] * 3
        # A refusal ends what other connections bring of the same file; whole chunks are kept.
        assert TOTAL <= relay.bytes_sent() <= TOTAL + (LANES - 1) * CHUNK_BYTES

    @pytest.mark.parametrize("status", [403, 410, 503])
    async def test_a_ticket_that_is_too_old_for_the_digest_list_costs_a_question_too(
        self, house: House, relay: DataRelay, tmp_path: Path, status: int
    ) -> None:
        await ensure(house)
        damage = Damage("flip", len(CONTENT[LARGE]), 100)
        relay.damages.append(damage)
        relay.refusals["digests"] = [status]
        await pull(house, tmp_path / "mine")

        assert relay.refused == [status]
        assert relay.bytes_sent() == TOTAL + damage.cost

    async def test_a_port_that_is_closed_is_a_warning_and_the_files_come_over_grpc(
        self, house: House, relay: DataRelay, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await ensure(house)
        relay.target_port = 0  # as behind a firewall that lets nothing through
        with caplog.at_level(logging.WARNING):
            model = await pull(house, tmp_path / "mine")

        assert model.transfer is Transfer.STREAMED and relay.bytes_sent() == 0
        [said] = [r.message for r in caplog.records if "over gRPC instead" in r.message]
        assert f"127.0.0.1:{relay.port}" in said


class TestResuming:
    async def test_a_process_that_pulls_again_goes_on_from_its_own_interrupted_pull(
        self, halfway: Halfway, relay: DataRelay
    ) -> None:
        halfway.pulling.cancel()
        await asyncio.gather(halfway.pulling, return_exceptions=True)
        before = kept(halfway.house, halfway.root)
        assert before >= CHUNK_BYTES
        halfway.held.release()
        await ensure(halfway.house)
        relay.clear()
        await pull(halfway.house, halfway.root)

        assert relay.bytes_sent() == TOTAL - before

    async def test_two_processes_never_write_into_one_file(self, hub: LocalHub, tmp_path: Path) -> None:
        layout = Layout(tmp_path / "cache")
        open_volume(layout, "dead")
        file = hub._repositories[NAME].files(hub._repositories[NAME].branches["main"])[LARGE]
        entry = FileEntry(LARGE, file.size, Digest(DigestKind.SHA256, file.etag), file.blob_id)
        before = Partials(layout, "dead").open(layout.repository(REF), entry, _ignore)
        before.put(0, memoryview(CONTENT[LARGE])[:CHUNK_BYTES])
        Partials(layout, "dead").release(before, is_kept=True)
        bury_writers(layout)
        # Another process has given it its second name a moment ago, and is hashing it again.
        theirs = layout.partials / f"other.{before.path.name.partition('.')[2]}"
        os.link(before.path, theirs)
        partials = Partials(layout, "mine")
        mine = partials.open(layout.repository(REF), entry, _ignore)

        assert mine.arrived_bytes == CHUNK_BYTES
        assert not os.path.samefile(mine.path, theirs)
        partials.release(mine, is_kept=False)

    def test_a_partial_file_of_which_nothing_is_known_goes_with_its_writer(self, tmp_path: Path) -> None:
        """Killed between the file's second name and the first line of its journal."""
        layout = Layout(tmp_path / "cache")
        open_volume(layout, "mine")
        (layout.partials / "dead.key.1.part").write_bytes(bytes(1000))
        (layout.partials / "dead.key.1.journal").touch()
        sweep(layout, frozenset({"dead"}), time.time())

        assert not list(layout.partials.iterdir())


def _ignore(count: int) -> None:
    pass
