# SPDX-License-Identifier: Apache-2.0
"""The origin and its mirrors: whom to ask, in which order, and how patiently."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from yarl import URL

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Limited, MxError, Unreachable, is_nonsense
from modelexpress.providers.http import Outgoing
from modelexpress.providers.retry import RetryPolicy

_PAUSE_SECONDS = 30.0
_BRIEF_SECONDS = 3.0  # clients of a Hub give a HEAD up after 10 s, and mirrors need some of that

_log = logging.getLogger(__name__)


Outages = tuple[type[MxError], ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that speaks the Hub's API, and the connections to it. Only the origin sees tokens."""

    base: str
    outgoing: Outgoing
    is_origin: bool

    def url(self, *parts: str, query: str = "") -> URL:
        """The address of something there; `parts` are quoted already."""
        return URL("/".join((self.base, *parts)) + ("?" + query if query else ""), encoded=True)


@dataclass(frozen=True, slots=True)
class Visit:
    """One turn of an endpoint, with the patience it gets; `seconds`: for its answer, if not as usual."""

    endpoint: Endpoint
    retry: RetryPolicy
    is_last: bool
    seconds: float | None = None


class Rota:
    """In which order a number of places are asked: the first first, those in trouble last. Pure."""

    def __init__(self, count: int) -> None:
        self._quiet_until = [float("-inf")] * count

    def order(self, now: float) -> list[int]:
        """All of them, as they should be asked now."""
        return sorted(range(len(self._quiet_until)), key=lambda number: self._quiet_until[number] > now)

    def note_trouble(self, number: int, now: float, seconds: float) -> bool:
        """Ask `number` last for `seconds`; True when it was not in trouble before."""
        was_well = self._quiet_until[number] <= now
        self._quiet_until[number] = max(self._quiet_until[number], now + seconds)
        return was_well


class Endpoints:
    """The origin first, then its mirrors, then the origin once more with all patience.

    One that nobody reaches, or that has no good answer for `most_troubled` addresses in a row, has its turn
    behind the others for 30 seconds. What it limits is one client's affair (see `quiet`). Of who may read
    the origin has the first word all the same, unless nobody reaches it: anybody can ask on purpose for what
    it has trouble with.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], retry: RetryPolicy, clock: Clock, most_troubled: int = 1
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._most_troubled = most_troubled
        self._troubled: list[set[str]] = [set() for _ in endpoints]
        self._retry = retry
        self._clock = clock
        self._rota = Rota(len(self._endpoints))
        self._gone_until = float("-inf")  # the origin

    @property
    def origin(self) -> Endpoint:
        """The one that decides who may read."""
        return self._endpoints[0]

    def visits(self, has_mirrors: bool = True, is_about_rights: bool = False) -> list[Visit]:
        """The turns in which something is asked for now; without `has_mirrors`, of the origin alone.

        `is_about_rights`: the origin comes first while it can be reached, if only briefly.
        """
        now = self._clock.monotonic()
        order = self._rota.order(now) if has_mirrors else [0]
        first = []
        if is_about_rights and order[0] != 0 and self._gone_until <= now:
            # Not a wait of ours: that would count as its silence.
            impatient = replace(self._retry.once(), patience_seconds=0.0)
            first = [Visit(self.origin, impatient, is_last=False, seconds=_BRIEF_SECONDS)]
        if order[-1] == 0:
            order.pop()
        short = self._retry.shortened()
        visits = [Visit(self._endpoints[number], short, is_last=False) for number in order]
        return [*first, *visits, Visit(self.origin, self._retry, is_last=True)]

    def pass_over(self, visit: Visit, error: MxError, passed: Outages = (Unreachable, Limited)) -> None:
        """Go on after `error`. Raises it where it is the answer: of the origin, or after the last turn.

        `passed`: what of the origin is no answer.
        """
        is_outage = isinstance(error, passed) or is_nonsense(error)
        if isinstance(error, Unreachable):
            self._note_outage(visit.endpoint, error)
        if visit.is_last or (visit.endpoint.is_origin and not is_outage):
            raise error
        _log.debug("%s has no good answer, asking the next: %s", visit.endpoint.base, error)

    def note_answer(self, visit: Visit) -> None:
        """Its endpoint has answered well."""
        self._troubled[self._endpoints.index(visit.endpoint)].clear()
        if visit.endpoint.is_origin:
            self._gone_until = float("-inf")

    def _note_outage(self, endpoint: Endpoint, error: Unreachable) -> None:
        if error.has_answered and endpoint.is_origin:
            return  # how somebody asks may be why
        number = self._endpoints.index(endpoint)
        troubled = self._troubled[number]
        troubled.add(error.address)
        if not error.is_gone and len(troubled) < self._most_troubled:
            return  # somebody may ask on purpose for what it has trouble with
        troubled.clear()
        now = self._clock.monotonic()
        if error.is_gone and endpoint.is_origin:
            self._gone_until = now + _PAUSE_SECONDS
        if self._rota.note_trouble(number, now, _PAUSE_SECONDS) and len(self._endpoints) > 1:
            _log.warning(
                "%s does not answer and is asked last for %.0f s: %s", endpoint.base, _PAUSE_SECONDS, error
            )

    async def close(self) -> None:
        """Let go of all connections."""
        for endpoint in self._endpoints:
            await endpoint.outgoing.close()
