# SPDX-License-Identifier: Apache-2.0
"""Tickets: only what this process gave out opens anything, and only for a while."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.domain.errors import Forbidden
from modelexpress.domain.tickets import Tickets

OFFER = "a1" * 20
NOW = 1_700_000_000.0
TICKETS = Tickets(b"k" * 32)
GOOD = TICKETS.issue(OFFER, NOW)


def test_a_ticket_opens_its_offer_until_it_expires() -> None:
    assert TICKETS.check(GOOD, NOW) == OFFER
    assert TICKETS.check(GOOD, NOW + 900) == OFFER
    with pytest.raises(Forbidden, match="expired"):
        TICKETS.check(GOOD, NOW + 901)


def test_two_processes_never_open_each_others_tickets() -> None:
    one, other = Tickets.with_new_key(), Tickets.with_new_key()

    assert one.check(one.issue(OFFER, NOW), NOW) == OFFER
    with pytest.raises(Forbidden, match="not given out"):
        other.check(one.issue(OFFER, NOW), NOW)


def test_a_longer_life_cannot_be_written_into_a_ticket() -> None:
    offer, expires, signature = GOOD.split(".")
    later = f"{offer}.{int(expires) + 1}.{signature}"
    padded = f"{offer}.0{expires}.{signature}"

    for forged in (later, padded):
        with pytest.raises(Forbidden, match="not given out"):
            TICKETS.check(forged, NOW)


@pytest.mark.parametrize("cut", range(0, len(GOOD), 5))
def test_a_truncated_ticket_opens_nothing(cut: int) -> None:
    for part in (GOOD[:cut], GOOD[cut + 1 :]):
        with pytest.raises(Forbidden):
            TICKETS.check(part, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "\0",
        GOOD + "\0",
        "\0" + GOOD,
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        GOOD.replace(".", "\0"),
        GOOD + GOOD,
        "a" * 1_000_000,
        f"{OFFER}.{'9' * 100_000}.{'0' * 64}",
        f"{OFFER}.\uff11\uff17.{'0' * 64}",
        "\ud800",
        f"{OFFER}.-1.{'0' * 64}",
    ],
)
def test_anything_else_opens_nothing(text: str) -> None:
    with pytest.raises(Forbidden, match="not given out"):
        TICKETS.check(text, NOW)


@given(place=st.integers(0, len(GOOD) - 1), character=st.characters())
def test_no_single_changed_character_is_forgiven(place: int, character: str) -> None:
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    if changed == GOOD:
        return
    with pytest.raises(Forbidden):
        TICKETS.check(changed, NOW)


@given(text=st.text())
def test_no_made_up_text_opens_anything(text: str) -> None:
    with pytest.raises(Forbidden):
        TICKETS.check(text, NOW)
