# SPDX-License-Identifier: Apache-2.0
"""A data plane and lanes to it, with waits short enough for tests."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
from tests.support.ranged_server import RangedServer

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.transfer.addresses import Address
from modelexpress.transfer.lanes import Lanes, Patience

HASTE = Patience(
    connect_seconds=1, stall_seconds=10, tries=3, first_wait_seconds=0.01, longest_wait_seconds=0.02
)


@pytest.fixture(scope="session")
def content() -> bytes:
    """Six chunks, the last of them short."""
    return random.Random(7).randbytes(5 * CHUNK_BYTES + 12345)


@pytest.fixture
def server(content: bytes) -> Iterator[RangedServer]:
    with RangedServer() as server:
        server.add("/f", content)
        yield server


@pytest.fixture
def patience() -> Patience:
    return HASTE


@pytest.fixture
def lanes(server: RangedServer, patience: Patience) -> Iterator[Lanes]:
    with Lanes(Address(server.host, server.port), 4, patience) as lanes:
        yield lanes
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mx-lane")]
