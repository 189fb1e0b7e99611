# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a cache by hand, the same for a local directory and a server's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelexpress.domain.held import HeldSnapshot, OnProgress, RemovalPlan, Verified
from modelexpress.domain.pins import Pin
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.space import EvictionPlan, Explained


class CacheControl(Protocol):
    """The verbs of `modelexpress cache`, on a local directory or on a server's.

    `is_dry_run` True computes the same plan and changes nothing. `ref.revision` None means every
    revision of the model. Only files that we brought, or that were adopted, are ever deleted.
    """

    where: str
    """For people: the directory, or the server's address."""

    async def list_held(self) -> list[HeldSnapshot]:
        """Everything in the cache, by provider, name, commit."""
        ...

    async def remove(self, refs: list[ModelRef], is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of models; NotFound when nothing here has such a name."""
        ...

    async def prune(self, is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of unreferenced snapshots, partials and trash of ours."""
        ...

    async def verify(
        self, ref: ModelRef | None, on_progress: OnProgress, is_repair: bool = False
    ) -> list[Verified]:
        """Prove every file of the snapshots again from its bytes (None: of all snapshots).

        `is_repair` True: what is damaged and ours is fetched again, of a file whose chunks are known
        only those that differ; what cannot be repaired says why.
        """
        ...

    async def adopt(self, ref: ModelRef | None, is_dry_run: bool) -> list[HeldSnapshot]:
        """Prove and take over snapshots that other tools wrote, so that they may be deleted by us."""
        ...

    async def plan(self, wanted: int = 0) -> EvictionPlan:
        """The space, and what would go now: by the rules, and so that `wanted` bytes can be promised."""
        ...

    async def evict(
        self, refs: Sequence[ModelRef], wanted: int, is_dry_run: bool, is_forced: bool = False
    ) -> EvictionPlan:
        """Evict these models, or without any what `plan` says; Busy, removing none, when one is kept.

        `is_forced`: also what is in use or was handed out; who reads it reads on. Pins hold always.
        """
        ...

    async def explain(self, ref: ModelRef) -> list[Explained]:
        """Why each snapshot of a model is here, and when it goes; NotFound when there is none."""
        ...

    async def list_pins(self) -> list[Pin]:
        """The pins that are not over."""
        ...

    async def pin(self, pattern: str, until: float | None, is_dry_run: bool) -> list[HeldSnapshot]:
        """Keep what matches, now and later, until `until` (epoch seconds); what is here of it."""
        ...

    async def unpin(self, patterns: Sequence[str], is_dry_run: bool) -> list[Pin]:
        """End the pins with these very words; NotFound, ending none, when there is no such pin."""
        ...
