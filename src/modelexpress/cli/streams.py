# SPDX-License-Identifier: Apache-2.0
"""The standard streams where they are closed, full, or read by nobody any more."""

from __future__ import annotations

import os
import sys

_STANDARD = range(3)


def open_closed() -> None:
    """Let each standard stream that is closed lead nowhere: else a model's file could get its number.

    What is written to standard error, also by libraries, would then be written into that file.
    """
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - as long as the process
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def settle() -> None:
    """Write what is still to be written; what cannot be is dropped.

    Python would try again at its end, and make an exit status of its own out of the failure.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
