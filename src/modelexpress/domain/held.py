# SPDX-License-Identifier: Apache-2.0
"""What a cache holds and what can be done to it, the same for a local directory and a server's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelexpress.domain.manifest import Manifest, Proof
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ProviderKind

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class HeldSnapshot:
    """One commit of a model in the cache. `bytes` counts each blob once; times are epoch seconds.

    `bytes_added` leaves out blobs that a snapshot listed before it has too, so that it can be summed up.
    `bytes_on_disk` counts blocks of the disk, `bytes_shared` those of them that other snapshots use too,
    `bytes_on_disk_added` those that no snapshot listed before it, of any model, has too;
    `pins` are the patterns that keep it, `readers` those who read it at this moment.
    `is_recorded` False: written by another tool and not yet proven or adopted.
    `selections` are the keys of the selections that are complete (see `Selection.key`).
    """

    provider: ProviderKind
    name: str
    commit: str
    refs: tuple[str, ...]
    selections: tuple[str, ...]
    files: int
    bytes: int
    bytes_added: int
    bytes_ours: int
    path: str
    last_used_at: float | None
    is_recorded: bool
    is_adopted: bool
    bytes_on_disk: int = 0
    bytes_shared: int = 0
    bytes_on_disk_added: int = 0
    pins: tuple[str, ...] = ()
    readers: int = 0


@dataclass(frozen=True, slots=True)
class Pulled:
    """The end of a pull. `path` is the snapshot directory on the machine that holds it.

    `commit` is None for providers without revisions. `volume` is the id of the cache volume, so that
    a client can tell whether a path it can see is the same storage. `missing` names ancillary files
    that the origin listed but did not have. `is_stale`: the origin did not answer, so what was here did.
    """

    manifest: Manifest
    path: str
    volume: str
    proof: Proof
    was_hit: bool
    is_stale: bool = False
    missing: tuple[str, ...] = ()
    bytes_fetched: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that was not what it should be. `obstacle`: why it was not repaired, if that was asked for."""

    path: str
    problem: str
    is_repaired: bool = False
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One file that is what its author published, as far as can be told, and that no loader will read."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of proving one snapshot again.

    Flaws are the author's: fetching again mends none, so that a snapshot with flaws is sound.
    """

    provider: ProviderKind
    name: str
    commit: str
    files: int
    bytes: int
    unproven: int
    damages: tuple[Damage, ...]
    flaws: tuple[Flaw, ...] = ()
    bytes_fetched: int = 0

    @property
    def is_sound(self) -> bool:
        """True when every file is what its origin published: it matched, or was repaired."""
        return all(damage.is_repaired for damage in self.damages)


@dataclass(frozen=True, slots=True)
class Removal:
    """One snapshot in a removal plan: what goes, what stays, and why."""

    provider: ProviderKind
    name: str
    commit: str
    bytes_freed: int
    files_removed: int
    files_kept: int
    reason: str


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """What a removal would do (or did). `notes` say what was asked for and left alone, and why."""

    removals: tuple[Removal, ...] = ()
    leftovers: int = 0
    leftover_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def bytes_freed(self) -> int:
        """Bytes that the disk gets back, abandoned partials included."""
        return self.leftover_bytes + sum(removal.bytes_freed for removal in self.removals)


@dataclass(frozen=True, slots=True)
class ProvenFile:
    """A file that was proven whole: path, bytes, and the root of its digest list (hexadecimal BLAKE3)."""

    path: str
    size: int
    root: str


@dataclass(frozen=True, slots=True)
class HeldFile:
    """One proven file of a snapshot: repository path and size in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class HeldFiles:
    """The proven files of one commit, by path, below the directory `root`."""

    commit: str
    root: Path
    files: tuple[HeldFile, ...]
    moved: Mapping[str, Path] = field(default_factory=dict)
    """By commit where its directory is now, when it was removed while these files are read."""

    def places(self, path: str) -> tuple[Path, ...]:
        """Where a file may stand at this moment; one of them leads to it."""
        moved = self.moved.get(self.commit)
        return (self.root / path,) if moved is None else (moved / path, self.root / path)
