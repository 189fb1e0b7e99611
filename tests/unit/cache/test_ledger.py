# SPDX-License-Identifier: Apache-2.0
"""Promised space: given only when it is there, and always given back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.cache.ledger import Ledger
from modelexpress.domain.errors import NoRoom


def test_what_fits_is_promised_and_what_does_not_is_refused_with_the_numbers() -> None:
    ledger = Ledger(reserve_bytes=10)

    ledger.promise("a", 60, free=100)
    with pytest.raises(NoRoom, match="b needs 31 bytes, but 30 bytes can be used"):
        ledger.promise("b", 31, free=100)
    ledger.promise("b", 30, free=100)


def test_a_promise_shrinks_as_it_is_spent_and_goes_when_given_back() -> None:
    ledger = Ledger(0)
    number = ledger.promise("a", 50, free=100)

    ledger.spend(number, 20)
    assert ledger.promised_bytes == 30
    ledger.give_back(number)
    ledger.give_back(number)
    assert ledger.promised_bytes == 0


@given(
    st.lists(st.tuples(st.sampled_from("psg"), st.integers(0, 9), st.integers(-50, 200))), st.integers(0, 50)
)
def test_never_more_is_promised_than_is_free(steps: list[tuple[str, int, int]], reserve: int) -> None:
    ledger, oracle, free = Ledger(reserve), dict[int, int](), 500
    for kind, which, amount in steps:
        known = sorted(oracle)
        if kind == "p" and amount >= 0:
            fits = amount <= max(free - reserve - sum(oracle.values()), 0)
            try:
                number = ledger.promise("x", amount, free)
            except NoRoom:
                assert not fits
            else:
                assert fits
                oracle[number] = amount
        elif known and kind == "s":
            number = known[which % len(known)]
            ledger.spend(number, amount)
            oracle[number] = max(oracle[number] - amount, 0)
        elif known and kind == "g":
            number = known[which % len(known)]
            ledger.give_back(number)
            del oracle[number]
        assert ledger.promised_bytes == sum(oracle.values())
