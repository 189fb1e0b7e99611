# SPDX-License-Identifier: Apache-2.0
"""The established api service: `ping`."""

from __future__ import annotations

import json

from modelexpress.domain.refs import shown
from modelexpress.server.door import Call
from modelexpress.wire import api_pb2

_LONGEST_ECHO = 200


class ApiService:
    """Answers actions by name; payloads are neither read nor logged."""

    async def send_request(self, request: api_pb2.ApiRequest, call: Call) -> api_pb2.ApiResponse:
        """An unknown action is an answer, not an error of the call."""
        if request.action == "ping":
            return api_pb2.ApiResponse(success=True, data=json.dumps({"message": "pong"}).encode())
        is_plain = request.action.isprintable() and len(request.action) <= _LONGEST_ECHO
        named = request.action if is_plain else shown(request.action)
        return api_pb2.ApiResponse(success=False, error=f"Unknown action: {named}")
