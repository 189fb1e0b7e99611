# SPDX-License-Identifier: Apache-2.0
"""Signed tickets: an address that opens one file of the data plane, for minutes. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from modelexpress.domain.errors import Forbidden

_TICKET = re.compile(r"([0-9a-f]{40})\.([0-9]{1,12})\.([0-9a-f]{64})")


@dataclass(frozen=True)
class Tickets:
    """Makes and checks tickets; whoever has one may read, so it is as secret as the bytes.

    The key is made up by each process: a ticket dies with the server that gave it.
    """

    key: bytes = field(repr=False)
    life_seconds: float = 900.0

    @classmethod
    def with_new_key(cls, life_seconds: float = 900.0) -> Tickets:
        """Tickets that nobody else can make."""
        return cls(secrets.token_bytes(32), life_seconds)

    def issue(self, offer_id: str, now: float) -> str:
        """A ticket for an offer, good from `now` (epoch seconds) for `life_seconds`."""
        expires = str(int(now + self.life_seconds))
        return f"{offer_id}.{expires}.{self._sign(offer_id, expires)}"

    def check(self, ticket: str, now: float) -> str:
        """The offer that a ticket opens. Raises Forbidden for a forged, broken or old one."""
        found = _TICKET.fullmatch(ticket)
        if found is None or not hmac.compare_digest(found[3], self._sign(found[1], found[2])):
            raise Forbidden(
                "this address was not given out by this server process; ask for the manifest again"
            )
        if now > int(found[2]):
            raise Forbidden("this address has expired; ask for the manifest again")
        return found[1]

    def _sign(self, offer_id: str, expires: str) -> str:
        return hmac.new(self.key, f"{offer_id}.{expires}".encode(), hashlib.sha256).hexdigest()
