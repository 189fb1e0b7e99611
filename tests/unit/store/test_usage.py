# SPDX-License-Identifier: Apache-2.0
"""What stands on the volume, and what comes free for it; leases and pins on the disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.store.test_removal_crashes import GOING, NEW, OLD, REF, SHARED, STAYING, entry, publish

from modelexpress.domain.errors import Corrupt, Unsupported
from modelexpress.domain.inventory import ModelKey, SnapshotKey
from modelexpress.domain.pins import Pin
from modelexpress.store.layout import Layout
from modelexpress.store.leases import PathLeases
from modelexpress.store.partial import Partial
from modelexpress.store.partials import Partials
from modelexpress.store.pins import Pins
from modelexpress.store.records import Records
from modelexpress.store.usage import measure_usage, read_inventory
from modelexpress.store.volume import open_volume

MODEL = ModelKey.of(REF.provider, REF.name)
GOING_KEY, STAYING_KEY = SnapshotKey(MODEL, GOING), SnapshotKey(MODEL, STAYING)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "cache")
    open_volume(layout, "me")
    return layout


def blocks(size: int) -> int:
    """Of a small file on the file systems that tests run on."""
    return -(-size // 4096) * 4096


def inventory(layout: Layout, kept: frozenset[Path] = frozenset()):  # type: ignore[no-untyped-def]
    return read_inventory(layout, list(Records(layout, "me").scan()), kept)


class TestUsage:
    def test_every_inode_counts_once_by_its_blocks(self, layout: Layout) -> None:
        empty = measure_usage(layout).total
        (layout.root / "a").write_bytes(bytes(10_000))
        (layout.root / "b").hardlink_to(layout.root / "a")
        (layout.root / "c").symlink_to("a")
        assert measure_usage(layout).total - empty == (layout.root / "a").stat().st_blocks * 512

    def test_an_arriving_file_counts_whole_before_it_has_come(self, layout: Layout) -> None:
        before = measure_usage(layout)
        with (layout.partials / "x.part").open("wb") as file:
            os.truncate(file.fileno(), 5_000_000)  # as on a file system that cannot allocate
        after = measure_usage(layout)
        assert after.arriving - before.arriving == after.total - before.total == 5_000_000

    def test_what_is_not_there_or_not_readable_takes_nothing(self, tmp_path: Path, layout: Layout) -> None:
        assert measure_usage(Layout(tmp_path / "nowhere")).total == 0
        (layout.root / "loop").symlink_to(layout.root)
        assert measure_usage(layout).total < 200_000


class TestInventory:
    def test_shared_blobs_come_free_with_the_last_user(self, layout: Layout) -> None:
        publish(layout, GOING, {"config.json": SHARED, "model.bin": OLD * 100})
        publish(layout, STAYING, {"config.json": SHARED, "model.bin": NEW * 100})
        found = inventory(layout)
        assert found.freed({GOING_KEY}) == blocks(len(OLD) * 100)
        assert found.freed({GOING_KEY, STAYING_KEY}) == blocks(len(OLD) * 100) * 2 + blocks(len(SHARED))
        assert found.bytes_shared(GOING_KEY) == blocks(len(SHARED))

    def test_what_another_tool_links_or_brought_never_comes_free(self, layout: Layout) -> None:
        publish(layout, GOING, {"model.bin": OLD})
        repository = layout.repository(REF)
        [blob] = repository.blobs.iterdir()
        foreign = repository.snapshot("f" * 40)
        foreign.mkdir()
        (foreign / "theirs.bin").symlink_to(f"../../blobs/{blob.name}")
        assert inventory(layout).freed({GOING_KEY}) == 0

    def test_a_name_elsewhere_keeps_the_bytes(self, layout: Layout, tmp_path: Path) -> None:
        publish(layout, GOING, {"model.bin": OLD})
        [blob] = layout.repository(REF).blobs.iterdir()
        (tmp_path / "mine").hardlink_to(blob)
        found = inventory(layout)
        assert found.freed({GOING_KEY}) == 0 and found.bytes_of(GOING_KEY) == blocks(len(OLD))

    def test_what_a_pull_needs_is_kept(self, layout: Layout) -> None:
        publish(layout, GOING, {"model.bin": OLD})
        [blob] = layout.repository(REF).blobs.iterdir()
        assert inventory(layout, frozenset({blob})).freed({GOING_KEY}) == 0


class TestPathLeases:
    def test_a_lease_lasts_as_long_as_it_was_given_for_and_can_be_given_up(self, layout: Layout) -> None:
        leases = PathLeases(layout, "me")
        leases.keep(GOING_KEY, "a", until=100.0, now=0.0)
        leases.keep(GOING_KEY, "b", until=50.0, now=0.0)
        assert leases.holders(GOING_KEY, 10.0) == {"a": 100.0, "b": 50.0}
        assert leases.holders(GOING_KEY, 60.0) == {"a": 100.0} and leases.holders(STAYING_KEY, 0.0) == {}
        leases.keep(GOING_KEY, "a", until=10.0, now=10.0)
        assert leases.holders(GOING_KEY, 10.0) == {"b": 50.0}
        leases.keep(GOING_KEY, "b", until=10.0, now=10.0)
        assert not list(layout.ours.glob("leases/**/*.json"))

    def test_holders_who_come_at_once_keep_all_theirs(self, layout: Layout) -> None:
        leases = PathLeases(layout, "me")
        with ThreadPoolExecutor(8) as threads:
            names = [f"h{number}" for number in range(64)]
            list(threads.map(lambda name: leases.keep(GOING_KEY, name, until=100.0, now=0.0), names))
        assert set(leases.holders(GOING_KEY, 0.0)) == set(names)
        leases.drop(GOING_KEY)
        assert leases.holders(GOING_KEY, 0.0) == {}

    def test_beyond_a_thousand_nobody_is_added(self, layout: Layout) -> None:
        leases = PathLeases(layout, "me")
        for number in range(1010):
            leases.keep(GOING_KEY, f"h{number}", until=100.0, now=0.0)
        leases.keep(GOING_KEY, "h5", until=200.0, now=0.0)
        holders = leases.holders(GOING_KEY, 0.0)
        assert len(holders) == 1000 and holders["h5"] == 200.0

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"holder": 3}', '{"holder": "a", "until": "x"}'])
    def test_one_that_cannot_be_read_keeps_nothing_and_is_swept(self, layout: Layout, content: str) -> None:
        leases = PathLeases(layout, "me")
        leases.keep(GOING_KEY, "a", until=100.0, now=0.0)
        [path] = layout.ours.glob("leases/**/*.json")
        assert list(leases.find_over(99.0)) == [] and list(leases.find_over(100.0)) == [path]
        path.write_text(content)
        assert leases.holders(GOING_KEY, 0.0) == {} and list(leases.find_over(0.0)) == [path]


class TestPins:
    def test_they_are_read_as_they_were_written(self, layout: Layout) -> None:
        pins = Pins(layout, "me")
        assert pins.read() == []
        pins.write([Pin("a/*", 1.0), Pin("b@main", 2.0, until=3.0)])
        assert pins.read() == [Pin("a/*", 1.0), Pin("b@main", 2.0, until=3.0)]

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", '{"format": 1}', '{"format": 1, "pins": 3}',
         '{"format": 1, "pins": [{"pattern": ""}]}',
         '{"format": 1, "pins": [{"pattern": "a", "created_at": 1, "until": "x"}]}'],
    )  # fmt: skip
    def test_what_cannot_be_read_is_no_permission(self, layout: Layout, content: str) -> None:
        pins = Pins(layout, "me")
        pins.path.write_text(content)
        with pytest.raises(Corrupt, match="nothing is evicted"):
            pins.read()

    def test_what_a_newer_version_wrote_is_left_alone(self, layout: Layout) -> None:
        pins = Pins(layout, "me")
        pins.path.write_text('{"format": 2, "pins": []}')
        with pytest.raises(Unsupported, match="newer version"):
            pins.read()


def test_a_file_that_is_just_being_begun_is_nobodys_leftover(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found at seed 6 of the proof on a real cache: room was made while another pull opened its file."""
    store = Partials(layout, "me")
    real = Partial.__init__

    def begin(self: Partial, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        assert store.delete_dead(None) == 0 and store.find_dead() == []

    monkeypatch.setattr(Partial, "__init__", begin)
    partial = store.open(layout.repository(REF), entry("x.bin", OLD), lambda count: None)
    assert partial.path.exists()
    store.release(partial, is_kept=False)
    assert store.in_use == set()
