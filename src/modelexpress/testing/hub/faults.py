# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a Hub and its clients, on demand and reproducibly."""

from __future__ import annotations

import asyncio
import fnmatch
import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["api", "tree", "resolve", "body", "any"]
Action = Literal[
    "status", "reset", "truncate", "wrong_bytes", "throttle", "hold", "hang", "ignore_range", "etag"
]


_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


@dataclass(eq=False)
class Fault:
    """One rule. It applies to requests of `kind` (api, tree, resolve: before a redirect; body: where
    the bytes come from) whose file matches `path`, `times` times (None: always) with `chance`; if it names
    a `token`, to those with that one alone ("": those without any).

    status: answer `status` with `headers`. hang: no answer until `release`. reset: cut the connection
    before any answer or, with `after`, in the body at that byte of the file. The others are about
    bodies alone, and pass over other requests. truncate: an orderly close at byte `after`. wrong_bytes:
    flip the byte at `after`. hold: stop at byte `after` until `release`. throttle: `rate` bytes a
    second. ignore_range: send the whole file. etag: answer with another one.
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
    token: str | None = None
    applied: int = 0
    _released: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def release(self) -> None:
        """Let what is held or hangs go on; from any thread."""
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._released.set()
            else:
                self._loop.call_soon_threadsafe(self._released.set)

    async def wait_released(self) -> None:
        """Return as soon as it has been released."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
        await self._released.wait()

    def can_happen(self, kind: Kind, has_body: bool) -> bool:
        """Whether a request of `kind`, answered with a file's bytes if `has_body`, can show it."""
        if self.kind not in (kind, "any"):
            return False
        if self.action in ("status", "hang") or (self.action == "reset" and self.after == 0):
            return True
        return kind == "body" and (has_body or self.action == "etag")


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

    def take(
        self,
        kind: Kind,
        path: str,
        has_body: bool = True,
        asked_range: str | None = None,
        token: str | None = None,
    ) -> Fault | None:
        """The fault of a request that begins now; `asked_range`: its Range header."""
        for fault in self._rules:
            if not fault.can_happen(kind, has_body) or not fnmatch.fnmatchcase(path, fault.path):
                continue
            if fault.token is not None and fault.token != (token or ""):
                continue
            if fault.times is not None and fault.applied >= fault.times:
                continue
            if fault.action == "wrong_bytes" and not _is_in(fault.after, asked_range):
                continue
            if fault.chance < 1.0 and self._random.random() >= fault.chance:
                continue
            fault.applied += 1
            return fault
        return None


def _is_in(place: int, asked_range: str | None) -> bool:
    """True when a body of this range holds the byte at `place`; also for what is no range of two numbers."""
    found = _RANGE.fullmatch(asked_range or "")
    return found is None or int(found[1]) <= place <= int(found[2])
