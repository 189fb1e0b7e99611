# SPDX-License-Identifier: Apache-2.0
"""A removal that dies between any two steps is finished by whoever opens the cache next, and only that."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from tests.support.crashes import Crash, crashing

from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest, Proof
from modelexpress.domain.refs import ModelRef
from modelexpress.store.layout import Layout
from modelexpress.store.publish import Publication, Publisher
from modelexpress.store.records import CompleteSelection, HeldEntry, Owned, Records, SnapshotRecord
from modelexpress.store.removal import carry_out, finish_removals, linked_blobs, note_removal, plan_removal
from modelexpress.store.survey import files_below
from modelexpress.store.volume import open_volume, remove_tree, sweep

REF = ModelRef.parse("org/name")
GOING, STAYING = "1" * 40, "2" * 40
ODD = '{"format": 1, "provider": "x", "name": "a/b", "commits": [], "refs": [], "files": []}'
SHARED, OLD, NEW = b"shared" * 100, b"old" * 100, b"new" * 100


def entry(path: str, content: bytes) -> FileEntry:
    digest = Digest(DigestKind.SHA256, hashlib.sha256(content).hexdigest())
    return FileEntry(path, len(content), digest, "b" * 40)


def publish(layout: Layout, commit: str, contents: dict[str, bytes]) -> SnapshotRecord:
    repository, entries, held = layout.repository(REF), [], {}
    repository.blobs.mkdir(parents=True, exist_ok=True)
    for path, content in sorted(contents.items()):
        made = entry(path, content)
        assert made.digest is not None
        blob = repository.blob(made.digest)
        if not blob.exists():
            blob.write_bytes(content)
        entries.append(made)
        held[path] = HeldEntry(Proof.DIGEST, blob.stat().st_mtime_ns)
    record = SnapshotRecord(
        Manifest(REF, commit, tuple(entries)),
        owned=dict.fromkeys(held, Owned(True, True)),
        held=held,
        selections={"all": CompleteSelection(1.0)},
    )
    names = frozenset({"main" if commit == STAYING else "old"})
    Publisher(layout, Records(layout, "me"), "me").publish(Publication(repository, record, names))
    return record


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "cache")
    open_volume(layout, "me")
    publish(layout, GOING, {"a/model.bin": OLD, "config.json": SHARED, "z.bin": OLD + OLD})
    publish(layout, STAYING, {"config.json": SHARED, "model.bin": NEW})
    return layout


def remove(layout: Layout, has_readers: bool = False) -> None:
    records = Records(layout, "me")
    plan = plan_removal(layout, REF, records, frozenset({GOING}), "")
    noted = note_removal(layout, "me", plan)
    remove_tree(carry_out(layout, noted, plan, records, has_readers))


def recover(layout: Layout) -> None:
    finish_removals(layout, frozenset({"me"}), Records(layout, "next"))
    sweep(layout, frozenset({"me", "next"}), 0.0)


def state(layout: Layout) -> dict[str, object]:
    """All files, by their names, and what is said of them; the trash and its like are left out."""
    found: dict[str, object] = {}
    for path in files_below(layout.root):
        name = path.relative_to(layout.root).as_posix()
        if not name.startswith((".mx/trash", ".mx/staging", ".mx/removals", ".mx/volume")):
            found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("has_readers", [False, True])
def test_a_removal_that_dies_at_any_step_is_finished_or_never_began(
    layout: Layout, has_readers: bool
) -> None:
    before = state(layout)
    outcomes = set()
    for step in range(200):
        try:
            with crashing(layout.root, after=step):
                remove(layout, has_readers)
            is_dead = False
        except Crash:
            is_dead = True
        recover(layout)
        after = state(layout)
        if after == before:
            outcomes.add("kept")
            continue
        outcomes.add("gone")
        assert (
            not layout.repository(REF).snapshot(GOING).exists()
            and Records(layout, "x").find(REF, GOING) is None
        )
        blobs = {path.name for path in layout.repository(REF).blobs.iterdir()}
        assert blobs == {hashlib.sha256(content).hexdigest() for content in (SHARED, NEW)}
        kept = Records(layout, "x").find(REF, STAYING)
        assert (
            kept is not None
            and layout.repository(REF).snapshot(STAYING).joinpath("model.bin").read_bytes() == NEW
        )
        assert not list(layout.trash.iterdir()) and not list(layout.removals.iterdir())
        if not is_dead:
            break
        publish(layout, GOING, {"a/model.bin": OLD, "config.json": SHARED, "z.bin": OLD + OLD})
        before = state(layout)
    else:
        raise AssertionError("the removal never came to its end")
    assert outcomes == {"kept", "gone"} and step > 10


@pytest.mark.slow
def test_a_recovery_that_dies_at_any_step_is_finished_by_the_next_one(layout: Layout) -> None:
    for first in range(4, 14, 3):
        for second in range(40):
            with pytest.raises(Crash), crashing(layout.root, after=first):
                remove(layout)
            try:
                with crashing(layout.root, after=second):
                    finish_removals(layout, frozenset({"me"}), Records(layout, "me"))
                is_dead = False
            except Crash:
                is_dead = True
            recover(layout)
            assert not layout.repository(REF).snapshot(GOING).exists()
            assert len(list(layout.repository(REF).blobs.iterdir())) == 2
            publish(layout, GOING, {"a/model.bin": OLD, "config.json": SHARED, "z.bin": OLD + OLD})
            if not is_dead:
                break


def test_what_came_to_the_same_names_since_stays(layout: Layout) -> None:
    repository, records = layout.repository(REF), Records(layout, "me")
    plan = plan_removal(layout, REF, records, frozenset({GOING}), "")
    note_removal(layout, "me", plan)  # and then the process died
    target, inode = repository.blobs / "theirs", plan.links[0].lstat().st_ino
    target.write_bytes(b"theirs")
    for path in (*plan.links, *plan.blobs, *plan.refs):
        path.unlink()
    records.delete(REF, GOING)
    # A file system gives the numbers of what has gone to what comes: theirs has that of ours where it can.
    fresh = [repository.blobs / f"link-{number}" for number in range(20)]
    for link in fresh:
        link.symlink_to(target)
    plan.links[0].parent.mkdir(parents=True, exist_ok=True)
    min(fresh, key=lambda link: link.lstat().st_ino != inode).rename(plan.links[0])
    plan.refs[0].write_text(STAYING)

    recover(layout)

    assert plan.links[0].read_bytes() == b"theirs" and plan.refs[0].read_text() == STAYING


def test_a_model_that_was_brought_anew_since_stays(layout: Layout) -> None:
    plan = plan_removal(layout, REF, Records(layout, "me"), frozenset({GOING}), "")
    noted = note_removal(layout, "me", plan)
    os.utime(noted, ns=(1, 1))
    before = state(layout)

    recover(layout)

    assert state(layout) == before and not list(layout.removals.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "files": 3}', ODD])
def test_a_note_that_cannot_be_read_removes_nothing(layout: Layout, content: str) -> None:
    (layout.removals / "me.json").write_text(content)
    before = state(layout)

    recover(layout)

    assert state(layout) == before and not list(layout.removals.iterdir())


def test_a_note_of_a_newer_version_waits_for_it(layout: Layout) -> None:
    (layout.removals / "me.json").write_text('{"format": 2}')
    before = state(layout)

    recover(layout)

    assert state(layout) == before and (layout.removals / "me.json").exists()


def test_a_blob_that_another_snapshot_came_to_need_since_stays(layout: Layout) -> None:
    plan = plan_removal(layout, REF, Records(layout, "me"), frozenset({GOING}), "")
    note_removal(layout, "me", plan)  # and then the process died
    publish(layout, "3" * 40, {"model.bin": OLD})

    recover(layout)

    assert (layout.repository(REF).snapshot("3" * 40) / "model.bin").read_bytes() == OLD
    assert not layout.repository(REF).snapshot(GOING).exists()


def test_links_that_come_and_go_meanwhile_are_passed_over(layout: Layout) -> None:
    repository, is_over = layout.repository(REF), threading.Event()
    blob = repository.blob(Digest(DigestKind.SHA256, hashlib.sha256(NEW).hexdigest()))
    link = repository.snapshot(STAYING) / "fleeting.bin"

    def link_and_remove() -> None:
        while not is_over.is_set():
            os.symlink(blob, link)
            os.unlink(link)

    other = threading.Thread(target=link_and_remove)
    other.start()
    try:
        for _ in range(400):
            assert blob.name in linked_blobs(repository)
    finally:
        is_over.set()
        other.join()
