# SPDX-License-Identifier: Apache-2.0
"""Where the origin redirected to, remembered for a while. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from yarl import URL

_SECONDS = 300.0  # signed addresses of the Hub are good for an hour
_MOST = 1024


@dataclass(frozen=True, slots=True)
class ShortcutKey:
    """What an address was given for, and to whom: an address given to one is of no use to another."""

    url: URL
    fingerprint: str


class Shortcuts:
    """Addresses by what was asked for; the one unused for longest is forgotten where there are too many."""

    def __init__(self, seconds: float = _SECONDS, most: int = _MOST) -> None:
        self._seconds = seconds
        self._most = most
        self._known: OrderedDict[ShortcutKey, tuple[URL, float]] = OrderedDict()

    def note(self, key: ShortcutKey, target: URL, now: float) -> None:
        """Remember that `key` led to `target`."""
        self._known[key] = (target, now + self._seconds)
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def find(self, key: ShortcutKey, now: float) -> URL | None:
        """Where `key` led to not long ago."""
        target, until = self._known.get(key, (None, now))
        if target is None:
            return None
        if until <= now:
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return target

    def forget(self, key: ShortcutKey, target: URL) -> None:
        """Drop `target`, unless somebody has noted another one for `key` since."""
        if self._known.get(key, (None, 0.0))[0] == target:
            del self._known[key]
