# SPDX-License-Identifier: Apache-2.0
"""Where requests may go: redirects never lead to an address that only this machine can reach."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from modelexpress.domain.errors import Forbidden
from modelexpress.domain.refs import shown

_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata", "instance-data"})


@dataclass(frozen=True, slots=True)
class Places:
    """The origin's own host, and hosts that redirects may lead to whatever address they have."""

    origin: URL
    redirect_hosts: frozenset[str]

    def is_trusted(self, host: str) -> bool:
        """True for hosts that somebody configured by name."""
        return host == self.origin.host or host.lower() in self.redirect_hosts

    def check_redirect(self, source: URL, target: URL) -> None:
        """Raise Forbidden when a redirect from `source` to `target` is not to be followed."""
        host = target.host or ""
        if target.scheme not in ("http", "https") or not host:
            raise _refused(source, f"it leads to {shown(target.scheme or 'no')}: addresses")
        if target.user is not None or target.password is not None:
            raise _refused(source, "its target carries credentials")
        if source.scheme == "https" and target.scheme == "http":
            raise _refused(source, f"it leads from https to http ({shown(host)})")
        if self.is_trusted(host):
            return
        if host.lower().rstrip(".") in _METADATA_NAMES or is_private(host):
            raise _refused(source, f"it leads to the private address {shown(host)}")


def is_private(host: str) -> bool:
    """True for a literal address that is not a public one; False for names."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return _is_odd_number(host)
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return any(not a.is_global or a.is_multicast for a in (address, mapped) if a is not None)


def _is_odd_number(host: str) -> bool:
    # 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 to some resolvers; no public name looks like that.
    try:
        socket.inet_aton(host)
    except (OSError, ValueError):
        return False
    return True


class GuardedResolver(AbstractResolver):
    """Resolves names to public addresses only, unless the host is trusted or is the configured proxy.

    Behind a proxy it is the proxy that resolves names, so there only literal addresses are checked.
    The connection is made to the very addresses that were looked at, so a name that changes its
    mind in between gains nothing.
    """

    def __init__(self, places: Places, proxy_hosts: frozenset[str]) -> None:
        self._places = places
        self._proxy_hosts = proxy_hosts
        self._inner = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of `host` that may be contacted. Raises Forbidden when there are none."""
        found = await self._inner.resolve(host, port, family)
        if self._places.is_trusted(host) or host in self._proxy_hosts:
            return found
        public = [result for result in found if not is_private(result["host"])]
        if not public:
            raise Forbidden(
                f"{shown(host)} has only private addresses, so a redirect to it is not followed; "
                "name it in origin.redirect_hosts if it is yours"
            )
        return public

    async def close(self) -> None:
        """Nothing is held open."""
        await self._inner.close()


def _refused(source: URL, why: str) -> Forbidden:
    return Forbidden(
        f"a redirect from {source.host} is not followed: {why}; "
        "if that is right, name the host in origin.redirect_hosts"
    )
