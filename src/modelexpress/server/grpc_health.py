# SPDX-License-Identifier: Apache-2.0
"""The established health service."""

from __future__ import annotations

from modelexpress.domain.clock import Clock
from modelexpress.server.door import Call
from modelexpress.server.readiness import Readiness
from modelexpress.wire import health_pb2


class HealthService:
    """Version, state and age of the server; never guarded."""

    def __init__(self, version: str, readiness: Readiness, clock: Clock) -> None:
        self._version = version
        self._readiness = readiness
        self._clock = clock
        self._started = clock.monotonic()

    async def get_health(self, request: health_pb2.HealthRequest, call: Call) -> health_pb2.HealthResponse:
        """`status` is "ok", or what is wrong."""
        return health_pb2.HealthResponse(
            version=self._version,
            status=self._readiness.problem or "ok",
            uptime=int(self._clock.monotonic() - self._started),
        )
