# SPDX-License-Identifier: Apache-2.0
"""How many ranges to read at once, learnt from what the origin gives. Pure: the caller has the clock."""

from __future__ import annotations

from dataclasses import dataclass

_INITIAL = 4
_GAIN = 0.05  # what one more has to bring
_SETTLE_SECONDS = 0.5  # a new connection is slow at first
_MEASURE_SECONDS = 1.0
_FIRST_REST_SECONDS = 10.0
_LONGEST_REST_SECONDS = 120.0
_RECOVERY_SECONDS = 5.0
_MOST_DEVIATION = 0.25  # of the ranges open, on average, from the number that is measured


class Pace:
    """Starts at `initial` ranges and tries one more as long as that brings 5 % more bytes a second.

    Where one more brought nothing, it stays, and tries one less and one more now and then: the origin
    may have changed. Beyond 10 ranges half of a fair share is enough. Trouble halves what is allowed;
    what was lost comes back one by one.

    Every range is told by `note_open` and `note_done`, however it ends: only while as many are open
    as are allowed does their throughput say anything. All times are monotonic seconds.
    """

    def __init__(self, most: int, initial: int = _INITIAL) -> None:
        self._most = max(most, 1)
        self._allowed = min(max(initial, 1), self._most)
        self._open = 0
        self._changed_at: float | None = None
        self._window: _Window | None = None
        self._trial: _Trial | None = None
        self._direction = 1
        self._rest_seconds = _FIRST_REST_SECONDS
        self._rest_until = float("-inf")
        self._troubled_until = float("-inf")
        self._lost_from = 0

    @property
    def allowed(self) -> int:
        """How many ranges may be open at once; from 1 to `most`."""
        return self._allowed

    def note_open(self, now: float) -> None:
        """A range is asked for."""
        self._pass_time(now)
        self._open += 1

    def note_bytes(self, count: int, now: float) -> None:
        """`count` bytes of some range have come."""
        self._pass_time(now, count)

    def note_done(self, now: float) -> None:
        """A range has ended, well or not."""
        self._pass_time(now)
        self._open = max(self._open - 1, 0)

    def note_trouble(self, now: float) -> None:
        """The origin failed or cut a connection: halve, once for what comes together."""
        self._pass_time(now)
        if now < self._troubled_until:
            return
        self._lost_from = max(self._lost_from, self._allowed)
        self._troubled_until = now + _SETTLE_SECONDS + _MEASURE_SECONDS
        self._change_to(max(self._allowed // 2, 1))
        self._trial = None
        self._direction = 1
        self._rest_seconds = _FIRST_REST_SECONDS
        self._rest_until = now + _FIRST_REST_SECONDS

    def _pass_time(self, now: float, count: int = 0) -> None:
        window = self._window
        if window is not None and now > window.end and window.seconds >= _MEASURE_SECONDS:
            self._window = _Window(window.end)
            if abs(window.average_open - self._allowed) <= _MOST_DEVIATION:
                self._judge(window.rate, window.end)
        if self._window is not None:
            self._window.pass_time(now, self._open, count)
        elif self._changed_at is None:
            self._changed_at = now
        elif now >= self._changed_at + _SETTLE_SECONDS:
            self._window = _Window(now)

    def _judge(self, rate: float, now: float) -> None:
        trial, self._trial = self._trial, None
        if trial is None:
            if now >= self._rest_until:
                self._try_next(rate)
            return
        if trial.is_won_by(rate, self._allowed):
            self._go_on(rate, now)
            return
        self._direction, self._lost_from = trial.count - self._allowed, 0
        self._change_to(trial.count)
        self._rest_until = now + self._rest_seconds
        self._rest_seconds = min(self._rest_seconds * 2, _LONGEST_REST_SECONDS)

    def _go_on(self, rate: float, now: float) -> None:
        self._rest_seconds = _FIRST_REST_SECONDS
        if self._allowed >= self._lost_from:
            self._lost_from = 0
        if self._lost_from and self._direction > 0:
            self._rest_until = now + _RECOVERY_SECONDS
        else:
            self._try_next(rate)

    def _try_next(self, rate: float) -> None:
        if not 1 <= self._allowed + self._direction <= self._most:
            self._direction = -self._direction
        if 1 <= self._allowed + self._direction <= self._most:
            self._trial = _Trial(self._allowed, rate)
            self._change_to(self._allowed + self._direction)

    def _change_to(self, allowed: int) -> None:
        self._allowed = allowed
        self._window = self._changed_at = None


@dataclass(frozen=True, slots=True)
class _Trial:
    """What another number of ranges has to be measured against."""

    count: int
    rate: float

    def is_won_by(self, rate: float, count: int) -> bool:
        """True when `count` is the better number: more bring more, or fewer bring no less."""
        fewer, more = (self.rate, rate) if count > self.count else (rate, self.rate)
        gain = min(_GAIN, 0.5 / min(count, self.count))
        return (more >= fewer * (1 + gain)) == (count > self.count)


class _Window:
    """Bytes and open ranges over a stretch of time that begins at `start`."""

    def __init__(self, start: float) -> None:
        self._start = start
        self.end = start
        self._count = 0
        self._open_seconds = 0.0

    def pass_time(self, now: float, open_count: int, count: int) -> None:
        """Until `now` there were `open_count` ranges; `count` bytes of them came by now."""
        if now > self.end:
            self._open_seconds += open_count * (now - self.end)
            self.end = now
        if now > self._start:
            self._count += count

    @property
    def seconds(self) -> float:
        return self.end - self._start

    @property
    def average_open(self) -> float:
        return self._open_seconds / self.seconds

    @property
    def rate(self) -> float:
        return self._count / self.seconds
