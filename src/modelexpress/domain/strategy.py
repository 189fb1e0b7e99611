# SPDX-License-Identifier: Apache-2.0
"""Where a client gets a model: from the server, from the origin, or whichever answers."""

from __future__ import annotations

from enum import Enum


class Strategy(Enum):
    """How a client pulls."""

    SMART_FALLBACK = "smart-fallback"
    """The server; the origin only when no connection to the server can be made."""
    SERVER_ONLY = "server-only"
    """The server, or fail."""
    DIRECT = "direct"
    """The origin, in this process."""
