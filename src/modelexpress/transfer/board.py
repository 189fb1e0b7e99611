# SPDX-License-Identifier: Apache-2.0
"""Which lane brings what next. Pure: its owner holds the lock, knows the time and moves the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modelexpress.domain.chunks import ChunkSpan, count_chunks
from modelexpress.transfer.addresses import Endpoint
from modelexpress.transfer.port import Sink

MOST_CHUNKS = 16  # of one request


@dataclass(slots=True)
class Trouble:
    """A lane that failed `tries` times in a row with one file, which then had `arrived` chunks."""

    tries: int = 0
    arrived: int = 0
    rests_until: float = 0.0


@dataclass(eq=False, slots=True)
class Errand:
    """One file to be brought. `on_end` is called once, when no lane works on it and none will.

    Then `error` says why, or None when nothing is missing that nobody brings.
    """

    target: str = field(repr=False)  # holds a ticket
    endpoints: Sequence[Endpoint]
    sink: Sink
    on_end: Callable[[], None]
    error: BaseException | None = None
    is_over: bool = False
    arrived: int = 0
    lanes: set[int] = field(default_factory=set)
    reached: int = 0  # chunks from the front that were given out
    troubles: dict[int, Trouble] = field(default_factory=dict)

    def note_failure(self, lane: int) -> Trouble:
        """One more failed try of `lane`; the count begins anew when anything arrived since the last."""
        trouble = self.troubles.setdefault(lane, Trouble())
        if trouble.arrived != self.arrived:
            trouble.tries, trouble.arrived = 0, self.arrived
        trouble.tries += 1
        return trouble

    def rests_until(self, lane: int) -> float:
        """When `lane` may try again."""
        trouble = self.troubles.get(lane)
        return trouble.rests_until if trouble else 0.0

    def take(self, lane_count: int) -> ChunkSpan | None:
        """The next span, shorter towards the end of the file so that all lanes end together."""
        left = count_chunks(self.sink.size) - self.reached
        span = self.sink.take_missing(max(1, min(MOST_CHUNKS, -(-left // (2 * lane_count)))))
        if span is not None:
            self.reached = max(self.reached, span.end)
        return span


@dataclass(frozen=True, slots=True)
class Job:
    """A span that a lane has taken."""

    errand: Errand
    span: ChunkSpan


class Board:
    """The files that are being brought, oldest first: a lane goes to the first that has something for it."""

    def __init__(self, lane_count: int) -> None:
        self._lane_count = lane_count
        self._errands: list[Errand] = []

    def add(self, errand: Errand) -> None:
        """One more file, behind all others."""
        self._errands.append(errand)

    def take(self, lane: int, now: float) -> Job | None:
        """The next span for `lane`; None: nothing now."""
        for errand in tuple(self._errands):
            if errand.rests_until(lane) > now:
                continue
            span = self._ask(errand)
            if span is not None:
                errand.lanes.add(lane)
                return Job(errand, span)
        return None

    def find_wake(self, lane: int, now: float) -> float | None:
        """When `lane` may take what it may not take now; None: there is nothing of that kind."""
        return min((end for e in self._errands if (end := e.rests_until(lane)) > now), default=None)

    def leave(self, lane: int, errand: Errand) -> None:
        """`lane` does not work on this file any more, and has given back what it did not bring."""
        errand.lanes.discard(lane)
        if errand.is_over and not errand.lanes:
            errand.on_end()

    def stop(self, errand: Errand, error: BaseException | None = None) -> set[int]:
        """No lane begins with this file any more; the lanes that still work on it and must be stopped."""
        if errand.is_over:
            return set()
        errand.is_over, errand.error = True, error
        self._errands.remove(errand)
        if not errand.lanes:
            errand.on_end()
        return set(errand.lanes)

    def stop_all(self, error: BaseException) -> None:
        """No lane begins with anything any more."""
        for errand in tuple(self._errands):
            self.stop(errand, error)

    def _ask(self, errand: Errand) -> ChunkSpan | None:
        try:
            span = errand.take(self._lane_count)
        except Exception as error:  # noqa: BLE001 - a sink that fails ends its own file
            self.stop(errand, error)
            return None
        if span is None and not errand.lanes:
            self.stop(errand)
        return span
