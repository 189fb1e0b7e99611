# SPDX-License-Identifier: Apache-2.0
"""Bytes damaged anywhere, on disk, on the wire, at the origin: none is published, and little comes twice."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from blake3 import blake3
from tests.support.arrivals import bury_writers
from tests.support.caches import fill_by_huggingface_hub, unfinished
from tests.support.data_relay import Damage, DataRelay, relaying
from tests.support.house import House
from tests.support.transfers import damage_file, model_tree, open_relayed_house

from modelexpress.client import Strategy
from modelexpress.domain.chunks import CHUNK_BYTES, chunk_span, count_chunks
from modelexpress.domain.errors import Corrupt, MxError, NotFound
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry
from modelexpress.domain.refs import ModelRef
from modelexpress.store.journal import read_journal
from modelexpress.store.layout import Layout
from modelexpress.store.partials import Partials
from modelexpress.store.volume import open_volume
from modelexpress.testing.hub import Fault, LocalHub, Repository

NAME = "demo/damaged"
REF = ModelRef.parse(NAME)
LARGE = "a.safetensors"
LANES = 4
_chance = random.Random(5)
CONTENT = {
    LARGE: _chance.randbytes(2 * CHUNK_BYTES + 100_000),
    "b.bin": _chance.randbytes(400_000),
    "tokenizer.json": _chance.randbytes(50_000),
    "config.json": b'{"model_type": "llama"}',
}
TOTAL = sum(map(len, CONTENT.values()))
DAMAGED = [path for path, content in CONTENT.items() if len(content) > 1000]
LENGTH = 64  # of a damaged place
KERNEL_BYTES = 7 * 1024 * 1024  # what a kernel has of a connection, and throws away when it is reset
PLACES_A_ROUND = 50

Tree = dict[str, bytes | str]


def entry_of(hub: LocalHub, path: str) -> FileEntry:
    repository = hub._repositories[NAME]
    file = repository.files(repository.branches["main"])[path]
    kind = DigestKind.GIT_BLOB if file.sha256 is None else DigestKind.SHA256
    return FileEntry(path, file.size, Digest(kind, file.etag), file.blob_id)


def chunk_bytes(path: str, index: int) -> int:
    return chunk_span(index, len(CONTENT[path])).length


@dataclass
class Yard:
    """A house behind a relay, a client's directory that is new for each story, and who damages what."""

    house: House
    relay: DataRelay
    expected: Tree
    folder: Path
    chance: random.Random
    places: Counter[str] = field(default_factory=Counter)
    stories: int = 0

    @property
    def hub(self) -> LocalHub:
        return self.house.hub

    def knows_chunks(self, path: str) -> bool:
        """Whether the server has the digest list of a file."""
        digest = entry_of(self.hub, path).digest
        return digest is not None and Layout(self.house.root).digest_list(digest).exists()

    @property
    def mine(self) -> Path:
        return self.folder / f"mine-{self.stories}"

    async def begin(self, is_warm: bool) -> None:
        """The server has the model, or nothing of it; nothing is damaged, nothing has been sent."""
        self.stories += 1
        self.hub.faults.clear()
        self.relay.damages.clear()
        if is_warm:
            async with self.house.client(self.house.root, is_shared=True) as client:
                await client.ensure(NAME)
        else:
            with contextlib.suppress(NotFound):
                await self.house.cache.remove([REF], is_dry_run=False)
            if self.chance.random() < 0.7:  # from an earlier proof a server knows the chunks
                shutil.rmtree(self.house.root / ".mx/digests", ignore_errors=True)
        self.hub.log.clear()
        self.relay.clear()

    async def pull(self, hopeless: Path | None = None) -> MxError | None:
        """To the client's disk; the error. Whatever happens, what stands published is right.

        `hopeless`: a journal that nobody can read, which nobody needs to take away before its day is over.
        """
        error: MxError | None = None
        async with self.house.client(self.mine) as client:
            try:
                await client.pull(NAME, strategy=Strategy.SERVER_ONLY)
            except MxError as caught:
                error = caught
        if hopeless is not None:
            for path in (hopeless, hopeless.with_suffix(".part")):
                path.unlink(missing_ok=True)
        self.check_published(self.mine, is_whole=error is None)
        return error

    async def receive(self) -> MxError | None:
        """Into memory; the error. Without one every buffer is right."""
        buffers: dict[str, bytearray] = {}

        def allocate(entry: FileEntry) -> bytearray:
            buffers[entry.path] = bytearray(entry.size)
            return buffers[entry.path]

        async with self.house.client(self.mine) as client:
            try:
                await client.pull_into(NAME, allocate)
            except MxError as error:
                return error
        assert buffers == CONTENT
        return None

    async def pull_or_receive(self) -> MxError | None:
        return await (self.pull if self.chance.random() < 0.75 else self.receive)()

    def check_published(self, root: Path, is_whole: bool) -> None:
        found = model_tree(root, NAME)
        if is_whole:
            assert found == self.expected, f"not what was pulled: {found.keys() ^ self.expected.keys()}"
            assert not unfinished(root)
        else:
            assert found.items() <= self.expected.items(), "a wrong file stands published"
            assert not [path for path in found if path.startswith("snapshots/")]

    def check_server(self) -> None:
        assert model_tree(self.house.root, NAME) == self.expected
        assert not unfinished(self.house.root)

    async def end(self) -> None:
        """Once nothing is damaged any more, all is well."""
        self.hub.faults.clear()
        self.relay.damages.clear()
        assert await self.pull() is None
        self.check_server()
        shutil.rmtree(self.mine)

    def place(self, path: str) -> int:
        """An offset in the file with room behind it."""
        size = len(CONTENT[path])
        chunk = self.chance.randrange(count_chunks(size))
        return chunk * CHUNK_BYTES + self.chance.randrange(chunk_bytes(path, chunk) - 2 * LENGTH)

    def some(self) -> int:
        """A few places, that leave most chunks alone, or many."""
        return self.chance.randrange(1, 4) if self.chance.random() < 0.4 else self.chance.randrange(10, 40)

    def some_files(self) -> list[str]:
        """Mostly the large one, where there is more to get wrong."""
        return self.chance.choices(DAMAGED, [8, 1, 1], k=self.some())

    def blob(self, path: str, root: Path | None = None) -> Path:
        digest = entry_of(self.hub, path).digest
        assert digest is not None
        return Layout(root or self.house.root).repository(REF).blob(digest)


# -- on the wire


async def on_the_wire(yard: Yard) -> int:
    """Each damaged chunk comes once more, and nothing else does."""
    await yard.begin(is_warm=yard.chance.random() < 0.7)
    # After a connection that broke a client waits a moment, so that there are fewer stories of those.
    actions = ["flip", "zero", "swap"] * (1 if yard.chance.random() < 0.2 else 100) + ["drop", "cut"]
    for path in yard.some_files():
        action = yard.chance.choice(actions)
        yard.relay.damages.append(Damage(action, len(CONTENT[path]), yard.place(path)))  # type: ignore[arg-type]
    assert await yard.pull_or_receive() is None
    hurt = {(damage.size, damage.chunk): damage.cost for damage in yard.relay.damages if damage.applied}
    again = yard.relay.bytes_sent() - TOTAL
    assert again <= sum(hurt.values())
    if all(damage.action in ("flip", "zero", "swap") for damage in yard.relay.damages):
        assert again == sum(hurt.values())
    assert yard.hub.log.bytes_sent in (0, TOTAL)
    return sum(damage.applied for damage in yard.relay.damages)


async def doubled_on_the_wire(yard: Yard) -> int:
    """Bytes that come twice shift what follows: that chunk comes once more."""
    await yard.begin(is_warm=True)
    path = yard.chance.choice(DAMAGED)
    damage = Damage("repeat", len(CONTENT[path]), yard.place(path))
    yard.relay.damages.append(damage)
    assert await yard.pull_or_receive() is None
    assert yard.relay.bytes_sent() - TOTAL <= damage.cost + LENGTH
    return damage.applied


async def again_and_again_on_the_wire(yard: Yard) -> int:
    """A wire that is never right ends in an error that names the file."""
    await yard.begin(is_warm=True)
    path, action = yard.chance.choice(DAMAGED), yard.chance.choice(["flip", "zero", "swap"])
    damage = Damage(action, len(CONTENT[path]), yard.place(path), times=None)  # type: ignore[arg-type]
    yard.relay.damages.append(damage)
    error = await yard.pull_or_receive()
    assert isinstance(error, Corrupt) and path in error.message, error
    return damage.applied


async def in_a_digest_list(yard: Yard) -> int:
    """The list is read when a chunk differs; one that is damaged vouches for nothing and is read again."""
    await yard.begin(is_warm=True)
    size = len(CONTENT[LARGE])
    damaged = Damage("flip", size, yard.place(LARGE))
    action = yard.chance.choice(["flip", "zero", "swap", "drop", "cut"])
    wrong_list = Damage(action, 0, yard.chance.randrange(60), what="digests", length=16)  # type: ignore[arg-type]
    yard.relay.damages += [damaged, wrong_list]
    assert await yard.pull_or_receive() is None
    assert wrong_list.applied == damaged.applied == 1
    assert yard.relay.bytes_sent() == TOTAL + damaged.cost
    return 2


# -- on the server's disk


async def in_a_published_file(yard: Yard) -> int:
    """What can be seen is mended by its chunks; what cannot be seen is never published by a client."""
    await yard.begin(is_warm=True)
    path = yard.chance.choice(DAMAGED)
    blob, is_time_kept = yard.blob(path), yard.chance.random() < 0.5
    before = blob.stat()
    hows = yard.chance.choices(["flip", "zero", "swap"], k=yard.some())
    offsets = [yard.place(path) for _ in hows]
    if yard.chance.random() < 0.2:
        hows, offsets = ["truncate"], offsets[:1]
    for how, offset in zip(hows, offsets, strict=True):
        damage_file(blob, offset, how, LENGTH, is_time_kept)
    if blob.read_bytes() == CONTENT[path]:
        return 0  # two places that undo each other
    if is_time_kept and hows != ["truncate"]:
        error = await yard.pull_or_receive()
        assert isinstance(error, Corrupt) and path in error.message, error
        assert yard.hub.log.bytes_sent == 0
        blob.write_bytes(CONTENT[path])
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
        return len(hows)
    hurt = {offset // CHUNK_BYTES for offset in offsets}
    if hows == ["truncate"]:
        hurt = set(range(min(hurt), count_chunks(before.st_size)))
    assert await yard.pull_or_receive() is None
    assert yard.hub.log.bytes_sent == sum(chunk_bytes(path, chunk) for chunk in hurt)
    assert yard.relay.bytes_sent() == TOTAL
    return len(hows)


# -- in what an interruption left


def leave_partial(yard: Yard, root: Path) -> Path:
    """As a process that was killed left it: some chunks of the large file; its journal."""
    layout, entry = Layout(root), entry_of(yard.hub, LARGE)
    open_volume(layout, "dead")
    partials = Partials(layout, "dead")
    partial = partials.open(layout.repository(REF), entry, lambda count: None)
    for index in yard.chance.sample(range(3), yard.chance.randrange(1, 4)):
        span = chunk_span(index, entry.size)
        end = span.end if yard.chance.random() < 0.6 else yard.chance.randrange(span.start + 1, span.end)
        partial.put(index, memoryview(bytearray(CONTENT[LARGE][span.start : end])))
    partials.release(partial, is_kept=True)
    bury_writers(layout)
    [journal] = layout.partials.glob("dead.*.journal")
    return journal


def damage_leftover(yard: Yard, journal: Path) -> tuple[int, bool]:
    """Damage the file or what is said of it; how many places, and whether its first line is as it was."""
    count = yard.some()
    first = journal.read_bytes().partition(b"\n")[0]
    if yard.chance.random() < 0.5:
        part = journal.with_suffix(".part")
        if yard.chance.random() < 0.2:
            damage_file(part, yard.chance.randrange(len(CONTENT[LARGE])), "truncate")
            return 1, True
        for _ in range(count):
            place, how = yard.place(LARGE), yard.chance.choice(["flip", "zero", "swap"])
            with part.open("rb") as file:
                file.seek(place)
                if not any(file.read(2 * LENGTH)):
                    continue  # nothing has arrived there
            damage_file(part, place, how, LENGTH)
        return count, True
    content = bytearray(journal.read_bytes())
    how = yard.chance.choice(["flip", "zero", "truncate", "swap lines"])
    if how == "swap lines":
        lines = content.split(b"\n")[:-1]
        one, other = (yard.chance.randrange(len(lines)) for _ in range(2))
        lines[one], lines[other] = lines[other], lines[one]
        content, count = bytearray(b"\n".join(lines) + b"\n"), 1
    elif how == "truncate":
        del content[yard.chance.randrange(len(content)) :]
        count = 1
    else:
        for _ in range(count):
            at = yard.chance.randrange(len(content))
            content[at] = content[at] ^ 1 << yard.chance.randrange(8) if how == "flip" else 0
    journal.write_bytes(content)
    return count, bytes(content).startswith(first + b"\n")


def resumable_bytes(journal: Path) -> int:
    """The bytes that are there as the journal says."""
    said, content = read_journal(journal), journal.with_suffix(".part").read_bytes()
    if said is None:
        return 0
    right = 0
    for index, (length, digest) in said.pieces.items():
        start = index * CHUNK_BYTES
        if blake3(content[start : start + length]).digest() == digest:
            assert content[start : start + length] == CONTENT[LARGE][start : start + length]
            right += length
    return right


async def in_a_partial_file(yard: Yard) -> int:
    """Of what an interruption left only the damaged chunks come again, at the client and at the server."""
    is_at_client = yard.chance.random() < 0.5
    await yard.begin(is_warm=is_at_client)
    journal = leave_partial(yard, yard.mine if is_at_client else yard.house.root)
    count, is_header_right = damage_leftover(yard, journal)
    kept = resumable_bytes(journal)
    assert await yard.pull(None if is_header_right else journal) is None
    sent = yard.relay.bytes_sent() if is_at_client else yard.hub.log.bytes_sent
    assert sent == TOTAL - kept if is_header_right else sent <= TOTAL
    if is_at_client:
        assert yard.hub.log.bytes_sent == 0
    return count


# -- at the origin


async def at_the_origin(yard: Yard) -> int:
    """What an origin does wrong once costs one more reading of that file at most, and nothing else."""
    await yard.begin(is_warm=False)
    has_list = yard.knows_chunks(LARGE)
    faults: dict[str, list[Fault]] = {}
    costs = {"wrong_bytes": 1.0, "ignore_range": 1.0, "etag": 1.0, "truncate": 0.0, "reset": 0.0}
    for path in yard.chance.sample(DAMAGED, yard.chance.randrange(1, 4)):
        action = yard.chance.choice(list(costs))
        after = yard.chance.randrange(1, len(CONTENT[path]))
        faults[path] = [yard.hub.faults.add(Fault(action, "body", path, after=after))]  # type: ignore[arg-type]
        if action == "reset" and yard.chance.random() < 0.5:  # what goes on there is another version
            faults[path].append(yard.hub.faults.add(Fault("etag", "body", path)))
    assert await yard.pull_or_receive() is None
    sent = {path: yard.hub.log.bytes_by_file().get(f"{NAME}/{path}", 0) for path in CONTENT}
    for path, content in CONTENT.items():
        actions = {fault.action for fault in faults.get(path, []) if fault.applied}
        cost = max((costs[action] for action in actions), default=0.0)
        lost = 0 if actions <= {"wrong_bytes"} else KERNEL_BYTES  # on its way when it was cut
        assert len(content) <= sent[path] <= len(content) * (1 + cost) + lost, (path, actions, sent)
        if actions == {"wrong_bytes"}:
            wrong = faults[path][0].after // CHUNK_BYTES
            again = chunk_bytes(path, wrong) if has_list and path == LARGE else len(content)
            assert sent[path] == len(content) + again
    # A client may have been sent the wrong bytes before anybody could know, and be cut off then.
    assert TOTAL <= yard.relay.bytes_sent() <= TOTAL + LANES * CHUNK_BYTES
    return sum(fault.applied for rules in faults.values() for fault in rules)


async def again_and_again_at_the_origin(yard: Yard) -> int:
    """An origin that is never right ends in its own error, after two readings of that file."""
    await yard.begin(is_warm=False)
    path = yard.chance.choice(DAMAGED)
    has_list, after = yard.knows_chunks(path), yard.chance.randrange(len(CONTENT[path]))
    fault = yard.hub.faults.add(Fault("wrong_bytes", "body", path, times=None, after=after))
    error = await yard.pull_or_receive()
    assert isinstance(error, Corrupt) and path in error.message, error
    again = chunk_bytes(path, after // CHUNK_BYTES) if has_list else 0
    assert yard.hub.log.bytes_by_file()[f"{NAME}/{path}"] == 2 * len(CONTENT[path]) + again
    yard.check_published(yard.house.root, is_whole=False)
    return fault.applied


STORIES: list[Callable[[Yard], Awaitable[int]]] = [
    on_the_wire,
    in_a_published_file,
    in_a_partial_file,
    at_the_origin,
    doubled_on_the_wire,
    in_a_digest_list,
    again_and_again_on_the_wire,
    again_and_again_at_the_origin,
]
WEIGHTS = [8, 5, 6, 4, 1, 1, 1, 1]


@pytest.fixture
def relay() -> Iterator[DataRelay]:
    with relaying() as relay:
        yield relay


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    repository = Repository(NAME)
    repository.commit(CONTENT)
    async with LocalHub([repository]) as hub:
        yield hub


@pytest.fixture
async def yard(hub: LocalHub, relay: DataRelay, tmp_path: Path) -> AsyncIterator[Yard]:
    theirs = tmp_path / "theirs"
    await fill_by_huggingface_hub(hub, theirs, NAME)
    async with open_relayed_house(hub, relay, tmp_path) as house:
        yield Yard(house, relay, model_tree(theirs, NAME), tmp_path, random.Random())


async def tell(yard: Yard, story: Callable[[Yard], Awaitable[int]], seed: int) -> None:
    yard.chance = random.Random(seed)
    try:
        yard.places[story.__name__] += await story(yard)
        await yard.end()
    except BaseException as error:
        error.add_note(f"seed {seed}: {story.__name__}; {yard.relay.damages} {yard.hub.faults._rules}")
        raise


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_one_of_each(yard: Yard, story: Callable[[Yard], Awaitable[int]]) -> None:
    for seed in range(2):
        await tell(yard, story, seed)


@pytest.mark.prove
@pytest.mark.parametrize("first_seed", [0, 1_000_000])
async def test_no_damaged_byte_is_ever_published_and_little_comes_twice(
    yard: Yard, proof_count: Callable[[int], int], first_seed: int
) -> None:
    wanted, seed = PLACES_A_ROUND * proof_count(4) // 2, first_seed
    while yard.places.total() < wanted:
        [story] = random.Random(-1 - seed).choices(STORIES, WEIGHTS)
        await tell(yard, story, seed)
        seed += 1
    print(f"{yard.places.total()} places, seeds {first_seed} to {seed - 1}: {dict(yard.places)}")
