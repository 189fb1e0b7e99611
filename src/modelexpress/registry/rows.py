# SPDX-License-Identifier: Apache-2.0
"""Walking a table page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator

from modelexpress.registry.port import Row, Table

_PAGE = 500


async def scan_all(table: Table, prefix: str) -> AsyncIterator[Row]:
    """Every row under `prefix` in key order; rows that come and go meanwhile may be missed or seen."""
    after = ""
    while True:
        page = await table.scan(prefix, after, _PAGE)
        for row in page:
            yield row
        if len(page) < _PAGE:
            return
        after = page[-1].key
