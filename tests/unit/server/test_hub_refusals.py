# SPDX-License-Identifier: Apache-2.0
"""How our errors are told to clients of a Hub."""

from __future__ import annotations

import pytest

from modelexpress.domain.errors import ALL_ERRORS, Limited, MxError
from modelexpress.server.http_status import HTTP_STATUS, Refusal
from modelexpress.server.hub import _refusal_of


@pytest.mark.parametrize("kind", sorted(ALL_ERRORS, key=lambda kind: kind.__name__))
def test_who_is_to_ask_again_is_told_when_at_both_doors(kind: type[MxError]) -> None:
    document, answer = _refusal_of(kind("why")), Refusal(kind("why")).answer()

    is_later = HTTP_STATUS[kind] == 503
    assert ("Retry-After" in document.headers) == ("Retry-After" in answer.headers) == is_later
    assert document.headers["X-Error-Message"] == "why"
    assert document.status == (429 if kind is Limited else HTTP_STATUS[kind])


def test_a_limit_that_names_its_time_keeps_it() -> None:
    assert _refusal_of(Limited("why", 6.2)).headers["Retry-After"] == "7"
