# SPDX-License-Identifier: Apache-2.0
"""Who is asking. A token is held in memory for one use and never shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """The one on whose behalf a call is made; `hub_token` None: none was sent."""

    hub_token: str | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """A text that is equal for equal tokens and tells nothing of them; empty without one."""
        return "" if self.hub_token is None else hashlib.sha256(self.hub_token.encode()).hexdigest()


ANONYMOUS = Caller()
