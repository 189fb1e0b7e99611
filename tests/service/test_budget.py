# SPDX-License-Identifier: Apache-2.0
"""A budget that is obeyed: room is made once and in order, or a pull is refused before its first byte."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.caches import fill_by_huggingface_hub
from tests.support.house import House, open_house, tree, tree_at_rest
from tests.support.mounts import mounted

from modelexpress.client import Strategy
from modelexpress.domain.control import CacheControl
from modelexpress.domain.errors import Busy, Corrupt, Invalid, NoRoom, NotFound
from modelexpress.domain.refs import ModelRef
from modelexpress.store.journal import Header, Journal
from modelexpress.store.volume import Process
from modelexpress.testing.hub import Fault, LocalHub, Repository

MIB = 1024 * 1024
WHOLE = 1024 if os.environ.get("PROOF_COUNT") else 64  # MiB of the small file system


def bulk(name: str, megabytes: int, seed: int = 0) -> Repository:
    """A model of two weights and a configuration."""
    chance = random.Random(f"{name} {seed}")

    def half() -> bytes:
        return b"".join(chance.randbytes(MIB // 2) for _ in range(megabytes))

    repository = Repository(name)
    repository.commit(
        {
            "config.json": b'{"model_type": "llama"}',
            "model-1.safetensors": half(),
            "model-2.safetensors": half(),
        }
    )
    return repository


@asynccontextmanager
async def open_quick(hub: LocalHub, tmp_path: Path, **settings: object) -> AsyncIterator[House]:
    """A server for which a model is out of use the moment that nobody reads it."""
    async with open_house(hub, tmp_path, cache__path_lease=3600, **settings) as house:
        yield house


async def pull(house: House, folder: Path, name: str) -> None:
    async with house.client(folder) as client:
        await client.ensure(name)


async def names(control: CacheControl) -> list[str]:
    return [held.name for held in await control.list_held()]


@pytest.mark.prove
class TestSmallFileSystem:
    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        repositories = [bulk(f"demo/{letter}", WHOLE * 3 // 10) for letter in "ab"]
        repositories += [bulk("demo/large", WHOLE * 8 // 10), Repository("demo/huge")]
        repositories[-1].commit({"model.safetensors": bytes(2 * WHOLE * MIB)})
        with mounted(tmp_path / "server-cache", "-t", "tmpfs", "-o", f"size={WHOLE}m", "none"):
            async with LocalHub(repositories) as hub, open_quick(hub, tmp_path) as house:
                yield house

    async def test_what_can_never_fit_is_refused_before_its_first_byte_and_removes_nothing(
        self, house: House, tmp_path: Path
    ) -> None:
        await pull(house, tmp_path / "mine", "demo/a")
        await house.cache.pin("demo/b", None, is_dry_run=False)
        await pull(house, tmp_path / "mine", "demo/b")
        before = tree_at_rest(house.root)

        with pytest.raises(NoRoom) as refused:
            await pull(house, tmp_path / "mine", "demo/huge")

        assert house.hub.log.of("body", "model.safetensors") == [] and tree_at_rest(house.root) == before
        assert "evicting everything that may go would free" in refused.value.message
        assert "pinned as demo/b" in refused.value.message

    async def test_room_is_made_once_and_the_oldest_go(self, house: House, tmp_path: Path) -> None:
        for name in ("demo/a", "demo/b"):
            await pull(house, tmp_path / "mine", name)

        await asyncio.gather(*(pull(house, tmp_path / f"c{n}", "demo/large") for n in range(4)))

        assert await names(house.cache) == ["demo/large"]
        sizes = [megabytes * MIB + 23 for megabytes in (*[WHOLE * 3 // 10] * 2, WHOLE * 8 // 10)]
        assert house.metrics.registry.get_sample_value(
            "mx_origin_bytes_total", {"provider": "hugging-face"}
        ) == sum(sizes)
        plan = await house.cache.plan()
        assert plan.use.promised == 0 and plan.use.used <= WHOLE * MIB and not plan.removal.removals

    async def test_only_so_much_goes_as_is_needed(self, house: House, tmp_path: Path) -> None:
        house.hub.add(bulk("demo/small", WHOLE // 32))
        house.hub.add(bulk("demo/other", WHOLE // 2))
        for name in ("demo/small", "demo/a", "demo/b"):
            await pull(house, tmp_path / "mine", name)

        await pull(house, tmp_path / "mine", "demo/other")

        assert await names(house.cache) == ["demo/b", "demo/other", "demo/small"], "the small one was no help"

    async def test_a_disk_that_others_fill_meanwhile_ends_the_pull_clean(
        self, house: House, tmp_path: Path
    ) -> None:
        await pull(house, tmp_path / "mine", "demo/a")
        held = house.hub.faults.add(Fault("hold", "body", "model-1.safetensors", after=MIB))
        pulling = asyncio.create_task(pull(house, tmp_path / "mine", "demo/b"))
        while not held.applied:
            await asyncio.sleep(0.01)
        foreign = house.root / "foreign"
        with foreign.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (await house.cache.plan()).use.free - MIB)
        held.release()

        await pulling  # its bytes were taken at once, so that nobody could take them from it

        with pytest.raises(NoRoom):
            await pull(house, tmp_path / "mine", "demo/huge")
        foreign.unlink()
        assert (await house.cache.plan()).use.promised == 0
        assert not list(house.root.glob(".mx/partials/*"))


async def test_a_disk_that_others_fill_before_a_file_has_begun_ends_the_pull_and_keeps_nothing(
    tmp_path: Path,
) -> None:
    with mounted(tmp_path / "server-cache", "-t", "tmpfs", "-o", "size=16m", "none"):
        async with (
            LocalHub([bulk("demo/a", 8)]) as hub,
            open_quick(hub, tmp_path, pull__parallel_files=1) as house,
        ):
            held = hub.faults.add(Fault("hold", "body", "model-1.safetensors", after=MIB))
            pulling = asyncio.create_task(pull(house, tmp_path / "mine", "demo/a"))
            while not held.applied:
                await asyncio.sleep(0.01)
            with (house.root / "foreign").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, (await house.cache.plan()).use.free - MIB)
            held.release()

            with pytest.raises(NoRoom, match="no space left"):
                await pulling

            assert not list(house.root.glob(".mx/partials/*")) and await names(house.cache) == []
            assert not list(house.root.glob("models--*/snapshots/*"))
            (house.root / "foreign").unlink()
            use = (await house.cache.plan()).use
            assert (use.promised, use.arriving) == (0, 0)
            await pull(house, tmp_path / "mine", "demo/a")


class TestBudget:
    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        repositories = [bulk(f"demo/{letter}", 4) for letter in "abcd"]
        async with (
            LocalHub(repositories) as hub,
            open_quick(hub, tmp_path, cache__max_size_bytes="9MB") as house,
        ):
            yield house

    async def test_the_least_recently_used_goes(self, house: House, tmp_path: Path) -> None:
        for name in ("demo/a", "demo/b", "demo/a", "demo/c"):
            await pull(house, tmp_path / "mine", name)

        assert await names(house.cache) == ["demo/a", "demo/c"]

    async def test_files_of_others_count_and_stay(self, house: House, tmp_path: Path) -> None:
        (house.root / "foreign.bin").write_bytes(bytes(4 * MIB))
        await pull(house, tmp_path / "mine", "demo/a")
        await pull(house, tmp_path / "mine", "demo/b")

        assert await names(house.cache) == ["demo/b"]
        (house.root / "more.bin").write_bytes(bytes(2 * MIB))
        with pytest.raises(NoRoom, match=r"9\.00 MB"):
            await pull(house, tmp_path / "mine", "demo/c")
        assert await names(house.cache) == ["demo/b"] and (house.root / "foreign.bin").exists()

    async def test_a_pinned_model_stays_and_the_next_one_goes(self, house: House, tmp_path: Path) -> None:
        await house.cache.pin("demo/a", None, is_dry_run=False)
        for name in ("demo/a", "demo/b", "demo/c"):
            await pull(house, tmp_path / "mine", name)

        assert await names(house.cache) == ["demo/a", "demo/c"]
        with pytest.raises(Busy, match="pinned as demo/a"):
            await house.cache.remove([ModelRef.parse("demo/a")], is_dry_run=False)
        pins = house.root / ".mx/pins.json"
        before = pins.stat().st_mtime_ns
        assert await house.cache.unpin([], is_dry_run=False) == [] and pins.stat().st_mtime_ns == before
        await house.cache.unpin(["demo/a"], is_dry_run=False)
        await pull(house, tmp_path / "mine", "demo/d")
        assert await names(house.cache) == ["demo/c", "demo/d"]

    async def test_what_is_read_stays_and_a_pull_that_needs_its_place_is_refused(
        self, house: House, tmp_path: Path
    ) -> None:
        await pull(house, tmp_path / "mine", "demo/a")
        await pull(house, tmp_path / "mine", "demo/b")
        async with house.cache.using(ModelRef.parse("demo/a"), "streamed"):
            async with house.cache.using(ModelRef.parse("demo/b"), "streamed"):
                with pytest.raises(NoRoom, match="in use: streamed"):
                    await pull(house, tmp_path / "mine", "demo/c")
            await pull(house, tmp_path / "mine", "demo/c")
            assert await names(house.cache) == ["demo/a", "demo/c"]

    async def test_another_revision_of_the_same_model_makes_room_by_its_older_one(
        self, house: House, tmp_path: Path
    ) -> None:
        await house.cache.pin("demo/b", None, is_dry_run=False)
        await pull(house, tmp_path / "mine", "demo/b")
        await pull(house, tmp_path / "mine", "demo/a")
        older = house.hub._repositories["demo/a"].branches["main"]
        chance = random.Random(8)
        newer = house.hub._repositories["demo/a"].commit(
            {f"model-{n}.safetensors": chance.randbytes(2 * MIB) for n in (1, 2)}
        )

        await pull(house, tmp_path / "mine", "demo/a")

        held = {one.commit for one in await house.cache.list_held() if one.name == "demo/a"}
        assert held == {newer} and older != newer

    async def test_a_path_that_was_handed_out_stays_until_its_user_lets_go(
        self, house: House, tmp_path: Path
    ) -> None:
        async with house.client(house.root, is_shared=True) as client:
            model = await client.pull("demo/a")
        await pull(house, tmp_path / "mine", "demo/b")
        await pull(house, tmp_path / "mine", "demo/c")
        assert await names(house.cache) == ["demo/a", "demo/c"] and model.path.is_dir()
        [told] = await house.cache.explain(ModelRef.parse("demo/a"))
        assert told.rank is None and "handed out to" in told.fate and len(told.leases) == 1

        async with house.client(house.root, is_shared=True) as client:
            await client.keep(model, 0)
        await pull(house, tmp_path / "mine", "demo/d")
        assert await names(house.cache) == ["demo/c", "demo/d"]

    async def test_what_a_dead_process_had_begun_goes_before_a_pull_is_refused(
        self, house: House, tmp_path: Path
    ) -> None:
        await house.cache.pin("demo/a", None, is_dry_run=False)
        await pull(house, tmp_path / "mine", "demo/a")
        writer = replace(Process.current(), started="1")
        dead = Header("demo/gone", "x.bin", 4 * MIB, "sha256:" + "0" * 64, writer)
        part = house.root / ".mx/partials/other.0-1.part"
        part.write_bytes(bytes(4 * MIB))
        Journal(part.with_suffix(".journal"), dead).close()

        await pull(house, tmp_path / "mine", "demo/b")

        assert await names(house.cache) == ["demo/a", "demo/b"] and not part.exists()

    async def test_an_eviction_that_is_off_refuses_and_says_so(self, house: House, tmp_path: Path) -> None:
        async with open_quick(
            house.hub, tmp_path / "second", cache__max_size_bytes="9MB", cache__eviction__enabled=False
        ) as second:
            for name in ("demo/a", "demo/b"):
                await pull(second, tmp_path / "mine", name)
            with pytest.raises(NoRoom, match="eviction is off"):
                await pull(second, tmp_path / "mine", "demo/c")
            plan = await second.cache.evict([], 4 * MIB, is_dry_run=False)
            assert [r.name for r in plan.removal.removals] == ["demo/a"]


class TestRules:
    async def test_the_number_of_models_and_their_age_are_kept_to(self, tmp_path: Path) -> None:
        settings = {"cache__eviction__policy__max_models": 2}
        async with (
            LocalHub([bulk(f"demo/{letter}", 1) for letter in "abc"]) as hub,
            open_quick(hub, tmp_path, **settings) as house,
        ):
            for name in ("demo/b", "demo/a", "demo/c"):
                await pull(house, tmp_path / "mine", name)
            plan = await house.cache.evict([], 0, is_dry_run=False)
            assert [(r.name, r.reason) for r in plan.removal.removals] == [("demo/b", "more than 2 models")]
        settings = {"cache__eviction__policy__unused_threshold": 1}
        async with LocalHub([]) as hub, open_quick(hub, tmp_path, **settings) as house:
            while await names(house.cache):  # the first look is at the start, and finds them a second old
                await asyncio.sleep(0.1)
                await house.cache.evict([], 0, is_dry_run=False)

    async def test_the_rules_are_looked_at_again_and_again(self, tmp_path: Path) -> None:
        settings = {"cache__eviction__policy__max_models": 1, "cache__eviction__check_interval": 1}
        async with (
            LocalHub([bulk(f"demo/{letter}", 1) for letter in "ab"]) as hub,
            open_quick(hub, tmp_path, **settings) as house,
        ):
            await pull(house, tmp_path / "mine", "demo/a")
            await pull(house, tmp_path / "mine", "demo/b")
            ask, labels = house.metrics.registry.get_sample_value, {"provider": "hugging-face"}
            while not ask("mx_evictions_total", labels):
                await asyncio.sleep(0.05)
            assert await names(house.cache) == ["demo/b"]
            assert (ask("mx_evicted_bytes_total", labels) or 0) >= MIB and ask("mx_cache_used_bytes")

    async def test_free_space_below_the_mark_is_won_back_at_the_start(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "server-cache", "-t", "tmpfs", "-o", "size=16m", "none"):
            async with LocalHub([bulk(f"demo/{letter}", 4) for letter in "ab"]) as hub:
                async with open_quick(hub, tmp_path) as house:
                    await pull(house, tmp_path / "mine", "demo/a")
                    await pull(house, tmp_path / "mine", "demo/b")
                mark = {"cache__eviction__policy__min_free_space_bytes": "10MB"}
                async with open_quick(hub, tmp_path, **mark) as house:
                    while await names(house.cache) != ["demo/b"]:
                        await asyncio.sleep(0.05)
                    assert (await house.cache.plan()).use.room >= 0


class TestWhileRead:
    @pytest.mark.parametrize("is_established", [False, True], ids=["data plane", "StreamModelFiles"])
    async def test_a_model_is_evicted_while_clients_stream_it_and_processes_have_it_mapped(
        self, tmp_path: Path, is_established: bool
    ) -> None:
        name, ref = "demo/read", ModelRef.parse("demo/read")
        async with (
            LocalHub([bulk(name, 24)]) as hub,
            open_house(hub, tmp_path, cache__eviction__grace=60, has_data_plane=not is_established) as house,
        ):
            await pull(house, tmp_path / "mine", name)
            [held] = await house.cache.list_held()
            expected = {p.name: p.read_bytes() for p in Path(held.path).iterdir()}
            mappers = [map_file(Path(held.path) / "model-1.safetensors") for _ in range(2)]
            pulling = [asyncio.create_task(read(house, tmp_path / f"c{n}", name)) for n in range(8)]
            while not (await house.cache.explain(ref))[0].readers and any(
                not task.done() for task in pulling
            ):
                await asyncio.sleep(0.001)
            used = (await house.cache.plan()).use.used

            plan = await house.cache.evict([ref], 0, is_dry_run=False, is_forced=True)

            assert [r.name for r in plan.removal.removals] == [name] and await names(house.cache) == []
            is_anybody_left = any(not task.done() for task in pulling)
            kept = (await house.cache.plan()).use
            assert kept.leftovers > 24 * MIB or not is_anybody_left
            assert await asyncio.gather(*pulling) == [expected] * 8
            while (await house.cache.plan()).use.used > used - 24 * MIB:
                await asyncio.sleep(0.05)
            for mapper in mappers:
                out, _ = mapper.communicate(b"\n", timeout=30)
                assert out.split() == [b"mapped", b"same"]


def map_file(path: Path) -> subprocess.Popen[bytes]:
    """A process that has the file mapped, and says at the end whether it still reads the same."""
    code = (
        "import mmap, sys, hashlib\n"
        "file = open(sys.argv[1], 'rb'); m = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "before = hashlib.sha256(m).digest(); print('mapped', flush=True); sys.stdin.readline()\n"
        "print('same' if hashlib.sha256(m).digest() == before else 'different')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    return process


async def read(house: House, folder: Path, name: str) -> dict[str, bytes]:
    async with house.client(folder) as client:
        model = await client.pull(name, strategy=Strategy.SERVER_ONLY)
        return {path.name: path.read_bytes() for path in model.path.iterdir()}


class TestVerbs:
    async def test_a_pin_is_kept_shown_and_ended(
        self, house: House, control: CacheControl, tmp_path: Path
    ) -> None:
        await pull(house, tmp_path / "mine", "demo/tiny")

        [matched] = await control.pin("demo/*@main", 4e9, is_dry_run=False)

        assert matched.name == "demo/tiny"
        [held] = await control.list_held()
        assert held.pins == ("demo/*@main",) and held.bytes_on_disk > 0 and held.readers == 0
        [told] = await control.explain(ModelRef.parse("demo/tiny"))
        assert (told.rank, told.fate) == (None, "stays: pinned as demo/*@main")
        with pytest.raises(Busy, match="pinned"):
            await control.evict([ModelRef.parse("demo/tiny")], 0, is_dry_run=True, is_forced=True)
        assert [pin.until for pin in await control.list_pins()] == [4e9]
        with pytest.raises(NotFound, match=r"pinned are: demo/\*@main"):
            await control.unpin(["demo/tiny"], is_dry_run=True)

    async def test_a_dry_run_of_each_changes_nothing(
        self, house: House, control: CacheControl, tmp_path: Path
    ) -> None:
        await pull(house, tmp_path / "mine", "demo/tiny")
        before = tree_at_rest(house.root)

        await control.pin("demo/*", None, is_dry_run=True)
        plan = await control.evict([ModelRef.parse("demo/tiny")], 0, is_dry_run=True)

        assert [(r.name, r.reason) for r in plan.removal.removals] == [("demo/tiny", "asked for")]
        assert plan.removal.bytes_freed > 100_000 and await control.list_pins() == []
        assert tree_at_rest(house.root) == before

    @pytest.mark.parametrize("pattern", ["", "a b", "a\nb", "a@", "@main", "ü", "x" * 301, "../x\0"])
    async def test_a_pattern_that_can_match_nothing_is_refused(self, house: House, pattern: str) -> None:
        with pytest.raises(Invalid, match="no name or pattern"):
            await house.cache.pin(pattern, None, is_dry_run=False)

    async def test_pins_that_nobody_can_read_stop_every_eviction(self, house: House, tmp_path: Path) -> None:
        await pull(house, tmp_path / "mine", "demo/tiny")
        (house.root / ".mx/pins.json").write_text("{")
        assert await names(house.cache) == ["demo/tiny"]
        with pytest.raises(Corrupt, match="what is pinned is unknown"):
            await house.cache.prune(is_dry_run=False)
        with pytest.raises(Corrupt, match="what is pinned is unknown"):
            await house.cache.evict([ModelRef.parse("demo/tiny")], 0, is_dry_run=False, is_forced=True)
        assert (house.root / "models--demo--tiny").is_dir()


async def test_prune_keeps_what_is_pinned_though_nothing_names_it(house: House, tmp_path: Path) -> None:
    repository = house.hub._repositories["demo/tiny"]
    older = repository.branches["main"]
    await pull(house, tmp_path / "mine", "demo/tiny")
    repository.commit({"config.json": b"newer"})
    await pull(house, tmp_path / "mine", "demo/tiny")
    await house.cache.pin(f"demo/tiny@{older[:12]}", None, is_dry_run=False)

    assert (await house.cache.prune(is_dry_run=False)).removals == ()
    await house.cache.unpin([f"demo/tiny@{older[:12]}"], is_dry_run=False)
    assert [one.commit for one in (await house.cache.prune(is_dry_run=False)).removals] == [older]


async def test_a_registry_that_was_lost_makes_no_model_old(hub: LocalHub, tmp_path: Path) -> None:
    async with open_quick(hub, tmp_path) as house:
        await pull(house, tmp_path / "mine", "demo/tiny")
    for record in (tmp_path / "server-cache/.mx/records").rglob("*.json"):
        content = json.loads(record.read_bytes())
        content["selections"]["all"]["completed_at"] = 1.0
        record.write_text(json.dumps(content))
    (tmp_path / "state/registry.db").unlink()

    async with open_quick(hub, tmp_path) as house:
        assert (await house.cache.evict([], 0, is_dry_run=False)).removal.removals == ()
        assert await names(house.cache) == ["demo/tiny"]


async def test_nothing_of_anothers_cache_is_touched_by_any_verb_until_it_is_adopted(
    hub: LocalHub, tmp_path: Path
) -> None:
    root, ref = tmp_path / "server-cache", ModelRef.parse("demo/tiny")
    await fill_by_huggingface_hub(hub, root)
    theirs = tree(root)

    def touched() -> list[str]:
        now = tree(root)
        return [path for path, content in theirs.items() if now.get(path) != content]

    async with open_quick(hub, tmp_path, cache__max_size_bytes=1) as house:
        chance, control = random.Random(4), house.cache
        verbs: list[Callable[[], object]] = [
            lambda: control.evict([], 10**9, is_dry_run=False),
            lambda: control.prune(is_dry_run=False),
            lambda: control.remove([ref], is_dry_run=False),
            lambda: control.pin("demo/*", None, is_dry_run=False),
            lambda: control.unpin(["demo/*"], is_dry_run=False),
            lambda: control.verify(ref, lambda progress: None, is_repair=True),
            lambda: control.list_held(),
            lambda: control.explain(ref),
        ]
        for _ in range(40):
            with suppress(Busy, NotFound):
                await chance.choice(verbs)()  # type: ignore[misc]
            assert touched() == []
        with pytest.raises(Busy, match="another tool"):
            await control.evict([ref], 0, is_dry_run=False, is_forced=True)
        if await control.list_pins():
            await control.unpin(["demo/*"], is_dry_run=False)
        await control.adopt(ref, is_dry_run=False)
        await control.evict([ref], 0, is_dry_run=False)
        assert await names(control) == []
