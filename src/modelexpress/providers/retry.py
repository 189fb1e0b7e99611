# SPDX-License-Identifier: Apache-2.0
"""When to ask an origin again, and when to leave it in peace. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from modelexpress.domain.clock import Random

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_SHORT_ATTEMPTS = 3
_SHORT_PATIENCE_SECONDS = 5.0
_CLIENTS_PATIENCE_SECONDS = 2.0  # clients of a Hub give a HEAD up after 10 s
_LIMITS = ("RateLimit", "RateLimit-Policy")
_REMAINING = re.compile(r";\s*r\s*=\s*(\d+)")
_RESET = re.compile(r";\s*t\s*=\s*(\d+)")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits grow by doubling from `base_seconds` to `cap_seconds`; a wait the origin names is kept to.

    A request is given up after `max_attempts` without progress, or when the origin names a wait
    that is longer than `patience_seconds`. While the origin was never reached, which is rather a
    wrong address or a missing network than an outage, `first_attempts` are enough.
    """

    max_attempts: int = 8
    first_attempts: int = 4
    base_seconds: float = 0.5
    cap_seconds: float = 20.0
    patience_seconds: float = 120.0

    def shortened(self) -> RetryPolicy:
        """The same for a place that another one can stand in for: few tries, and no long waits."""
        return replace(
            self,
            max_attempts=min(self.max_attempts, _SHORT_ATTEMPTS),
            patience_seconds=min(self.patience_seconds, _SHORT_PATIENCE_SECONDS),
        )

    def impatient(self) -> RetryPolicy:
        """The same for somebody who can wait himself: he hears of a longer wait instead of waiting it out."""
        return replace(self, patience_seconds=min(self.patience_seconds, _CLIENTS_PATIENCE_SECONDS))

    def at_once(self) -> RetryPolicy:
        """The same for somebody who has an answer already: he does not wait for what he is limited to."""
        return replace(self, patience_seconds=0.0)

    def when_limited(self) -> RetryPolicy:
        """The same after a 429: the impatient ask only a few times again, whatever it says."""
        if not self.patience_seconds:
            return self.once()
        return self.shortened() if self.patience_seconds <= _CLIENTS_PATIENCE_SECONDS else self

    def once(self) -> RetryPolicy:
        """The same without a second try."""
        return replace(self, max_attempts=1)

    def wait_seconds(
        self, attempt: int, named: float | None, chance: Random, was_reached: bool = True
    ) -> float | None:
        """How long to wait after failed attempt number `attempt` (from 1); None: give up."""
        most = self.max_attempts if was_reached else min(self.first_attempts, self.max_attempts)
        if attempt >= most or (named is not None and named > self.patience_seconds):
            return None
        grown = min(self.base_seconds * 2 ** (attempt - 1), self.cap_seconds)
        # Jitter, so that many clients that failed together do not come back together.
        return chance.uniform(grown / 2, grown) + (named or 0.0)


def find_named_wait(headers: Mapping[str, str], wall: float) -> float | None:
    """The wait that an answer names, in seconds: Retry-After (seconds or date), else an empty RateLimit."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text[:9])
    if text:
        try:
            return max(parsedate_to_datetime(text).timestamp() - wall, 0.0)
        except (ValueError, OverflowError):
            return find_limit_wait(headers)
    return find_limit_wait(headers)


def find_limit_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds until the origin gives out requests again, where it says that none are left."""
    for item in headers.get("RateLimit", "").split(","):
        remaining, reset = _REMAINING.search(item), _RESET.search(item)
        if remaining and reset and int(remaining[1][:9]) == 0:
            return float(reset[1][:9])
    return None


def find_limits(headers: Mapping[str, str], passed: float = 0.0) -> dict[str, str]:
    """The headers in which an origin says what its limits are, as they read `passed` seconds later."""
    found = {name: headers[name] for name in _LIMITS if name in headers}
    if "RateLimit" in found:
        found["RateLimit"] = _RESET.sub(lambda reset: _later(reset, passed), found["RateLimit"])
    return found


def _later(reset: re.Match[str], passed: float) -> str:
    return f";t={max(math.ceil(int(reset[1][:9]) - passed), 0)}"
