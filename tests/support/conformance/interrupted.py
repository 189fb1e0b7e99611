# SPDX-License-Identifier: Apache-2.0
"""Downloads that were cut, and go on where they stopped."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.conformance.files import download
from tests.support.conformance.registry import Place, case

# The clients keep what they have in steps of 10 MiB.
CUT_AFTER = 11 * 1024 * 1024

DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
try:
    hf_hub_download(sys.argv[1], sys.argv[2], cache_dir=sys.argv[3], token=False)
except Exception as error:
    sys.exit(type(error).__name__)
"""


@case("large", "large_file")
def interrupted_by_the_network(at: Place) -> object:
    with cutting_proxy() as (address, log):
        told = [download_apart(at, http_proxy=address, HTTP_PROXY=address) for _ in range(2)]
    # That it went on where it stopped shows in the ranges that it asked for.
    return [told, log.ranges]


@case("large", "large_file")
def interrupted_by_a_kill(at: Place) -> object:
    """What a killed client left is taken up by those that can, and left alone by the others."""
    path = Path(download(at, at["large_file"], "large"))
    blob = path.resolve()
    # Other bytes than the file's: whether they were kept, and the rest added, shows in its digest.
    blob.with_name(f"{blob.name}.incomplete").write_bytes(b"\1" * 5_000_000)
    path.unlink()
    blob.unlink()
    return download(at, at["large_file"], "large")


def download_apart(at: Place, **variables: str) -> list[object]:
    """Exit status and error of a process that downloads the large file."""
    command = [sys.executable, "-c", DOWNLOAD, at["large"], at["large_file"], str(at.cache)]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=25
    )
    return [done.returncode, done.stderr.splitlines()[-1:] if done.returncode else []]


@dataclass
class Log:
    """The ranges that were asked for, and whether a body has been cut."""

    ranges: list[str] = field(default_factory=list)
    has_cut: bool = False


@contextmanager
def cutting_proxy() -> Iterator[tuple[str, Log]]:
    """A proxy that cuts the first long body after CUT_AFTER bytes."""
    log = Log()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Door", (_Door,), {"log": log}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Door(BaseHTTPRequestHandler):
    """Passes one request on, and its answer back."""

    log: Log

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=20)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        try:
            connection.request(self.command, f"{target.path}?{target.query}".rstrip("?"), headers=headers)
            self._pass_back(connection.getresponse())
        finally:
            connection.close()

    do_HEAD = do_GET  # noqa: N815 - named by the library

    def _pass_back(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        body = answer.read()
        if self.command == "GET" and answer.status in (200, 206):
            self.log.ranges.append(f"{answer.status} {self.headers.get('Range', '')}")
        if len(body) > CUT_AFTER and not self.log.has_cut:
            self.log.has_cut = True
            body = body[:CUT_AFTER]
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""
