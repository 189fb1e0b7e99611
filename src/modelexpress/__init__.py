# SPDX-License-Identifier: Apache-2.0
"""ModelExpress: pull a model once, keep it, prove it, hand it on.

`Client` and `AsyncClient` are the library's front. Importing this package starts nothing and loads
nothing: no thread, no gRPC, no CUDA.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelexpress.compose.clients import AsyncClient, Client
    from modelexpress.domain.selection import Selection

__version__ = "1.0.0"

__all__ = ["AsyncClient", "Client", "Selection", "__version__"]

_HOMES = {
    "AsyncClient": "modelexpress.compose.clients",
    "Client": "modelexpress.compose.clients",
    "Selection": "modelexpress.domain.selection",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
