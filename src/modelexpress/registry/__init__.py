# SPDX-License-Identifier: Apache-2.0
"""Who fetches, who holds: meanings written once over a small table port (back ends: compose alone)."""

from modelexpress.registry.claims import Claim, Claims
from modelexpress.registry.holdings import Holding, Holdings
from modelexpress.registry.port import Row, Table
from modelexpress.registry.sessions import Session, Sessions

__all__ = ["Claim", "Claims", "Holding", "Holdings", "Row", "Session", "Sessions", "Table"]
