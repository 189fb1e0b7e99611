# SPDX-License-Identifier: Apache-2.0
"""The bearer token file that a cluster mounts for its clients."""

from __future__ import annotations

import logging
from pathlib import Path

from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Invalid

_log = logging.getLogger(__name__)


class TokenFile:
    """Reads a token file again when it is older than its time to live and has changed."""

    def __init__(self, path: Path, ttl_seconds: float, clock: Clock) -> None:
        self._path = path
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._token: str | None = None
        self._mtime_ns: int | None = None
        self._read_at: float | None = None
        self._has_warned = False

    def read(self) -> str | None:
        """The token; None while there is no file, or it is empty. Raises Invalid for an impossible one."""
        now = self._clock.monotonic()
        if self._read_at is not None and now - self._read_at < self._ttl_seconds:
            return self._token
        try:
            mtime_ns = self._path.stat().st_mtime_ns
            if mtime_ns != self._mtime_ns:
                self._token = _checked(self._path, self._path.read_text(encoding="utf-8").strip())
                self._mtime_ns = mtime_ns
            self._read_at = now
        except OSError as error:
            self._token = self._mtime_ns = self._read_at = None
            if not self._has_warned:
                _log.info(
                    "no token file at %s (%s); calls go without a bearer token", self._path, error.strerror
                )
                self._has_warned = True
        return self._token


def _checked(path: Path, token: str) -> str | None:
    if not token.isascii() or not token.isprintable():
        raise Invalid(f"token file {path} does not hold a token that can be sent; write it again")
    return token or None
