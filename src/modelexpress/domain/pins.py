# SPDX-License-Identifier: Apache-2.0
"""Pins: models that stay, by name or pattern, for good or until a day. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection
from dataclasses import dataclass

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown

_MOST_CHARACTERS = 300
_PATTERN = re.compile(r"[A-Za-z0-9._:/+=#*?\[\]!-]+(?:@[A-Za-z0-9._+=@#/*?\[\]!-]+)?")


@dataclass(frozen=True, slots=True)
class Pin:
    """Models that nothing evicts. `pattern`: a name, or a glob in which `*` also matches `/`, and after an
    `@` a branch, a tag or the first digits of a commit. `until`: epoch seconds; None: until it is unpinned.
    """

    pattern: str
    created_at: float
    until: float | None = None

    def __post_init__(self) -> None:
        if len(self.pattern) > _MOST_CHARACTERS or not _PATTERN.fullmatch(self.pattern):
            raise Invalid(
                f"{shown(self.pattern)} is no name or pattern of models: give org/name, org/name@revision "
                "or a glob such as 'org/*'"
            )

    def is_over(self, now: float) -> bool:
        """True after its last day."""
        return self.until is not None and self.until <= now

    def matches(self, name: str, commit: str, refs: Collection[str]) -> bool:
        """Whether it keeps a commit of a model; `refs`: the branches and tags that are at it."""
        models, at, revision = self.pattern.partition("@")
        if not fnmatch.fnmatchcase(name, models):
            return False
        return not at or commit.startswith(revision) or any(fnmatch.fnmatchcase(r, revision) for r in refs)
