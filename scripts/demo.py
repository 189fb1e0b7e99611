# SPDX-License-Identifier: Apache-2.0
"""The main job, shown: one server, one origin, a real model; cold, warm, and into four caches at once."""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from scripts.local_hub import find_packaged_model, local_hub, write_model
from scripts.processes import Server, clean_environment, command_of, die_in_order, end, modelexpress, serving

PUBLIC_HUB = "https://huggingface.co"
NAME = "sentence-transformers/all-MiniLM-L6-v2"
# The public repository also holds the same weights for other runtimes.
LEFT_OUT = ("onnx/*", "openvino/*", "*.bin", "*.h5", "*.ot")
CLIENTS_AT_ONCE = 4
PULL_TIMEOUT_SECONDS = 900.0
MIB = 1024 * 1024

out = Console()


class DemoFailed(Exception):
    """Something was not as it must be; the text says what."""


@dataclass(frozen=True)
class Origin:
    """Where the model comes from, what each of its files must be, and how much was read from it."""

    endpoint: str | None
    said: str
    digests: dict[str, str]
    read_bytes: Callable[[], int | None]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    origin_bytes: int | None
    seconds: float
    delivered_bytes: int
    verified_files: int


def main() -> int:
    """Run the demo; 0 when everything was right."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--public", action="store_true", help="pull from huggingface.co")
    choice.add_argument("--local", action="store_true", help="pull from a Hub on this machine")
    flags = parser.parse_args()
    die_in_order()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelexpress-demo-")))
            is_public = flags.public or (not flags.local and is_public_hub_reachable())
            show_all(folder, stack, public_origin() if is_public else local_origin(folder, stack))
    except DemoFailed as failure:
        out.print(f"[bold red]not right:[/] {failure}")
        return 1
    except KeyboardInterrupt:
        out.print("stopped")
        return 130
    return 0


def show_all(folder: Path, stack: ExitStack, origin: Origin) -> None:
    """Pull in every way, check every file, and print the table."""
    out.print(f"[bold]{NAME}[/] from {origin.said}", soft_wrap=True)
    server = stack.enter_context(serving(folder / "server", origin.endpoint))
    out.print(f"server at {server.endpoint}, registry in SQLite, cache in {server.cache}", soft_wrap=True)
    rows = [
        pull_shared("cold, through the server", server, origin),
        pull_shared("warm, the same again", server, origin),
        pull_apart(f"{CLIENTS_AT_ONCE} at once, no shared storage", server, folder, origin),
    ]
    out.print(as_table(rows))
    if rows[0].origin_bytes not in (None, rows[0].delivered_bytes):
        raise DemoFailed(f"the cold pull read {rows[0].origin_bytes} bytes, not {rows[0].delivered_bytes}")
    if rows[1].origin_bytes:
        raise DemoFailed(f"the warm pull read {rows[1].origin_bytes} bytes from the origin")
    if rows[2].origin_bytes:
        raise DemoFailed(f"the clients made the server read {rows[2].origin_bytes} bytes from the origin")


def pull_shared(what: str, server: Server, origin: Origin) -> Row:
    """One client beside the server: its path is the server's own snapshot."""
    before = origin.read_bytes()
    started = time.perf_counter()
    (path,) = run_all([pull_command(server)])
    seconds = time.perf_counter() - started
    verify_by_command(server, None)
    return Row(what, difference(before, origin), seconds, *check_snapshot(Path(path), origin))


def pull_apart(what: str, server: Server, folder: Path, origin: Origin) -> Row:
    """Several clients at once, each with a cache of its own, that see nothing of the server's disk."""
    caches = [folder / f"client-{number}" for number in range(1, CLIENTS_AT_ONCE + 1)]
    before = origin.read_bytes()
    started = time.perf_counter()
    paths = run_all([pull_command(server, "--no-shared-storage", "--cache-path", str(c)) for c in caches])
    seconds = time.perf_counter() - started
    for cache, path in zip(caches, paths, strict=True):
        if cache not in Path(path).parents:
            raise DemoFailed(f"a client without shared storage was given {path}")
        verify_by_command(None, cache)
    checked = [check_snapshot(Path(path), origin) for path in paths]
    delivered, verified = (sum(column) for column in zip(*checked, strict=True))
    return Row(what, difference(before, origin), seconds, delivered, verified)


def pull_command(server: Server, *flags: str) -> list[str]:
    """The command that a person would type."""
    excluded = [part for pattern in LEFT_OUT for part in ("--exclude", pattern)]
    return modelexpress("--endpoint", server.endpoint, *flags, "pull", NAME, *excluded)


def verify_by_command(server: Server | None, cache: Path | None) -> None:
    """Have our own program prove every file again, on the server or in a local cache."""
    where = ["--endpoint", server.endpoint] if server else ["--cache-path", str(cache)]
    run_all([modelexpress(*where, "cache", "verify", NAME)])


def run_all(commands: list[list[str]]) -> list[str]:
    """Run the commands at once and return what each wrote; all are ended, whatever happens."""
    with ExitStack() as stack:
        started = []
        for command in commands:
            process = subprocess.Popen(
                command,
                env=clean_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            stack.callback(end, process)
            started.append(process)
        return [finish(process) for process in started]


def finish(process: subprocess.Popen[bytes]) -> str:
    """What the process wrote; DemoFailed with its words if it did not succeed."""
    written, said = process.communicate(timeout=PULL_TIMEOUT_SECONDS)
    if process.returncode != 0:
        words = (said + written).decode(errors="replace")[-2000:]
        raise DemoFailed(f"{command_of(process)} ended with {process.returncode}:\n{words}")
    return written.decode().strip()


def check_snapshot(path: Path, origin: Origin) -> tuple[int, int]:
    """Bytes and number of the files; each one compared with the origin, the weights opened and read."""
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    if set(found) != set(origin.digests):
        raise DemoFailed(f"{path} differs from the origin in {sorted(set(found) ^ set(origin.digests))}")
    for name, file in found.items():
        if digest_like(origin.digests[name], file) != origin.digests[name]:
            raise DemoFailed(f"{file} is not what the origin published")
    tensors = sum(read_tensors(file) for name, file in found.items() if name.endswith(".safetensors"))
    if tensors == 0:
        raise DemoFailed(f"{path} holds no tensor")
    return sum(file.stat().st_size for file in found.values()), len(found)


def read_tensors(path: Path) -> int:
    """The number of tensors in the file, after every value was read and found finite."""
    with safe_open(path, framework="np") as weights:
        names = list(weights.keys())
        for name in names:
            if not np.isfinite(weights.get_tensor(name)).all():
                raise DemoFailed(f"tensor {name} of {path} holds values that are no numbers")
    return len(names)


def digest_like(expected: str, path: Path) -> str:
    """The digest of a file, of the kind of `expected`: `sha256:…`, or `git:…` for a git blob id."""
    content = path.read_bytes()
    if expected.startswith("sha256:"):
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    header = f"blob {len(content)}\0".encode()
    return f"git:{hashlib.sha1(header + content, usedforsecurity=False).hexdigest()}"


def local_origin(folder: Path, stack: ExitStack) -> Origin:
    """A Hub on this machine, with real weights where they are installed."""
    packaged = find_packaged_model()
    source = packaged or write_model(folder / "synthetic", megabytes=96)
    hub = stack.enter_context(local_hub(folder, {NAME: source}))
    kind = "with the real weights" if packaged else "with a synthetic model"
    files = {file.relative_to(source).as_posix(): file for file in source.rglob("*") if file.is_file()}
    digests = {name: digest_like("sha256:", file) for name, file in files.items()}
    return Origin(hub.endpoint, f"a local Hub at {hub.endpoint} {kind}", digests, hub.sent_bytes)


def public_origin() -> Origin:
    """The public Hub; its listing says what each file must be."""
    with urllib.request.urlopen(
        f"{PUBLIC_HUB}/api/models/{NAME}/tree/main?recursive=true", timeout=30
    ) as answer:
        listed = [entry for entry in json.load(answer) if entry["type"] == "file"]
    wanted = [entry for entry in listed if not any(fnmatch.fnmatchcase(entry["path"], p) for p in LEFT_OUT)]
    digests = {
        entry["path"]: f"sha256:{entry['lfs']['oid']}" if "lfs" in entry else f"git:{entry['oid']}"
        for entry in wanted
    }
    return Origin(None, PUBLIC_HUB, digests, lambda: None)


def is_public_hub_reachable() -> bool:
    """Whether huggingface.co answers within three seconds."""
    try:
        with urllib.request.urlopen(f"{PUBLIC_HUB}/api/models/{NAME}", timeout=3) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def difference(before: int | None, origin: Origin) -> int | None:
    """Bytes read from the origin since `before`, where they can be counted."""
    now = origin.read_bytes()
    return None if before is None or now is None else now - before


def as_table(rows: list[Row]) -> Table:
    """The table that the demo is about."""
    table = Table(
        title="pulled once, proven everywhere",
        caption="seconds include starting the command",
    )
    table.add_column("what", no_wrap=True)
    for heading in ("origin bytes", "seconds", "MB/s", "verified files"):
        table.add_column(heading, justify="right")
    for row in rows:
        origin = "not counted" if row.origin_bytes is None else f"{row.origin_bytes:,}"
        speed = f"{row.delivered_bytes / MIB / row.seconds:,.1f}"
        table.add_row(row.what, origin, f"{row.seconds:.2f}", speed, str(row.verified_files))
    return table


if __name__ == "__main__":
    sys.exit(main())
