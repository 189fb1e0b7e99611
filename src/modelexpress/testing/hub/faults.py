# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a Hub and its clients, on demand and reproducibly."""

from __future__ import annotations

import asyncio
import fnmatch
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["api", "tree", "resolve", "body", "any"]
Action = Literal[
    "status", "reset", "truncate", "wrong_bytes", "throttle", "hold", "hang", "ignore_range", "etag"
]


@dataclass(eq=False)
class Fault:
    """One rule. It applies to requests of `kind` (api, tree, resolve: before a redirect; body: where
    the bytes come from) whose file matches `path`, `times` times (None: always) with `chance`.

    status: answer `status` with `headers`. reset: cut the connection after `after` body bytes (0:
    before any answer). truncate: the same, but an orderly close. wrong_bytes: flip the byte at
    `after`. throttle: `rate` bytes a second. hold: stop after `after` bytes until `release`. hang:
    never answer. ignore_range: send the whole file. etag: answer with another one.
    """

    action: Action
    kind: Kind = "any"
    path: str = "*"
    times: int | None = 1
    chance: float = 1.0
    after: int = 0
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    rate: int = 0
    applied: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let a held body go on."""
        self.released.set()


class Faults:
    """The rules of one hub, tried in order; the first that applies is the fault of a request."""

    def __init__(self, seed: int = 0) -> None:
        self._rules: list[Fault] = []
        self._random = random.Random(seed)

    def add(self, fault: Fault) -> Fault:
        """Add a rule and return it."""
        self._rules.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all rules and release what is held."""
        for fault in self._rules:
            fault.release()
        self._rules.clear()

    def take(self, kind: Kind, path: str) -> Fault | None:
        """The fault of a request that begins now."""
        for fault in self._rules:
            if fault.kind not in (kind, "any") or not fnmatch.fnmatchcase(path, fault.path):
                continue
            if fault.times is not None and fault.applied >= fault.times:
                continue
            if fault.chance < 1.0 and self._random.random() >= fault.chance:
                continue
            fault.applied += 1
            return fault
        return None
