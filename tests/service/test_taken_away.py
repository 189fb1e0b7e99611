# SPDX-License-Identifier: Apache-2.0
"""Another program removes files under a running pull; and two processes never decide about one directory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.arrivals import wait_until
from tests.support.caches import models_tree
from tests.support.house import House, open_house

from modelexpress import compose
from modelexpress.cache.flights import Flight
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.errors import Busy, StorageFailed
from modelexpress.domain.held import Pulled
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import ALL_FILES, Selection
from modelexpress.testing.hub import Fault, LocalHub, Repository

NAME = "demo/two"
REF = ModelRef.parse(NAME)
CONTENT = {
    "a.safetensors": bytes(range(256)) * 900,
    "b.safetensors": bytes(range(255, -1, -1)) * 700,
    "config.json": b"{}",
}
RECORDS = ".mx/records"


@dataclass
class Thief:
    """A program that takes files away while a pull waits for the last one."""

    house: House
    held: Fault
    flight: Flight | None = None

    @property
    def repository(self) -> Path:
        return self.house.root / "models--demo--two"

    def blob(self, path: str) -> Path:
        content = CONTENT[path]
        if path.endswith(".safetensors"):
            return self.repository / "blobs" / hashlib.sha256(content).hexdigest()
        return self.repository / "blobs" / hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def hold(self, path: str) -> Fault:
        """The next reading of `path` stops in the middle."""
        self.held = self.house.hub.faults.add(Fault("hold", "body", path, after=10_000))
        return self.held

    async def begin(self, selection: Selection = ALL_FILES) -> Flight:
        self.flight = await self.house.cache.begin(REF, selection, ANONYMOUS)
        return self.flight

    async def wait_alone(self) -> None:
        """Return when only the file that is held is still to come."""
        assert self.flight is not None
        state = self.flight._state
        await wait_until(
            lambda: self.held.applied > 0 and state.progress.files_done == state.progress.files_total - 1
        )


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    repository = Repository(NAME)
    repository.commit(CONTENT)
    async with LocalHub([repository]) as hub:
        yield hub


@pytest.fixture
def thief(house: House) -> Thief:
    made = Thief(house, Fault("hold"))
    made.hold("b.safetensors")
    return made


async def assert_sound(house: House, pulled: Pulled) -> None:
    for path, content in CONTENT.items():
        assert Path(pulled.path, path).read_bytes() == content
    [held] = await house.cache.list_held()
    assert held.selections == ("all",) and held.is_recorded
    assert held.bytes_ours == held.bytes == sum(map(len, CONTENT.values())), "what we brought is ours"
    assert not list(house.root.glob(".mx/partials/*")) and not list(house.root.glob(".mx/staging/*"))
    [verified] = await house.cache.verify(REF, lambda progress: None)
    assert verified.is_sound and verified.unproven == 0


class TestWhilePulled:
    @pytest.mark.parametrize(
        "taken",
        [
            ["a.safetensors"],
            ["a.safetensors", "config.json"],
            [RECORDS],
            ["a.safetensors", RECORDS],
            ["blobs", RECORDS],
            ["blobs"],
            ["everything"],
        ],
        ids=" and ".join,
    )
    async def test_what_is_taken_away_is_brought_again_and_all_of_it_is_ours(
        self, thief: Thief, taken: list[str]
    ) -> None:
        house, flight = thief.house, await thief.begin()
        await thief.wait_alone()
        for name in taken:
            if name == RECORDS:
                shutil.rmtree(house.root / RECORDS)
            elif name == "blobs":
                shutil.rmtree(thief.repository / "blobs")
            elif name == "everything":
                shutil.rmtree(thief.repository)
            else:
                thief.blob(name).unlink()
        thief.held.release()

        await assert_sound(house, await flight.result())
        assert len(house.hub.log.of("body", "b.safetensors")) == 1

    async def test_what_is_taken_and_damaged_is_brought_again(self, thief: Thief) -> None:
        flight = await thief.begin()
        await thief.wait_alone()
        thief.blob("a.safetensors").write_bytes(b"not this")
        thief.held.release()

        await assert_sound(thief.house, await flight.result())

    async def test_a_larger_selection_survives_the_loss_of_what_was_held_before(self, thief: Thief) -> None:
        first = await thief.begin(Selection(include=("a*", "config.json")))
        await first.result()
        flight = await thief.begin()
        await thief.wait_alone()
        shutil.rmtree(thief.house.root / RECORDS)
        thief.held.release()
        pulled = await flight.result()

        for path, content in CONTENT.items():
            assert Path(pulled.path, path).read_bytes() == content
        [held] = await thief.house.cache.list_held()
        assert held.selections == ("all",) and held.bytes_ours == held.bytes

    async def test_a_file_of_a_smaller_selection_that_vanishes_is_brought_again(self, thief: Thief) -> None:
        first = await thief.begin(Selection(include=("a*", "config.json")))
        await first.result()
        flight = await thief.begin()
        await thief.wait_alone()
        thief.blob("a.safetensors").unlink()
        thief.held.release()
        pulled = await flight.result()

        for path, content in CONTENT.items():
            assert Path(pulled.path, path).read_bytes() == content
        [held] = await thief.house.cache.list_held()
        assert "all" in held.selections and held.bytes_ours == held.bytes

    async def test_three_times_in_a_row_is_a_clear_failure_and_the_next_pull_is_sound(
        self, thief: Thief
    ) -> None:
        flight = await thief.begin()
        names = ["b.safetensors", "a.safetensors"]
        for number in range(3):
            await thief.wait_alone()
            kept, other = names[number % 2], names[(number + 1) % 2]
            held = thief.held
            thief.hold(other)
            thief.blob(other).unlink()
            held.release()
            assert kept != other
        with pytest.raises(StorageFailed, match=r"demo/two.*taken away.*3 times.*no other program"):
            await flight.result()
        assert not list(thief.repository.glob("snapshots/*")) and not list(
            thief.house.root.glob(".mx/partials/*")
        )
        thief.house.hub.faults.clear()
        again = await thief.begin()

        await assert_sound(thief.house, await again.result())

    async def test_progress_ends_at_the_size_of_the_model_all_the_same(self, thief: Thief) -> None:
        flight = await thief.begin()
        await thief.wait_alone()
        thief.blob("a.safetensors").unlink()
        thief.held.release()
        await flight.result()

        done = flight._state.progress
        assert done.bytes_done == done.bytes_total == sum(map(len, CONTENT.values()))
        assert done.files_done == done.files_total == 3


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that is not this one."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def give_to(root: Path, process: subprocess.Popen[bytes]) -> None:
    """Let `.mx/owner` say that the server is that process."""
    owner = json.loads((root / ".mx/owner").read_text())
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    owner["process"].update(pid=process.pid, started=started)
    owner["registry"] = "another"
    (root / ".mx/owner").write_text(json.dumps(owner))


class TestServedElsewhere:
    async def fill(self, hub: LocalHub, tmp_path: Path) -> bytes:
        async with open_house(hub, tmp_path) as house:
            flight = await house.cache.begin(REF, ALL_FILES, ANONYMOUS)
            await flight.result()
            return (house.root / ".mx/owner").read_bytes()

    async def test_a_living_server_alone_removes_prunes_and_adopts(
        self, hub: LocalHub, tmp_path: Path, neighbour: subprocess.Popen[bytes]
    ) -> None:
        root = tmp_path / "server-cache"
        (root / ".mx").mkdir(parents=True, exist_ok=True)
        owner = await self.fill(hub, tmp_path)
        (root / ".mx/owner").write_bytes(owner)
        give_to(root, neighbour)
        (root / ".mx/trash/left").mkdir()
        loaded = compose.load_settings("client", {"cache.directory": str(root)}, {"HOME": str(tmp_path)})
        async with compose.open_local(loaded, {}) as control:
            before = models_tree(root)
            for verb in (
                control.remove([REF], is_dry_run=False),
                control.prune(is_dry_run=False),
                control.adopt(None, is_dry_run=False),
                control.adopt(REF, is_dry_run=False),
            ):
                with pytest.raises(Busy, match=rf"served by process {neighbour.pid} on .*--endpoint"):
                    await verb
            assert models_tree(root) == before
            assert (await control.remove([REF], is_dry_run=True)).bytes_freed > 0
            await control.prune(is_dry_run=True)
            [held] = await control.list_held()
            [verified] = await control.verify(None, lambda progress: None)
            assert verified.is_sound and held.commit == verified.commit

            neighbour.kill()
            await asyncio.to_thread(neighbour.wait)
            await control.remove([REF], is_dry_run=False)
            assert not list(root.glob("models--*"))

    async def test_a_refused_removal_leaves_what_interrupted_pulls_have_brought(
        self, hub: LocalHub, tmp_path: Path, neighbour: subprocess.Popen[bytes]
    ) -> None:
        root = tmp_path / "server-cache"
        owner = await self.fill(hub, tmp_path)
        (root / ".mx/owner").write_bytes(owner)
        give_to(root, neighbour)
        loaded = compose.load_settings("client", {"cache.directory": str(root)}, {"HOME": str(tmp_path)})
        async with compose.open_local(loaded, {}) as control:
            partials = control._parts.blobs.partials  # type: ignore[attr-defined]
            repository = control._parts.layout.repository(REF)  # type: ignore[attr-defined]
            [entry] = [
                e
                for e in control._parts.records.find_all(REF)[0].manifest.files  # type: ignore[attr-defined]
                if e.path == "a.safetensors"
            ]
            partial = partials.open(repository, entry, lambda count: None)
            partial.put(0, memoryview(CONTENT["a.safetensors"]))
            partials.release(partial, is_kept=True)
            before = sorted(root.glob(".mx/partials/*"))
            with pytest.raises(Busy):
                await control.remove([REF], is_dry_run=False)

            assert sorted(root.glob(".mx/partials/*")) == before

    @pytest.mark.parametrize(
        "content",
        [b"", b"\xff", b"[]", b"{}", b'{"process": null}', b'{"process": {"pid": "\\u0000"}}', b"[" * 10_000],
        ids=range(7),
    )
    async def test_an_owner_file_that_says_nonsense_stops_nobody(
        self, hub: LocalHub, tmp_path: Path, content: bytes
    ) -> None:
        root = tmp_path / "server-cache"
        owner = json.loads(await self.fill(hub, tmp_path))
        if b"u0000" in content:
            owner["process"]["pid"] = "\0"
            content = json.dumps(owner).encode()
        (root / ".mx/owner").write_bytes(content)
        loaded = compose.load_settings("client", {"cache.directory": str(root)}, {"HOME": str(tmp_path)})
        async with compose.open_local(loaded, os.environ) as control:
            await control.remove([REF], is_dry_run=False)
        assert not list(root.glob("models--*"))
