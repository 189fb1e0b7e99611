# SPDX-License-Identifier: Apache-2.0
"""How a hub is run, and where it is found."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How a hub is run. `has_cdn` False serves LFS files in place; `has_tree` False is an old mirror.

    `total_rate` bounds the bytes a second of all connections together; 0: nothing does.
    """

    host: str = "127.0.0.1"
    port: int = 0
    page_size: int = 1000
    has_cdn: bool = True
    has_tree: bool = True
    ssl_context: ssl.SSLContext | None = None
    total_rate: int = 0


class Address:
    """Where a hub is found; it has a port as soon as it listens."""

    def __init__(self, options: HubOptions) -> None:
        self._scheme = "http" if options.ssl_context is None else "https"
        self._host = options.host
        self.port = 0

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return f"{self._scheme}://{self._host}:{self.port}"

    @property
    def cdn_endpoint(self) -> str:
        """The same server under another host name."""
        return f"{self._scheme}://localhost:{self.port}"
