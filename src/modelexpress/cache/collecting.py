# SPDX-License-Identifier: Apache-2.0
"""Collecting what nobody works on any more: leftovers of dead processes, orphans, stray digest lists."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelexpress.cache.parts import CacheParts
from modelexpress.domain.inventory import ModelKey
from modelexpress.domain.refs import ModelRef
from modelexpress.store.orphans import find_orphans, find_stray_lists, find_void
from modelexpress.store.removal import carry_out, note_removal, plan_removal
from modelexpress.store.volume import leftovers, remove_tree


async def collect(
    parts: CacheParts, is_dry_run: bool = False, takes_resumable: bool = False
) -> tuple[int, int]:
    """Delete it, or only look (`is_dry_run`); how many files, and bytes.

    `takes_resumable`: also what a dead process had begun to fetch, which a pull could go on from.
    """
    now = parts.clock.wall()
    found = await parts.pool.run("looking for leftovers", _find_leftovers, parts, now, takes_resumable)
    if not is_dry_run:
        await parts.pool.run("removing leftovers", _delete, (path for path, _ in found))
    models = await parts.pool.run(
        "reading the records", lambda: {r.manifest.ref for r in parts.records.scan()}
    )
    for ref in sorted(models, key=str):
        found += await _collect_orphans(parts, ref, now, is_dry_run)
    return len(found), sum(size for _, size in found)


async def _collect_orphans(
    parts: CacheParts, ref: ModelRef, now: float, is_dry_run: bool
) -> list[tuple[Path, int]]:
    async with parts.turns.of(ref.name):
        if parts.leases.is_used(ModelKey.of(ref.provider, ref.name)):
            return []  # they may be on their way
        what = f"looking for orphans of {ref.name}"
        return await parts.pool.run(what, _take_orphans, parts, ref, now, is_dry_run)


def _take_orphans(parts: CacheParts, ref: ModelRef, now: float, is_dry_run: bool) -> list[tuple[Path, int]]:
    layout, records = parts.layout, parts.records
    found = _sized(find_orphans(layout, records, ref, now))
    void = find_void(layout, records, ref, now)
    if void:
        plan = plan_removal(layout, ref, records, void, "broken off")
        found += _sized([*plan.links, *plan.blobs])
        if not is_dry_run:
            remove_tree(carry_out(layout, note_removal(layout, parts.owner, plan), plan, records))
    if not is_dry_run:
        _delete(path for path, _ in found)
    return list(dict.fromkeys(found))


def _find_models(parts: CacheParts) -> list[ModelRef]:
    return sorted({record.manifest.ref for record in parts.records.scan()}, key=str)


def _find_leftovers(parts: CacheParts, now: float, takes_resumable: bool) -> list[tuple[Path, int]]:
    layout = parts.layout
    folders = (layout.partials, layout.staging, layout.trash)
    found = [item for folder in folders for item in leftovers(folder, frozenset(), now)]
    over = [*find_stray_lists(layout, parts.records, now), *parts.leases.paths.find_over(now)]
    resumable = parts.blobs.partials.find_dead() if takes_resumable else []
    return list(dict.fromkeys((*found, *resumable, *_sized(over))))


def _sized(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    """The paths that are there, with their bytes."""
    found = []
    for path in paths:
        with suppress(OSError):
            found.append((path, path.lstat().st_size))
    return found


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        remove_tree(path)
