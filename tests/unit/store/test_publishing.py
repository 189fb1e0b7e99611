# SPDX-License-Identifier: Apache-2.0
"""Publishing what another program takes away: refused with the names, and nothing has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.support.arrivals import REF, entry_of
from tests.support.house import tree

from modelexpress.domain.manifest import FileEntry, Manifest, Proof
from modelexpress.store.layout import Layout
from modelexpress.store.publish import Publication, Publisher, Vanished
from modelexpress.store.records import CompleteSelection, HeldEntry, Owned, Records, SnapshotRecord
from modelexpress.store.volume import open_volume

COMMIT = "1" * 40
CONTENT = {"config.json": b"{}", "model.safetensors": b"weights" * 100, "sub/vocab.txt": b"a b c"}
ENTRIES = tuple(entry_of(content, path) for path, content in sorted(CONTENT.items()))


@dataclass
class Desk:
    """Proven files of one commit, on disk and to be published."""

    layout: Layout
    record: SnapshotRecord

    def blob(self, path: str) -> Path:
        [entry] = [entry for entry in ENTRIES if entry.path == path]
        assert entry.digest is not None
        return self.layout.repository(REF).blob(entry.digest)

    def publish(self) -> None:
        publisher = Publisher(self.layout, Records(self.layout, "me"), "me")
        repository = self.layout.repository(REF)
        publisher.publish(Publication(repository, self.record, frozenset({"main"})))

    def link(self, path: str) -> Path:
        return self.layout.repository(REF).snapshot(COMMIT) / path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    layout = Layout(tmp_path / "cache")
    open_volume(layout, "me")
    held = {}
    for entry in ENTRIES:
        assert entry.digest is not None
        blob = layout.repository(REF).blob(entry.digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(CONTENT[entry.path])
        held[entry.path] = HeldEntry(Proof.DIGEST, blob.stat().st_mtime_ns)
    owned = dict.fromkeys(CONTENT, Owned(True, True))
    selections = {"all": CompleteSelection(1.0)}
    return Desk(
        layout, SnapshotRecord(Manifest(REF, COMMIT, ENTRIES), owned=owned, held=held, selections=selections)
    )


def empty_in_place(path: Path) -> None:
    path.write_bytes(b"")


def write_later(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("spoil", [Path.unlink, empty_in_place, write_later, replace_by_a_folder, dangle])
@pytest.mark.parametrize("is_published", [False, True])
def test_what_was_taken_away_is_named_and_nothing_has_changed(
    desk: Desk, spoil: Callable[[Path], object], is_published: bool
) -> None:
    if is_published:
        desk.publish()
    spoil(desk.blob("model.safetensors"))
    before = tree(desk.layout.root)
    with pytest.raises(Vanished, match=r"gone: model\.safetensors") as caught:
        desk.publish()

    assert caught.value.paths == {"model.safetensors"}
    assert tree(desk.layout.root) == before
    assert (Records(desk.layout, "me").find(REF, COMMIT) is not None) == is_published


def test_all_that_is_gone_is_named(desk: Desk) -> None:
    desk.blob("config.json").unlink()
    desk.blob("sub/vocab.txt").unlink()
    with pytest.raises(Vanished) as caught:
        desk.publish()

    assert caught.value.paths == {"config.json", "sub/vocab.txt"}


def test_a_snapshot_that_holds_the_bytes_itself_needs_no_blob(desk: Desk) -> None:
    desk.publish()
    blob, link = desk.blob("model.safetensors"), desk.link("model.safetensors")
    link.unlink()
    blob.rename(link)
    desk.publish()

    assert link.read_bytes() == CONTENT["model.safetensors"] and not link.is_symlink()


@pytest.mark.parametrize("path", sorted(CONTENT))
def test_a_link_that_was_taken_away_is_made_again(desk: Desk, path: str) -> None:
    desk.publish()
    before = tree(desk.layout.root)
    desk.link(path).unlink()
    desk.publish()

    assert tree(desk.layout.root) == before and desk.link(path).read_bytes() == CONTENT[path]


def test_a_file_that_is_not_held_is_not_asked_for(desk: Desk) -> None:
    gone = FileEntry("not-pulled.bin", 10**12, ENTRIES[0].digest)
    files = (*ENTRIES, gone)
    desk.record = replace(desk.record, manifest=Manifest(REF, COMMIT, files))
    desk.publish()

    assert not desk.link(gone.path).exists() and desk.link("config.json").exists()
