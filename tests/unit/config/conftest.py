# SPDX-License-Identifier: Apache-2.0
"""What the tests of the settings share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.config.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    places = Desk(tmp_path / "home", tmp_path / "work", tmp_path / "etc")
    for folder in (places.home, places.cwd, places.system):
        folder.mkdir()
    return places
