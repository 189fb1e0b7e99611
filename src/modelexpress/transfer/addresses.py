# SPDX-License-Identifier: Apache-2.0
"""Where a data plane is: its name, and what the name means here and now."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelexpress.domain.errors import Invalid

Endpoint = tuple[int, Any]
"""Address family and address, as the socket module takes them."""


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port of a data plane; with `tls` it is spoken to over TLS."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if not self.host or not 1 <= self.port <= 65535:
            raise Invalid(f"{self.host!r}:{self.port} is no address of a data plane; its port is 1 to 65535")

    def __str__(self) -> str:
        host = self.host.partition("%")[0]  # a zone means something on this machine only
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


async def resolve(address: Address) -> Sequence[Endpoint]:
    """What the address means, in the order to try. Raises OSError for an unknown name."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError("the name cannot be one of a host") from error
    return tuple((family, endpoint) for family, _, _, _, endpoint in found)
