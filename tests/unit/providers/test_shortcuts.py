# SPDX-License-Identifier: Apache-2.0
"""Addresses that are remembered for a while: by whom they were asked for, and not too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from modelexpress.providers.shortcuts import ShortcutKey, Shortcuts

FILE = URL("https://hub/org/name/resolve/c/file")
CDN, OTHER = URL("https://cdn/1?sig=a"), URL("https://cdn/2?sig=b")


def key(number: int = 0, fingerprint: str = "") -> ShortcutKey:
    return ShortcutKey(FILE / str(number), fingerprint)


def test_an_address_is_found_until_its_time_is_over() -> None:
    shortcuts = Shortcuts(seconds=10.0)
    shortcuts.note(key(), CDN, 100.0)

    assert shortcuts.find(key(), 109.9) == CDN
    assert shortcuts.find(key(), 110.0) is None
    assert shortcuts.find(key(), 100.0) is None


def test_an_address_given_to_one_is_not_found_by_another() -> None:
    shortcuts = Shortcuts()
    shortcuts.note(key(0, "one"), CDN, 0.0)

    assert shortcuts.find(key(0, "another"), 0.0) is None
    assert shortcuts.find(key(0), 0.0) is None
    assert shortcuts.find(key(1, "one"), 0.0) is None


def test_forgetting_an_address_keeps_the_one_that_took_its_place() -> None:
    shortcuts = Shortcuts()
    shortcuts.note(key(), OTHER, 0.0)
    shortcuts.forget(key(), CDN)
    assert shortcuts.find(key(), 1.0) == OTHER
    shortcuts.forget(key(), OTHER)
    shortcuts.forget(key(), OTHER)
    assert shortcuts.find(key(), 1.0) is None


def test_the_one_unused_for_longest_makes_room() -> None:
    shortcuts = Shortcuts(most=2)
    shortcuts.note(key(1), CDN, 0.0)
    shortcuts.note(key(2), CDN, 0.0)
    assert shortcuts.find(key(1), 1.0) == CDN
    shortcuts.note(key(3), CDN, 1.0)

    assert [shortcuts.find(key(number), 1.0) for number in (1, 2, 3)] == [CDN, None, CDN]


EVENTS = st.lists(
    st.tuples(st.sampled_from(["note", "find", "forget"]), st.integers(0, 6), st.integers(0, 4)), max_size=80
)


@given(EVENTS)
def test_it_remembers_what_a_list_would(events: list[tuple[str, int, int]]) -> None:
    shortcuts, known, now = Shortcuts(seconds=10.0, most=3), list[tuple[int, float]](), 0.0
    for event, number, seconds in events:
        now += seconds
        until = dict(known).get(number)
        if event == "find":
            assert (shortcuts.find(key(number), now) is not None) == (until is not None and now < until)
        elif event == "note":
            shortcuts.note(key(number), CDN, now)
        else:
            shortcuts.forget(key(number), CDN)
        known = [item for item in known if item[0] != number]
        if event == "note":
            known.append((number, now + 10.0))
        elif event == "find" and until is not None and now < until:
            known.append((number, until))
        known = known[-3:]
