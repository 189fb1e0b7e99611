# SPDX-License-Identifier: Apache-2.0
"""Which commit a moving revision means now: asked at the origin seldom, once for all with equal rights."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from modelexpress.cache.access import is_outage
from modelexpress.cache.asking import Asking
from modelexpress.domain.caller import Caller
from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import MxError, NotFound, Unreachable
from modelexpress.domain.refs import ModelRef

_OUTAGE_PAUSE_SECONDS = 10.0
_MOST_ANSWERS = 10_000


@dataclass(frozen=True, slots=True)
class FreshnessRules:
    """When to ask. `revalidate_seconds` None: never, if something is here; 0: always."""

    revalidate_seconds: float | None = 60.0
    is_offline: bool = False
    stale_after_seconds: float = 2.0
    deadline_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Resolved:
    """A commit. `is_stale`: the origin did not answer, so this is what was here."""

    commit: str
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    commit: str | None  # None: the origin was asked and did not answer
    asked_at: float
    told: str | None = None  # the fingerprint of whom alone it is known to have been said to


Ask = Callable[[ModelRef, Caller], Awaitable[str]]
FindLocal = Callable[[ModelRef], Awaitable[str | None]]
OnSaid = Callable[[ModelRef, str], None]


def _ignore(ref: ModelRef, commit: str) -> None:
    pass


class Freshness:
    """Resolves refs. `ask` goes to the origin; `find_local` says what a ref meant when last pulled.

    `on_said` is told whenever the origin has said what a ref means.
    """

    def __init__(
        self,
        rules: FreshnessRules,
        clock: Clock,
        ask: Ask,
        find_local: FindLocal,
        on_said: OnSaid = _ignore,
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._ask_origin = ask
        self._find_local = find_local
        self._on_said = on_said
        self._answers: dict[ModelRef, _Answer] = {}
        self._silent: dict[tuple[ModelRef, str], float] = {}  # when somebody's rights had no answer
        self._asking = Asking()

    @property
    def deadline_seconds(self) -> float:
        """How long an origin may take to say what something is."""
        return self._rules.deadline_seconds

    def recall(self, ref: ModelRef, local: str | None) -> Resolved | None:
        """The commit of `ref` as far as nobody has to be asked; None: the origin has to say it now.

        `local`: what it meant when it was last read.
        """
        if ref.is_pinned and ref.revision is not None:
            return Resolved(ref.revision)
        if local is not None and self._rules.revalidate_seconds is None:
            return Resolved(local)
        known = self._answers.get(ref)
        if known is None or not self._is_recent(known, has_local=local is not None):
            return None
        return Resolved(known.commit or _require(local, ref), is_stale=known.commit is None)

    def note(
        self, ref: ModelRef, commit: str | None, told: str | None = None, began: float | None = None
    ) -> None:
        """The origin has just said what `ref` means; None: it was asked and did not answer.

        `told`: whom, where that is not everybody. `began`: when the question began; what came late to an
        earlier question is no news.
        """
        known, began = self._answers.get(ref), self._clock.monotonic() if began is None else began
        if known is not None and known.commit is not None and known.asked_at > began:
            return
        self._answers.pop(ref, None)
        self._answers[ref] = _Answer(commit, began, told)
        if len(self._answers) > _MOST_ANSWERS:
            del self._answers[next(iter(self._answers))]  # the one that is oldest
        if commit is not None:
            self._on_said(ref, commit)

    @property
    def stale_after_seconds(self) -> float:
        """How long an origin is waited for where something is here that can answer instead."""
        return self._rules.stale_after_seconds

    @property
    def document_seconds(self) -> float:
        """How long what the origin says of a moving revision is not asked again."""
        seconds = self._rules.revalidate_seconds
        return self._rules.deadline_seconds if seconds is None else seconds

    async def resolve(self, ref: ModelRef, caller: Caller, is_shown: bool = True) -> Resolved:
        """The commit of `ref`. Raises the origin's error, or Unreachable after the deadline.

        A full commit is returned as it is. When the origin does not answer in time, what is here
        answers, marked stale; a definite 'no' of the origin is never papered over. `is_shown`: something
        shows that the caller may read the repository; without that he hears nothing that was said to others.
        """
        if ref.is_pinned and ref.revision is not None:
            return Resolved(ref.revision)
        local = await self._find_local(ref)
        if self._rules.is_offline:
            return Resolved(_require(local, ref))
        known = self.recall(ref, local) if is_shown or self._was_told(ref, caller) else None
        if known is None and local is not None and self._is_silent(ref, caller):
            known = Resolved(local, is_stale=True)
        return known or await self._ask(ref, caller, local)

    def forget(self, ref: ModelRef) -> None:
        """Drop what is remembered of any revision of the model."""
        for known in [r for r in self._answers if (r.provider, r.name) == (ref.provider, ref.name)]:
            del self._answers[known]
        for asked in [a for a in self._silent if (a[0].provider, a[0].name) == (ref.provider, ref.name)]:
            del self._silent[asked]

    async def close(self) -> None:
        """Stop asking."""
        await self._asking.close()

    def _is_recent(self, known: _Answer, has_local: bool) -> bool:
        age = self._clock.monotonic() - known.asked_at
        if known.commit is None:
            return has_local and age < _OUTAGE_PAUSE_SECONDS
        return age < (self._rules.revalidate_seconds or 0.0)

    def _was_told(self, ref: ModelRef, caller: Caller) -> bool:
        known = self._answers.get(ref)
        return known is None or known.commit is None or known.told == caller.fingerprint

    def _is_silent(self, ref: ModelRef, caller: Caller) -> bool:
        since = self._silent.get((ref, caller.fingerprint))
        return since is not None and self._clock.monotonic() - since < _OUTAGE_PAUSE_SECONDS

    def _note_silence(self, ref: ModelRef, caller: Caller, error: MxError) -> None:
        # No answer to these rights; and to nobody, where nobody is there at all.
        if isinstance(error, Unreachable) and error.is_gone:
            self.note(ref, None)
        key = (ref, caller.fingerprint)
        self._silent.pop(key, None)
        self._silent[key] = self._clock.monotonic()
        if len(self._silent) > _MOST_ANSWERS:
            del self._silent[next(iter(self._silent))]

    async def _ask(self, ref: ModelRef, caller: Caller, local: str | None) -> Resolved:
        patience = self._rules.deadline_seconds if local is None else self._rules.stale_after_seconds
        try:
            # Not joined by whoever has other rights, or came another way: what refuses or delays one
            # is no answer to all.
            owner, ask = caller.fingerprint, functools.partial(self._ask_and_remember, ref, caller)
            asked = self._asking.once((ref, owner, caller.via), ask, ref, owner, patience)
            return Resolved(await asked)
        except MxError as error:
            if local is None or not is_outage(error):
                raise
            self._note_silence(ref, caller, error)
        return Resolved(local, is_stale=True)

    async def _ask_and_remember(self, ref: ModelRef, caller: Caller) -> str:
        began = self._clock.monotonic()
        commit = await self._ask_origin(ref, caller)
        self.note(ref, commit, caller.fingerprint, began)
        self._silent.pop((ref, caller.fingerprint), None)
        return commit


def _require(local: str | None, ref: ModelRef) -> str:
    if local is None:
        raise NotFound(
            f"{ref} was not found in cache, and this process is offline; pull it once while online"
        )
    return local
