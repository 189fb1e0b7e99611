# SPDX-License-Identifier: Apache-2.0
"""What was asked of a hub."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Request:
    """One request. `file` is the repository path, also for requests to a CDN address."""

    kind: str
    method: str
    path: str
    repository: str
    file: str
    token: str | None
    range: str | None
    via: str | None
    status: int = 0
    bytes_sent: int = 0


@dataclass
class RequestLog:
    """All requests in the order in which they began."""

    requests: list[Request] = field(default_factory=list)

    def clear(self) -> None:
        """Forget them."""
        self.requests.clear()

    def of(self, kind: str, file: str | None = None, method: str | None = None) -> list[Request]:
        """The requests of one kind (api, tree, resolve, body), for one file if named."""
        return [
            request
            for request in self.requests
            if request.kind == kind
            and (file is None or request.file == file)
            and (method is None or request.method == method)
        ]

    def bytes_by_file(self) -> dict[str, int]:
        """How many bytes of each file left the hub, by `repository/file`."""
        counts: dict[str, int] = {}
        for request in self.requests:
            if request.kind == "body":
                name = f"{request.repository}/{request.file}"
                counts[name] = counts.get(name, 0) + request.bytes_sent
        return counts

    @property
    def bytes_sent(self) -> int:
        """Body bytes of files that left the hub."""
        return sum(request.bytes_sent for request in self.requests if request.kind == "body")
