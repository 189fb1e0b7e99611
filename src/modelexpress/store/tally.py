# SPDX-License-Identifier: Apache-2.0
"""Counting what a record holds: each blob once, however many names it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelexpress.domain.manifest import Digest
from modelexpress.store.records import Owned, SnapshotRecord


@dataclass(frozen=True, slots=True)
class Tally:
    """Files and blobs of a snapshot; `bytes_ours` is the part that we may delete.

    `blobs`: the size of each, by digest, or by path where there is no digest.
    """

    files: int
    blobs: Mapping[Digest | str, int]
    bytes_ours: int

    @property
    def bytes(self) -> int:
        """All blobs, each once."""
        return sum(self.blobs.values())


def tally(record: SnapshotRecord) -> Tally:
    """Count the proven files of `record`."""
    entries = record.entries_held()
    blobs: dict[Digest | str, int] = {entry.digest or entry.path: entry.size for entry in entries}
    ours = {
        entry.digest or entry.path: entry.size
        for entry in entries
        if record.owned.get(entry.path, Owned()).blob
    }
    return Tally(len(entries), blobs, sum(ours.values()))
