# SPDX-License-Identifier: Apache-2.0
"""The proof by number: whenever a fetch is interrupted, and however, it ends bit-exact and costs little."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.arrivals import Bench, GatedPool, OneClaim, Origin, bury_writers, content_of, entry_of

from modelexpress.domain.chunks import CHUNK_BYTES, count_chunks
from modelexpress.domain.errors import Busy, Limited, Unreachable
from modelexpress.store.blobs import Blobs
from modelexpress.store.layout import Layout
from modelexpress.store.records import Records
from modelexpress.store.volume import open_volume


class Interrupted(Exception):
    """The process is taken for dead from here on: what it does in its last moments nobody sees."""


class Story:
    """One file that is obtained in spite of everything, from a seed."""

    def __init__(self, root: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        size = self.chance.randint(2 * CHUNK_BYTES + 1, 9 * CHUNK_BYTES)
        self.content = content_of(size, seed % 5)
        self.entry = entry_of(self.content)
        self.origin = Origin(self.content)
        self.origin.piece_bytes = self.chance.choice([300_000, 1024 * 1024, 5 * 1024 * 1024])
        self.interruptions = 0
        self._root = root
        self._lives = 0

    @property
    def in_flight(self) -> int:
        """Bytes that an interruption may cost: a chunk for each range that is read at once."""
        return min(4, count_chunks(len(self.content))) * CHUNK_BYTES

    async def run(self) -> Bench:
        """Interrupt it up to four times, then let it end; the directory in which it did."""
        folder = self._new_folder()
        for _ in range(self.chance.randint(1, 4)):
            how = self.chance.choice([self._cancel, self._fail, self._kill])
            self.interruptions += 1
            folder = await how(folder)
        self.origin.before_piece = self._go_on
        bench = self._open(folder)
        await bench.obtain(self.entry, bench.source(self.origin))
        bench.pool.close()
        return bench

    async def _go_on(self, offset: int) -> None:
        pass

    def _new_folder(self) -> Path:
        self._lives += 1
        return self._root / f"life-{self._lives}"

    def _open(self, folder: Path) -> Bench:
        """A new process opens the cache there."""
        layout, owner, pool = Layout(folder), f"owner{self._lives}", GatedPool()
        self._lives += 1
        open_volume(layout, owner)
        return Bench(layout, pool, Blobs(layout, pool, OneClaim(), Records(layout, owner), owner))

    def _moment(self) -> Callable[[], bool]:
        """Whether the moment of the interruption has come; asked at every piece."""
        left = self.chance.randint(0, 2 + 2 * len(self.content) // (3 * self.origin.piece_bytes))

        def is_now() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        return is_now

    async def _cancel(self, folder: Path) -> Path:
        is_now, reached = self._moment(), asyncio.Event()

        async def stop(offset: int) -> None:
            if is_now():
                reached.set()
                await asyncio.sleep(0)

        self.origin.before_piece = stop
        bench = self._open(folder)
        task = asyncio.create_task(bench.obtain(self.entry, bench.source(self.origin)))
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for other in (task, waiting):
            other.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
        return self._leave(bench)

    async def _fail(self, folder: Path) -> Path:
        is_now = self._moment()
        kind = self.chance.choice([Unreachable, Limited, Busy])

        async def fail(offset: int) -> None:
            if is_now():
                raise kind("as it happens")

        self.origin.before_piece = fail
        bench = self._open(folder)
        await asyncio.gather(bench.obtain(self.entry, bench.source(self.origin)), return_exceptions=True)
        return self._leave(bench)

    async def _kill(self, folder: Path) -> Path:
        is_now, after = self._moment(), self._new_folder()
        order = self.chance.choice([".journal", ".part"])

        async def die(offset: int) -> None:
            if is_now():
                if not after.exists():
                    copy_as_it_is(folder, after, first=order)
                raise Interrupted

        self.origin.before_piece = die
        bench = self._open(folder)
        await asyncio.gather(bench.obtain(self.entry, bench.source(self.origin)), return_exceptions=True)
        self._leave(bench)
        if not after.exists():
            return folder
        shutil.rmtree(folder)
        bury_writers(Layout(after))
        return after

    def _leave(self, bench: Bench) -> Path:
        bench.pool.close()
        bury_writers(bench.layout)
        return bench.layout.root


def copy_as_it_is(folder: Path, after: Path, first: str) -> None:
    """What a killed process leaves; its threads may be writing while we look, in this order or the other."""
    partials = folder / ".mx/partials"
    shutil.copytree(folder, after, ignore=lambda where, names: names if Path(where) == partials else [])
    for path in sorted(partials.iterdir(), key=lambda path: path.suffix != first):
        shutil.copy2(path, after / ".mx/partials" / path.name)


@pytest.mark.prove
async def test_an_interrupted_fetch_ends_bit_exact_and_costs_the_chunks_in_flight(
    tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    for seed in range(proof_count(6)):
        story = Story(tmp_path / f"{seed}", seed)
        bench = await story.run()

        assert bench.blob(story.entry).read_bytes() == story.content, f"seed {seed}"
        assert bench.parts() == [], f"seed {seed}: {bench.parts()}"
        fetched_again = story.origin.bytes_read - len(story.content)
        allowed = story.interruptions * story.in_flight
        assert 0 <= fetched_again <= allowed, f"seed {seed}: {fetched_again} of {allowed} allowed"
        shutil.rmtree(tmp_path / f"{seed}")
