# SPDX-License-Identifier: Apache-2.0
"""By number: whatever is done in whatever order, the budget holds, and what must stay stays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.support.memory_origin import MemoryOrigin
from tests.support.mounts import mounted

from modelexpress.cache import CacheOptions, EvictionOptions, Limits, ModelCache, Surroundings, open_cache
from modelexpress.cache.ledger import Ledger
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.errors import Busy, NoRoom, NotFound
from modelexpress.domain.eviction import Candidate, EvictionOrder, Gdsf, Lru, choose_for_room
from modelexpress.domain.inventory import BlobUse, Inventory, ModelKey, SnapshotKey
from modelexpress.domain.meter import NO_METER
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.registry.memory import MemoryTable
from modelexpress.store.layout import Layout
from modelexpress.store.survey import find_touched
from modelexpress.store.usage import measure_usage

pytestmark = pytest.mark.prove

KIB, MIB = 1024, 1024 * 1024
OPERATIONS_A_ROUND = 500


# -- the pure state


class Oracle:
    """A cache in the simplest words that there are: which blobs are here, and who needs them."""

    def __init__(self, budget: int, chance: random.Random) -> None:
        self.budget = budget
        self.sizes = {n: chance.randint(1, 40) for n in range(60)}
        self.models = {
            SnapshotKey(ModelKey("hub", f"m{n // 2}"), f"{n:040d}"): frozenset(
                chance.sample(sorted(self.sizes), chance.randint(1, 6))
            )
            for n in range(40)
        }
        self.held: dict[SnapshotKey, float] = {}
        self.uses: dict[SnapshotKey, int] = {}
        self.kept: set[SnapshotKey] = set()
        self.foreign = 0
        self.promises: dict[int, tuple[SnapshotKey, int, int]] = {}  # number: what, still to write, written

    @property
    def blobs(self) -> set[int]:
        return {blob for key in self.held for blob in self.models[key]}

    def used(self) -> int:
        written = sum(done for _, _, done in self.promises.values())
        return sum(self.sizes[blob] for blob in self.blobs) + written + self.foreign

    def freed_by(self, going: set[SnapshotKey]) -> int:
        staying = {blob for key in self.held if key not in going for blob in self.models[key]}
        gone = {blob for key in going for blob in self.models[key]} - staying
        return sum(self.sizes[blob] for blob in gone)

    def inventory(self) -> Inventory:
        users = {blob: frozenset(k for k in self.held if blob in self.models[k]) for blob in self.blobs}
        return Inventory(BlobUse(self.sizes[blob], who) for blob, who in users.items())


@pytest.mark.parametrize("order", [Lru(), Gdsf()], ids=["lru", "gdsf"])
def test_the_pure_state_never_exceeds_the_budget_nor_gives_up_what_is_kept(
    order: EvictionOrder, proof_count: Callable[[int], int]
) -> None:
    for seed in range(max(proof_count(4) // 10, 4)):
        chance = random.Random(seed)
        oracle = Oracle(chance.randint(100, 900), chance)
        ledger = Ledger(Limits(oracle.budget))
        ledger.measure(0, 10**9)
        for step in range(OPERATIONS_A_ROUND * 10):
            act(chance, oracle, ledger, order, float(step))
            where = f"seed {seed}, step {step}"
            assert ledger.promised == sum(left for _, left, _ in oracle.promises.values()), where
            assert ledger.used == oracle.used(), where
            assert oracle.used() + ledger.promised <= oracle.budget, where


def act(chance: random.Random, oracle: Oracle, ledger: Ledger, order: EvictionOrder, now: float) -> None:
    key = chance.choice(sorted(oracle.models))
    match chance.randrange(10):
        case 0 | 1 | 2:
            begin(chance, oracle, ledger, order, key)
        case 3 | 4 | 5 if oracle.promises:
            go_on(chance, oracle, ledger, now)
        case 6 if key in oracle.held:
            oracle.kept ^= {key}
        case 7 if key in oracle.held:
            oracle.held[key], oracle.uses[key] = now, oracle.uses.get(key, 0) + 1
        case 8 if key in oracle.held and key not in oracle.kept:
            del oracle.held[key]
            ledger.measure(oracle.used(), 10**9)
        case 9:
            # Others write only what is free for them: a budget cannot bind them.
            oracle.foreign = chance.randint(0, max(min(20, oracle.foreign + ledger.room), 0))
            ledger.measure(oracle.used(), 10**9)


def begin(
    chance: random.Random, oracle: Oracle, ledger: Ledger, order: EvictionOrder, key: SnapshotKey
) -> None:
    """A pull asks for room; what goes is right by brute force, and no more than is needed."""
    if key in oracle.held or any(what == key for what, _, _ in oracle.promises.values()):
        return
    wanted = sum(oracle.sizes[blob] for blob in oracle.models[key])
    missing, inventory = ledger.missing(wanted), oracle.inventory()
    pulled = {what.model for what, _, _ in oracle.promises.values()} | {key.model}
    free = [k for k in sorted(oracle.held) if k not in oracle.kept and k.model not in pulled]
    candidates = [Candidate(k, inventory.bytes_of(k), oracle.held[k], oracle.uses.get(k, 1)) for k in free]
    chosen = choose_for_room(inventory, candidates, order, (), missing)
    if chosen is None:
        assert oracle.freed_by(set(free)) < missing
        with pytest.raises(NoRoom):
            ledger.promise("x", wanted)
        return
    going = {choice.key for choice in chosen}
    assert going <= set(free) and oracle.freed_by(going) == inventory.freed(going) >= missing
    assert all(oracle.freed_by(going - {one}) < missing for one in going), "more than needed goes"
    for one in going:
        del oracle.held[one]
    ledger.measure(oracle.used(), 10**9)
    number = ledger.promise("x", wanted)
    oracle.promises[number] = (key, wanted, 0)


def go_on(chance: random.Random, oracle: Oracle, ledger: Ledger, now: float) -> None:
    """A pull writes, or ends well, or fails and leaves nothing."""
    number = chance.choice(sorted(oracle.promises))
    key, left, done = oracle.promises[number]
    count = chance.randint(0, left)
    ledger.spend(number, count)
    oracle.promises[number] = (key, left - count, done + count)
    if chance.random() < 0.2:
        ledger.spend(number, -(done + count))  # all of it is thrown away
        ledger.give_back(number)
        del oracle.promises[number]
    elif left == count:
        ledger.give_back(number)
        del oracle.promises[number]
        oracle.held[key], oracle.uses[key] = now, 1
        ledger.measure(oracle.used(), 10**9)  # what another snapshot has already is one blob with it


# -- a real cache on a real small file system


SIZES = [random.Random(n).choice([3, 70, 300, 900, 2000]) * KIB for n in range(24)]
FILES = {n: random.Random(n).randbytes(size) for n, size in enumerate(SIZES)}
MODELS = {
    f"demo/m{n}": {
        f"model-{k}.bin": FILES[k] for k in random.Random(100 + n).sample(sorted(FILES), 1 + n % 4)
    }
    | {"config.json": f"{n}".encode()}
    for n in range(20)
}
BUDGET = 8 * MIB
SLACK = 256 * KIB  # directories, records, journals: nothing is promised for them; far below a chunk


class World:
    """A cache that is really there, and what has to be true of it."""

    def __init__(self, cache: ModelCache, root: Path, chance: random.Random) -> None:
        self.cache = cache
        self.root = root
        self.chance = chance
        self.pinned: set[str] = set()
        self.used: dict[str, AsyncExitStack] = {}
        self.foreign = 0

    def must_stay(self) -> list[str]:
        """Models that are here and that nothing may evict."""
        return [name for name in sorted({*self.pinned, *self.used}) if self.is_here(name)]

    def is_here(self, name: str) -> bool:
        record = self._record(name)
        return record is not None and bool(record.held)

    def check(self, stayed: list[str]) -> None:
        assert measure_usage(Layout(self.root)).total <= BUDGET + SLACK
        for name in stayed:
            record = self._record(name)
            assert record is not None and record.held, f"{name} was to stay"
            repository = Layout(self.root).repository(record.manifest.ref)
            assert find_touched(repository, record, record.entries_held()) is None

    def _record(self, name: str):  # type: ignore[no-untyped-def]
        ref = ModelRef.parse(name)
        return next(iter(self.cache._parts.records.find_all(ref)), None)

    # -- what can be done

    async def pull(self, name: str) -> None:
        with suppress(NoRoom):
            flight = await self.cache.begin(ModelRef.parse(name), None, ANONYMOUS)
            await flight.result()

    async def pull_several(self, name: str) -> None:
        names = self.chance.sample(sorted(MODELS), 4)
        await asyncio.gather(*(self.pull(one) for one in names))

    async def pull_and_leave(self, name: str) -> None:
        pulling = asyncio.create_task(self.pull(name))
        for _ in range(self.chance.randrange(30)):
            await asyncio.sleep(0)
        with suppress(NotFound, Busy):  # it may be pinned
            await self.cache.remove([ModelRef.parse(name)], is_dry_run=False)
        await asyncio.gather(pulling, return_exceptions=True)

    async def pin(self, name: str) -> None:
        await self.cache.pin(name, None, is_dry_run=False)
        self.pinned.add(name)
        if len(self.pinned) > 3:
            await self.unpin(self.chance.choice(sorted(self.pinned)))

    async def unpin(self, name: str) -> None:
        if name in self.pinned:
            await self.cache.unpin([name], is_dry_run=False)
            self.pinned.discard(name)

    async def use(self, name: str) -> None:
        if name in self.used:
            await self.used.pop(name).aclose()
        elif len(self.used) < 3:
            stack = AsyncExitStack()
            await stack.enter_async_context(self.cache.using(ModelRef.parse(name), "read"))
            self.used[name] = stack

    async def evict(self, name: str) -> None:
        is_named = self.chance.random() < 0.5
        refs, wanted = ([ModelRef.parse(name)], 0) if is_named else ([], self.chance.randrange(3 * MIB))
        with suppress(Busy, NotFound):
            await self.cache.evict(refs, wanted, is_dry_run=False)

    async def write_foreign(self, name: str) -> None:
        room = (await self.cache.plan()).use.room
        (self.root / "foreign").write_bytes(bytes(self.chance.randrange(max(min(room, MIB), 1))))

    async def prune(self, name: str) -> None:
        await self.cache.prune(is_dry_run=False)

    async def verify(self, name: str) -> None:
        assert all(one.is_sound for one in await self.cache.verify(None, lambda progress: None))


DEEDS: dict[str, int] = {
    "pull": 8, "pull_several": 2, "pull_and_leave": 2, "pin": 2, "unpin": 2, "use": 3, "evict": 2,
    "write_foreign": 2, "prune": 1,
}  # fmt: skip


@asynccontextmanager
async def open_world(root: Path, order: EvictionOrder, seed: int) -> AsyncIterator[World]:
    options = CacheOptions(
        root,
        "here",
        is_owner=True,
        limits=Limits(BUDGET),
        eviction=EvictionOptions(True, order, grace_seconds=0.0),
    )
    around = Surroundings(
        {ProviderKind.HUGGING_FACE: MemoryOrigin(MODELS)}, MemoryTable(), SYSTEM_CLOCK, NO_METER
    )
    async with open_cache(options, around) as cache:
        yield World(cache, root, random.Random(seed))


@pytest.mark.parametrize("order", [Lru(), Gdsf()], ids=["lru", "gdsf"])
async def test_a_real_cache_never_exceeds_its_budget_nor_gives_up_what_is_kept(
    tmp_path: Path, order: EvictionOrder, proof_count: Callable[[int], int]
) -> None:
    root = tmp_path / "cache"
    with mounted(root, "-t", "tmpfs", "-o", "size=16m", "none"):
        async with open_world(root, order, seed=5) as world:
            for number in range(proof_count(1) * OPERATIONS_A_ROUND // 2):
                [deed] = world.chance.choices(sorted(DEEDS), [DEEDS[name] for name in sorted(DEEDS)])
                name = world.chance.choice(sorted(MODELS))
                stayed = [one for one in world.must_stay() if (deed, one) != ("pull_and_leave", name)]
                do: Callable[[str], Awaitable[None]] = getattr(world, deed)
                await do(name)
                world.check([one for one in stayed if one in {*world.pinned, *world.used}])
                assert world.cache._parts.space.ledger.promised == 0, f"operation {number}: {deed} {name}"
            for stack in world.used.values():
                await stack.aclose()
            await world.verify("")
            assert find_loose(root) == []


def find_loose(root: Path) -> list[str]:
    """Blobs to which no snapshot leads, and links that lead nowhere."""
    linked, loose = set(), []
    for link in root.glob("models--*/snapshots/*/*"):
        linked.add(link.resolve())
        loose += [] if link.exists() else [str(link)]
    return loose + [str(blob) for blob in root.glob("models--*/blobs/*") if blob not in linked]
