# SPDX-License-Identifier: Apache-2.0
"""Where weights come from: the port, and one file per kind of origin (loaded by compose alone)."""

from modelexpress.providers.port import HubProvider, OnVersion, Provider, ignore_version

__all__ = ["HubProvider", "OnVersion", "Provider", "ignore_version"]
