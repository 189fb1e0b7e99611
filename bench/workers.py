# SPDX-License-Identifier: Apache-2.0
"""Workers from outside: started, told what to do, measured together with the server they talk to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from bench.figures import Run
from bench.machine import busy_seconds, cpu_seconds, forget_peak, peak_bytes, wait_calm
from scripts.processes import clean_environment, end


@dataclass(frozen=True, slots=True)
class Order:
    """An act for a worker. `server` is the process that serves it, measured too."""

    act: str
    server: int
    words: dict[str, Any]


class Worker:
    """One process of `bench.worker`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def process(self) -> int:
        """Its number."""
        return self._process.pid

    def prepare(self, order: Order) -> None:
        """Return when everything is ready for the clock."""
        self._tell(json.dumps({"act": order.act, **order.words}))
        self._hear()

    def go(self) -> None:
        """Start the clock."""
        self._tell("")

    def hear_measured(self) -> dict[str, float]:
        """What the act took."""
        return self._hear()

    def clean_up(self) -> dict[str, float]:
        """Let it sync and clean up; what that took."""
        self._tell("")
        return self._hear()

    def run(self, order: Order, calm_seconds: float = 0.0) -> Run:
        """One measurement; it waits so long for others on the machine to be quiet."""
        self.prepare(order)
        wait_calm(calm_seconds)
        forget_peak(order.server)
        before, busy = cpu_seconds(order.server), busy_seconds()
        self.go()
        took = self.hear_measured()
        server_cpu, server_peak = cpu_seconds(order.server) - before, peak_bytes(order.server)
        others = busy_seconds() - busy - server_cpu - took["cpu"]
        fsync = self.clean_up()["fsync_seconds"]
        return Run(
            took["seconds"], took["cpu"], server_cpu, int(took["peak"]), server_peak, fsync, max(others, 0.0)
        )

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker has ended; see its words above")
        heard: dict[str, float] = json.loads(line)
        return heard


@contextmanager
def worker(**environment: str) -> Iterator[Worker]:
    """A worker, ended in every case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(**environment),
        start_new_session=True,
    )
    try:
        yield Worker(process)
    finally:
        end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def workers(count: int) -> Iterator[list[Worker]]:
    """Several of them."""
    with ExitStack() as stack:
        yield [stack.enter_context(worker()) for _ in range(count)]


def run_together(staff: Sequence[Worker], orders: Sequence[Order]) -> Run:
    """All at once; the clock stops when the last has ended. The origin's work counts as that of others."""
    for one, order in zip(staff, orders, strict=True):
        one.prepare(order)
    server = orders[0].server
    forget_peak(server)
    before, busy, started = cpu_seconds(server), busy_seconds(), time.perf_counter()
    for one in staff:
        one.go()
    took = [one.hear_measured() for one in staff]
    seconds = time.perf_counter() - started
    client_cpu, server_cpu = sum(one["cpu"] for one in took), cpu_seconds(server) - before
    others = max(busy_seconds() - busy - client_cpu - server_cpu, 0.0)
    client_peak = int(max(one["peak"] for one in took))
    run = Run(seconds, client_cpu, server_cpu, client_peak, peak_bytes(server), None, others)
    for one in staff:
        one.clean_up()
    return run
