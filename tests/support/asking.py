# SPDX-License-Identifier: Apache-2.0
"""Asking an HTTP server without a library in between, so that its answers are seen as they are."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_THREADS = ThreadPoolExecutor(128, "asker")


@dataclass(frozen=True)
class Answer:
    """What came back; header names in lower case. `is_cut`: the body ended before its announced length."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    is_cut: bool = False

    @property
    def code(self) -> str | None:
        """The Hub's word for a refusal."""
        return self.headers.get("x-error-code")


@dataclass(frozen=True)
class Asker:
    """A client of one address, with the same `token` and headers in each request."""

    endpoint: str
    token: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers)

    async def head(self, path: str, **headers: str) -> Answer:
        return await self.ask("HEAD", path, headers)

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Answer:
        # Not the loop's own threads: a server in this process needs them to answer.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_THREADS, self._ask, method, path, headers or {}, body)

    def _ask(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        address = urlsplit(self.endpoint)
        said = {name.replace("_", "-"): text for name, text in {**self.headers, **headers}.items()}
        if self.token is not None:
            said["Authorization"] = f"Bearer {self.token}"
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        try:
            connection.request(method, path, body, said)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            try:
                return Answer(response.status, named, response.read())
            except http.client.IncompleteRead as error:
                return Answer(response.status, named, error.partial, is_cut=True)
        finally:
            connection.close()
