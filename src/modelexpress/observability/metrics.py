# SPDX-License-Identifier: Apache-2.0
"""Metrics: the families, and a listener that a Prometheus server can scrape."""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family: its name on the wire, type, labels and meaning."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


FAMILIES = (
    Family("mx_pulls_total", "counter", ("provider", "outcome"),
           "Pulls by outcome: hit, stale (a hit while the origin did not answer), pulled, failed."),
    Family("mx_pull_seconds", "histogram", ("provider",), "Duration of pulls that were no hit."),
    Family("mx_origin_bytes_total", "counter", ("provider",), "Bytes fetched from origins and published."),
    Family("mx_evictions_total", "counter", ("provider",), "Snapshots that were evicted."),
    Family("mx_evicted_bytes_total", "counter", ("provider",), "Bytes of the disk that evictions freed."),
    Family("mx_cache_used_bytes", "gauge", (),
           "Bytes of the disk under the cache directory, as last measured."),
    Family("mx_cache_free_bytes", "gauge", (), "Bytes free on the cache's disk, as last measured."),
    Family("mx_streamed_bytes_total", "counter", (), "Bytes sent to clients by StreamModelFiles."),
    Family("mx_rpcs_total", "counter", ("service", "method", "code"), "Finished calls by gRPC status."),
    Family("mx_rpcs_in_flight", "gauge", ("service",), "Calls that are being answered now."),
    Family("mx_data_bytes_total", "counter", (), "File bytes sent to clients by the data plane."),
    Family("mx_data_requests_total", "counter", ("code",), "Finished requests to the data plane by outcome."),
    Family("mx_hub_requests_total", "counter", ("kind", "code"),
           "Requests to the Hub endpoint by kind (resolve, raw, api, other) and status."),
    Family("mx_hub_files_total", "counter", ("outcome",),
           "Files read through the Hub endpoint: hit, miss, joined (was arriving for others), stale."),
    Family("mx_hub_stale_answers_total", "counter", (),
           "Answers of the Hub endpoint from what was here, because the origin did not answer."),
    Family("mx_data_connections", "gauge", (), "Open connections to the data plane."),
    Family("mx_errors_total", "counter", ("code",), "Failed pulls by error code."),
    Family("mx_anonymous_reads_total", "counter", (),
           "Requests without a token of their own, served with the server's (access.server_token)."),
)  # fmt: skip

_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """Implements Meter on a registry of its own, so that several servers fit into one process."""

    def __init__(self, version: str, backend: str, scheme: str) -> None:
        self.registry = CollectorRegistry()
        self._families = {family.name: _make(family, self.registry) for family in FAMILIES}
        build = Gauge(
            "mx_build_info", "Always 1; says what is running.",
            ("component", "version", "backend", "scheme"), registry=self.registry,
        )  # fmt: skip
        build.labels("server", version, backend, scheme).set(1)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._child(name, labels).inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into a histogram."""
        self._child(name, labels).observe(value)

    def gauge(self, name: str, change: float, **labels: str) -> None:
        """Move a gauge."""
        self._child(name, labels).inc(change)

    def expose(self) -> bytes:
        """Everything, in the OpenMetrics text format."""
        text: bytes = generate_latest(self.registry)  # type: ignore[no-untyped-call]
        return text

    def _child(self, name: str, labels: dict[str, str]) -> Any:
        family = self._families[name]
        return family.labels(**labels) if labels else family


def _make(family: Family, registry: CollectorRegistry) -> Any:
    kind = _KINDS[family.kind]
    extra = {"buckets": _SECONDS} if kind is Histogram else {}
    return kind(family.name, family.meaning, family.labels, registry=registry, **extra)


class MetricsListener:
    """`GET /metrics` on a thread of its own; a port that cannot be had is logged, and the server goes on."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._address = (host.strip("[]"), port)
        self._server: ThreadingHTTPServer | None = None
        self.port: int | None = None

    def __enter__(self) -> MetricsListener:
        if self._address[1] != 0:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def start(self) -> None:
        """Listen now, on any free port where the port is 0."""
        try:
            self._server = _Listener(self._address, self._metrics)
        except OSError as error:
            _log.warning("no metrics on %s:%d: %s; set server.metrics_port", *self._address, error.strerror)
            return
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="mx-metrics", daemon=True
        ).start()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], metrics: Metrics) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.metrics = metrics
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("metrics: " + format, *args)

    def _answer(self, has_body: bool) -> None:
        is_known = self.path.partition("?")[0] == "/metrics"
        body = self.server.metrics.expose() if is_known else b"not found: only /metrics is here\n"
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST if is_known else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if has_body:
            self.wfile.write(body)
