# SPDX-License-Identifier: Apache-2.0
"""One NIXL agent reads 1 MiB out of another one's memory, and writes both digests as JSON."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from pathlib import Path

import numpy
from nixl._api import nixl_agent, nixl_agent_config

SIZE = 1024 * 1024
SECONDS = 30.0


def main(result: Path) -> None:
    """Read, wait until it is done, and let go of everything."""
    config = nixl_agent_config(backends=["UCX"])
    source, reader = nixl_agent("source", config), nixl_agent("reader", config)
    held = numpy.frombuffer(bytearray(random.Random(0).randbytes(SIZE)), dtype=numpy.uint8)
    read = numpy.zeros(SIZE, dtype=numpy.uint8)
    offered = source.register_memory([(held.ctypes.data, SIZE, 0, "")], "DRAM")
    wanted = reader.register_memory([(read.ctypes.data, SIZE, 0, "")], "DRAM")
    peer = reader.add_remote_agent(source.get_agent_metadata())
    transfer = reader.initialize_xfer("READ", wanted.trim(), offered.trim(), peer)
    state, until = reader.transfer(transfer), time.monotonic() + SECONDS
    while state == "PROC" and time.monotonic() < until:
        state = reader.check_xfer_state(transfer)
    reader.release_xfer_handle(transfer)
    reader.deregister_memory(wanted)
    source.deregister_memory(offered)
    told = {"state": state, "held": _digest(held), "read": _digest(read)}
    result.write_text(json.dumps(told))


def _digest(memory: numpy.ndarray) -> str:
    return hashlib.sha256(memory.tobytes()).hexdigest()


main(Path(sys.argv[1]))
