# SPDX-License-Identifier: Apache-2.0
"""Throw-away environments with other versions of a package, and programs run inside them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# Clients of the Hub as people have them, each in an environment of its own that is kept from run to run.
GENERATIONS = {
    "0.36": "huggingface_hub>=0.36,<1 transformers",
    "1": "huggingface_hub>=1,<2 transformers",
    "2": "huggingface_hub>=2,<3 transformers",
}
_INSTALL_SECONDS = 400.0


def make_venv(folder: Path, requirement: str, env: Mapping[str, str]) -> Path:
    """The interpreter of an environment below `folder` with `requirement` in it (several: with spaces
    between); the test is skipped where that cannot be installed. The same requirement is installed once.
    """
    place = folder / re.sub(r"\W+", "-", requirement)
    python = place / "bin" / "python"
    is_ready = place / "installed"
    if not is_ready.exists():
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", place], env)
        _install(python, requirement, env)
        is_ready.touch()
    return python


def make_client_venv(folder: Path, generation: str, env: Mapping[str, str]) -> Path:
    """The interpreter of a client generation; whoever wants the same one meanwhile waits."""
    with open(folder / f"{generation}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_venv(folder, GENERATIONS[generation], env)


def run_in_venv(python: Path, program: str, *arguments: str | Path, **variables: str) -> Any:
    """What `program` prints as JSON when it is run with warnings as errors and nothing of ours around."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables}
    done = _run([python, "-W", "error", "-c", program, *arguments], env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _install(python: Path, requirement: str, env: Mapping[str, str]) -> None:
    # What is imported is compiled then: a small part of a large package.
    how = ["-q", "--no-compile", *requirement.split()]
    done = _run([sys.executable, "-m", "pip", "--python", python, "install", *how], env, _INSTALL_SECONDS)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["pip says nothing"]
        pytest.skip(f"{requirement} cannot be installed here: {lines[-1]}")


def _run(
    command: list[str | Path], env: Mapping[str, str], seconds: float = 170
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=seconds)
