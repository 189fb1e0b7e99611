# SPDX-License-Identifier: Apache-2.0
"""A home and a working directory of their own, so that no test reads this machine's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelexpress.config.load import Loaded, load
from modelexpress.config.table import Role
from modelexpress.domain.errors import Invalid


@dataclass(frozen=True)
class Desk:
    """Where a process is started in a test."""

    home: Path
    cwd: Path
    system: Path

    @property
    def env(self) -> dict[str, str]:
        return {"HOME": str(self.home)}

    def write(self, text: str, name: str = "modelexpress.yaml") -> Path:
        path = self.cwd / name
        path.write_text(text, encoding="utf-8")
        return path

    def write_init(self, text: str) -> None:
        folder = self.home / ".model-express"
        folder.mkdir()
        (folder / "config.yaml").write_text(text, encoding="utf-8")

    def load(
        self,
        role: Role = "server",
        flags: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        config_file: Path | None = None,
    ) -> Loaded:
        return load(role, flags or {}, {**self.env, **(env or {})}, config_file, self.cwd, self.system)

    def refusal(
        self,
        role: Role = "server",
        flags: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        config_file: Path | None = None,
    ) -> str:
        with pytest.raises(Invalid) as caught:
            self.load(role, flags, env, config_file)
        return caught.value.message
