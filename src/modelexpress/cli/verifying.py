# SPDX-License-Identifier: Apache-2.0
"""The result of proving snapshots again, in words and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelexpress.domain.progress import format_bytes

if TYPE_CHECKING:
    from modelexpress.domain.held import Verified


def as_document(found: Iterable[Verified]) -> list[dict[str, object]]:
    """Each snapshot with its damages, for programs."""
    return [
        {
            "provider": one.provider.value,
            "name": one.name,
            "commit": one.commit,
            "files": one.files,
            "bytes": one.bytes,
            "unproven": one.unproven,
            "is_sound": one.is_sound,
            "damages": [{"path": damage.path, "problem": damage.problem} for damage in one.damages],
        }
        for one in found
    ]


def verified_lines(found: Iterable[Verified]) -> Iterable[str]:
    """A line for each snapshot, and one for each damaged file."""
    for one in found:
        name = f"{one.name}@{one.commit[:12]}"
        counted = f"{one.files} files, {format_bytes(one.bytes)}"
        note = f" ({one.unproven} files have no digest to compare with)" if one.unproven else ""
        if one.is_sound:
            yield f"✅ {name}: {counted} proven{note}"
            continue
        yield f"❌ {name}: {len(one.damages)} of {counted} damaged{note}"
        yield from (f"   {damage.path}: {damage.problem}" for damage in one.damages)
