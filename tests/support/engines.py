# SPDX-License-Identifier: Apache-2.0
"""Programs that run in the environment of the engines, where torch, NIXL and vLLM are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-engines"
PROGRAMS = ROOT / "tests" / "engines" / "programs"

_PROGRAM_SECONDS = 300.0


def need(engine: str) -> None:
    """Skip the test where `engine` (torch, nixl or vllm) is not installed, with the reason why."""
    if (ENVIRONMENT / "installed" / engine).exists():
        return
    if not (ENVIRONMENT / "missing").exists():
        pytest.skip(f"{engine} is not installed: `make test-engines` does it")
    told = [line for line in (ENVIRONMENT / "missing").read_text().splitlines() if line.startswith(engine)]
    pytest.skip(f"not to be had here: {told[0] if told else engine}")


def need_gpu() -> None:
    """Skip the test where there is no NVIDIA GPU."""
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("there is no NVIDIA GPU here")


def run_engine(program: str, *arguments: str | Path, **variables: str) -> Any:
    """What a program of `tests/engines/programs` writes as JSON into the file that is its last argument."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [ENVIRONMENT / "bin" / "python", PROGRAMS / f"{program}.py", *arguments, result]
        status = _run(command, log, {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables})
        assert status == 0, "\n".join(log.read_text(errors="replace").splitlines()[-60:])
        return json.loads(result.read_text())


def _run(command: list[str | Path], log: Path, env: dict[str, str]) -> int:
    # A session of its own: an engine starts processes, and none of them may outlive the test.
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)
        try:
            return process.wait(_PROGRAM_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
