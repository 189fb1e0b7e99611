# SPDX-License-Identifier: Apache-2.0
"""Asking a local Hub without a library in between, so that its answers are seen as they are."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelexpress.testing.hub import LocalHub


@dataclass(frozen=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    hub: LocalHub,
    path: str,
    method: str = "GET",
    body: bytes | str | None = None,
    token: str | None = None,
    **headers: str,
) -> Answer:
    """The answer to one request, no redirect followed. `path` is sent as it is, or an absolute address."""
    address = urlsplit(path if path.startswith("http") else hub.endpoint)
    target = path if not path.startswith("http") else f"{address.path}?{address.query}"
    words = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        words["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    try:
        connection.request(method, target, body, words)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def address_of(hub: LocalHub, repository: str, file: str, revision: str = "main") -> str:
    """Where the bytes of a public file come from: the target of its redirect."""
    return ask(hub, f"/{repository}/resolve/{revision}/{file}").headers["location"]
