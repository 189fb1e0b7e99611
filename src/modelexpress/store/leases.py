# SPDX-License-Identifier: Apache-2.0
"""Leases on paths that were handed out: one small file a holder, below `.mx/leases`. Blocking.

On the disk and not in the registry: they protect bytes of this volume, from whoever removes files here.
A file each, so that holders who come at once, in several processes too, never undo each other's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from modelexpress.domain.inventory import SnapshotKey
from modelexpress.store.disk import find_files, put_in_place, unique_name
from modelexpress.store.layout import Layout
from modelexpress.store.volume import remove_tree

FORMAT = 1
_MOST_HOLDERS = 1000

_log = logging.getLogger(__name__)


class PathLeases:
    """Who was given which snapshot's path, and until when (epoch seconds) it is kept for him."""

    def __init__(self, layout: Layout, owner: str) -> None:
        self._layout = layout
        self._owner = owner

    def holders(self, key: SnapshotKey, now: float) -> Mapping[str, float]:
        """Those whose lease is not over, each with its end."""
        read = (_read(path) for path in find_files(self._folder(key), "*.json"))
        return {who: until for who, until in filter(None, read) if until > now}

    def keep(self, key: SnapshotKey, holder: str, until: float, now: float) -> None:
        """Keep a snapshot for `holder`; his earlier lease is replaced, and ended where `until` is past.

        Beyond a thousand holders nobody is added: those who are there keep it as well.
        """
        folder = self._folder(key)
        path = folder / f"{hashlib.sha256(holder.encode()).hexdigest()[:16]}.json"
        if until <= now:
            path.unlink(missing_ok=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and sum(1 for _ in folder.iterdir()) >= _MOST_HOLDERS:
            return
        # Not durable on purpose: a hit must not cost an fsync, and a power cut ends what was read too.
        temporary = self._layout.staging / unique_name(self._owner)
        try:
            temporary.write_text(json.dumps({"format": FORMAT, "holder": holder, "until": until}), "utf-8")
            put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def drop(self, key: SnapshotKey) -> None:
        """Forget a snapshot that has gone."""
        remove_tree(self._folder(key))

    def find_over(self, now: float) -> Iterator[Path]:
        """The files of leases that are over, or that nobody can read."""
        for path in find_files(self._layout.leases, "*/*/*/*.json"):
            found = _read(path)
            if found is None or found[1] <= now:
                yield path

    def _folder(self, key: SnapshotKey) -> Path:
        return self._layout.lease_folder(key.model.provider, key.model.name, key.commit)


def _read(path: Path) -> tuple[str, float] | None:
    try:
        content = json.loads(path.read_bytes())
        return str(content["holder"]), float(content["until"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("lease %s cannot be read (%s) and counts no more", path, error)
        return None
