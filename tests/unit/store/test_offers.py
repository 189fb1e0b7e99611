# SPDX-License-Identifier: Apache-2.0
"""What readers are told: awaited, arriving, standing, failed; to whom, and when it ends."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.arrivals import entry_of

from modelexpress.domain.errors import NotFound, Unreachable
from modelexpress.domain.manifest import FileEntry
from modelexpress.store.offers import Offer, Offers, Standing, offer_id_of
from modelexpress.store.partial import Partial

NAME, COMMIT = "org/name", "1" * 40
ENTRY = entry_of(b"weights")
OTHER = entry_of(b"other", "config.json")
HERE = Standing(Path("/cache/blob"), 7, Path("/cache/list"))


class Arrivals(Partial):
    """A partial file that is never touched: offers only pass it on."""

    def __init__(self) -> None:
        pass

    def __repr__(self) -> str:
        return "<Arrivals>"


def test_an_offer_is_the_same_for_equal_bytes_and_never_across_repositories() -> None:
    renamed = replace(ENTRY, path="copy.safetensors")

    assert offer_id_of(NAME, COMMIT, ENTRY) == offer_id_of(NAME, "2" * 40, renamed)
    assert offer_id_of("org/else", COMMIT, ENTRY) != offer_id_of(NAME, COMMIT, ENTRY)
    unvouched = replace(ENTRY, digest=None)
    ids = {offer_id_of(NAME, commit, e) for commit in (COMMIT, "2" * 40) for e in (unvouched, ENTRY)}
    assert len(ids) == 3 and all(len(i) == 40 for i in ids)


def test_the_files_of_a_pull_are_on_offer_while_it_runs_and_fail_with_it() -> None:
    offers = Offers()
    reason = NotFound("gone")
    with pytest.raises(NotFound), offers.pulled(NAME, COMMIT, [ENTRY, OTHER]) as pulled:
        mine = pulled[ENTRY.path]
        assert offers.find(mine.id) is mine and mine.state is None and mine.holders == 1
        assert mine.size == ENTRY.size
        pulled[OTHER.path].become(HERE)
        raise reason

    assert mine.state is reason and mine.holders == 0
    assert offers.find(mine.id) is None
    assert pulled[OTHER.path].state == HERE and offers.find(pulled[OTHER.path].id) is not None


def test_a_pull_that_was_cancelled_says_so_to_its_readers() -> None:
    offers = Offers()
    with pytest.raises(KeyboardInterrupt), offers.pulled(NAME, COMMIT, [ENTRY]) as pulled:
        pulled[ENTRY.path].become(Arrivals())
        raise KeyboardInterrupt

    state = pulled[ENTRY.path].state
    assert isinstance(state, Unreachable) and "ask again" in state.message and len(offers) == 0


def test_when_the_first_of_two_pulls_fails_its_readers_wait_for_the_second() -> None:
    offers = Offers()
    heard: list[object] = []
    with offers.pulled(NAME, COMMIT, [ENTRY]) as second:
        offer = second[ENTRY.path]
        with offer.listened(lambda: heard.append(offer.state)):
            with pytest.raises(NotFound), offers.pulled(NAME, "2" * 40, [ENTRY]) as first:
                assert first[ENTRY.path] is offer and offer.holders == 2
                raise NotFound("the first")
            assert offer.state is None and heard == [] and offer.holders == 1
            offer.become(HERE)
    assert heard == [HERE] and offer.state == HERE and offer.holders == 0
    assert offers.find(offer.id) is offer


def test_a_file_that_failed_is_awaited_again_by_the_next_pull_of_it() -> None:
    offers = Offers()
    with offers.pulled(NAME, COMMIT, [OTHER]) as pulled:  # an ancillary file that the origin did not have
        pulled[OTHER.path].become(NotFound("not there"))
    with offers.pulled(NAME, COMMIT, [OTHER]) as pulled:
        assert pulled[OTHER.path].state is None


def test_the_next_pull_of_a_file_is_not_one_of_two_that_share_an_error() -> None:
    offers = Offers()
    with offers.pulled(NAME, COMMIT, [OTHER]) as one, offers.pulled(NAME, COMMIT, [OTHER]) as two:
        one[OTHER.path].become(NotFound("the caller of the first may not"))
        two[OTHER.path].become(HERE)

    found = offers.find(offer_id_of(NAME, COMMIT, OTHER))
    assert found is not None and found.state == HERE


def test_a_standing_file_is_offered_until_it_is_another_one() -> None:
    offers = Offers()
    heard: list[object] = []
    offer = offers.stand(NAME, COMMIT, ENTRY, HERE)
    with offer.listened(lambda: heard.append(offer.state)):
        assert offers.stand(NAME, COMMIT, ENTRY, HERE) is offer and heard == []
        later = replace(HERE, mtime_ns=8)
        offers.stand(NAME, COMMIT, ENTRY, later)
        assert heard == [later]


def test_standing_does_not_displace_what_is_arriving() -> None:
    offers = Offers()
    with offers.pulled(NAME, COMMIT, [ENTRY]) as pulled:
        arriving = Arrivals()
        pulled[ENTRY.path].become(arriving)
        assert offers.stand(NAME, COMMIT, ENTRY, HERE).state is arriving


def test_listeners_of_states_alone_hear_no_chunks() -> None:
    offer, states, chunks = Offer("x", 1), list[int](), list[int]()
    with (
        offer.listened(lambda: states.append(1), is_of_states=True),
        offer.listened(lambda: chunks.append(1)),
    ):
        offer.become(Arrivals())
        for _ in range(5):
            offer.changed()
        offer.become(HERE)

    assert len(states) == 2 and len(chunks) == 7


def test_who_has_stopped_listening_hears_nothing_more() -> None:
    offer, heard = Offer("x", 1), list[int]()
    with offer.listened(lambda: heard.append(1)):
        pass
    with pytest.raises(ZeroDivisionError), offer.listened(lambda: heard.append(2), is_of_states=True):
        raise ZeroDivisionError
    offer.become(HERE)
    offer.changed()

    assert heard == []


def test_a_listener_may_stop_another_one_while_both_are_told() -> None:
    offer, heard = Offer("x", 1), list[str]()
    with ExitStack() as second:

        def first() -> None:
            heard.append("first")
            second.close()

        with offer.listened(first):
            second.enter_context(offer.listened(lambda: heard.append("second")))
            offer.become(HERE)
            offer.become(None)

    assert heard in (["first", "second", "first"], ["first", "first"])


def test_listeners_come_and_go_while_chunks_arrive() -> None:
    offer, stop = Offer("x", 1), threading.Event()

    def arrive() -> None:
        while not stop.is_set():
            offer.changed()

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        for _ in range(2000):
            with offer.listened(lambda: None), offer.listened(lambda: None, is_of_states=True):
                pass
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_room_is_made_by_forgetting_what_nobody_pulls() -> None:
    offers, plain = Offers(), FileEntry("x", 0)  # without a digest: another file in every commit
    with offers.pulled(NAME, COMMIT, [ENTRY]) as pulled:
        for number in range(100_001):
            offers.stand(NAME, f"{number}", plain, HERE)
        assert len(offers) <= 100_000 and offers.find(pulled[ENTRY.path].id) is not None
    newest = offers.find(offer_id_of(NAME, "100000", plain))
    assert newest is not None and newest.state == HERE


def test_a_root_goes_with_the_file_that_it_was_told_of(tmp_path: Path) -> None:
    offer = Offer("o" * 40, 5)
    offer.become(Standing(tmp_path / "blob", 1, tmp_path / "list"))
    offer.prove("root")
    assert offer.root == "root"
    offer.become(Standing(tmp_path / "snapshot", 1, tmp_path / "list"))
    assert offer.root is None
    offer.prove("other")
    offer.become(None)
    assert offer.root is None
