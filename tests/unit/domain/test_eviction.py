# SPDX-License-Identifier: Apache-2.0
"""Which snapshots go: by age, by number, for room; no more than is needed, and the least worth first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelexpress.domain.eviction import (
    Candidate,
    EvictionRules,
    Gdsf,
    Lru,
    choose_for_room,
    choose_unwanted,
)
from modelexpress.domain.inventory import BlobUse, Inventory, ModelKey, SnapshotKey

DAY = 86_400.0


def key(name: str, commit: str = "1") -> SnapshotKey:
    return SnapshotKey(ModelKey("hub", name), commit * 40)


def candidate(name: str, size: int = 10, used: float = 0.0, uses: int = 1, credit: float = 0.0) -> Candidate:
    return Candidate(key(name), size, used, uses, credit)


def alone(*candidates: Candidate) -> Inventory:
    return Inventory(BlobUse(c.bytes, frozenset({c.key})) for c in candidates)


def test_what_was_not_used_for_long_goes_whatever_room_there_is() -> None:
    old, fresh = candidate("old", used=0.0), candidate("fresh", used=8 * DAY)
    [choice] = choose_unwanted([old, fresh], [], EvictionRules(7 * DAY), Lru(), now=9 * DAY)
    assert (choice.key, choice.reason) == (old.key, "not used for 9.0 days")
    assert choose_unwanted([old, fresh], [], EvictionRules(), Lru(), now=9 * DAY) == []


def test_of_too_many_models_the_least_worth_go_with_all_their_revisions() -> None:
    twice = [Candidate(key("twice", c), 10, used) for c, used in (("1", 1.0), ("2", 9.0))]
    candidates = [*twice, candidate("once", used=5.0), candidate("late", used=20.0)]
    choices = choose_unwanted(candidates, [], EvictionRules(max_models=2), Lru(), now=30.0)
    assert [c.key for c in choices] == [key("once")]
    choices = choose_unwanted(candidates, [], EvictionRules(max_models=1), Lru(), now=30.0)
    assert [c.key for c in choices] == [key("once"), key("twice", "1"), key("twice", "2")]


def test_models_that_have_to_stay_count_too() -> None:
    pinned = [ModelKey("hub", "pinned"), ModelKey("hub", "used")]
    choices = choose_unwanted(
        [candidate("a"), candidate("b")], pinned, EvictionRules(max_models=2), Lru(), 1.0
    )
    assert [c.key for c in choices] == [key("a"), key("b")]
    partly = [candidate("used")]  # another revision of it stays: removing this one makes no model fewer
    assert choose_unwanted(partly, pinned, EvictionRules(max_models=1), Lru(), 1.0) == []


def test_room_is_made_from_the_oldest_on_and_what_was_no_help_stays() -> None:
    small, middle, large = candidate("s", 1, 1.0), candidate("m", 10, 2.0), candidate("l", 100, 3.0)
    inventory = alone(small, middle, large)

    def chosen(wanted: int) -> list[str]:
        found = choose_for_room(inventory, [large, small, middle], Lru(), (), wanted)
        return [choice.key.model.name for choice in found or ["nothing"]]  # type: ignore[union-attr]

    assert chosen(1) == ["s"] and chosen(2) == ["m"] and chosen(11) == ["s", "m"] and chosen(50) == ["l"]
    assert choose_for_room(inventory, [large, small, middle], Lru(), (), 112) is None
    assert choose_for_room(inventory, [large], Lru(), [middle.key], 10) == []


def test_what_snapshots_share_comes_free_with_the_last_of_them() -> None:
    first, second = key("a", "1"), key("a", "2")
    inventory = Inventory(
        [
            BlobUse(100, frozenset({first, second})),
            BlobUse(5, frozenset({first})),
            BlobUse(7, frozenset({second}), is_kept=True),
        ]
    )
    assert [inventory.freed({first}), inventory.freed({second}), inventory.freed({first, second})] == [
        5,
        0,
        105,
    ]
    assert (inventory.bytes_of(first), inventory.bytes_shared(first)) == (105, 100)
    assert (inventory.bytes_of(second), inventory.bytes_shared(second)) == (107, 107)


def test_gdsf_keeps_what_is_small_and_often_used_until_its_fame_fades() -> None:
    gib = 1024**3
    rare, famous = candidate("rare", gib, used=100.0, uses=1), candidate("famous", gib, used=1.0, uses=9)
    tiny = candidate("tiny", gib // 100, used=1.0, uses=1)
    assert min([famous, rare, tiny], key=Gdsf().worth) is rare
    # The credit of new uses rises with what is here, so that a model of today outlives one of long ago.
    inflation = Gdsf.inflation([famous, tiny])
    assert inflation == 9.0
    assert Gdsf().worth(candidate("new", gib, uses=1, credit=inflation)) > Gdsf().worth(famous)


SETS = st.lists(st.frozensets(st.integers(0, 9), max_size=5), min_size=1, max_size=10)


@given(SETS, st.lists(st.integers(0, 60), min_size=10, max_size=10), st.integers(0, 200), st.randoms())
def test_the_choice_frees_enough_and_nothing_of_it_could_be_left_off(
    snapshots: list[frozenset[int]], sizes: list[int], wanted: int, chance: object
) -> None:
    keys = [key(f"m{n}") for n in range(len(snapshots))]
    users = {b: frozenset(k for k, s in zip(keys, snapshots, strict=True) if b in s) for b in range(10)}
    inventory = Inventory(BlobUse(sizes[blob], who) for blob, who in users.items() if who)

    def by_force(gone: set[SnapshotKey]) -> int:
        return sum(sizes[blob] for blob, who in users.items() if who and who <= gone)

    candidates = [Candidate(k, inventory.bytes_of(k), float(n)) for n, k in enumerate(keys)]
    chosen = choose_for_room(inventory, candidates, Lru(), (), wanted)

    if chosen is None:
        assert by_force(set(keys)) < wanted
        return
    gone = {choice.key for choice in chosen}
    assert by_force(gone) == inventory.freed(gone) >= wanted
    assert all(by_force(gone - {one}) < wanted for one in gone)
