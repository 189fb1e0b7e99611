# SPDX-License-Identifier: Apache-2.0
"""Pages of documentation with parts that are made from the code."""

from __future__ import annotations

from modelexpress.domain.errors import Invalid


def replace_between(page: str, mark: str, text: str) -> str:
    """`page` with `text` between its markers for `mark`. Raises Invalid when the page lacks them."""
    begin, end = f"<!-- begin {mark} -->", f"<!-- end {mark} -->"
    before, has_begin, rest = page.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise Invalid(f"the page lacks the markers {begin} and {end}: put them where the text belongs")
    return f"{before}{begin}\n{text}\n{end}{after}"
