# SPDX-License-Identifier: Apache-2.0
"""Files that are what their author published and that no loader will read. Blocking."""

from __future__ import annotations

import os
from pathlib import Path

from modelexpress.store.safetensors_header import (
    MOST_HEADER_BYTES,
    START_BYTES,
    find_header_problem,
    find_missing_shards,
    header_length,
)

_WEIGHTS, _INDEX = ".safetensors", ".safetensors.index.json"
# Of JSON that is parsed, at ten times its size in memory; real headers and indexes have a few MiB at most.
_MOST_PARSED_BYTES = 32 * 1024 * 1024


def find_flaw(path: Path, name: str, listed: frozenset[str]) -> str | None:
    """Why the file at `path`, `name` in a repository of the files `listed`, cannot be loaded.

    None: nothing is known against it; other formats than safetensors, and headers and indexes of more
    than 32 MiB, are not looked into.
    """
    if name.endswith(_INDEX):
        return _find_flaw_of_index(path, name, listed)
    return _find_flaw_of_weights(path) if name.endswith(_WEIGHTS) else None


def _find_flaw_of_weights(path: Path) -> str | None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(START_BYTES)
        length = header_length(start)
        if _MOST_PARSED_BYTES < length <= min(size, MOST_HEADER_BYTES):
            return None
        header = file.read(length) if length <= _MOST_PARSED_BYTES else b""
    return find_header_problem(start + header, size)


def _find_flaw_of_index(path: Path, name: str, listed: frozenset[str]) -> str | None:
    with path.open("rb") as file:
        content = file.read(_MOST_PARSED_BYTES + 1)
    if len(content) > _MOST_PARSED_BYTES:
        return None
    return find_missing_shards(content, name, listed)
