# SPDX-License-Identifier: Apache-2.0
"""Holdings: what a node says it has, rebuilt when wrong, and never another node's."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.tables import FaultyTable, keys

from modelexpress.domain.errors import Unreachable
from modelexpress.registry import Holding, Holdings, Table
from modelexpress.registry.memory import MemoryTable
from modelexpress.registry.port import MAX_VALUE_BYTES
from modelexpress.testing.clock import FakeClock


def holding(name: str = "org/name", commit: str = "1" * 40, **changes: object) -> Holding:
    made = Holding("hugging-face", name, commit, ("all",), 3, 1000, 900, 1.0)
    return replace(made, **changes)  # type: ignore[arg-type]


async def listed(holdings: Holdings, node: str = "node") -> set[Holding]:
    return {one async for one in holdings.list(node)}


async def test_what_was_put_is_listed_and_a_second_put_replaces_it(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.put(holding())
    await holdings.put(holding(commit="2" * 40))
    await holdings.put(holding(bytes=2000))

    assert await listed(holdings) == {holding(bytes=2000), holding(commit="2" * 40)}


async def test_nodes_do_not_see_or_touch_each_others_holdings(table: Table, clock: FakeClock) -> None:
    ours, theirs = Holdings(table, "node", clock), Holdings(table, "node/2", clock)
    await ours.put(holding())
    await theirs.put(holding(files=9))
    await ours.replace_all([])
    await ours.remove("hugging-face", "org/name", "1" * 40)

    assert await listed(ours) == set()
    assert await listed(ours, "node/2") == {holding(files=9)}


async def test_provider_and_name_cannot_run_into_each_other(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    pair = [holding("b/c", provider="a"), holding("/c", provider="ab"), holding("c", provider="ab/")]
    for one in pair:
        await holdings.put(one)

    assert await listed(holdings) == set(pair)


async def test_removing_is_idempotent_and_spares_other_commits(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.put(holding())
    await holdings.put(holding(commit="2" * 40))
    for _ in range(2):
        await holdings.remove("hugging-face", "org/name", "1" * 40)

    assert await listed(holdings) == {holding(commit="2" * 40)}


async def test_a_touch_is_written_once_a_minute(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.put(holding())
    started = clock.wall()
    await holdings.touch(holding())
    [key] = await keys(table, "holding/")
    first = await table.get(key)
    await clock.advance(59)
    await holdings.touch(holding())
    assert await table.get(key) == first
    await clock.advance(1)
    await holdings.touch(holding())

    assert await table.get(key) != first
    assert await listed(holdings) == {holding(last_used_at=started + 60, uses=4)}


async def test_a_use_counts_though_the_table_does_not_know_it_yet(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.put(holding())
    await holdings.touch(holding())
    await clock.advance(30)
    holdings.inflation = 2.5
    await holdings.touch(holding())
    assert await listed(holdings) == {holding(last_used_at=clock.wall(), uses=3)}

    await holdings.put(holding(files=3))  # described anew: what is known of its use stays
    assert await listed(holdings) == {holding(last_used_at=clock.wall(), uses=3, files=3)}
    await clock.advance(30)
    await holdings.touch(holding())
    assert await listed(holdings) == {holding(last_used_at=clock.wall(), uses=4, credit=2.5)}


async def test_after_a_removal_the_next_touch_is_written(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.touch(holding())
    await holdings.remove("hugging-face", "org/name", "1" * 40)
    await holdings.touch(holding())

    assert await listed(holdings) == {holding(last_used_at=clock.wall())}


@pytest.mark.parametrize(
    "value",
    [b"", b"not json", b"[]", b"null", b"7", b'"text"', b"{}", b'{"format": 1}', b'{"format": "x"}', b"\xff"],
)
async def test_a_row_that_cannot_be_read_is_passed_over_and_rebuilt(
    table: Table, clock: FakeClock, value: bytes
) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.put(holding())
    [key] = await keys(table, "holding/")
    row = await table.get(key)
    assert row is not None and await table.put(key, value, row.version) is not None

    assert await listed(holdings) == set()
    await holdings.replace_all([holding()])
    assert await listed(holdings) == {holding()}


async def test_a_row_of_a_newer_format_is_passed_over(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.put(holding())
    [key] = await keys(table, "holding/")
    row = await table.get(key)
    assert row is not None
    newer = json.dumps({**json.loads(row.value), "format": 2}).encode()
    assert await table.put(key, newer, row.version) is not None

    assert await listed(holdings) == set()


async def test_any_number_of_selections_fits_a_row(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.put(holding(selections=tuple(f"{n:064}" for n in range(1000))))

    [found] = await listed(holdings)
    assert found.selections == tuple(f"{n:064}" for n in range(100))
    assert all(len(row.value) <= MAX_VALUE_BYTES for row in await table.scan("holding/"))


async def test_more_holdings_than_a_page_are_all_listed_and_replaced(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    many = [holding(f"org/n{number}") for number in range(1100)]
    await holdings.replace_all(many)
    assert await listed(holdings) == set(many)
    await holdings.replace_all(many[:3])

    assert await listed(holdings) == set(many[:3])


async def test_what_is_right_already_is_not_written_again(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(table, "node", clock)
    await holdings.replace_all([holding(), holding("org/other")])
    before = await table.scan("holding/")
    await holdings.replace_all([holding("org/other"), holding()])

    assert await table.scan("holding/") == before


async def test_writers_at_once_all_end_and_one_of_them_is_the_last(table: Table, clock: FakeClock) -> None:
    holdings = Holdings(FaultyTable(table, turns=2), "node", clock)
    await asyncio.gather(*(holdings.put(holding(files=number)) for number in range(12)))

    [found] = await listed(holdings)
    assert found in {holding(files=number) for number in range(12)}


async def test_a_registry_that_does_not_answer_is_found_by_the_check(table: Table, clock: FakeClock) -> None:
    faulty = FaultyTable(table)
    holdings = Holdings(faulty, "node", clock)
    await holdings.check()
    faulty.is_unreachable = True

    with pytest.raises(Unreachable):
        await holdings.check()


@pytest.mark.prove
async def test_holdings_agree_with_a_dict(proof_count: Callable[[int], int]) -> None:
    for seed in range(proof_count(40)):
        chance, table = random.Random(seed), MemoryTable()
        nodes = {name: Holdings(table, name, FakeClock()) for name in ("a", "b")}
        model: dict[str, dict[tuple[str, str], Holding]] = {"a": {}, "b": {}}
        for _ in range(40):
            name = chance.choice("ab")
            one = holding(f"org/{chance.choice('xyz')}", chance.choice("12") * 40, files=chance.randrange(5))
            step = chance.random()
            if step < 0.5:
                await nodes[name].put(one)
                model[name][one.name, one.commit] = one
            elif step < 0.8:
                await nodes[name].remove(one.provider, one.name, one.commit)
                model[name].pop((one.name, one.commit), None)
            else:
                await nodes[name].replace_all([one])
                model[name] = {(one.name, one.commit): one}
            for node, expected in model.items():
                assert await listed(nodes["a"], node) == set(expected.values()), f"seed {seed}"
