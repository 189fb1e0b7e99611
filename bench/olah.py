# SPDX-License-Identifier: Apache-2.0
"""olah, a mirror of the Hub that others use: before the same local Hub, where its `olah-cli` is on PATH."""

from __future__ import annotations

import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.processes import clean_environment, free_port, running, wait_until_open


@dataclass(frozen=True, slots=True)
class Mirror:
    """A running one: its address as a Hub, and its process."""

    endpoint: str
    process: int


@contextmanager
def olah_mirror(folder: Path, origin: str) -> Iterator[Mirror | None]:
    """A mirror of `origin` with its cache in `folder`; None where there is no olah."""
    program = shutil.which("olah-cli")
    if program is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    hub, port, log = urllib.parse.urlsplit(origin), free_port(), folder / "olah.log"
    words = {
        "host": "127.0.0.1", "port": port, "repos-path": folder / "repos", "log-path": folder / "logs",
        "hf-scheme": hub.scheme, "hf-netloc": hub.netloc, "hf-lfs-netloc": hub.netloc,
        "mirror-netloc": f"127.0.0.1:{port}", "mirror-lfs-netloc": f"127.0.0.1:{port}",
    }  # fmt: skip
    command = [program, *(text for name, value in words.items() for text in (f"--{name}", str(value)))]
    with running(command, log, clean_environment()) as process:
        wait_until_open(port, process, log)
        yield Mirror(f"http://127.0.0.1:{port}", process.pid)
