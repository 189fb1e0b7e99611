# SPDX-License-Identifier: Apache-2.0
"""Names of commits: how many a record keeps, and that a record is read again when it was written again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest, Proof
from modelexpress.domain.refs import ModelRef
from modelexpress.store.layout import Layout
from modelexpress.store.names import Names
from modelexpress.store.records import HeldEntry, Records, SnapshotRecord
from modelexpress.store.volume import open_volume

REF, COMMIT, OTHER = ModelRef.parse("org/name"), "1" * 40, "2" * 40
ENTRY = FileEntry("config.json", 1, Digest(DigestKind.GIT_BLOB, "3" * 40))


def record_of(commit: str, **names: float) -> SnapshotRecord:
    return SnapshotRecord(
        Manifest(REF, commit, (ENTRY,)), names=names, held={ENTRY.path: HeldEntry(Proof.DIGEST, 7)}
    )


def test_of_too_many_names_the_oldest_go_and_no_made_up_one_pushes_another_away() -> None:
    record = record_of(COMMIT, main=1.0, old=2.0, new=3.0)
    begun = record.named({COMMIT[:length]: 9.0 for length in range(4, 40)})
    full = begun.named({f"tag{number}": 5.0 + number for number in range(97)})
    over = full.named({"one": 6.0, "more": 6.0})

    assert {"main", "old", "new"} <= begun.names.keys()
    assert len(full.names) == len(over.names) == 100 and not set(full.names) & {COMMIT[:4], COMMIT[:39]}
    assert "main" in over.names and not {"old", "new"} <= over.names.keys()
    assert record.named({"main": 0.5}).names["main"] == 1.0, "what is said later counts"


@pytest.mark.parametrize("age", [0.0, 60.0])
def test_the_newest_of_a_name_counts_also_after_it_was_read_before(tmp_path: Path, age: float) -> None:
    layout = Layout(tmp_path)
    open_volume(layout, "me")
    records = Records(layout, "me")
    names = Names(layout, records)

    def save(record: SnapshotRecord, seconds: float) -> None:
        records.save(record)
        path = layout.record(REF, record.manifest.commit)
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)

    save(record_of(COMMIT, main=1.0, v1=1.0), age)
    save(record_of(OTHER, main=2.0), age)
    assert names.find_commit(REF) == names.find_commit(REF) == OTHER
    assert names.find_commit(ModelRef.parse("org/name@v1")) == COMMIT
    assert names.find_commit(ModelRef.parse("org/name@v2")) is None

    save(record_of(COMMIT, main=3.0), age / 2)
    assert names.find_commit(REF) == COMMIT
    assert {name: said.commit for name, said in names.find_all(REF).items()} == {"main": COMMIT}


def test_a_model_of_many_commits_is_not_read_anew_for_each_question(tmp_path: Path) -> None:
    class Counting(Records):
        found = 0

        def find(self, ref: ModelRef, commit: str) -> SnapshotRecord | None:
            self.found += 1
            return super().find(ref, commit)

    layout, count = Layout(tmp_path), 1_100
    open_volume(layout, "me")
    records = Counting(layout, "me")
    names = Names(layout, records)
    records.save(record_of(COMMIT, main=1.0))
    path = layout.record(REF, COMMIT)
    text = path.read_text()
    for number in range(1, count):
        path.with_name(f"{number:040x}.json").write_text(text.replace(COMMIT, f"{number:040x}"))
    for one in path.parent.iterdir():
        os.utime(one, (one.stat().st_mtime - 60,) * 2)
    for _ in range(3):
        assert names.find_commit(REF) is not None

    assert records.found == count
