# SPDX-License-Identifier: Apache-2.0
"""Records that are kept after they were read: never older than what stands on the disk."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from modelexpress.domain.manifest import FileEntry, Manifest, Proof
from modelexpress.domain.refs import ModelRef
from modelexpress.store import records as records_module
from modelexpress.store.layout import Layout
from modelexpress.store.records import HeldEntry, Owned, Records, SnapshotRecord

REF = ModelRef.parse("org/name")
COMMIT, OTHER = "1" * 40, "2" * 40


def make(commit: str = COMMIT) -> SnapshotRecord:
    files = tuple(FileEntry(f"file-{n}", n, blob_id=f"{n:040x}") for n in range(10))
    held, owned = {"file-1": HeldEntry(Proof.DIGEST, 5)}, {"file-1": Owned(True, True)}
    return SnapshotRecord(Manifest(REF, commit, files), held=held, owned=owned)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.staging.mkdir(parents=True)
    return layout


def age(path: Path, seconds: int) -> None:
    """Let a file look as if it was written so long ago."""
    at = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(at, at))


def test_a_record_that_stands_still_is_read_once(layout: Layout) -> None:
    records, others, record = Records(layout, "me"), Records(layout, "other"), make()
    records.save(record)
    path = layout.record(REF, COMMIT)
    assert records.find(REF, COMMIT) is records.find(REF, COMMIT)
    age(path, 10)
    kept = records.find(REF, COMMIT)

    assert kept == record
    assert records.find(REF, COMMIT) is kept and records.find_all(REF)[0] is kept
    assert next(records.scan()) is kept
    others.save(replace(record, is_public=True))
    age(path, 10)
    assert records.find(REF, COMMIT) == replace(record, is_public=True)
    records.save(record)
    assert records.find(REF, COMMIT) == others.find(REF, COMMIT) == record
    others.delete(REF, COMMIT)
    assert records.find(REF, COMMIT) is None


def test_what_is_written_twice_within_a_step_of_the_clock_is_read_twice(layout: Layout) -> None:
    records, others, at = Records(layout, "me"), Records(layout, "other"), time.time_ns()
    for number in range(20):
        record = replace(make(), is_public=number % 2 == 0, is_adopted=number % 2 == 1)
        others.save(make())
        others.save(record)
        # Nor does its number tell it from the one that was read, which a file system gives again at once.
        os.utime(layout.record(REF, COMMIT), ns=(at, at))
        assert records.find(REF, COMMIT) == record
        assert records.find(REF, COMMIT) is records.find(REF, COMMIT)


def test_what_looks_as_it_did_when_it_was_young_is_looked_at_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, path, at = Records(layout, "me"), layout.record(REF, COMMIT), time.time_ns()
    records.save(replace(make(), is_public=True))
    os.utime(path, ns=(at, at))
    assert records.find(REF, COMMIT) is not None
    path.write_bytes(path.read_bytes().replace(b'"is_public": true', b'"is_public":false'))
    os.utime(path, ns=(at, at))
    monkeypatch.setattr(records_module, "_STEP_NS", 0)

    assert records.find(REF, COMMIT) == make()
    assert records.find(REF, COMMIT) is records.find(REF, COMMIT)


def test_records_are_kept_within_their_bytes(layout: Layout) -> None:
    for commit in (COMMIT, OTHER):
        Records(layout, "me").save(make(commit))
        age(layout.record(REF, commit), 10)
    size = layout.record(REF, COMMIT).stat().st_size
    room, none = Records(layout, "me", most_kept_bytes=size), Records(layout, "me", most_kept_bytes=size - 1)

    first = room.find(REF, COMMIT)
    list(room.scan())
    assert room.find(REF, COMMIT) is first, "going through all of them has sent it away"
    room.find(REF, OTHER)
    assert room.find(REF, COMMIT) is not first and room.find(REF, COMMIT) == first
    assert none.find(REF, COMMIT) is not none.find(REF, COMMIT)


def test_threads_never_see_an_older_record_than_was_saved(layout: Layout) -> None:
    records, path = Records(layout, "me"), layout.record(REF, COMMIT)
    records.save(make())

    def look() -> set[str]:
        found = (records.find(REF, COMMIT) for _ in range(20))
        return {name for record in found if record is not None for name in record.names}

    with ThreadPoolExecutor(4) as threads:
        for turn in range(10):
            others = [threads.submit(look) for _ in range(3)]
            record = replace(make(), names={str(turn): 1.0})
            records.save(record)
            age(path, 100 - turn)
            assert records.find(REF, COMMIT) == record
            assert {name for looking in others for name in looking.result()} <= {str(turn), str(turn - 1)}
