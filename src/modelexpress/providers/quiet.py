# SPDX-License-Identifier: Apache-2.0
"""Who has been told to wait by an origin, and for how long. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from modelexpress.domain.caller import Caller
from modelexpress.providers.retry import find_limits

_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Client:
    """One whom a server tells apart from others: by his token, or by our address where there is none.

    `place`: the server, or one address of it.
    """

    place: URL
    fingerprint: str

    @classmethod
    def of(cls, url: URL, token: str | None) -> Client:
        """Who asks for `url` with `token`."""
        return cls(url.origin(), Caller(token).fingerprint)

    @classmethod
    def at(cls, url: URL, token: str | None) -> Client:
        """The same of this one address, which alone may be busy."""
        return cls(url, Caller(token).fingerprint)


@dataclass(frozen=True, slots=True)
class Quiet:
    """How long nothing should be asked, and the headers in which the origin said what its limits are."""

    seconds: float
    limits: Mapping[str, str] = field(default_factory=dict)


class QuietTimes:
    """Until when who is quiet. What one client has used up is nobody else's loss."""

    def __init__(self) -> None:
        self._told: dict[Client, tuple[float, float, Mapping[str, str]]] = {}  # until, since, headers

    def note(self, client: Client, seconds: float, headers: Mapping[str, str], now: float) -> None:
        """`client` has just been told to wait, by an answer with these headers."""
        until = now + seconds
        if until <= self._told.get(client, (0.0,))[0]:
            return
        self._told.pop(client, None)
        self._told[client] = (until, now, find_limits(headers))
        if len(self._told) > _MOST_REMEMBERED:
            self._told = {one: told for one, told in self._told.items() if told[0] > now}
            while len(self._told) > _MOST_REMEMBERED:
                del self._told[next(iter(self._told))]

    def find(self, client: Client, now: float) -> Quiet | None:
        """What is left of it; None: `client` may ask."""
        told = self._told.get(client)
        if told is None:
            return None
        until, since, headers = told
        if until <= now:
            del self._told[client]
            return None
        return Quiet(until - now, find_limits(headers, now - since))
