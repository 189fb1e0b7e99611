# SPDX-License-Identifier: Apache-2.0
"""Moving bytes between machines, and nothing else; the port says where they go."""

from modelexpress.transfer.addresses import Address
from modelexpress.transfer.arrivals import Arrivals
from modelexpress.transfer.lanes import Lanes
from modelexpress.transfer.memory import MemorySink, allocate
from modelexpress.transfer.port import Sink

__all__ = ["Address", "Arrivals", "Lanes", "MemorySink", "Sink", "allocate"]
