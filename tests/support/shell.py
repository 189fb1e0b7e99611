# SPDX-License-Identifier: Apache-2.0
"""Our programs as a person runs them: in processes of their own, with an environment of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Said:
    """What a program said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """Runs programs in a directory, with `env` and nothing personal."""

    folder: Path
    env: Mapping[str, str]

    async def run(self, *words: str, program: str = "modelexpress", stdin: str = "", **env: str) -> Said:
        """Run a program to its end."""
        process = await self.start(*words, program=program, **env)
        out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())

    async def start(
        self, *words: str, program: str = "modelexpress", **env: str
    ) -> asyncio.subprocess.Process:
        """Start a program."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            str(BIN / program),
            *words,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder / "home"), **self.env, **env},
        )
