# SPDX-License-Identifier: Apache-2.0
"""A damaged file of which the chunks are known: read once to see it, and mended for its chunks alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.arrivals import (
    REF,
    Bench,
    GatedPool,
    Heard,
    OneClaim,
    Origin,
    Vouching,
    content_of,
    digests_of,
    entry_of,
    flip,
    open_descriptors,
    wait_until,
)

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Corrupt, Unreachable
from modelexpress.store.arriving import Watch
from modelexpress.store.blobs import Blobs, Obtained, Source
from modelexpress.store.digests import DigestList
from modelexpress.store.given import GivenOut
from modelexpress.store.layout import Layout
from modelexpress.store.offers import Offer
from modelexpress.store.proof import Reading, prove_chunks, read_whole
from modelexpress.store.records import Records
from modelexpress.store.survey import Finding, Presence
from modelexpress.store.volume import open_volume

SIZE = 4 * CHUNK_BYTES + 11
CONTENT = content_of(SIZE)
ENTRY = entry_of(CONTENT)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A cache with the file, and the list of its chunks."""
    layout, pool = Layout(tmp_path / "cache"), GatedPool()
    open_volume(layout, "me")
    before = open_descriptors()
    bench = Bench(layout, pool, Blobs(layout, pool, OneClaim(), Records(layout, "me"), "me"))
    bench.blob(ENTRY).parent.mkdir(parents=True)
    bench.blob(ENTRY).write_bytes(CONTENT)
    assert ENTRY.digest is not None
    bench.blobs.lists.save(ENTRY.digest, DigestList(SIZE, digests_of(CONTENT)))
    yield bench
    pool.close()
    assert open_descriptors() <= before + 1, "a file was left open"


async def mend(bench: Bench, source: Source, heard: Heard | None = None) -> Obtained:
    finding = Finding(ENTRY, Presence.UNPROVEN, bench.blob(ENTRY), owned=None)  # type: ignore[arg-type]
    watch = Watch() if heard is None else heard.watch
    return await bench.blobs.obtain(bench.layout.repository(REF), finding, source, watch)


def assert_mended(bench: Bench) -> None:
    assert bench.blob(ENTRY).read_bytes() == CONTENT and bench.parts() == []


class TestReading:
    async def test_one_reading_proves_and_lists(self, bench: Bench) -> None:
        heard: list[int] = []
        reading = await read_whole(bench.pool, bench.blob(ENTRY), ENTRY, heard.append)

        mtime_ns = bench.blob(ENTRY).stat().st_mtime_ns
        assert reading == Reading(None, digests_of(CONTENT), mtime_ns)
        assert sum(heard) == SIZE and max(heard) == CHUNK_BYTES

    async def test_of_a_damaged_file_the_list_tells_where(self, bench: Bench) -> None:
        flip(bench.blob(ENTRY), 3 * CHUNK_BYTES)
        reading = await read_whole(bench.pool, bench.blob(ENTRY), ENTRY)

        assert reading.problem is not None
        assert DigestList(SIZE, digests_of(CONTENT)).find_differing(reading.digests) == [3]

    @pytest.mark.parametrize("length", [0, 5, SIZE - 1, SIZE + 1])
    async def test_a_file_of_another_length_is_not_read_at_all(self, bench: Bench, length: int) -> None:
        os.truncate(bench.blob(ENTRY), length)
        heard: list[int] = []
        reading = await read_whole(bench.pool, bench.blob(ENTRY), ENTRY, heard.append)

        assert reading == Reading(f"{length} bytes instead of {SIZE}") and heard == []
        assert await prove_chunks(bench.pool, bench.blob(ENTRY), ENTRY) == reading.problem

    async def test_a_file_that_is_cut_while_it_is_read_is_not_proven(self, bench: Bench) -> None:
        path = bench.blob(ENTRY)
        reading = await read_whole(bench.pool, path, ENTRY, lambda count: os.truncate(path, CHUNK_BYTES))

        assert reading.problem is not None and "bytes instead of" in reading.problem

    async def test_a_reading_that_is_stopped_leaves_nothing_open(self, bench: Bench) -> None:
        gate = bench.pool.hold("reading model")
        task = asyncio.create_task(read_whole(bench.pool, bench.blob(ENTRY), ENTRY))
        await gate.wait_reached()
        task.cancel()
        gate.release()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestMending:
    @pytest.mark.parametrize("places", [[5], [0, SIZE - 1], [CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES]])
    async def test_it_costs_the_chunks_that_differ(self, bench: Bench, places: list[int]) -> None:
        for place in places:
            flip(bench.blob(ENTRY), place)
        origin, heard = Origin(CONTENT), Heard(SIZE)
        obtained = await mend(bench, bench.source(origin), heard)

        cost = sum(min(CHUNK_BYTES, SIZE - place // CHUNK_BYTES * CHUNK_BYTES) for place in places)
        assert origin.bytes_read == obtained.bytes_fetched == cost
        assert sum(heard.bytes) == SIZE and sum(heard.disk) == SIZE
        assert obtained.held.mtime_ns == bench.blob(ENTRY).stat().st_mtime_ns
        assert_mended(bench)

    async def test_of_a_file_that_has_gone_the_list_still_tells_which_chunk_came_wrong(
        self, bench: Bench
    ) -> None:
        bench.blob(ENTRY).unlink()
        at = 2 * CHUNK_BYTES + 5

        async def be_right_in_the_end(offset: int) -> None:
            if origin.bytes_read >= SIZE:
                origin.content = CONTENT

        origin = Origin(CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :], be_right_in_the_end)
        finding = Finding(ENTRY, Presence.ABSENT, bench.blob(ENTRY), owned=None)  # type: ignore[arg-type]
        source = bench.source(origin)
        await bench.blobs.obtain(bench.layout.repository(REF), finding, source, Watch())

        assert origin.bytes_read == SIZE + CHUNK_BYTES
        assert_mended(bench)

    async def test_a_source_that_vouches_is_asked_for_those_chunks_too(self, bench: Bench) -> None:
        flip(bench.blob(ENTRY), 5)
        origin = Origin(CONTENT)
        await mend(bench, Vouching(origin, bench.pool, CONTENT))

        assert origin.bytes_read == CHUNK_BYTES
        assert_mended(bench)

    async def test_an_outage_before_the_first_chunk_keeps_no_copy_of_the_damaged_file(
        self, bench: Bench
    ) -> None:
        flip(bench.blob(ENTRY), 5)
        before, heard = bench.blob(ENTRY).read_bytes(), Heard(SIZE)

        async def fail(offset: int) -> None:
            raise Unreachable("no answer")

        with pytest.raises(Unreachable):
            await mend(bench, bench.source(Origin(CONTENT, fail)), heard)

        assert bench.blob(ENTRY).read_bytes() == before and bench.parts() == []
        assert sum(heard.bytes) == sum(heard.disk) == 0

    async def test_an_outage_after_a_chunk_costs_it_no_second_time(self, bench: Bench) -> None:
        for place in (0, 3 * CHUNK_BYTES):
            flip(bench.blob(ENTRY), place)

        async def fail(offset: int) -> None:
            if offset >= CHUNK_BYTES:
                await wait_until(lambda: sum(heard.bytes) == SIZE - CHUNK_BYTES)
                raise Unreachable("no answer")

        broken, origin, heard = Origin(CONTENT, fail), Origin(CONTENT), Heard(SIZE)
        with pytest.raises(Unreachable):
            await mend(bench, bench.source(broken), heard)
        await mend(bench, bench.source(origin))

        assert broken.bytes_read + origin.bytes_read == 2 * CHUNK_BYTES
        assert_mended(bench)

    async def test_what_was_given_out_of_a_chunk_that_is_mended_is_known_to_be_wrong(
        self, bench: Bench
    ) -> None:
        wrong, given = content_of(SIZE, seed=1), GivenOut(bench.layout)

        async def fail(offset: int) -> None:
            if offset >= CHUNK_BYTES:
                await wait_until(lambda: sum(heard.bytes) >= CHUNK_BYTES)
                raise Unreachable("no answer")

        heard, again = Heard(SIZE), Heard(SIZE)
        heard.offer = again.offer = Offer("o" * 40, SIZE, given)
        bench.blob(ENTRY).unlink()
        with pytest.raises(Unreachable):
            await bench.obtain(ENTRY, bench.source(Origin(wrong, fail)), heard)
        [part] = [path for path in bench.parts() if path.suffix == ".part"]
        given.note("o" * 40, part.name)
        assert not given.has_other("o" * 40, part.name)

        bench.blob(ENTRY).write_bytes(CONTENT)
        flip(bench.blob(ENTRY), 3 * CHUNK_BYTES)
        await mend(bench, bench.source(Origin(CONTENT)), again)

        assert again.offer.is_doubted() and sum(again.bytes) == SIZE
        assert_mended(bench)

    async def test_an_origin_with_other_bytes_changes_nothing(self, bench: Bench) -> None:
        flip(bench.blob(ENTRY), 5)
        before = bench.blob(ENTRY).read_bytes()
        with pytest.raises(Corrupt, match="arrived wrong"):
            await mend(bench, bench.source(Origin(content_of(SIZE, seed=1))))

        assert bench.blob(ENTRY).read_bytes() == before and bench.parts() == []

    async def test_a_list_of_other_bytes_costs_the_file_and_is_replaced(self, bench: Bench) -> None:
        assert ENTRY.digest is not None
        wrong = bytearray(CONTENT)
        wrong[5] ^= 1
        bench.blob(ENTRY).write_bytes(wrong)
        bench.blobs.lists.save(ENTRY.digest, DigestList(SIZE, digests_of(bytes(wrong))))
        origin = Origin(CONTENT)
        await mend(bench, bench.source(origin))

        assert origin.bytes_read == SIZE
        assert bench.blobs.lists.find(ENTRY.digest, SIZE) == DigestList(SIZE, digests_of(CONTENT))
        assert_mended(bench)

    async def test_the_damaged_file_stands_until_the_last_step(self, bench: Bench) -> None:
        flip(bench.blob(ENTRY), 5)
        before = bench.blob(ENTRY).read_bytes()
        gate = bench.pool.hold("storing model")
        task = asyncio.create_task(mend(bench, bench.source(Origin(CONTENT))))
        await gate.wait_reached()
        assert bench.blob(ENTRY).read_bytes() == before
        gate.release()
        await task
        assert_mended(bench)
