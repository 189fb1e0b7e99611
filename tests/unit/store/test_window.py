# SPDX-License-Identifier: Apache-2.0
"""The sliding window: slots that are never lost, ranges that overlap, and what an interruption leaves."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.arrivals import GatedPool, Origin, chunk_of, content_of, digests_of, entry_of

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Corrupt, Limited, MxError, NotFound, Unreachable, Unsupported
from modelexpress.domain.manifest import FileEntry
from modelexpress.domain.resting import rest
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion
from modelexpress.providers.pace import Pace
from modelexpress.store.journal import Header, Journal
from modelexpress.store.partial import Partial
from modelexpress.store.window import RangedSource, Slots
from modelexpress.testing.clock import FakeClock

Make = Callable[[bytes], Partial]


@pytest.fixture
def pool() -> Iterator[GatedPool]:
    made = GatedPool()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Partial] = []

    def make(content: bytes) -> Partial:
        name = f"{len(made)}"
        journal = Journal(tmp_path / f"{name}.journal", Header("org/name", "f", len(content), "d"))
        made.append(Partial(tmp_path / f"{name}.part", len(content), journal, lambda count: None))
        return made[-1]

    yield make
    for partial in made:
        partial.close()


class TestSlots:
    async def test_as_many_as_the_limit_are_inside_and_the_rest_come_in_order(self) -> None:
        slots, order, inside, most = Slots(lambda: 3), list[int](), 0, 0

        async def use(number: int) -> None:
            nonlocal inside, most
            async with slots.one():
                order.append(number)
                inside += 1
                most = max(most, inside)
                for _ in range(number % 3 + 1):
                    await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(use(number) for number in range(30)))

        assert most == 3 and order == list(range(30))

    async def test_who_comes_back_for_another_slot_comes_after_who_waits(self) -> None:
        slots, order = Slots(lambda: 1), list[str]()

        async def use(name: str, times: int) -> None:
            for _ in range(times):
                async with slots.one():
                    order.append(name)
                    await asyncio.sleep(0)

        await asyncio.gather(use("greedy", 5), use("patient", 1))

        assert order.index("patient") == 1, "first come, first served"

    async def test_a_newcomer_does_not_overtake_who_was_woken(self) -> None:
        slots, order = Slots(lambda: 1), list[str]()
        leave = asyncio.Event()

        async def use(name: str) -> None:
            async with slots.one():
                order.append(name)
                if name == "first":
                    await leave.wait()

        first = asyncio.create_task(use("first"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(use("waiting"))
        await asyncio.sleep(0)
        leave.set()
        # Made now, so that it runs in the same turn of the loop in which the slot is passed on.
        newcomer = asyncio.create_task(use("newcomer"))
        await asyncio.gather(first, waiting, newcomer)

        assert order == ["first", "waiting", "newcomer"]

    async def test_a_raised_limit_lets_all_in_that_fit_and_a_lowered_one_none(self) -> None:
        limit, inside = 1, set[int]()
        slots, leave = Slots(lambda: limit), {number: asyncio.Event() for number in range(8)}

        async def use(number: int) -> None:
            async with slots.one():
                inside.add(number)
                await leave[number].wait()
                inside.discard(number)

        tasks = [asyncio.create_task(use(number)) for number in range(8)]

        async def settle() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        await settle()
        assert inside == {0}
        limit = 4
        leave[0].set()
        await settle()
        assert inside == {1, 2, 3, 4}
        limit = 2
        leave[1].set()
        leave[2].set()
        await settle()
        assert inside == {3, 4}
        leave[3].set()
        await settle()
        assert len(inside) == 2
        for event in leave.values():
            event.set()
        await asyncio.gather(*tasks)
        assert repr(slots) == "<Slots 0 of 2 used, 0 waiting>"

    async def test_a_waiter_that_is_cancelled_as_it_is_woken_passes_its_turn_on(self) -> None:
        slots = Slots(lambda: 1)
        leave, came = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with slots.one():
                await leave.wait()

        async def come() -> None:
            async with slots.one():
                came.set()

        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        woken = asyncio.create_task(hold())
        await asyncio.sleep(0)
        other = asyncio.create_task(come())
        await asyncio.sleep(0)
        leave.set()
        await holder  # `woken` has its turn now, and has not run yet
        woken.cancel()
        await asyncio.wait_for(other, 5)
        with suppress(asyncio.CancelledError):
            await woken
        assert came.is_set()

    async def test_who_only_lets_time_pass_holds_no_slot_meanwhile(self) -> None:
        clock, order = FakeClock(), list[str]()
        slots, leave = Slots(lambda: 1), asyncio.Event()

        async def wait() -> None:
            async with slots.one():
                order.append("asks")
                await rest(clock, 60.0)
                order.append("goes on")
            await rest(clock, 1.0)

        async def use() -> None:
            async with slots.one():
                order.append("other")
                await leave.wait()

        tasks = [asyncio.create_task(wait()), asyncio.create_task(use())]
        await clock.advance(60.0)
        assert order == ["asks", "other"]
        leave.set()
        await clock.advance(1.0)
        await asyncio.gather(*tasks)
        assert order == ["asks", "other", "goes on"] and repr(slots) == "<Slots 0 of 1 used, 0 waiting>"

    async def test_what_is_held_is_not_given_back_by_a_task_that_the_holder_started(self) -> None:
        clock, slots = FakeClock(), Slots(lambda: 1)
        async with slots.one():
            other = asyncio.create_task(rest(clock, 1.0))
            await asyncio.sleep(0)
            assert repr(slots) == "<Slots 1 of 1 used, 0 waiting>"
            await clock.advance(1.0)
            await other

    @given(seed=st.integers(0, 2**32), limit=st.integers(1, 4), users=st.integers(1, 25))
    def test_no_schedule_loses_a_slot_or_gives_one_too_many(self, seed: int, limit: int, users: int) -> None:
        async def run() -> None:
            schedule = Schedule(random.Random(seed), limit)
            await schedule.run(users)
            assert await schedule.count_free() == schedule.limit, "a slot was lost, or is there twice"

        asyncio.run(run())


class Schedule:
    """Users come, hold, rest, come back, are cancelled or fail, while the limit moves; all from one seed.

    It is the clock by which they rest.
    """

    def __init__(self, chance: random.Random, limit: int) -> None:
        self.chance = chance
        self.limit = limit
        self.is_lowered = False  # who is inside then may stay
        self.inside = 0
        self.slots = Slots(lambda: self.limit)

    async def turns(self, most: int) -> None:
        for _ in range(self.chance.randint(0, most)):
            await asyncio.sleep(0)

    async def use(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            await self.turns(3)
            async with self.slots.one():
                await self.stay()
                if self.chance.random() < 0.3:
                    await rest(self, 3)
                    await self.stay()

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await self.turns(int(seconds))

    async def stay(self) -> None:
        self.inside += 1
        try:
            assert self.inside <= self.limit or self.is_lowered
            await self.turns(4)
            if self.chance.random() < 0.1:
                raise ZeroDivisionError
        finally:
            self.inside -= 1

    async def run(self, users: int) -> None:
        tasks = [asyncio.create_task(self.use()) for _ in range(users)]
        while not all(task.done() for task in tasks):
            if self.chance.random() < 0.2:
                self.chance.choice(tasks).cancel()
            if self.chance.random() < 0.1:
                before, self.limit = self.limit, self.chance.randint(1, 4)
                self.is_lowered |= self.limit < before
            await asyncio.sleep(0)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(isinstance(end, AssertionError) for end in ended)
        assert self.inside == 0

    async def count_free(self) -> int:
        """How many can be inside at once now."""
        full = asyncio.Event()

        async def fill() -> None:
            async with self.slots.one():
                self.inside += 1
                await full.wait()

        filling = [asyncio.create_task(fill()) for _ in range(10)]
        for _ in range(20):
            await asyncio.sleep(0)
        found = self.inside
        full.set()
        await asyncio.gather(*filling)
        return found


class TestRanges:
    async def test_several_ranges_of_a_file_are_read_at_once(self, pool: GatedPool, make: Make) -> None:
        content = content_of(9 * CHUNK_BYTES + 3)
        together = asyncio.Barrier(4)

        async def meet(offset: int) -> None:
            if offset in (0, CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES):
                await asyncio.wait_for(together.wait(), 10)

        origin, partial = Origin(content, meet), make(content)
        await RangedSource(origin, pool, Slots(lambda: 4)).fill(entry_of(content), partial)

        assert origin.most_reading == 4 and origin.bytes_read == len(content)
        assert partial.path.read_bytes() == content and partial.digests == digests_of(content)

    @pytest.mark.parametrize("limit", [1, 2])
    async def test_all_files_together_read_no_more_ranges_than_there_are_slots(
        self, pool: GatedPool, make: Make, limit: int
    ) -> None:
        contents = [content_of(5 * CHUNK_BYTES, seed) for seed in range(3)]
        slots, reading, most = Slots(lambda: limit), set[tuple[int, int]](), 0

        def watching(number: int) -> Origin:
            async def count(offset: int) -> None:
                nonlocal most
                most = max(most, sum(origin.reading for origin in origins))
                reading.add((number, offset))

            return Origin(contents[number], count)

        origins = [watching(number) for number in range(3)]
        partials = [make(content) for content in contents]
        sources = [RangedSource(origin, pool, slots) for origin in origins]
        await asyncio.gather(
            *(s.fill(entry_of(c), p) for s, c, p in zip(sources, contents, partials, strict=True))
        )

        assert most == limit and all(partial.is_complete for partial in partials)

    async def test_a_large_file_does_not_keep_others_from_their_turn(
        self, pool: GatedPool, make: Make
    ) -> None:
        large, small = content_of(17 * CHUNK_BYTES), content_of(1000)  # more than all its first ranges
        slots, order = Slots(lambda: 1), list[str]()

        def noting(name: str, content: bytes) -> RangedSource:
            async def note(offset: int) -> None:
                order.append(name)

            return RangedSource(Origin(content, note), pool, slots)

        await asyncio.gather(
            noting("large", large).fill(entry_of(large), make(large)),
            noting("small", small).fill(entry_of(small), make(small)),
        )

        assert order[-1] == "large", "the small file had to wait for the last byte of the large one"

    async def test_only_missing_chunks_are_asked_for(self, pool: GatedPool, make: Make) -> None:
        content = content_of(7 * CHUNK_BYTES)
        partial, origin = make(content), Origin(content)
        for index in (0, 3, 4):
            partial.put(index, chunk_of(content, index))
        await RangedSource(origin, pool, Slots(lambda: 4)).fill(entry_of(content), partial)

        asked = sorted(
            index
            for span in origin.spans
            for index in range(span.start // CHUNK_BYTES, span.end // CHUNK_BYTES)
        )
        assert asked == [1, 2, 5, 6] and partial.is_complete

    async def test_an_empty_or_complete_file_asks_nothing(self, pool: GatedPool, make: Make) -> None:
        content = content_of(100)
        complete, origin = make(content), Origin(content)
        complete.put(0, memoryview(content))
        source = RangedSource(origin, pool, Slots(lambda: 4))
        await source.fill(entry_of(content), complete)
        await source.fill(entry_of(b""), make(b""))

        assert origin.spans == []

    async def test_memory_is_a_chunk_for_each_range_whatever_the_size(
        self, pool: GatedPool, make: Make
    ) -> None:
        content = content_of(13 * CHUNK_BYTES)
        entry, partial, origin = entry_of(content), make(content), Origin(content)
        origin.piece_bytes = 64 * 1024
        tracemalloc.start()
        try:
            await RangedSource(origin, pool, Slots(lambda: 8)).fill(entry, partial)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert partial.is_complete and peak < 5 * CHUNK_BYTES

    @pytest.mark.parametrize("is_limited", [False, True])
    async def test_files_that_wait_cost_no_buffers(
        self, pool: GatedPool, make: Make, is_limited: bool
    ) -> None:
        content, clock = bytes(4 * CHUNK_BYTES), FakeClock()

        async def wait(start: int) -> None:
            await (rest(clock, 60.0) if is_limited else asyncio.Event().wait())

        origins = [Origin(content, wait) for _ in range(20)]
        partials, slots = [make(content) for _ in origins], Slots(lambda: 1)
        due = (80, "<Slots 0 of 1 used, 0 waiting>") if is_limited else (1, "<Slots 1 of 1 used, 79 waiting>")
        tracemalloc.start()
        try:
            tasks = [
                asyncio.create_task(RangedSource(origin, pool, slots).fill(entry_of(content), partial))
                for origin, partial in zip(origins, partials, strict=True)
            ]
            async with asyncio.timeout(20):
                while (sum(origin.reading for origin in origins), repr(slots)) != due:
                    await asyncio.sleep(0)
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert taken < 4 * 1024 * 1024

    @pytest.mark.parametrize("piece_bytes", [65_537, CHUNK_BYTES - 1, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
    async def test_pieces_of_any_length_make_the_same_chunks(
        self, pool: GatedPool, make: Make, piece_bytes: int
    ) -> None:
        content = content_of(5 * CHUNK_BYTES + 17)
        partial, origin = make(content), Origin(content)
        origin.piece_bytes = piece_bytes
        await RangedSource(origin, pool, Slots(lambda: 2)).fill(entry_of(content), partial)

        assert partial.digests == digests_of(content) and partial.path.read_bytes() == content

    async def test_whoever_waits_for_the_first_byte_has_it_before_the_chunk_is_whole(
        self, pool: GatedPool, make: Make
    ) -> None:
        content, seen = content_of(2 * CHUNK_BYTES), list[int]()

        async def look(offset: int) -> None:
            if offset <= CHUNK_BYTES // 2:
                seen.append(partial.prefix_bytes // 1024)

        partial, origin = make(content), Origin(content, look)
        origin.piece_bytes = 64 * 1024
        await RangedSource(origin, pool, Slots(lambda: 1)).fill(entry_of(content), partial)

        assert sorted(set(seen)) == [0, 64, 128, 256, 512, 1024, 2048]

    async def test_the_first_range_has_a_head_start_and_no_more(self, pool: GatedPool, make: Make) -> None:
        content, asked = content_of(4 * CHUNK_BYTES), list[tuple[int, int]]()
        go_on = asyncio.Event()

        async def look(offset: int) -> None:
            asked.append((offset // CHUNK_BYTES, partial.prefix_bytes))
            if offset >= 3 * CHUNK_BYTES:
                go_on.set()
            if is_stuck and not offset:
                await go_on.wait()

        for is_stuck in (False, True):
            asked.clear()
            go_on.clear()
            partial = make(content)
            origin = Origin(content, look)
            await RangedSource(origin, pool, Slots(lambda: 4)).fill(entry_of(content), partial)

            others = [prefix for index, prefix in asked if index == 1]
            assert asked[0] == (0, 0) and bool(others[0]) == (not is_stuck)

    async def test_an_earlier_file_comes_before_a_later_one_and_a_small_one_before_both(
        self, pool: GatedPool, make: Make
    ) -> None:
        slots, order = Slots(lambda: 1), list[str]()
        contents = {
            "first": content_of(5 * CHUNK_BYTES),
            "second": content_of(5 * CHUNK_BYTES, 1),
            "small": content_of(10),
        }
        origins = {name: Origin(content) for name, content in contents.items()}

        class All(Origin):
            async def read(
                self, entry: FileEntry, span: ByteSpan, on_version: OnVersion
            ) -> AsyncIterator[bytes]:
                order.append(entry.path)
                async for piece in origins[entry.path].read(entry, span, on_version):
                    yield piece

        source = RangedSource(All(b""), pool, slots)
        await asyncio.gather(
            *(source.fill(entry_of(content, name), make(content)) for name, content in contents.items())
        )

        assert order.index("small") <= 2 and order.count("first") > 1
        last_of_first = max(number for number, name in enumerate(order) if name == "first")
        assert "second" not in order[:last_of_first]

    async def test_a_group_that_came_later_takes_turns_whatever_its_ranks(self) -> None:
        slots, order = Slots(lambda: 1), list[str]()

        async def use(group: str, rank: int) -> None:
            async with slots.one(rank, group):
                order.append(f"{group}{rank}")

        async with slots.one():
            old = [asyncio.create_task(use("old", rank)) for rank in (22, 20, 21)]
            await asyncio.sleep(0)
            new = [asyncio.create_task(use("new", rank)) for rank in (3, 1, 2, 4)]
            await asyncio.sleep(0)
        await asyncio.gather(*old, *new)

        assert order == ["old20", "new1", "old21", "new2", "old22", "new3", "new4"]
        assert repr(slots) == "<Slots 0 of 1 used, 0 waiting>"

    async def test_nobody_waits_for_the_many_pulls_of_another(self) -> None:
        slots, order = Slots(lambda: 1), list[str]()

        async def use(owner: str, group: int) -> None:
            async with slots.one(group=group, owner=owner):
                order.append(f"{owner}{group}")

        async with slots.one():
            many = [asyncio.create_task(use("many", group)) for group in (1, 2, 3, 1, 4)]
            await asyncio.sleep(0)
            few = [asyncio.create_task(use("few", group)) for group in (5, 5, 6)]
            await asyncio.sleep(0)
            many[1].cancel()
            few[0].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*many, *few, return_exceptions=True)

        assert order == ["many1", "few5", "many3", "few6", "many4", "many1"]
        assert repr(slots) == "<Slots 0 of 1 used, 0 waiting>" and not slots._waiting

    async def test_a_file_waits_for_none_of_the_many_of_another_owner(
        self, pool: GatedPool, make: Make
    ) -> None:
        slots, order, content = Slots(lambda: 1), list[str](), content_of(2 * CHUNK_BYTES)

        def fill(owner: str) -> Awaitable[None]:
            async def note(offset: int) -> None:
                order.append(owner)

            source = RangedSource(Origin(content, note), pool, slots, owner=owner)
            return source.fill(entry_of(content), make(content))

        await asyncio.gather(*(fill("many") for _ in range(20)), fill("few"))

        assert order[: len(order) // 2].count("few") == order.count("few")

    async def test_two_sources_take_turns(self, pool: GatedPool, make: Make) -> None:
        slots, order = Slots(lambda: 1), list[str]()

        def noting(name: str, content: bytes) -> RangedSource:
            async def note(offset: int) -> None:
                order.append(name)

            return RangedSource(Origin(content, note), pool, slots)

        mine, theirs = content_of(12 * CHUNK_BYTES), content_of(2 * CHUNK_BYTES, 1)
        await asyncio.gather(
            noting("mine", mine).fill(entry_of(mine), make(mine)),
            noting("theirs", theirs).fill(entry_of(theirs), make(theirs)),
        )

        assert order[-1] == "mine", "one model had to wait for the last byte of the other"


class Wrong(Origin):
    """Answers every range with `more` bytes too many (or too few)."""

    def __init__(self, content: bytes, more: int) -> None:
        super().__init__(content)
        self.more = more

    async def read(self, entry: FileEntry, span: ByteSpan, on_version: OnVersion) -> AsyncIterator[bytes]:
        content = self.content[span.start : span.end]
        content = content + b"x" * self.more if self.more > 0 else content[: self.more]
        for start in range(0, len(content), 300_000):
            yield content[start : start + 300_000]


class TestTrouble:
    @pytest.mark.parametrize("more", [1, 1000, CHUNK_BYTES, -1, -1000, -CHUNK_BYTES, -4 * CHUNK_BYTES])
    async def test_a_body_of_another_length_is_refused_and_what_came_whole_stays(
        self, pool: GatedPool, make: Make, more: int
    ) -> None:
        content = content_of(4 * CHUNK_BYTES)
        partial = make(content)
        with pytest.raises(Corrupt, match=r"arrived wrong: (more than the|[0-9]+ bytes instead of)"):
            await RangedSource(Wrong(content, more), pool, Slots(lambda: 1)).fill(entry_of(content), partial)

        whole = 1 if more > 0 else 0
        assert partial.has_arrived(0) == bool(whole) and partial.arrived_bytes < 2 * CHUNK_BYTES
        assert partial.digests[: 32 * whole] == digests_of(content)[: 32 * whole]
        span = partial.take_missing(9)
        assert span is not None and span.first == whole
        assert partial.begun_bytes(0) <= max(CHUNK_BYTES + min(more, 0), 0)

    async def test_what_arrived_before_an_error_stays_and_the_rest_is_missing_again(
        self, pool: GatedPool, make: Make
    ) -> None:
        content = content_of(9 * CHUNK_BYTES)

        async def fail(offset: int) -> None:
            if offset == 2 * CHUNK_BYTES + 1024 * 1024:
                raise Unreachable("the line is cut")

        origin, partial = Origin(content, fail), make(content)
        with pytest.raises(Unreachable, match="the line is cut"):
            await RangedSource(origin, pool, Slots(lambda: 4)).fill(entry_of(content), partial)
        assert origin.reading == 0, "a reading was left open"
        assert partial.begun_bytes(2) == 1024 * 1024 and pool.running == 0, "a chunk's beginning was lost"
        before = partial.arrived_bytes
        again = Origin(content)
        await RangedSource(again, pool, Slots(lambda: 4)).fill(entry_of(content), partial)

        assert (
            again.bytes_read == len(content) - before
            and partial.digests == digests_of(content)
            and partial.path.read_bytes() == content
        )

    async def test_an_error_gives_all_slots_back(self, pool: GatedPool, make: Make) -> None:
        content, slots = content_of(9 * CHUNK_BYTES), Slots(lambda: 2)

        async def fail(offset: int) -> None:
            raise Unreachable("down")

        for _ in range(3):
            with pytest.raises(Unreachable):
                await RangedSource(Origin(content, fail), pool, slots).fill(entry_of(content), make(content))

        assert repr(slots) == "<Slots 0 of 2 used, 0 waiting>"

    @pytest.mark.parametrize(
        ("error", "allowed"),
        [
            (Unreachable("gone"), 4),
            (Unreachable("400", has_answered=True), 8),
            (Limited("one token", 60.0), 8),
            (NotFound("x"), 8),
        ],
        ids=["trouble", "a 400", "a limit", "a no"],
    )
    async def test_what_one_caller_is_told_slows_nobody_else(
        self, pool: GatedPool, make: Make, error: MxError, allowed: int
    ) -> None:
        pace, content = Pace(16, initial=8), content_of(1000)

        async def fail(offset: int) -> None:
            raise error

        slots = Slots(lambda: pace.allowed, pace)
        with pytest.raises(type(error)):
            await RangedSource(Origin(content, fail), pool, slots).fill(entry_of(content), make(content))

        assert pace.allowed == allowed

    async def test_an_origin_without_ranges_is_read_whole_and_in_order(
        self, pool: GatedPool, make: Make
    ) -> None:
        content = content_of(6 * CHUNK_BYTES + 1)

        class WholeOnly(Origin):
            async def read(
                self, entry: FileEntry, span: ByteSpan, on_version: OnVersion
            ) -> AsyncIterator[bytes]:
                if span.length < entry.size:
                    raise Unsupported("ranges are not supported")
                async for piece in super().read(entry, span, on_version):
                    yield piece

        origin, partial = WholeOnly(content), make(content)
        await RangedSource(origin, pool, Slots(lambda: 4)).fill(entry_of(content), partial)

        assert origin.spans == [ByteSpan(0, len(content))] and origin.most_reading == 1
        assert partial.path.read_bytes() == content and partial.is_complete

    async def test_what_is_not_supported_at_all_is_said(self, pool: GatedPool, make: Make) -> None:
        content = content_of(10)

        class Nothing(Origin):
            async def read(
                self, entry: FileEntry, span: ByteSpan, on_version: OnVersion
            ) -> AsyncIterator[bytes]:
                raise Unsupported("no")
                yield b""

        with pytest.raises(MxError, match="no"):
            await RangedSource(Nothing(content), pool, Slots(lambda: 4)).fill(
                entry_of(content), make(content)
            )

    async def test_another_version_in_the_middle_ends_the_reading(self, pool: GatedPool, make: Make) -> None:
        content = content_of(9 * CHUNK_BYTES)
        origin = Origin(content)

        async def change(offset: int) -> None:
            if offset == 2 * CHUNK_BYTES:
                origin.etag = "v2"

        origin.before_piece = change
        with pytest.raises(Corrupt, match="v1 became v2"):
            await RangedSource(origin, pool, Slots(lambda: 1)).fill(entry_of(content), make(content))

    async def test_no_thread_writes_once_a_cancelled_fill_has_ended(
        self, pool: GatedPool, make: Make
    ) -> None:
        content = content_of(9 * CHUNK_BYTES)
        partial, gate = make(content), pool.hold("writing", times=3)
        source = RangedSource(Origin(content), pool, Slots(lambda: 4))
        filling = asyncio.create_task(source.fill(entry_of(content), partial))
        await gate.wait_reached()
        for _ in range(3):  # however often
            filling.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
        assert not filling.done(), "it ended while a thread was still to write"
        gate.release()
        with pytest.raises(asyncio.CancelledError):
            await filling

        assert pool.running == 0
        written = partial.arrived_bytes
        assert 0 < written <= 4 * CHUNK_BYTES
        await asyncio.sleep(0.05)
        assert partial.arrived_bytes == written
        span = partial.take_missing(9)
        assert span is not None
        assert span.first * CHUNK_BYTES + partial.begun_bytes(span.first) == partial.prefix_bytes
