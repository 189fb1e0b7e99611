# SPDX-License-Identifier: Apache-2.0
"""What a real client of the Hub does, case by case; the same program for every client and every Hub."""

from tests.support.conformance import (
    access,
    commands,
    files,
    filesystem,
    interrupted,
    kinds,
    listings,
    loading,
    snapshots,
)
from tests.support.conformance.registry import CASES

__all__ = [
    "CASES",
    "access",
    "commands",
    "files",
    "filesystem",
    "interrupted",
    "kinds",
    "listings",
    "loading",
    "snapshots",
]
