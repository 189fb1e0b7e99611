# SPDX-License-Identifier: Apache-2.0
"""Who is asking. A token is held in memory for one use and never shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """The one on whose behalf a call is made.

    `hub_token` None: none was sent, and this process stands for him with its own credentials, unless
    `is_stranger`: then nobody does. `via`: the proxies through which he came, as `Via` names them.
    `is_impatient`: he would rather be told to come back later than wait long for an origin; and where he
    only asks a question, than wait at all.
    """

    hub_token: str | None = field(default=None, repr=False)
    is_stranger: bool = False
    via: tuple[str, ...] = field(default=(), compare=False)
    is_impatient: bool = field(default=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """A text that is equal for equal rights and tells nothing of a token; empty for this process."""
        if self.hub_token is None:
            return _STRANGER if self.is_stranger else ""
        return hashlib.sha256(self.hub_token.encode()).hexdigest()


_STRANGER = "nobody"

ANONYMOUS = Caller()
STRANGER = Caller(is_stranger=True)
