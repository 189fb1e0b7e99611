# SPDX-License-Identifier: Apache-2.0
"""A server's client: lets it have a model, and makes that model readable on this machine."""

from modelexpress.client.async_client import AsyncClient
from modelexpress.client.results import LocalModel, ReceivedModel, ServerHealth, ServerPulled, Transfer
from modelexpress.client.sync_client import SyncClient
from modelexpress.client.through import LocalSide
from modelexpress.domain.strategy import Strategy

__all__ = [
    "AsyncClient",
    "LocalModel",
    "LocalSide",
    "ReceivedModel",
    "ServerHealth",
    "ServerPulled",
    "Strategy",
    "SyncClient",
    "Transfer",
]
