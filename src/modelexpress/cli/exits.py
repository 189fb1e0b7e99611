# SPDX-License-Identifier: Apache-2.0
"""The one table from what went wrong to what the shell is told."""

from __future__ import annotations

from modelexpress.domain.errors import (
    Busy,
    Cancelled,
    Corrupt,
    Forbidden,
    Internal,
    Invalid,
    Limited,
    MxError,
    NoRoom,
    NotFound,
    StorageFailed,
    Unauthenticated,
    Unreachable,
    Unsupported,
)

OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130
TERMINATED = 143

EXITS: dict[type[MxError], int] = {
    Invalid: FAILED,
    Unsupported: FAILED,
    NotFound: FAILED,
    Unauthenticated: FAILED,
    Forbidden: FAILED,
    NoRoom: FAILED,
    Limited: FAILED,
    Busy: FAILED,
    Corrupt: FAILED,
    Unreachable: FAILED,
    StorageFailed: FAILED,
    Cancelled: FAILED,
    Internal: FAILED,
}

STATUSES: dict[int, str] = {
    OK: "done; also when there was nothing to do, or when you answered no",
    FAILED: "it could not be done, or something that was checked is damaged; the error says why",
    USAGE: "the command line itself cannot be understood; nothing was done",
    INTERRUPTED: "stopped by Ctrl-C",
    TERMINATED: "stopped by SIGTERM; a server that was told to stop ends with 0",
}
