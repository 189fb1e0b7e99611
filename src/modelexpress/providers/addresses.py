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

_HTTP, _HTTPS = 80, 443
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata", "instance-data"})
# The last four bytes of these are an IPv4 address: "compatible" ones, and those behind a NAT64 gateway.
_EMBEDDING = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b::/96"))


@dataclass(frozen=True, slots=True)
class Places:
    """The origin's own host and port, and hosts that redirects may lead to whatever address they have."""

    origin: URL
    redirect_hosts: frozenset[str]

    def is_trusted(self, host: str, port: int | None) -> bool:
        """True for what somebody configured by name: the origin as it stands there, other hosts at any port.

        What else listens on the origin's host is not the origin's: it may be this very machine.
        """
        if host.lower() in self.redirect_hosts:
            return True
        is_upgrade = (self.origin.port, port) == (_HTTP, _HTTPS)  # of a Hub that wants to be asked by https
        return host == self.origin.host and (port == self.origin.port or is_upgrade)

    def check_redirect(self, source: URL, target: URL) -> None:
        """Raise Forbidden when a redirect from `source` to `target` is not to be followed."""
        host = target.host or ""
        if target.scheme not in ("http", "https") or not host:
            raise _refused(source, f"it leads to {shown(target.scheme or 'no')}: addresses")
        raw = target.raw_host or ""
        if not raw.isascii() or ("%" in raw and ":" not in raw):
            # Some become 127.0.0.1 on the way to the resolver, or a proxy's; a hub spells such names xn--.
            raise _refused(source, f"{shown(raw)} is not a plain host name")
        if target.user is not None or target.password is not None:
            raise _refused(source, "its target carries credentials")
        if source.scheme == "https" and target.scheme == "http":
            raise _refused(source, f"it leads from https to http ({shown(host)})")
        if self.is_trusted(host, target.port):
            return
        if host.lower().rstrip(".") in _METADATA_NAMES or is_private(host):
            raise _refused(source, f"it leads to the private address {shown(host)}")


def is_private(host: str) -> bool:
    """True for a literal address that is not a public one; False for names."""
    bare = host.strip("[]").partition("%")[0].rstrip(".")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return _is_odd_number(bare)
    if isinstance(address, ipaddress.IPv4Address):
        return _is_inside(address)
    inner = _find_inner(address)
    return _is_inside(address) or address.is_site_local or (inner is not None and _is_inside(inner))


def _is_inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not address.is_global or address.is_multicast


def _find_inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour


def _is_odd_number(host: str) -> bool:
    # 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 to some resolvers; no public name looks like that.
    try:
        socket.inet_aton(host)
    except (OSError, ValueError):
        return False
    return True


class GuardedResolver(AbstractResolver):
    """Resolves names to public addresses only, unless the host is trusted or it is the configured proxy.

    Behind a proxy it is the proxy that resolves names, so there only literal addresses are checked.
    The connection is made to the very addresses that were looked at, so a name that changes its
    mind in between gains nothing.
    """

    def __init__(self, places: Places, proxies: frozenset[tuple[str, int]]) -> None:
        self._places = places
        self._proxies = proxies
        self._inner = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of `host` that may be contacted. Raises Forbidden when there are none."""
        found = await self._inner.resolve(host, port, family)
        # What else listens beside a proxy is not meant: that may be this very machine, and asked directly.
        if self._places.is_trusted(host, port) or (host, port) in self._proxies:
            return found
        public = [result for result in found if not is_private(result["host"])]
        if not public:
            raise Forbidden(
                f"{shown(host)} has only private addresses, so a redirect to it is not followed; "
                "name it in origin.redirect_hosts if it is yours",
                is_nonsense=True,
            )
        return public

    async def close(self) -> None:
        """Nothing is held open."""
        await self._inner.close()


def _refused(source: URL, why: str) -> Forbidden:
    return Forbidden(
        f"a redirect from {source.host} is not followed: {why}; "
        "if that is right, name the host in origin.redirect_hosts",
        is_nonsense=True,
    )
