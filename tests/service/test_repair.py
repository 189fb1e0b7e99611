# SPDX-License-Identifier: Apache-2.0
"""`verify --repair` on a directory and at a server: what is damaged costs its chunks, and nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.support.arrivals import flip, wait_until
from tests.support.caches import blob_of, fill_by_huggingface_hub, pull, repository_tree, unfinished
from tests.support.house import House, open_house, tree
from tests.support.shell import Shell

from modelexpress import compose
from modelexpress.client import LocalModel
from modelexpress.client.remote_control import RemoteControl
from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.control import CacheControl
from modelexpress.domain.errors import NotFound
from modelexpress.domain.held import Verified
from modelexpress.domain.progress import Phase, Progress
from modelexpress.domain.refs import ModelRef
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import safetensors, sharded_files

NAME = "demo/large"
REF = ModelRef.parse(NAME)
BIG = "model-00001-of-00001.safetensors"
SMALL = "config.json"
FILES = sharded_files(1, 4 * CHUNK_BYTES + 1000)  # with its header five chunks, the last a short one
CONTENT = FILES[BIG]
assert isinstance(CONTENT, bytes)
LAST = len(CONTENT) - 4 * CHUNK_BYTES


def ignore(progress: Progress) -> None:
    pass


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    repository = Repository(NAME)
    repository.commit(FILES)
    async with LocalHub([repository]) as hub:
        yield hub


@pytest.fixture(params=["local", "remote"])
async def control(request: pytest.FixtureRequest, house: House) -> AsyncIterator[CacheControl]:
    """The verbs on the directory of `house` with its origin, and at its server."""
    if request.param == "remote":
        async with house.connection() as connection:
            yield RemoteControl(connection)
        return
    flags = {
        "cache.directory": str(house.root),
        "origin.redirect_hosts": "localhost,127.0.0.1",
        "origin.max_attempts": 1,
    }
    loaded = compose.load_settings("client", flags, house.env)
    async with compose.open_local(loaded, house.env, has_origins=True) as local:
        yield local


@pytest.fixture
async def model(house: House) -> LocalModel:
    """The model, pulled; nothing of it is remembered by the Hub's log."""
    pulled = await pull(house, NAME)
    house.hub.log.clear()
    return pulled


async def repair(control: CacheControl, is_repair: bool = True) -> Verified:
    [verified] = await control.verify(REF, ignore, is_repair)
    return verified


def fetched(house: House) -> dict[str, int]:
    return house.hub.log.bytes_by_file()


async def assert_mended(house: House, control: CacheControl, model: LocalModel) -> None:
    """As if nothing had ever happened; to see it costs nothing."""
    assert blob_of(model.path / BIG).read_bytes() == CONTENT
    assert {p.relative_to(model.path).as_posix() for p in model.path.rglob("*")} == set(FILES)
    assert unfinished(house.root) == []
    verified = await repair(control, is_repair=False)
    assert verified.is_sound and verified.damages == () and verified.files == len(FILES)
    house.hub.log.clear()
    assert (await pull(house, NAME)).was_hit and house.hub.log.of("body") == []


class TestChunks:
    @pytest.mark.parametrize(
        ("places", "said", "cost"),
        [
            ((2 * CHUNK_BYTES + 7,), "chunk 3 of 5 differs: sha256 ", [CHUNK_BYTES]),
            ((len(CONTENT) - 1,), "chunk 5 of 5 differs: ", [LAST]),
            ((0, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 9), "chunks 1, 4 of 5 differ: ", [CHUNK_BYTES] * 2),
            ((0, CHUNK_BYTES), "chunks 1, 2 of 5 differ: ", [CHUNK_BYTES] * 2),
        ],
    )
    async def test_flipped_bytes_cost_their_chunks_alone(
        self,
        house: House,
        control: CacheControl,
        model: LocalModel,
        places: tuple[int, ...],
        said: str,
        cost: list[int],
    ) -> None:
        before = repository_tree(house.root, NAME)
        for place in places:
            flip(blob_of(model.path / BIG), place)
        verified = await repair(control)

        [damage] = verified.damages
        assert damage.path == BIG and damage.problem.startswith(said)
        assert damage.is_repaired and damage.obstacle == "" and verified.is_sound
        assert [request.bytes_sent for request in house.hub.log.of("body")] == cost
        assert verified.bytes_fetched == sum(cost)
        assert repository_tree(house.root, NAME) == before
        await assert_mended(house, control, model)

    @pytest.mark.parametrize("is_longer", [False, True])
    async def test_a_file_of_another_length_costs_what_it_lacks(
        self, house: House, control: CacheControl, model: LocalModel, is_longer: bool
    ) -> None:
        length = len(CONTENT) + 5 if is_longer else 3 * CHUNK_BYTES - 1
        os.truncate(blob_of(model.path / BIG), length)
        verified = await repair(control)

        [damage] = verified.damages
        assert damage.problem == f"{length} bytes instead of {len(CONTENT)}" and damage.is_repaired
        assert verified.bytes_fetched == (0 if is_longer else 2 * CHUNK_BYTES + LAST)
        await assert_mended(house, control, model)

    async def test_what_a_verification_found_before_is_repaired_later(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        flip(blob_of(model.path / BIG), 5)
        (model.path / SMALL).unlink()
        for _ in range(2):  # it stays damage, however often one looks
            found = await repair(control, is_repair=False)
            assert [damage.path for damage in found.damages] == [SMALL, BIG] and not found.is_sound
            assert not any(damage.is_repaired or damage.obstacle for damage in found.damages)
        verified = await repair(control)

        assert verified.is_sound and verified.bytes_fetched == CHUNK_BYTES
        await assert_mended(house, control, model)

    async def test_the_next_pull_costs_the_chunk_too(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        flip(blob_of(model.path / BIG), CHUNK_BYTES)
        assert not (await repair(control, is_repair=False)).is_sound
        await pull(house, NAME)

        assert fetched(house) == {f"{NAME}/{BIG}": CHUNK_BYTES}
        await assert_mended(house, control, model)

    async def test_bytes_that_two_commits_share_are_repaired_once(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        house.hub._repositories[NAME].commit({SMALL: b'{"v": 2}'})
        newer = await pull(house, NAME)
        flip(blob_of(model.path / BIG), 5)
        house.hub.log.clear()
        found = await control.verify(None, ignore, True)

        assert len(found) == 2 and all(one.is_sound for one in found)
        assert fetched(house) == {f"{NAME}/{BIG}": CHUNK_BYTES}
        for commit in (model.commit, newer.commit):
            assert (await pull(house, f"{NAME}@{commit}")).was_hit


class TestWholeFiles:
    @pytest.mark.parametrize("damage", [Path.unlink, lambda blob: (blob.unlink(), blob.mkdir()), os.truncate])
    async def test_a_blob_that_is_not_there_is_fetched(
        self, house: House, control: CacheControl, model: LocalModel, damage: Callable[..., object]
    ) -> None:
        blob = blob_of(model.path / BIG)
        damage(blob, 0) if damage is os.truncate else damage(blob)
        verified = await repair(control)

        assert verified.is_sound and verified.bytes_fetched == len(CONTENT)
        await assert_mended(house, control, model)

    async def test_a_file_of_one_chunk_is_fetched_whole(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        flip(blob_of(model.path / SMALL), 3)
        verified = await repair(control)

        assert verified.is_sound and fetched(house) == {f"{NAME}/{SMALL}": verified.bytes_fetched}
        await assert_mended(house, control, model)

    async def test_without_a_list_the_file_is_fetched_whole_and_has_one_then(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        [recorded] = (house.root / ".mx/digests/1").iterdir()
        content = recorded.read_bytes()
        recorded.unlink()
        flip(blob_of(model.path / BIG), 5)
        verified = await repair(control)

        assert verified.damages[0].problem.startswith("sha256 ") and verified.is_sound
        assert verified.bytes_fetched == len(CONTENT) and recorded.read_bytes() == content
        await assert_mended(house, control, model)

    async def test_a_sound_file_gets_the_list_that_it_lacks_or_that_was_damaged(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        [recorded] = (house.root / ".mx/digests/1").iterdir()
        content = recorded.read_bytes()
        for broken in (b"", b"x" * len(content)):
            recorded.write_bytes(broken)
            assert (await repair(control, is_repair=False)).is_sound
            assert recorded.read_bytes() == content

    async def test_a_list_of_wrong_bytes_is_not_believed(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        [recorded] = (house.root / ".mx/digests/1").iterdir()
        right = recorded.read_bytes()
        recorded.write_bytes(b"x" * 32 + right[32:])
        flip(blob_of(model.path / BIG), 4 * CHUNK_BYTES)
        verified = await repair(control)

        assert verified.is_sound and recorded.read_bytes() == right
        assert verified.bytes_fetched == CHUNK_BYTES + LAST
        await assert_mended(house, control, model)


class TestLinks:
    async def test_a_broken_link_is_made_again_and_nothing_is_fetched(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        before = repository_tree(house.root, NAME)
        (model.path / BIG).unlink()
        (model.path / SMALL).unlink()
        (model.path / SMALL).symlink_to("nowhere")
        verified = await repair(control)

        assert verified.is_sound and len(verified.damages) == 2 and house.hub.log.of("body") == []
        assert repository_tree(house.root, NAME) == before
        await assert_mended(house, control, model)

    async def test_a_lost_snapshot_is_there_again(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        shutil.rmtree(model.path)
        verified = await repair(control)

        assert verified.is_sound and len(verified.damages) == len(FILES)
        assert house.hub.log.of("body") == []
        await assert_mended(house, control, model)


class TestObstacles:
    async def assert_left(self, verified: Verified, blob: Path, before: bytes, obstacle: str) -> None:
        [damage] = verified.damages
        assert not damage.is_repaired and not verified.is_sound and obstacle in damage.obstacle
        assert verified.bytes_fetched == 0 and blob.read_bytes() == before

    @pytest.mark.parametrize("is_recorded", [False, True])
    async def test_what_another_tool_wrote_is_named_and_left(
        self, house: House, control: CacheControl, is_recorded: bool
    ) -> None:
        path = await fill_by_huggingface_hub(house.hub, house.root, NAME)
        if is_recorded:
            await pull(house, NAME)
        blob = blob_of(path / BIG)
        flip(blob, 5)
        house.hub.log.clear()
        before = repository_tree(house.root, NAME)
        verified = await repair(control)

        await self.assert_left(verified, blob, before[f"blobs/{blob.name}"], "another tool")  # type: ignore[arg-type]
        assert repository_tree(house.root, NAME) == before and house.hub.log.requests == []

    async def test_what_was_adopted_is_repaired(self, house: House, control: CacheControl) -> None:
        path = await fill_by_huggingface_hub(house.hub, house.root, NAME)
        await control.adopt(REF, is_dry_run=False)
        assert (await repair(control, is_repair=False)).is_sound  # which records its list
        flip(blob_of(path / BIG), 5)
        verified = await repair(control)

        assert verified.is_sound and verified.bytes_fetched == CHUNK_BYTES
        assert (path / BIG).read_bytes() == CONTENT

    async def test_an_origin_that_is_down_is_asked_once(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        blob = blob_of(model.path / BIG)
        flip(blob, 5)
        flip(blob_of(model.path / SMALL), 5)
        before = tree(house.root / "models--demo--large")
        house.hub.faults.add(Fault("status", "any", times=None, status=503))
        verified = await repair(control)

        assert [damage.is_repaired for damage in verified.damages] == [False, False]
        assert all("503" in damage.obstacle for damage in verified.damages)
        assert tree(house.root / "models--demo--large") == before and unfinished(house.root) == []
        assert len({request.file for request in house.hub.log.requests}) == 1
        house.hub.faults.clear()
        assert (await repair(control)).is_sound
        await assert_mended(house, control, model)

    @pytest.mark.parametrize("is_remote", [False, True])
    async def test_offline_the_links_alone_are_mended(
        self, hub: LocalHub, tmp_path: Path, is_remote: bool
    ) -> None:
        async with open_house(hub, tmp_path) as house:
            model = await pull(house, NAME)
        blob = blob_of(model.path / BIG)
        flip(blob, 5)
        before = blob.read_bytes()
        (model.path / SMALL).unlink()
        hub.log.clear()
        flags = {"cache.directory": str(tmp_path / "server-cache"), "origin.offline": True}
        env = {"HOME": str(tmp_path), "HF_ENDPOINT": hub.endpoint}
        if is_remote:
            async with open_house(hub, tmp_path, origin__offline=True) as house, house.connection() as to:
                [verified] = await RemoteControl(to).verify(REF, ignore, True)
        else:
            loaded = compose.load_settings("client", flags, env)
            async with compose.open_local(loaded, env, has_origins=True) as local:
                [verified] = await local.verify(REF, ignore, True)

        link, big = verified.damages
        assert link.is_repaired and not big.is_repaired and "offline" in big.obstacle
        assert blob.read_bytes() == before and hub.log.requests == []

    async def test_without_origins_it_is_said(self, house: House, model: LocalModel) -> None:
        flip(blob_of(model.path / BIG), 5)
        loaded = compose.load_settings("client", {"cache.directory": str(house.root)}, house.env)
        async with compose.open_local(loaded, house.env) as local:
            [verified] = await local.verify(REF, ignore, True)

        assert "not available" in verified.damages[0].obstacle

    async def test_wrong_bytes_from_the_origin_never_stand_in_the_cache(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        blob = blob_of(model.path / BIG)
        flip(blob, 5)
        before = blob.read_bytes()
        fault = house.hub.faults.add(Fault("wrong_bytes", "body", BIG, times=None, after=99))
        verified = await repair(control)

        await self.assert_left(verified, blob, before, "arrived wrong")
        assert fault.applied >= 2 and unfinished(house.root) == []
        house.hub.faults.clear()
        assert (await repair(control)).is_sound
        await assert_mended(house, control, model)

    async def test_a_chunk_that_comes_wrong_once_is_fetched_once_more(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        flip(blob_of(model.path / BIG), 5)
        house.hub.faults.add(Fault("wrong_bytes", "body", BIG, after=99))
        verified = await repair(control)

        assert verified.is_sound and fetched(house) == {f"{NAME}/{BIG}": 2 * CHUNK_BYTES}
        await assert_mended(house, control, model)

    async def test_a_model_that_is_not_here_is_not_found(self, control: CacheControl) -> None:
        with pytest.raises(NotFound, match="nothing to verify"):
            await control.verify(REF, ignore, True)


class TestMeanwhile:
    async def test_the_damaged_file_stays_until_the_mended_one_takes_its_place(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        blob = blob_of(model.path / BIG)
        flip(blob, 5)
        before, number = blob.read_bytes(), blob.stat().st_ino
        held = house.hub.faults.add(Fault("hold", "body", BIG, after=1_000_000))
        repairing = asyncio.create_task(repair(control))
        await wait_until(lambda: held.applied > 0)
        assert (blob.read_bytes(), blob.stat().st_ino) == (before, number)
        with (model.path / BIG).open("rb") as reader:
            held.release()
            assert (await repairing).is_sound
            assert reader.read() == before  # whoever had it open reads on

        assert blob.stat().st_ino != number
        await assert_mended(house, control, model)

    async def test_a_repair_that_is_stopped_leaves_the_file_and_can_be_begun_again(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        blob = blob_of(model.path / BIG)
        flip(blob, 5)
        before = blob.read_bytes()
        held = house.hub.faults.add(Fault("hold", "body", BIG, after=1_000_000))
        repairing = asyncio.create_task(repair(control))
        await wait_until(lambda: held.applied > 0)
        repairing.cancel()
        await asyncio.gather(repairing, return_exceptions=True)
        held.release()
        assert blob.read_bytes() == before

        assert (await repair(control)).is_sound
        await assert_mended(house, control, model)

    async def test_progress_is_told_in_bytes_within_a_file(
        self, house: House, control: CacheControl, model: LocalModel
    ) -> None:
        flip(blob_of(model.path / BIG), 5)
        heard: list[Progress] = []
        await control.verify(REF, heard.append, True)
        total = sum(len(content) for content in FILES.values() if isinstance(content, bytes))

        assert heard[-1].bytes_done == heard[-1].bytes_total
        if not isinstance(control, RemoteControl):  # which hears it now and then
            read = [one for one in heard if one.phase is Phase.VERIFYING]
            assert len(read) > 5 and read[-1].bytes_done == total and read[-1].bytes_per_second > 0
            assert (heard[-1].phase, heard[-1].bytes_total) == (Phase.DOWNLOADING, len(CONTENT))


class TestFlaws:
    @pytest.fixture
    async def hub(self) -> AsyncIterator[LocalHub]:
        files = sharded_files(2, 4000)
        del files["model-00002-of-00002.safetensors"]
        files["adapter/broken.safetensors"] = safetensors({"a": 100})[:-8]
        repository = Repository(NAME)
        repository.commit(files)
        async with LocalHub([repository]) as hub:
            yield hub

    async def test_what_was_published_broken_is_sound_and_told(
        self, house: House, control: CacheControl
    ) -> None:
        await pull(house, NAME)
        house.hub.log.clear()
        verified = await repair(control)

        assert verified.is_sound and verified.damages == () and house.hub.log.requests == []
        broken, index = verified.flaws
        assert broken.path == "adapter/broken.safetensors" and "tensor 'a'" in broken.problem
        assert index.path == "model.safetensors.index.json" and "model-00002" in index.problem

    async def test_of_a_damaged_file_the_damage_alone_is_told(
        self, house: House, control: CacheControl
    ) -> None:
        model = await pull(house, NAME)
        flip(blob_of(model.path / "adapter/broken.safetensors"), 20)
        verified = await repair(control, is_repair=False)

        assert [damage.path for damage in verified.damages] == ["adapter/broken.safetensors"]
        assert [flaw.path for flaw in verified.flaws] == ["model.safetensors.index.json"]

    async def test_the_commands_show_it(self, hub: LocalHub, tmp_path: Path) -> None:
        root = tmp_path / "server-cache"
        places = {"HF_ENDPOINT": hub.endpoint, "MODEL_EXPRESS_CACHE_DIRECTORY": str(root)}
        alone = Shell(tmp_path, {**places, "MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS": "localhost,127.0.0.1"})
        async with open_house(hub, tmp_path) as house:
            config = (await pull(house, NAME)).path / SMALL
            sound = await alone.run("cache", "verify", NAME)
            flip(blob_of(config), 3)
            beside = await alone.run("cache", "verify", NAME, "--repair")
            at_server = await alone.run("cache", "verify", NAME, "--repair", "--endpoint", house.endpoint)
        flip(blob_of(config), 3)
        offline = await alone.run("cache", "verify", "--repair", HF_HUB_OFFLINE="1")
        repaired = await alone.run("cache", "verify", NAME, "--repair", "-f", "json")

        assert sound.status == 0 and "✅" in sound.out
        assert "model.safetensors.index.json: published so that no loader reads it: it names" in sound.out
        assert beside.status == 1 and "--endpoint" in beside.err
        assert at_server.status == 0 and "1 repaired, 23 bytes fetched" in at_server.out
        assert offline.status == 1 and "not repaired: this process is offline" in offline.out
        [one] = repaired.document["verified"]
        assert repaired.status == 0 and repaired.document["success"] and one["is_sound"]
        assert one["damages"][0]["is_repaired"] and len(one["flaws"]) == 2
        assert repaired.document["bytes_fetched"] == one["bytes_fetched"] == config.stat().st_size
