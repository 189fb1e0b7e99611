# SPDX-License-Identifier: Apache-2.0
"""The result of proving snapshots again, in words and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from modelexpress.domain.progress import format_bytes

if TYPE_CHECKING:
    from modelexpress.domain.held import Damage, Verified


def as_document(found: Iterable[Verified]) -> list[dict[str, object]]:
    """Each snapshot with its damages and flaws, for programs."""
    return [
        {
            "provider": one.provider.value,
            "name": one.name,
            "commit": one.commit,
            "files": one.files,
            "bytes": one.bytes,
            "unproven": one.unproven,
            "is_sound": one.is_sound,
            "bytes_fetched": one.bytes_fetched,
            "damages": [asdict(damage) for damage in one.damages],
            "flaws": [asdict(flaw) for flaw in one.flaws],
        }
        for one in found
    ]


def verified_lines(found: Iterable[Verified]) -> Iterable[str]:
    """A line for each snapshot, and one for each file that is damaged, was repaired, or cannot be loaded."""
    for one in found:
        name = f"{one.name}@{one.commit[:12]}"
        counted = f"{one.files} files, {format_bytes(one.bytes)}"
        note = f" ({one.unproven} files have no digest to compare with)" if one.unproven else ""
        repaired = sum(damage.is_repaired for damage in one.damages)
        fetched = f"; {repaired} repaired, {format_bytes(one.bytes_fetched)} fetched" if repaired else ""
        if one.is_sound:
            yield f"✅ {name}: {counted} proven{note}{fetched}"
        else:
            yield f"❌ {name}: {len(one.damages)} of {counted} damaged{note}{fetched}"
        yield from (f"   {damage.path}: {_told(damage)}" for damage in one.damages)
        yield from (
            f"   {flaw.path}: published so that no loader reads it: {flaw.problem}" for flaw in one.flaws
        )


def _told(damage: Damage) -> str:
    if damage.is_repaired:
        return f"repaired ({damage.problem})"
    return f"{damage.problem}; not repaired: {damage.obstacle}" if damage.obstacle else damage.problem
