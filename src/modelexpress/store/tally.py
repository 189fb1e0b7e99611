# SPDX-License-Identifier: Apache-2.0
"""Counting what a record holds: each blob once, however many names it has."""

from __future__ import annotations

from dataclasses import dataclass

from modelexpress.store.records import Owned, SnapshotRecord


@dataclass(frozen=True, slots=True)
class Tally:
    """Files and bytes of a snapshot; `bytes_ours` is the part that we may delete."""

    files: int
    bytes: int
    bytes_ours: int


def tally(record: SnapshotRecord) -> Tally:
    """Count the proven files of `record`."""
    entries = record.entries_held()
    sizes = {entry.digest or entry.path: entry.size for entry in entries}
    ours = {
        entry.digest or entry.path: entry.size
        for entry in entries
        if record.owned.get(entry.path, Owned()).blob
    }
    return Tally(len(entries), sum(sizes.values()), sum(ours.values()))
