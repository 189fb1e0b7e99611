# SPDX-License-Identifier: Apache-2.0
"""The floor under a transfer: the same files through one loopback socket, without names, proofs or checks."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

_BUFFER_BYTES = 1024 * 1024


def copy_over_loopback(source: Path, target: Path) -> None:
    """Copy every file below `source` into `target`, one after the other, through a socket."""
    files = sorted(file for file in source.rglob("*") if file.is_file())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = threading.Thread(target=_send, args=(listener, files))
        sender.start()
        with socket.create_connection(listener.getsockname()) as line:
            for file in files:
                _receive(line, target / file.relative_to(source), file.stat().st_size)
        sender.join()


def _send(listener: socket.socket, files: list[Path]) -> None:
    line, _ = listener.accept()
    with line:
        for path in files:
            with path.open("rb") as file:
                line.sendfile(file)


def _receive(line: socket.socket, target: Path, size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with target.open("wb") as file:
        while size:
            count = line.recv_into(buffer[: min(size, _BUFFER_BYTES)])
            if count == 0:
                raise ConnectionError(f"the sender ended {size} bytes before the end of {target}")
            file.write(buffer[:count])
            size -= count
