# SPDX-License-Identifier: Apache-2.0
"""The one place that decides which server a client talks to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown

DEFAULT_ENDPOINT = "http://localhost:8001"
DEFAULT_PORT = 8001
ENDPOINT_ENV = (
    "MODEL_EXPRESS_ENDPOINT",
    "MODEL_EXPRESS_URL",
    "MX_SERVER_ADDRESS",
    "MODEL_EXPRESS_SERVER_ENDPOINT",
)
FLAG_SOURCE = "flag --endpoint"
FILE_SOURCE = "file"
INIT_SOURCE = "init file"
DEFAULT_SOURCE = "default"

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_USER_INFO = re.compile(r"(?P<start>^|//)[^/@]*@")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address, where it came from, and what a person should know about that choice."""

    url: str
    host: str
    port: int
    source: str = DEFAULT_SOURCE
    warnings: tuple[str, ...] = ()


def resolve_endpoint(
    flag: str | None,
    env: Mapping[str, str],
    file_value: str | None = None,
    init_value: str | None = None,
) -> Endpoint:
    """The server's address: flag, variables in order, file, init file, else localhost.

    Raises Invalid when the address that counts cannot be used. Variables that name different servers
    are a warning, because the loser was set by somebody who expects it to count.
    """
    named = [(f"env {name}", env[name].strip()) for name in ENDPOINT_ENV if env.get(name, "").strip()]
    given = [(FLAG_SOURCE, flag), *named, (FILE_SOURCE, file_value), (INIT_SOURCE, init_value)]
    source, text = next(
        ((name, value) for name, value in given if value is not None), (DEFAULT_SOURCE, DEFAULT_ENDPOINT)
    )
    found = parse_endpoint(text, source)
    return Endpoint(found.url, found.host, found.port, source, _disagreements(named))


def parse_endpoint(text: str, source: str) -> Endpoint:
    """Read `http://host:port` or `host:port`; Invalid names `source` and what is wrong."""
    trimmed = text.strip()
    if not trimmed:
        raise Invalid(f"{source}: the server's address is empty: give http://host:port")
    said = f"{source}: server address {shown(redacted(trimmed))}"
    parts = _split(trimmed, said)
    if not trimmed.isascii() or any(not c.isprintable() or c.isspace() for c in trimmed):
        raise Invalid(f"{said} holds a blank, control or non-ASCII character")
    if parts.username is not None or parts.password is not None:
        raise Invalid(f"{said} holds credentials: leave them out")
    if parts.path not in ("", "/") or parts.query or parts.fragment or trimmed[-1] in "?#":
        raise Invalid(f"{said} goes on after the port: give http://host:port only")
    host = check_host(parts.hostname or "", said)
    port = _port(parts, said)
    shown_host = f"[{host}]" if ":" in host else host
    return Endpoint(f"http://{shown_host}:{port}", host, port, source)


def check_host(host: str, said: str) -> str:
    """`host` without brackets, as a name or an IP address; Invalid begins with `said`."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(bare)
        return bare
    except ValueError:
        pass
    if not bare:
        raise Invalid(f"{said} has no host")
    is_broken_address = bare.replace(".", "").isdigit()
    if host != bare or is_broken_address or len(bare) > 253 or not _HOST_NAME.fullmatch(bare):
        raise Invalid(f"{said}: {shown(host)} is neither a host name nor an IP address")
    return bare


def redacted(text: str) -> str:
    """`text` with the user part of a URL replaced, for messages."""
    return _USER_INFO.sub(r"\g<start>***@", text)


def _split(text: str, said: str) -> SplitResult:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Invalid(f"{said} is not an address: give http://host:port, IPv6 in brackets") from None
    if parts.scheme == "https":
        raise Invalid(f"{said} asks for TLS, which this version does not speak: give http://host:port")
    if parts.scheme != "http":
        raise Invalid(f"{said} has the scheme {shown(parts.scheme)}: give http://host:port")
    host_and_port = parts.netloc.rpartition("@")[2]
    if host_and_port.count(":") > 1 and "[" not in host_and_port:
        raise Invalid(f"{said}: write an IPv6 address in brackets, as http://[::1]:{DEFAULT_PORT}")
    return parts


def _port(parts: SplitResult, said: str) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port is None and not parts.netloc.endswith(":"):
        return DEFAULT_PORT
    if not port:
        raise Invalid(f"{said} has no usable port: give one from 1 to 65535")
    return port


def _disagreements(named: list[tuple[str, str]]) -> tuple[str, ...]:
    if len(named) < 2:
        return ()
    source, text = named[0]
    return tuple(
        f"{source} is {shown(redacted(text))} but {other} is {shown(redacted(value))}: "
        f"the first counts; unset one of them"
        for other, value in named[1:]
        if _canonical(value) != _canonical(text)
    )


def _canonical(text: str) -> str:
    try:
        return parse_endpoint(text, "").url
    except Invalid:
        return text
