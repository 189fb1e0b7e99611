# SPDX-License-Identifier: Apache-2.0
"""Durations are read as people and other versions write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.config.durations import MAX_SECONDS, parse_duration
from modelexpress.domain.errors import Invalid


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0),
        (90, 90),
        ("90", 90),
        (" 45s ", 45),
        ("30m", 1800),
        ("2h", 7200),
        ("1d", 86_400),
        ("2h30m", 9000),
        ("2h 30m", 9000),
        ("2 hours, 30 minutes", 9000),
        ("1.5h", 5400),
        ("2000ms", 2),
        ("1w", 604_800),
        ("PT2H30M", 9000),
        ("p1dt1s", 86_401),
        ("P1W", 604_800),
        ("PT1.5M", 90),
    ],
)
def test_every_way_to_write_a_duration_is_read(text: int | str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (-1, "negative"),
        ("-5s", "negative"),
        ("-PT5S", "negative"),
        ("2h ago", "negative"),
        ("1mo", "length varies"),
        ("1 year", "length varies"),
        ("P1M", "length varies"),
        ("P1Y", "length varies"),
        ("500ms", "whole number"),
        ("PT0.5S", "whole number"),
        ("200 years ago", "negative"),
        ("99999w", "century"),
        ("", "not a duration"),
        ("soon", "not a duration"),
        ("5x", "not a duration"),
        ("P", "not a duration"),
        ("PT", "not a duration"),
        ("1:30", "not a duration"),
        ("9" * 5000, "not a duration"),
    ],
)
def test_what_is_no_duration_is_refused_with_its_reason(text: int | str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as caught:
        parse_duration(text)
    assert len(caught.value.message) < 300


@given(st.integers(0, MAX_SECONDS))
def test_seconds_survive_being_written_as_a_span(seconds: int) -> None:
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    assert parse_duration(f"{hours}h{minutes}m{left}s") == seconds
    assert parse_duration(f"PT{hours}H{minutes}M{left}S") == seconds


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except Invalid as error:
        assert error.message.isascii() or "…" in error.message
