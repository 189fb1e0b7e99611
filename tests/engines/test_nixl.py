# SPDX-License-Identifier: Apache-2.0
"""NIXL works on this machine without a GPU: what one agent holds in memory another one reads."""

from __future__ import annotations

import pytest
from tests.support.engines import need, run_engine

pytestmark = [pytest.mark.engines, pytest.mark.timeout(330)]


def test_an_agent_reads_the_memory_of_another_one() -> None:
    need("nixl")
    told = run_engine("nixl_read")

    assert told["state"] == "DONE"
    assert told["read"] == told["held"]
