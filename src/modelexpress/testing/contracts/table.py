# SPDX-License-Identifier: Apache-2.0
"""What every registry table promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast

import pytest

from modelexpress.domain.errors import Invalid, Unreachable
from modelexpress.registry import Table
from modelexpress.registry.port import MAX_KEY_BYTES, MAX_VALUE_BYTES

T = TypeVar("T")


async def _within(waiting: Awaitable[T]) -> T:
    async with asyncio.timeout(5):
        return await waiting


class TableContract:
    """Subclass it with a `table` fixture that yields an open, empty table."""

    async def test_an_absent_key_is_none(self, table: Table) -> None:
        """Looking is not an error."""
        assert await table.get("a") is None

    async def test_what_was_put_is_read_back(self, table: Table) -> None:
        """Key, value and version are those of the put."""
        row = await table.put("a", b"\x00\xff", None)

        assert row is not None and (row.key, row.value) == ("a", b"\x00\xff")
        assert await table.get("a") == row

    async def test_an_empty_value_is_a_value(self, table: Table) -> None:
        """Absent and empty differ."""
        row = await table.put("a", b"", None)

        assert row is not None and await table.get("a") == row

    async def test_put_needs_the_current_version(self, table: Table) -> None:
        """A stale writer changes nothing."""
        first = await table.put("a", b"1", None)
        assert first is not None
        second = await table.put("a", b"2", first.version)

        assert second is not None and second.version != first.version
        assert await table.put("a", b"3", first.version) is None
        assert await table.put("a", b"3", None) is None
        assert await table.put("a", b"3", "no such version") is None
        assert await table.get("a") == second

    async def test_put_of_an_absent_key_with_a_version_is_refused(self, table: Table) -> None:
        """Nothing comes back from the dead."""
        row = await table.put("a", b"1", None)
        assert row is not None and await table.delete("a", row.version)

        assert await table.put("a", b"2", row.version) is None
        assert await table.get("a") is None

    async def test_delete_needs_the_current_version(self, table: Table) -> None:
        """A stale deleter changes nothing, and deleting twice says so."""
        first = await table.put("a", b"1", None)
        assert first is not None
        second = await table.put("a", b"2", first.version)
        assert second is not None

        assert not await table.delete("a", first.version)
        assert not await table.delete("a", "no such version")
        assert await table.delete("a", second.version)
        assert not await table.delete("a", second.version)
        assert not await table.delete("b", second.version)

    async def test_versions_never_repeat_for_a_key(self, table: Table) -> None:
        """Not after a delete, not for the same value."""
        seen = set()
        for _ in range(20):
            row = await table.put("a", b"same", None)
            assert row is not None and row.version not in seen
            seen.add(row.version)
            assert await table.delete("a", row.version)

    async def test_of_many_who_put_at_once_one_wins(self, table: Table) -> None:
        """Compare-and-set is atomic."""
        rows = await asyncio.gather(*(table.put("a", b"%d" % n, None) for n in range(32)))
        won = [row for row in rows if row is not None]

        assert len(won) == 1 and await table.get("a") == won[0]

    async def test_of_many_who_replace_at_once_one_wins(self, table: Table) -> None:
        """Also against the same version."""
        first = await table.put("a", b"", None)
        assert first is not None
        rows = await asyncio.gather(*(table.put("a", b"%d" % n, first.version) for n in range(32)))

        assert sum(row is not None for row in rows) == 1

    @pytest.mark.parametrize("key", ["x" * MAX_KEY_BYTES, "a/b c", "ünï", "%_*?[", "'; drop", "\U0010ffff"])
    async def test_any_text_within_the_limit_is_a_key(self, table: Table, key: str) -> None:
        """No character has a meaning."""
        row = await table.put(key, b"v", None)

        assert row is not None and await table.get(key) == row
        assert await table.scan(key) == [row]

    @pytest.mark.parametrize("key", ["", "x" * (MAX_KEY_BYTES + 1), "ü" * MAX_KEY_BYTES, "a\0b", "\ud800"])
    async def test_other_texts_are_refused(self, table: Table, key: str) -> None:
        """By every call, with nothing stored."""
        with pytest.raises(Invalid):
            await table.put(key, b"v", None)
        with pytest.raises(Invalid):
            await table.get(key)
        with pytest.raises(Invalid):
            await table.delete(key, "1")
        assert await table.scan("") == []

    async def test_values_have_a_limit(self, table: Table) -> None:
        """The same in every back end."""
        assert await table.put("a", b"x" * MAX_VALUE_BYTES, None) is not None
        with pytest.raises(Invalid):
            await table.put("b", b"x" * (MAX_VALUE_BYTES + 1), None)
        assert await table.get("b") is None

    async def test_scan_gives_the_prefix_in_key_order(self, table: Table) -> None:
        """`a/` is not `a`, and nothing is a wildcard."""
        for key in ("a/2", "a/1", "a", "a%", "b/1", "a/\U0010ffff", "a0", "A/1"):
            await table.put(key, key.encode(), None)

        assert [row.key for row in await table.scan("a/")] == ["a/1", "a/2", "a/\U0010ffff"]
        assert [row.key for row in await table.scan("a%")] == ["a%"]
        assert len(await table.scan("")) == 8
        assert await table.scan("c") == []

    async def test_scan_goes_on_behind_a_key(self, table: Table) -> None:
        """Pages join without gap or overlap, also when the last key has gone meanwhile."""
        for number in range(10):
            await table.put(f"k/{number}", b"", None)
        first = await table.scan("k/", limit=4)
        await table.delete(first[-1].key, first[-1].version)

        rest = await table.scan("k/", after=first[-1].key, limit=100)

        assert [row.key for row in first + rest] == [f"k/{number}" for number in range(10)]

    async def test_scan_with_no_limit_left_is_empty(self, table: Table) -> None:
        """Zero rows are zero rows."""
        await table.put("a", b"", None)

        assert await table.scan("a", limit=0) == []

    async def test_a_row_is_a_copy(self, table: Table) -> None:
        """Changing what was handed in changes nothing inside."""
        value = bytearray(b"abc")
        await table.put("a", cast(bytes, value), None)
        value[0] = 0

        row = await table.get("a")
        assert row is not None and row.value == b"abc"

    async def test_a_watch_hears_of_puts_and_deletes_under_its_prefix(self, table: Table) -> None:
        """And of nothing else."""
        async with table.watch("a/") as changes:
            await table.put("b/1", b"", None)
            row = await table.put("a/1", b"", None)
            assert await _within(anext(changes)) == "a/1"
            assert row is not None
            await table.delete("a/1", row.version)
            assert await _within(anext(changes)) == "a/1"

    async def test_a_watch_that_is_not_read_holds_nobody_up(self, table: Table) -> None:
        """It loses rather than waits."""
        async with table.watch("") as changes:
            for number in range(2000):
                await table.put(f"k/{number}", b"", None)
            assert (await _within(anext(changes))).startswith("k/")

    async def test_a_closed_table_says_so(self, table: Table) -> None:
        """And closing twice is fine."""
        await table.close()
        await table.close()

        with pytest.raises(Unreachable):
            await table.get("a")
        with pytest.raises(Unreachable):
            await table.put("a", b"", None)

    async def test_who_is_cancelled_at_any_moment_ends(self, table: Table) -> None:
        """Also when the answer comes just then: whoever asks again and again could not be stopped else."""

        async def ask_for_ever() -> None:
            while True:
                await table.get("a")
                await asyncio.sleep(0)  # one in memory need not wait for anything

        for turns in range(200):
            asking = asyncio.create_task(ask_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            done, _ = await asyncio.wait({asking}, timeout=5)
            assert done and asking.cancelled()

    async def test_closing_ends_a_watch(self, table: Table) -> None:
        """A waiter is not left behind."""
        async with table.watch("") as changes:
            waiting = asyncio.ensure_future(anext(changes, None))
            await asyncio.sleep(0)
            await table.close()

            assert await _within(waiting) is None
