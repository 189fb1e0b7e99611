# SPDX-License-Identifier: Apache-2.0
"""The usual proxy variables, in either case: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # missing in typeshed

from yarl import URL

from modelexpress.domain.errors import Invalid

_SCHEMES = ("https", "http", "all")


def find_proxy(url: URL, env: Mapping[str, str]) -> URL | None:
    """The proxy for requests to `url`; None: none. Raises Invalid for one that is no http(s) address."""
    excluded = _value("no_proxy", env)
    if url.host is None or (
        excluded and proxy_bypass_environment(f"{url.host}:{url.port}", {"no": excluded})
    ):
        return None
    return _find(url.scheme, env) or _find("all", env)


def find_proxy_places(env: Mapping[str, str]) -> frozenset[tuple[str, int]]:
    """Host and port of each configured proxy."""
    proxies = [_find(scheme, env) for scheme in _SCHEMES]
    return frozenset((proxy.host, proxy.port) for proxy in proxies if proxy and proxy.host and proxy.port)


def _find(scheme: str, env: Mapping[str, str]) -> URL | None:
    text = _value(f"{scheme}_proxy", env)
    return _parse(f"{scheme.upper()}_PROXY", text) if text else None


def _value(name: str, env: Mapping[str, str]) -> str:
    # The lower-case spelling wins, as in curl: HTTP_PROXY can be set by a request header in CGI.
    return (env.get(name) or env.get(name.upper()) or "").strip()


def _parse(name: str, text: str) -> URL:
    try:
        found = URL(text if "://" in text else f"http://{text}")
    except ValueError:
        found = URL()
    if found.scheme not in ("http", "https") or not found.host:
        raise Invalid(f"{name} is not an address of an http or https proxy: expected http://host:port")
    return found
