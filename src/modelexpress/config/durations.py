# SPDX-License-Identifier: Apache-2.0
"""Durations as people write them, as whole seconds."""

from __future__ import annotations

import re
from fractions import Fraction

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown

MAX_SECONDS = 100 * 366 * 86_400

_UNITS: dict[str, Fraction | int] = {
    "w": 604_800, "wk": 604_800, "wks": 604_800, "week": 604_800, "weeks": 604_800,
    "d": 86_400, "day": 86_400, "days": 86_400,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600,
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1,
    "ms": Fraction(1, 1000), "milli": Fraction(1, 1000), "millis": Fraction(1, 1000),
}  # fmt: skip
_CALENDAR = frozenset({"y", "yr", "yrs", "year", "years", "mo", "mos", "month", "months"})
_NUMBER = r"\d{1,18}(?:\.\d{1,9})?"
_INTEGER = re.compile(r"\d{1,18}")
_SPAN = re.compile(rf"(?:{_NUMBER}\s*[a-z]+\s*,?\s*)+")
_SPAN_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)")
_ISO = re.compile(
    rf"p(?:({_NUMBER})w)?(?:({_NUMBER})d)?(?:t(?=\d)(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?)?"
)
_ISO_UNITS = (604_800, 86_400, 3600, 60, 1)
_HOW = "give seconds (90), a span (2h30m) or ISO 8601 (PT2H30M)"


def parse_duration(value: int | str) -> int:
    """Whole seconds of a number of seconds, a span like `2h30m`, or an ISO 8601 duration.

    Raises Invalid for negative ones, for months and years (their length varies), for fractions of a
    second, and beyond a century.
    """
    text = str(value).strip().lower()
    if text.startswith("-") or text.endswith("ago"):
        raise Invalid(f"duration {shown(text)} is negative: {_HOW}")
    seconds = _seconds(text)
    if seconds is None:
        raise Invalid(f"{shown(text)} is not a duration: {_HOW}")
    if seconds.denominator != 1:
        raise Invalid(f"duration {shown(text)} is not a whole number of seconds")
    if seconds > MAX_SECONDS:
        raise Invalid(f"duration {shown(text)} is longer than a century")
    return int(seconds)


def _seconds(text: str) -> Fraction | None:
    if len(text) > 200:
        return None
    if _INTEGER.fullmatch(text):
        return Fraction(text)
    if text.startswith("p"):
        return _iso_seconds(text)
    return _span_seconds(text) if _SPAN.fullmatch(text) else None


def _span_seconds(text: str) -> Fraction | None:
    total = Fraction(0)
    for number, unit in _SPAN_PART.findall(text):
        if unit in _CALENDAR:
            raise Invalid(f"duration {shown(text)} uses {shown(unit)}, whose length varies: use days")
        if unit not in _UNITS:
            return None
        total += Fraction(number) * _UNITS[unit]
    return total


def _iso_seconds(text: str) -> Fraction | None:
    if re.match(r"p[^t]*[ym]", text):
        raise Invalid(f"duration {shown(text)} uses years or months, whose length varies: use days")
    match = _ISO.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    return sum(
        (Fraction(n) * unit for n, unit in zip(match.groups(), _ISO_UNITS, strict=True) if n), Fraction(0)
    )
