# SPDX-License-Identifier: Apache-2.0
"""Which bytes of the disk go with which snapshots. Pure: whoever reads the disk makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from modelexpress.domain.manifest import Manifest
from modelexpress.domain.refs import ProviderKind

# Keys are tuples: of 100,000 models the hashes and comparisons are most of what a decision costs.


class ModelKey(NamedTuple):
    """A model without its revisions. `provider` is the name of its kind."""

    provider: str
    name: str

    @classmethod
    def of(cls, provider: ProviderKind, name: str) -> ModelKey:
        """The key of a model."""
        return cls(provider.value, name)


class SnapshotKey(NamedTuple):
    """One commit of a model."""

    model: ModelKey
    commit: str

    @classmethod
    def of(cls, manifest: Manifest) -> SnapshotKey:
        """The key of what a manifest lists."""
        return cls(ModelKey.of(manifest.ref.provider, manifest.ref.name), manifest.commit)

    def __str__(self) -> str:
        return f"{self.model.name}@{self.commit[:12]}"


@dataclass(frozen=True, slots=True)
class BlobUse:
    """One inode that snapshots of ours lead to: `bytes` of the disk, free when all `users` have gone.

    `is_kept`: it has a name besides that we may not remove, so the disk never gets it back from us.
    """

    bytes: int
    users: frozenset[SnapshotKey]
    is_kept: bool = False


class Inventory:
    """The snapshots that may be removed, and what the disk gets back for them."""

    def __init__(self, blobs: Iterable[BlobUse]) -> None:
        self._blobs: dict[SnapshotKey, list[int]] = {}
        self._uses: list[BlobUse] = []
        for use in blobs:
            for user in use.users:
                self._blobs.setdefault(user, []).append(len(self._uses))
            self._uses.append(use)

    def bytes_of(self, key: SnapshotKey) -> int:
        """Bytes of the disk that a snapshot leads to, whoever shares them."""
        return sum(self._uses[n].bytes for n in self._blobs.get(key, ()))

    def bytes_shared(self, key: SnapshotKey) -> int:
        """The part of them that stays when this snapshot alone goes."""
        return self.bytes_of(key) - self.freed({key})

    def added(self, keys: Iterable[SnapshotKey]) -> dict[SnapshotKey, int]:
        """Bytes of the disk that each of `keys` takes besides those before it; the sum is what all take."""
        seen: set[int] = set()
        found = {}
        for key in keys:
            new = set(self._blobs.get(key, ())) - seen
            seen |= new
            found[key] = sum(self._uses[n].bytes for n in new)
        return found

    def freed(self, keys: Iterable[SnapshotKey]) -> int:
        """Bytes that the disk gets back when all of `keys` go; what they share counts once."""
        return self.going(keys).freed

    def going(self, keys: Iterable[SnapshotKey] = ()) -> Going:
        """A set of snapshots to be removed, beginning with `keys`."""
        going = Going(self._uses, self._blobs)
        for key in keys:
            going.add(key)
        return going


class Going:
    """A set of snapshots that grows and shrinks, and the bytes that the disk gets back for it."""

    def __init__(self, uses: Sequence[BlobUse], blobs: Mapping[SnapshotKey, Sequence[int]]) -> None:
        self._uses = uses
        self._blobs = blobs
        self._lost: Counter[int] = Counter()  # by inode, how many of its users go
        self._keys: set[SnapshotKey] = set()
        self.freed = 0

    def add(self, key: SnapshotKey) -> None:
        """`key` goes too."""
        if key not in self._keys:
            self._keys.add(key)
            for number in self._blobs.get(key, ()):
                self._lost[number] += 1
                self.freed += self._bytes_freed(number)

    def discard(self, key: SnapshotKey) -> None:
        """`key` stays after all."""
        if key in self._keys:
            self._keys.discard(key)
            for number in self._blobs.get(key, ()):
                self.freed -= self._bytes_freed(number)
                self._lost[number] -= 1

    def _bytes_freed(self, number: int) -> int:
        use = self._uses[number]
        return 0 if use.is_kept or self._lost[number] < len(use.users) else use.bytes

    def __contains__(self, key: object) -> bool:
        return key in self._keys
