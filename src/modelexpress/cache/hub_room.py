# SPDX-License-Identifier: Apache-2.0
"""What the rooms of the Hub share: who may read what, and when the origin counts as silent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property

from modelexpress.cache.access import Access, get_provider, is_silence
from modelexpress.cache.asking import Asking
from modelexpress.cache.flights import Flights, PullState
from modelexpress.cache.freshness import Freshness
from modelexpress.cache.hub_known import KnownFiles, Silence
from modelexpress.cache.marks import is_open
from modelexpress.cache.parts import CacheParts
from modelexpress.cache.pull import PullRequest
from modelexpress.cache.statements import Statements
from modelexpress.domain.caller import STRANGER, Caller
from modelexpress.domain.errors import Limited, MxError, Unsupported
from modelexpress.domain.held import Pulled
from modelexpress.domain.hub import ERROR_CODE, NOT_PUBLIC, Document, refusal
from modelexpress.domain.refs import ModelRef
from modelexpress.providers import HubProvider
from modelexpress.store.records import SnapshotRecord


@dataclass(frozen=True)
class HubRoom:
    """What the rooms of the Hub share: who may read, what is fresh, what is known, what is being asked."""

    parts: CacheParts
    access: Access
    freshness: Freshness
    flights: Flights
    statements: Statements
    pull: Callable[[PullRequest, PullState], Awaitable[Pulled]]
    prefetch: Callable[[ModelRef, str, Caller], None] | None = None
    known: KnownFiles = field(default_factory=KnownFiles)
    asking: Asking = field(default_factory=Asking)

    @cached_property
    def silence(self) -> Silence:
        """Whom the origin has just left without an answer."""
        return Silence(self.parts.clock)

    def may_read_alone(self, record: SnapshotRecord | None, ref: ModelRef, rights: Caller) -> bool:
        """Whether a caller may have what a record holds while nobody can be asked."""
        repository = ref.repository
        commit = None if record is None else record.manifest.commit
        for one in (rights, STRANGER):
            if record is not None and is_open(record, one) and not self.access.has_refused(one, repository):
                return True
        return self.access.recall_in_outage(rights, repository, commit)

    async def learn_permission(
        self, ref: ModelRef, commit: str, rights: Caller, record: SnapshotRecord | None = None
    ) -> None:
        """The origin has shown a commit to these rights; `record` is what was known here of some commit."""
        is_written = record is not None and record.manifest.commit == commit and is_open(record, rights)
        if not is_written:
            await self.access.mark(rights, ref, commit)

    async def learn_openness(self, ref: ModelRef, commit: str, rights: Caller, began: float) -> None:
        """A description, asked for at `began`, says that everybody may read this commit."""
        for one in {rights, STRANGER}:
            self.access.note(one, ref.repository, is_allowed=True, commit=commit, began=began)
            await self.learn_permission(ref, commit, one)

    async def learn_closedness(self, repository: ModelRef) -> None:
        """A description says that not everybody may read the repository, whoever asked for it."""
        if not self.access.has_refused(STRANGER, repository):
            await self.access.refuse(STRANGER, repository)

    async def learn_denial(self, repository: ModelRef, rights: Caller, answer: Document) -> None:
        """The origin has refused a repository to these rights, and perhaps with that to all strangers."""
        await self.access.refuse(rights, repository)
        # A 401 to a token is about that token, in whatever words: anybody can make one up.
        is_about_all = answer.headers.get(ERROR_CODE) in NOT_PUBLIC and answer.status != 401
        if is_about_all and not rights.is_stranger:
            await self.access.refuse(STRANGER, repository)

    def find_unknown(self, ref: ModelRef, commit: str | None) -> Document | None:
        """Why nothing of a revision is here, be it that it is no `commit` here; None: something may be."""
        is_here = self.parts.layout.repository(ref).path.is_dir() or bool(self.parts.records.find_all(ref))
        if is_here and commit is not None:
            return None
        code, what = (
            ("RevisionNotFound", str(ref)) if is_here and ref.revision else ("RepoNotFound", ref.name)
        )
        return refusal(404, code, f"{what} is not in this cache, and the server is offline")

    def is_outage(self, error: MxError, record: SnapshotRecord | None, ref: ModelRef, rights: Caller) -> bool:
        """Whether an earlier yes of the origin counts, as it cannot be asked.

        For who is limited what counts is what it said of him lately, or of everybody.
        """
        if is_silence(error, rights):
            return True
        is_granted = self.access.recall(rights, ref.repository) is True
        return isinstance(error, Limited) and (is_granted or self.may_read_alone(record, ref, STRANGER))

    def provider(self, ref: ModelRef) -> HubProvider:
        """The Hub of `ref`."""
        provider = get_provider(self.parts.providers, ref)
        if not hasattr(provider, "look_up"):
            raise Unsupported(f"provider {ref.provider.value} is no Hub")
        return provider  # type: ignore[return-value]
