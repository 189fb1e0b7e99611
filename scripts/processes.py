# SPDX-License-Identifier: Apache-2.0
"""The processes that the demo and the benchmarks stand on: a local Hub and a server, ended in every case."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 20.0
# A personal cache, token or address must neither help nor be touched.
_FOREIGN = ("HF_", "HUGGING_FACE_", "MODEL_EXPRESS_", "MX_", "XDG_")


@dataclass(frozen=True)
class Server:
    """A running server: its gRPC address, its cache directory, its process, and its address as a Hub."""

    endpoint: str
    cache: Path
    process: int
    hub_endpoint: str


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would change the outcome, with `changes`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return kept | changes


def modelexpress(*arguments: str) -> list[str]:
    """The command line of our own program, in this interpreter's environment."""
    return [str(Path(sys.executable).with_name("modelexpress")), *arguments]


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in `log`; asked to end on the way out, and made to after ten seconds."""
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches us alone, and we end it in order.
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """Ask the process to end, wait, and make it."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def command_of(process: subprocess.Popen[bytes]) -> str:
    """The command line, for messages."""
    return " ".join(map(str, process.args)) if isinstance(process.args, list) else str(process.args)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once somebody listens on `port`; raise with the process's last words otherwise."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{command_of(process)} is not up:\n{log.read_text()[-2000:]}")


@contextmanager
def serving(folder: Path, origin: str | None) -> Iterator[Server]:
    """A server with an empty cache and registry below `folder`, pulling from `origin` (None: the Hub)."""
    folder.mkdir(parents=True, exist_ok=True)
    port, data_port, cache, log = free_port(), free_port(), folder / "cache", folder / "server.log"
    cache.mkdir()
    changes = {"XDG_STATE_HOME": str(folder / "state")}
    if origin is not None:
        # The local Hub redirects large files to a loopback host of another name, as the real one does.
        changes |= {"HF_ENDPOINT": origin, "MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS": "127.0.0.1,localhost"}
    flags = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--data-port",
        str(data_port),
        "--metrics-port",
        "0",
        "--cache-directory",
        str(cache),
    ]
    with running(modelexpress("serve", *flags), log, clean_environment(**changes)) as process:
        wait_until_open(port, process, log)
        wait_until_open(data_port, process, log)
        yield Server(f"http://127.0.0.1:{port}", cache, process.pid, f"http://127.0.0.1:{data_port}")


def die_in_order() -> None:
    """Make SIGTERM end the program as Ctrl-C does: through every `finally`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
