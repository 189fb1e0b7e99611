# SPDX-License-Identifier: Apache-2.0
"""Promised space: given only when it is there, within the budget, and always given back."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelexpress.cache.ledger import Ledger, Limits
from modelexpress.domain.errors import NoRoom


def test_what_fits_is_promised_and_what_does_not_is_refused_with_the_numbers() -> None:
    ledger = Ledger(Limits(kept_free=10))
    ledger.measure(used=0, free=100)

    ledger.promise("a", 60)
    with pytest.raises(NoRoom, match="b needs 31 bytes, but 30 bytes can be used"):
        ledger.promise("b", 31)
    ledger.promise("b", 30)


def test_a_budget_counts_what_others_have_written_too() -> None:
    ledger = Ledger(Limits(budget=100))
    ledger.measure(used=70, free=10_000)

    assert ledger.missing(50) == 20
    with pytest.raises(NoRoom, match=r"30 bytes can be used \(70 bytes of a budget of 100 bytes used"):
        ledger.promise("a", 31)
    ledger.measure(used=50, free=10_020)
    number = ledger.promise("a", 50)
    ledger.spend(number, 50)
    assert ledger.used == 100 and ledger.room == 0


def test_nothing_wanted_is_nothing_missing_even_beyond_the_limits() -> None:
    ledger = Ledger(Limits(budget=100))
    ledger.measure(used=500, free=10)

    assert ledger.missing(0) == 0 and ledger.missing(1) == 401
    ledger.give_back(ledger.promise("nothing", 0))


def test_a_promise_shrinks_as_it_is_spent_and_goes_when_given_back() -> None:
    ledger = Ledger(Limits())
    ledger.measure(None, free=100)
    number = ledger.promise("a", 50)

    ledger.spend(number, 20)
    assert ledger.promised == 30 and ledger.free == 80
    ledger.give_back(number)
    ledger.give_back(number)
    assert ledger.promised == 0


STEPS = st.lists(st.tuples(st.sampled_from("psgrmf"), st.integers(0, 9), st.integers(-50, 200)), max_size=60)


class Disk:
    """The oracle: a disk of 500 bytes, and what a pull that was let in still has to write on it."""

    size = 500

    def __init__(self) -> None:
        self.ours = 0
        self.foreign = 0
        self.open: dict[int, int] = {}

    @property
    def free(self) -> int:
        return self.size - self.ours - self.foreign


@settings(max_examples=300)
@given(STEPS, st.integers(0, 50), st.none() | st.integers(0, 500))
def test_what_is_let_in_always_fits_and_never_exceeds_the_budget(
    steps: list[tuple[str, int, int]], kept_free: int, budget: int | None
) -> None:
    ledger, disk = Ledger(Limits(budget, kept_free)), Disk()
    ledger.measure(0, disk.size)
    for kind, which, amount in steps:
        numbers = sorted(disk.open)
        number = numbers[which % len(numbers)] if numbers else None
        STEP[kind](ledger, disk, number, amount)

        assert ledger.promised == sum(disk.open.values())
        assert disk.ours + sum(disk.open.values()) <= disk.size - kept_free


def promise(ledger: Ledger, disk: Disk, number: int | None, amount: int) -> None:
    amount, outstanding = max(amount, 0), sum(disk.open.values())
    budget = ledger.limits.budget
    room = disk.free - ledger.limits.kept_free
    if budget is not None:
        room = min(room, budget - disk.ours - disk.foreign)
    try:
        made = ledger.promise("x", amount)
    except NoRoom:
        assert amount > room - outstanding
    else:
        assert amount <= max(room - outstanding, 0)
        disk.open[made] = amount


def spend(ledger: Ledger, disk: Disk, number: int | None, amount: int) -> None:
    if number is not None:
        count = min(max(amount, 0), disk.open[number])
        ledger.spend(number, count)
        disk.open[number] -= count
        disk.ours += count


def give_back(ledger: Ledger, disk: Disk, number: int | None, amount: int) -> None:
    if number is not None:
        ledger.give_back(number)
        del disk.open[number]


def remove(ledger: Ledger, disk: Disk, number: int | None, amount: int) -> None:
    count = min(max(amount, 0), disk.ours)
    disk.ours -= count
    measure(ledger, disk, number, amount)


def measure(ledger: Ledger, disk: Disk, number: int | None, amount: int) -> None:
    ledger.measure(disk.ours + disk.foreign, disk.free)


def write_foreign(ledger: Ledger, disk: Disk, number: int | None, amount: int) -> None:
    # Whoever else writes leaves what is promised; what he takes is seen at the next measurement.
    left = disk.free - ledger.limits.kept_free - sum(disk.open.values())
    disk.foreign += min(max(amount, 0), max(left, 0))
    measure(ledger, disk, number, amount)


Step = Callable[[Ledger, Disk, int | None, int], None]
STEP: dict[str, Step] = {
    "p": promise, "s": spend, "g": give_back, "r": remove, "m": measure, "f": write_foreign,
}  # fmt: skip
