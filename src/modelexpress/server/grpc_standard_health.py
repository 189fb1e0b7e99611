# SPDX-License-Identifier: Apache-2.0
"""The standard health service, `grpc.health.v1`, as far as readiness goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from modelexpress.domain.errors import NotFound
from modelexpress.domain.refs import shown
from modelexpress.server.door import Call
from modelexpress.server.readiness import Readiness

_State = health_pb2.HealthCheckResponse


class StandardHealth:
    """Whether the server is ready, under the empty name and under that of each of its services."""

    def __init__(self, readiness: Readiness, names: Iterable[str]) -> None:
        self._readiness = readiness
        self._names = ("", *names)

    async def check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        """The state now; NotFound for a name that is no service of ours."""
        if request.service not in self._names:
            raise NotFound(f"{shown(request.service)} is not a service of this server")
        return _State(status=self._status(request.service))

    async def list(self, request: Message, call: Call) -> Message:
        """The states of all. Only newer versions of the service have this method and its messages."""
        described: Any = health_pb2.DESCRIPTOR.message_types_by_name["HealthListResponse"]
        return GetMessageClass(described)(
            statuses={name: _State(status=self._status(name)) for name in self._names}
        )

    async def watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state and its changes; the last is that the server stops, so that no watcher holds it up."""
        told: int | None = None
        while True:
            # All three are read before anything is sent: a change meanwhile has its own turn.
            changed, is_last = self._readiness.changed, self._readiness.is_stopping
            status = self._status(request.service)
            if status != told:
                yield _State(status=status)
            told = status
            if is_last:
                return
            await changed.wait()

    def _status(self, name: str) -> int:
        if name not in self._names:
            return _State.SERVICE_UNKNOWN
        return _State.SERVING if self._readiness.problem is None else _State.NOT_SERVING
