# SPDX-License-Identifier: Apache-2.0
"""Contract tests: subclass one for a new back end, and the port's promises are checked."""

from modelexpress.testing.contracts.provider import Origin, ProviderContract
from modelexpress.testing.contracts.table import TableContract

__all__ = ["Origin", "ProviderContract", "TableContract"]
