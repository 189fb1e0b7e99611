# SPDX-License-Identifier: Apache-2.0
"""Notes of what was given out before it was proven: whose bytes count, how long, and when they go."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelexpress.store.given import GivenOut
from modelexpress.store.layout import Layout
from modelexpress.store.volume import open_volume, sweep

FILE, OTHER, DAY = "f" * 40, "e" * 40, 24 * 3600.0


class Wall:
    """A clock that a test turns."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    open_volume(layout, "me")
    return layout


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def given(layout: Layout, wall: Wall) -> GivenOut:
    return GivenOut(layout, wall)


def test_bytes_of_the_file_that_is_read_are_no_others(given: GivenOut) -> None:
    assert not given.has_other(FILE, "one") and not given.has_other(FILE, None)
    given.note(FILE, "one")

    assert not given.has_other(FILE, "one")
    assert given.has_other(FILE, "two") and given.has_other(FILE, None)
    assert not given.has_other(OTHER, None)


def test_another_server_on_the_same_directory_knows_too(given: GivenOut, layout: Layout, wall: Wall) -> None:
    given.note(FILE, "one")

    assert GivenOut(layout, wall).has_other(FILE, "two")


def test_what_is_proven_is_forgotten_and_nothing_is_left(given: GivenOut, layout: Layout) -> None:
    given.note(FILE, "one")
    given.note(FILE, "two")
    given.erase(FILE, "one")
    assert given.has_other(FILE, "one")
    given.erase(FILE, "two")
    given.erase(FILE, "two")

    assert not given.has_other(FILE, None) and list(layout.given.iterdir()) == []


def test_who_has_all_bytes_of_another_inherits_its_note(given: GivenOut) -> None:
    given.note(FILE, "one")
    given.move(FILE, "one", "two")
    given.move(FILE, "never there", "three")

    assert not given.has_other(FILE, "two") and given.has_other(FILE, "one")


def test_bytes_replaced_in_the_same_file_are_others(given: GivenOut) -> None:
    given.note(FILE, "one")
    given.note_wrong(FILE)

    assert given.has_other(FILE, "one")
    given.erase(FILE, "one")
    assert given.has_other(FILE, None)


def test_a_note_counts_for_a_day_from_when_it_was_last_made(
    given: GivenOut, layout: Layout, wall: Wall
) -> None:
    given.note(FILE, "one")
    given.note(OTHER, "one")
    wall.now += DAY - 10
    given.note(OTHER, "one")
    assert given.has_other(FILE, None)
    wall.now += 20
    assert not given.has_other(FILE, None) and given.has_other(OTHER, None)

    sweep(layout, frozenset(), wall.now)

    assert [folder.name for folder in layout.given.iterdir()] == [OTHER]


def test_in_a_directory_that_cannot_be_read_all_is_doubted(given: GivenOut, layout: Layout) -> None:
    (layout.given / FILE).write_text("not a folder")

    assert given.has_other(FILE, None)
    with pytest.raises(OSError, match="File exists"):
        given.note(FILE, "one")


def test_a_volume_that_has_gone_is_not_made_anew(given: GivenOut, layout: Layout) -> None:
    layout.given.rmdir()

    with pytest.raises(FileNotFoundError):
        given.note(FILE, "one")
    assert not layout.given.exists()
