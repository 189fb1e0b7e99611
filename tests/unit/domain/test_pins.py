# SPDX-License-Identifier: Apache-2.0
"""Pins: which models a name or pattern keeps, and until when."""

from __future__ import annotations

import pytest

from modelexpress.domain.errors import Invalid
from modelexpress.domain.pins import Pin
from modelexpress.domain.progress import format_bytes, parse_bytes

COMMIT = "abc1234" + "0" * 33


@pytest.mark.parametrize(
    ("pattern", "is_kept"),
    [
        ("org/name", True), ("org/*", True), ("*", True), ("*/name", True), ("org/nam?", True),
        ("org/name@main", True), ("org/name@v*", True), ("org/name@abc1234", True), (f"*@{COMMIT}", True),
        ("org", False), ("org/name2", False), ("ORG/name", False), ("org/name@dev", False),
        ("org/name@bc1234", False),
    ],
)  # fmt: skip
def test_a_pattern_keeps_what_it_says(pattern: str, is_kept: bool) -> None:
    assert Pin(pattern, 0.0).matches("org/name", COMMIT, ["main", "v1.0"]) is is_kept


def test_a_pin_with_a_day_is_over_after_it() -> None:
    assert not Pin("a", 0.0).is_over(1e12)
    assert [Pin("a", 0.0, until=10.0).is_over(now) for now in (9.0, 10.0, 11.0)] == [False, True, True]


@pytest.mark.parametrize("pattern", ["", " ", "a b", "a\n", "@x", "a@", "ü", "a\0", "x" * 301, "a@b c"])
def test_what_can_match_nothing_is_no_pattern(pattern: str) -> None:
    with pytest.raises(Invalid):
        Pin(pattern, 0.0)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1234", 1234), ("1234 bytes", 1234), ("5 B", 5), ("40GB", 40 * 1024**3),
        ("1.5TiB", 3 * 2**39),
        ("2 kb", 2048), (" 7m ", 7 * 1024**2), ("1p", 1024**5), ("12.00 KB", 12 * 1024),
    ],
)  # fmt: skip
def test_sizes_are_read_as_they_are_written(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 10**6, 5 * 1024**3])
def test_a_size_that_we_write_can_be_read_again(size: int) -> None:
    assert abs(parse_bytes(format_bytes(size)) - size) <= size / 100


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "1e9", "4 0", "1.GB", "1GBB", "1 zb", "\u0661", "1" * 30, "inf", "nan"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="no size"):
        parse_bytes(text)
