# SPDX-License-Identifier: Apache-2.0
"""The machine under the figures: what it is, how busy it is, and what a process of it has used."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

LIBRARIES = ("aiohttp", "blake3", "grpcio", "huggingface_hub", "hf_xet", "protobuf", "safetensors")

_LOOK_SECONDS = 0.2
_CALM_CORES = 0.15
_TICKS = os.sysconf("SC_CLK_TCK")
_PEAK_ONLY = "5"  # of clear_refs: sets the peak back to what is resident now


def describe() -> dict[str, object]:
    """The machine, for results.json."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def commit() -> str:
    """The commit that is measured, `-dirty` if the tree was changed; empty without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def load() -> float:
    """How many processes wanted a core during the last minute."""
    return round(os.getloadavg()[0], 2)


def available_bytes() -> int:
    """Memory that can be had without taking it from others."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable:")


def cpu_seconds(process: int) -> float:
    """What all threads of a process have used, in steps of 10 ms."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def busy_seconds() -> float:
    """What all processes and the kernel have used since the start, and what the host took away."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS


def wait_calm(seconds: float) -> None:
    """Return when nobody uses a core, at the latest after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(_LOOK_SECONDS)
        if busy_seconds() - before <= _CALM_CORES * _LOOK_SECONDS:
            return


def forget_peak(process: int) -> None:
    """From now on the peak is counted anew."""
    Path(f"/proc/{process}/clear_refs").write_text(_PEAK_ONLY)


def peak_bytes(process: int) -> int:
    """The most memory that was resident at once."""
    return _kilobytes(Path(f"/proc/{process}/status"), "VmHWM:")


def pin(process: int, core: int) -> None:
    """Let a process, with the threads it has and will have, run on one core alone."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _kilobytes(file: Path, key: str) -> int:
    [line] = [line for line in file.read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
