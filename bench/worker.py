# SPDX-License-Identifier: Apache-2.0
"""A process that does what it is told, one act a line, and tells what it took: the client's side.

`{"act": NAME, ...}` prepares, answers `{"ready": true}`, waits for a line, acts, answers with the
measurement, waits for another line and cleans up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.acts import Acts
from bench.machine import cpu_seconds, forget_peak, peak_bytes


class LateSync:
    """While it is entered, fsync is noted and not done; `carry_out` does it and tells how long it took."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Every fsync of this process waits for `carry_out`."""
        before = os.fsync

        def note(file: int) -> None:
            self._descriptors.append(os.dup(file))

        os.fsync = note  # type: ignore[assignment]
        try:
            yield
        finally:
            os.fsync = before

    def note_file(self, path: Path) -> None:
        """A file that somebody wrote without any fsync."""
        self._descriptors.append(os.open(path, os.O_RDONLY))

    def carry_out(self) -> float:
        """Do what was noted."""
        started = time.perf_counter()
        for descriptor in self._descriptors:
            os.fsync(descriptor)
            os.close(descriptor)
        self._descriptors.clear()
        return time.perf_counter() - started


def main() -> None:
    """Obey until standard input ends."""
    acts = Acts()
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        with acts.prepared(order.pop("act"), order) as prepared:
            _say({"ready": True})
            sys.stdin.readline()
            sync = LateSync()
            with sync.noting():
                measured = _measure(prepared.act)
            measured["peak"] -= prepared.own_bytes
            _say(measured)
            sys.stdin.readline()
            for path in prepared.files():
                sync.note_file(path)
            fsync_seconds = sync.carry_out()
        _say({"fsync_seconds": fsync_seconds})


def _measure(act: object) -> dict[str, float]:
    assert callable(act)
    me = os.getpid()
    forget_peak(me)
    cpu, started = cpu_seconds(me), time.perf_counter()
    said = act()
    seconds = time.perf_counter() - started
    measured = {"seconds": seconds, "cpu": cpu_seconds(me) - cpu, "peak": peak_bytes(me)}
    return measured | (said if isinstance(said, dict) else {})


def _say(document: Mapping[str, object]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
