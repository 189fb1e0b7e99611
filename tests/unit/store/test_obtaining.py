# SPDX-License-Identifier: Apache-2.0
"""Obtaining a file under attack: flipped bytes, wrong origins, outages, cancellations at every step."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace
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
    bury_writers,
    content_of,
    digests_of,
    entry_of,
    flip,
    move_writers_away,
    open_descriptors,
    wait_until,
)
from tests.support.limits import files_limited_to

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import (
    Busy,
    Cancelled,
    Corrupt,
    Forbidden,
    Invalid,
    Limited,
    MxError,
    NoRoom,
    NotFound,
    StorageFailed,
    Unauthenticated,
    Unreachable,
    Unsupported,
)
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion
from modelexpress.store.blobs import Blobs
from modelexpress.store.digests import DigestList
from modelexpress.store.layout import Layout
from modelexpress.store.offers import Standing
from modelexpress.store.partial import Partial
from modelexpress.store.records import Records
from modelexpress.store.volume import open_volume

SIZE = 4 * CHUNK_BYTES + 11
CONTENT = content_of(SIZE)
ENTRY = entry_of(CONTENT)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    layout, pool = Layout(tmp_path / "cache"), GatedPool()
    open_volume(layout, "me")
    before = open_descriptors()
    yield Bench(layout, pool, Blobs(layout, pool, OneClaim(), Records(layout, "me"), "me"))
    pool.close()
    assert open_descriptors() <= before + 1, "a file was left open"


def assert_sound(bench: Bench, heard: Heard | None = None, entry: FileEntry = ENTRY) -> None:
    """The file stands proven, nothing else is left, and all was counted once."""
    assert bench.blob(entry).read_bytes() == CONTENT
    assert bench.parts() == []
    if heard is not None:
        assert sum(heard.bytes) == SIZE
        assert isinstance(heard.offer.state, Standing)
        assert heard.offer.state.path == bench.blob(entry)
        assert heard.offer.state.mtime_ns == bench.blob(entry).stat().st_mtime_ns


def assert_nothing_left(bench: Bench, heard: Heard) -> None:
    assert bench.parts() == [] and not bench.blob(ENTRY).exists()
    assert sum(heard.bytes) == 0 and sum(heard.disk) == 0
    assert heard.offer.state is None
    assert not bench.layout.digests.exists() or not list(bench.layout.digests.iterdir())


def assert_kept(bench: Bench, heard: Heard) -> None:
    assert sorted(path.suffix for path in bench.parts()) == [".journal", ".part"]
    assert not bench.blob(ENTRY).exists() and sum(heard.bytes) == 0 and heard.offer.state is None


async def test_a_good_file_costs_its_bytes_once_and_its_list_is_recorded(bench: Bench) -> None:
    origin, heard = Origin(CONTENT), Heard(SIZE)
    obtained = await bench.obtain(ENTRY, bench.source(origin), heard)

    assert_sound(bench, heard)
    assert obtained.bytes_fetched == origin.bytes_read == SIZE and sum(heard.disk) == SIZE
    assert ENTRY.digest is not None
    assert bench.blobs.lists.find(ENTRY.digest, SIZE) == DigestList(SIZE, digests_of(CONTENT))


class TestDamageOnOurDisk:
    @pytest.mark.parametrize("place", [0, CHUNK_BYTES + 5, SIZE - 1])
    async def test_a_byte_flipped_before_the_proof_costs_one_chunk(self, bench: Bench, place: int) -> None:
        origin, heard = Origin(CONTENT), Heard(SIZE)
        hashing = bench.pool.hold("reading model")
        task = asyncio.create_task(bench.obtain(ENTRY, bench.source(origin), heard))
        await hashing.wait_reached()
        await wait_until(lambda: sum(heard.bytes) == SIZE)
        [part] = bench.layout.partials.glob("*.part")
        flip(part, place)
        hashing.release()
        obtained = await task

        damaged = min(CHUNK_BYTES, SIZE - place // CHUNK_BYTES * CHUNK_BYTES)
        assert origin.bytes_read == obtained.bytes_fetched == SIZE + damaged
        assert_sound(bench, heard)
        assert sum(heard.disk) == SIZE
        assert ENTRY.digest is not None
        found = bench.blobs.lists.find(ENTRY.digest, SIZE)
        assert found is not None and found.digests == digests_of(CONTENT)

    async def test_damage_in_several_chunks_costs_those_chunks(self, bench: Bench) -> None:
        origin, heard = Origin(CONTENT), Heard(SIZE)
        hashing = bench.pool.hold("reading model")
        task = asyncio.create_task(bench.obtain(ENTRY, bench.source(origin), heard))
        await hashing.wait_reached()
        await wait_until(lambda: sum(heard.bytes) == SIZE)
        [part] = bench.layout.partials.glob("*.part")
        for place in (1, 2, 3 * CHUNK_BYTES):
            flip(part, place)
        hashing.release()
        await task

        assert origin.bytes_read == SIZE + 2 * CHUNK_BYTES
        assert_sound(bench, heard)

    async def test_a_damaged_chunk_that_comes_wrong_the_second_time_is_not_believed(
        self, bench: Bench
    ) -> None:
        origin, heard = Origin(CONTENT), Heard(SIZE)
        hashing = bench.pool.hold("reading model")
        task = asyncio.create_task(bench.obtain(ENTRY, bench.source(origin), heard))
        await hashing.wait_reached()
        await wait_until(lambda: sum(heard.bytes) == SIZE)
        [part] = bench.layout.partials.glob("*.part")
        flip(part, 5)
        origin.content = b"x" * CHUNK_BYTES + CONTENT[CHUNK_BYTES:]
        hashing.release()
        with pytest.raises(Corrupt, match="arrived wrong"):
            await task

        assert_nothing_left(bench, heard)


class TestWrongOrigins:
    async def test_wrong_bytes_cost_one_more_reading(self, bench: Bench) -> None:
        wrong = CONTENT[:-1] + b"?"
        origin, heard = Origin(wrong), Heard(SIZE)

        async def mend(offset: int) -> None:
            if origin.bytes_read >= SIZE:
                origin.content = CONTENT

        origin.before_piece = mend
        await bench.obtain(ENTRY, bench.source(origin), heard)

        assert origin.bytes_read == 2 * SIZE
        assert_sound(bench, heard)
        assert sum(heard.disk) == SIZE

    async def test_wrong_bytes_twice_are_corrupt_and_leave_nothing(self, bench: Bench) -> None:
        origin, heard = Origin(CONTENT[:-1] + b"?"), Heard(SIZE)
        with pytest.raises(Corrupt, match=r"org/name: file 'model\.safetensors' arrived wrong: sha256"):
            await bench.obtain(ENTRY, bench.source(origin), heard)

        assert origin.bytes_read == 2 * SIZE
        assert_nothing_left(bench, heard)

    async def test_swapped_chunks_are_noticed(self, bench: Bench) -> None:
        swapped = CONTENT[CHUNK_BYTES : 2 * CHUNK_BYTES] + CONTENT[:CHUNK_BYTES] + CONTENT[2 * CHUNK_BYTES :]
        heard = Heard(SIZE)
        with pytest.raises(Corrupt):
            await bench.obtain(ENTRY, bench.source(Origin(swapped)), heard)

        assert_nothing_left(bench, heard)

    async def test_a_version_that_changes_in_the_middle_starts_that_file_over(self, bench: Bench) -> None:
        origin, heard = Origin(CONTENT), Heard(SIZE)

        async def change(offset: int) -> None:
            if offset == 2 * CHUNK_BYTES:
                origin.etag = "v2"

        origin.before_piece = change
        await bench.obtain(ENTRY, bench.source(origin), heard)

        assert_sound(bench, heard)

    async def test_an_origin_that_stops_giving_ranges_in_the_middle_is_counted_once(
        self, bench: Bench
    ) -> None:
        class Tiring(Origin):
            async def read(
                self, entry: FileEntry, span: ByteSpan, on_version: OnVersion
            ) -> AsyncIterator[bytes]:
                if span.length < entry.size and span.start > 0:
                    while self.bytes_read < CHUNK_BYTES:
                        await asyncio.sleep(0)
                    raise Unsupported("no ranges any more")
                async for piece in super().read(entry, span, on_version):
                    yield piece

        origin, heard = Tiring(CONTENT), Heard(SIZE)
        await bench.obtain(ENTRY, bench.source(origin), heard)

        assert bench.blob(ENTRY).read_bytes() == CONTENT
        assert sum(heard.bytes) == SIZE, "what arrived twice was counted twice"

    async def test_a_file_without_a_digest_is_proven_by_its_length_and_never_kept(self, bench: Bench) -> None:
        entry, heard = replace(ENTRY, digest=None), Heard(SIZE)
        origin = Origin(CONTENT)

        async def fail(offset: int) -> None:
            if origin.bytes_read >= 2 * CHUNK_BYTES:
                raise Unreachable("down")

        origin.before_piece = fail
        with pytest.raises(Unreachable):
            await bench.obtain(entry, bench.source(origin), heard)
        assert_nothing_left(bench, heard)

        obtained = await bench.obtain(entry, bench.source(Origin(CONTENT)), Heard(SIZE))
        assert obtained.entry.digest.value == ENTRY.digest.value  # type: ignore[union-attr]
        assert obtained.entry.digest.kind is DigestKind.LOCAL_SHA256


# Who may not read it says nothing about those who may.
REFUSED = [Forbidden("x"), Unauthenticated("x"), NotFound("x"), Invalid("x", is_loop=True)]
WANTED_AGAIN = [Unreachable("x"), Limited("x"), Busy("x"), Cancelled("x"), *REFUSED, RuntimeError("a defect")]
OUR_DISK = [NoRoom("x"), StorageFailed("x")]


def failing(error: BaseException, after: int, content: bytes = CONTENT) -> Origin:
    """An origin that fails for the bytes from `after` on; it is asked for them once a chunk has come."""
    origin = Origin(content)

    async def fail(offset: int) -> None:
        if offset >= after:
            raise error

    origin.before_piece = fail
    return origin


class TestInterruptions:
    @pytest.mark.parametrize("error", WANTED_AGAIN, ids=lambda error: type(error).__name__)
    async def test_after_an_outage_only_the_missing_chunks_are_read(
        self, bench: Bench, error: Exception
    ) -> None:
        heard = Heard(SIZE)
        with pytest.raises(type(error)):
            await bench.obtain(ENTRY, bench.source(failing(error, 4 * CHUNK_BYTES)), heard)
        assert_kept(bench, heard)
        [part] = bench.layout.partials.glob("*.part")
        assert sum(heard.disk) in (SIZE, part.stat().st_blocks * 512)
        origin, again = Origin(CONTENT), Heard(SIZE)
        obtained = await bench.obtain(ENTRY, bench.source(origin), again)

        assert obtained.bytes_fetched == origin.bytes_read
        # At most the chunks that were in flight were lost, and one had come whole.
        assert origin.bytes_read <= SIZE - CHUNK_BYTES
        assert_sound(bench, again)

    @pytest.mark.parametrize("error", OUR_DISK, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize("is_first", [True, False], ids=["begun by it", "begun by another"])
    async def test_what_failed_for_our_own_disk_leaves_what_others_had_begun(
        self, bench: Bench, error: MxError, is_first: bool
    ) -> None:
        heard = Heard(SIZE)
        if not is_first:
            with pytest.raises(Unreachable):
                await bench.obtain(ENTRY, bench.source(failing(Unreachable("x"), 4 * CHUNK_BYTES)))
        with pytest.raises(type(error)):
            await bench.obtain(ENTRY, bench.source(failing(error, 4 * CHUNK_BYTES)), heard)

        if is_first:
            assert_nothing_left(bench, heard)
        else:
            assert_kept(bench, heard)

    async def test_an_outage_before_the_first_chunk_leaves_nothing(self, bench: Bench) -> None:
        heard = Heard(SIZE)
        with pytest.raises(Unreachable):
            await bench.obtain(ENTRY, bench.source(failing(Unreachable("x"), 0)), heard)

        assert_nothing_left(bench, heard)

    async def test_what_a_resumed_file_holds_already_is_not_taken_from_the_disk_again(
        self, bench: Bench
    ) -> None:
        first = Heard(SIZE)
        with pytest.raises(Unreachable):
            await bench.obtain(ENTRY, bench.source(failing(Unreachable("x"), 4 * CHUNK_BYTES)), first)
        allocated = bench.blobs.partials.allocated_bytes(bench.layout.repository(REF), [ENTRY])
        again = Heard(SIZE)
        await bench.obtain(ENTRY, bench.source(Origin(CONTENT)), again)

        # The pull promised SIZE - allocated for it; more may not be taken off what others were promised.
        assert sum(again.disk) == SIZE - allocated

    async def test_a_new_session_goes_on_where_a_dead_one_stopped(self, bench: Bench) -> None:
        with pytest.raises(Unreachable):
            await bench.obtain(ENTRY, bench.source(failing(Unreachable("x"), 4 * CHUNK_BYTES)), Heard())
        bury_writers(bench.layout)
        successor, origin, heard = bench.successor("you"), Origin(CONTENT), Heard(SIZE)
        await successor.obtain(ENTRY, successor.source(origin), heard)

        assert origin.bytes_read <= SIZE - CHUNK_BYTES
        assert_sound(successor, heard)

    async def test_what_changed_on_disk_meanwhile_is_read_again_and_no_more(self, bench: Bench) -> None:
        with pytest.raises(Unreachable):
            await bench.obtain(ENTRY, bench.source(failing(Unreachable("x"), 4 * CHUNK_BYTES)), Heard())
        [part] = bench.layout.partials.glob("*.part")
        clean = Origin(CONTENT)
        flip(part, 7)
        await bench.obtain(ENTRY, bench.source(clean), Heard())

        assert sum(span.length for span in clean.spans if span.start == 0) == CHUNK_BYTES
        assert_sound(bench)

    async def test_wrong_bytes_that_an_interruption_kept_cost_one_more_reading(self, bench: Bench) -> None:
        wrong = b"?" + CONTENT[1:]
        with pytest.raises(Unreachable):
            await bench.obtain(
                ENTRY, bench.source(failing(Unreachable("x"), 4 * CHUNK_BYTES, wrong)), Heard()
            )
        origin, heard = Origin(CONTENT), Heard(SIZE)
        await bench.obtain(ENTRY, bench.source(origin), heard)

        assert origin.bytes_read <= 2 * SIZE
        assert_sound(bench, heard)

    async def test_wrong_bytes_of_an_unknown_machine_cost_one_more_reading_too(self, bench: Bench) -> None:
        wrong = b"?" + CONTENT[1:]
        far = bench.successor("far")
        with pytest.raises(Unreachable):
            await far.obtain(ENTRY, far.source(failing(Unreachable("x"), 4 * CHUNK_BYTES, wrong)), Heard())
        move_writers_away(bench.layout)
        origin = Origin(CONTENT)
        await bench.obtain(ENTRY, bench.source(origin), Heard())

        assert bench.blob(ENTRY).read_bytes() == CONTENT
        assert origin.bytes_read <= 2 * SIZE

    async def test_another_etag_than_an_unknown_machine_saw_starts_the_file_over(self, bench: Bench) -> None:
        far = bench.successor("far")
        with pytest.raises(Unreachable):
            await far.obtain(ENTRY, far.source(failing(Unreachable("x"), 4 * CHUNK_BYTES)), Heard())
        move_writers_away(bench.layout)
        origin = Origin(CONTENT)
        origin.etag = "v2"
        await bench.obtain(ENTRY, bench.source(origin), Heard())

        assert bench.blob(ENTRY).read_bytes() == CONTENT


class TestFullDisk:
    async def test_what_does_not_fit_is_not_begun(self, bench: Bench) -> None:
        origin, heard = Origin(CONTENT), Heard(SIZE)
        with files_limited_to(CHUNK_BYTES), pytest.raises(NoRoom, match="cache prune"):
            await bench.obtain(ENTRY, bench.source(origin), heard)

        assert origin.spans == []
        assert_nothing_left(bench, heard)

    async def test_a_disk_that_fills_meanwhile_keeps_nothing(self, bench: Bench) -> None:
        origin, heard = Origin(CONTENT), Heard(SIZE)
        with ExitStack() as stack:

            async def fill(offset: int) -> None:
                if origin.bytes_read >= 2 * CHUNK_BYTES and not stack.enter_context(files_limited_to(0)):
                    origin.before_piece = go_on

            async def go_on(offset: int) -> None:
                pass

            origin.before_piece = fill
            with pytest.raises(NoRoom, match=r"model\.safetensors|\.part"):
                await bench.obtain(ENTRY, bench.source(origin), heard)

        assert_nothing_left(bench, heard)


STEPS = ["creating a file", "writing", "reading model", "reading", "recording", "storing", "closing"]


class TestCancellation:
    @pytest.mark.parametrize("step", STEPS)
    async def test_cancelled_at_any_step_no_thread_works_on_and_the_next_one_ends_sound(
        self, bench: Bench, step: str
    ) -> None:
        gate, again = bench.pool.hold(step), Heard(SIZE)
        task = asyncio.create_task(bench.obtain(ENTRY, bench.source(Origin(CONTENT)), Heard(SIZE)))
        await gate.wait_reached()
        task.cancel()
        # Whatever else it has to do, it does; only the held job stands still.
        for _ in range(20):
            await asyncio.sleep(0.001)
        ended_early, jobs = task.done(), list(bench.pool.started)
        gate.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: bench.pool.running == 0)
        await bench.obtain(ENTRY, bench.source(Origin(CONTENT)), again)

        assert_sound(bench, again)
        assert not any(job.startswith("closing") for job in jobs), f"closed under a thread that was {step}"
        assert not ended_early, f"it ended while a thread was still {step}"

    async def test_cancelled_before_its_first_chunk_nothing_is_left(self, bench: Bench) -> None:
        heard, gate = Heard(SIZE), bench.pool.hold("creating a file")
        task = asyncio.create_task(bench.obtain(ENTRY, bench.source(Origin(CONTENT)), heard))
        await gate.wait_reached()
        task.cancel()
        gate.release()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert_nothing_left(bench, heard)

    async def test_cancelled_while_hashing_what_arrived_is_kept(self, bench: Bench) -> None:
        heard, gate = Heard(SIZE), bench.pool.hold("reading model")
        task = asyncio.create_task(bench.obtain(ENTRY, bench.source(Origin(CONTENT)), heard))
        await gate.wait_reached()
        await wait_until(lambda: sum(heard.bytes) >= 4 * CHUNK_BYTES)
        task.cancel()
        gate.release()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert_kept(bench, heard)


class TestVouchingSources:
    async def test_a_chunk_that_differs_is_fetched_again_alone(self, bench: Bench) -> None:
        origin = Origin(CONTENT[: 2 * CHUNK_BYTES] + b"?" + CONTENT[2 * CHUNK_BYTES + 1 :])
        source, heard = Vouching(origin, bench.pool, CONTENT), Heard(SIZE)

        async def mend(offset: int) -> None:
            if source.asked:
                origin.content = CONTENT

        origin.before_piece = mend
        obtained = await bench.obtain(ENTRY, source, heard)

        assert origin.bytes_read == obtained.bytes_fetched == SIZE + CHUNK_BYTES
        assert_sound(bench, heard)
        assert sum(heard.disk) == SIZE
        assert ENTRY.digest is not None
        assert bench.blobs.lists.find(ENTRY.digest, SIZE) == DigestList(SIZE, digests_of(CONTENT))

    async def test_a_list_that_never_matches_is_corrupt_and_leaves_nothing(self, bench: Bench) -> None:
        origin, heard = Origin(CONTENT[:-1] + b"?"), Heard(SIZE)
        with pytest.raises(Corrupt, match="does not become what the server proved"):
            await bench.obtain(ENTRY, Vouching(origin, bench.pool, CONTENT), heard)

        assert_nothing_left(bench, heard)
        assert origin.bytes_read <= 2 * SIZE + 4 * CHUNK_BYTES, "only the last chunk was wrong"

    async def test_what_an_unknown_machine_left_wrong_costs_that_chunk(self, bench: Bench) -> None:
        far = bench.successor("far")
        wrong = b"?" + CONTENT[1:]
        with pytest.raises(Unreachable):
            await far.obtain(ENTRY, far.source(failing(Unreachable("x"), 4 * CHUNK_BYTES, wrong)), Heard())
        move_writers_away(bench.layout)
        origin = Origin(CONTENT)
        await bench.obtain(ENTRY, Vouching(origin, bench.pool, CONTENT), Heard())

        assert bench.blob(ENTRY).read_bytes() == CONTENT and origin.bytes_read <= SIZE

    async def test_a_server_that_goes_away_before_its_proof_costs_no_chunk(self, bench: Bench) -> None:
        class Leaving(Vouching):
            async def find_differing(self, entry: FileEntry, digests: bytes) -> list[int]:
                raise Unreachable("gone")

        heard = Heard(SIZE)
        with pytest.raises(Unreachable):
            await bench.obtain(ENTRY, Leaving(Origin(CONTENT), bench.pool, CONTENT), heard)
        assert_kept(bench, heard)
        origin, again = Origin(CONTENT), Heard(SIZE)
        await bench.obtain(ENTRY, Vouching(origin, bench.pool, CONTENT), again)

        assert origin.bytes_read == 0
        assert_sound(bench, again)


class TestOffers:
    async def test_readers_are_told_arriving_then_standing(self, bench: Bench) -> None:
        heard, states, roots = Heard(SIZE), list[object](), list[str | None]()

        def hear() -> None:
            states.append(type(heard.offer.state))
            roots.append(heard.offer.root)

        with heard.offer.listened(hear, is_of_states=True):
            await bench.obtain(ENTRY, bench.source(Origin(CONTENT)), heard)

        root = DigestList(SIZE, digests_of(CONTENT)).root
        assert states == [Partial, Partial, Standing] and roots == [None, root, root]

    async def test_a_second_reading_is_another_arrival(self, bench: Bench) -> None:
        heard, states = Heard(SIZE), list[object]()
        listening = heard.offer.listened(lambda: states.append(heard.offer.state), is_of_states=True)
        with listening, pytest.raises(Corrupt):
            await bench.obtain(ENTRY, bench.source(Origin(b"?" + CONTENT[1:])), heard)

        kinds = [type(state) for state in states]
        assert kinds == [Partial, type(None), Partial, type(None)] and states[0] is not states[2]

    async def test_what_is_here_already_stands_at_once(self, bench: Bench) -> None:
        await bench.obtain(ENTRY, bench.source(Origin(CONTENT)))
        origin, heard = Origin(b""), Heard(SIZE)
        await bench.obtain(ENTRY, bench.source(origin), heard)

        assert origin.spans == []
        assert_sound(bench, heard)

    async def test_whoever_waited_for_the_claim_hears_the_same_end(self, bench: Bench) -> None:
        origin, heard = Origin(CONTENT), [Heard(SIZE) for _ in range(4)]
        source = bench.source(origin)
        await asyncio.gather(*(bench.obtain(ENTRY, source, each) for each in heard))

        assert origin.bytes_read == SIZE
        for each in heard:
            assert_sound(bench, each)

    async def test_when_the_first_is_cancelled_the_next_goes_on_with_what_it_brought(
        self, bench: Bench
    ) -> None:
        origin, reached = Origin(CONTENT), asyncio.Event()

        async def note(offset: int) -> None:
            if offset == 4 * CHUNK_BYTES and not reached.is_set():
                reached.set()
                await asyncio.sleep(0)

        origin.before_piece = note
        first = asyncio.create_task(bench.obtain(ENTRY, bench.source(origin)))
        await asyncio.sleep(0)
        heard = Heard(SIZE)
        second = asyncio.create_task(bench.obtain(ENTRY, bench.source(origin), heard))
        await reached.wait()
        first.cancel()
        await second

        assert origin.bytes_read <= SIZE + 3 * CHUNK_BYTES, "what had come whole was read again"
        assert_sound(bench, heard)
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
@pytest.mark.parametrize("kind", [DigestKind.SHA256, DigestKind.GIT_BLOB, None])
async def test_files_of_every_size_and_proof_are_counted_once(
    bench: Bench, size: int, kind: DigestKind | None
) -> None:
    content = content_of(size)
    digest = entry_of(content).digest
    if kind is DigestKind.GIT_BLOB:
        oid = hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False).hexdigest()
        digest = Digest(DigestKind.GIT_BLOB, oid)
    entry, heard = FileEntry("f", size, digest if kind else None), Heard(size)
    obtained = await bench.obtain(entry, bench.source(Origin(content)), heard)

    assert sum(heard.bytes) == obtained.bytes_fetched == size and sum(heard.disk) == size
    assert bench.blob(obtained.entry).read_bytes() == content and bench.parts() == []
    assert isinstance(heard.offer.state, Standing)
