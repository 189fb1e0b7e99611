# SPDX-License-Identifier: Apache-2.0
"""When to ask again: waits grow, waits that the origin names are kept, and somebody gives up."""

from __future__ import annotations

import random
from collections.abc import Callable
from email.utils import formatdate

import pytest

from modelexpress.providers.retry import RetryPolicy, find_limit_wait, find_named_wait

NOW = 1_700_000_000.0


class Chance:
    """Always the same place between the two ends: 0.0 is the lower, 1.0 the upper."""

    def __init__(self, place: float) -> None:
        self._place = place

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._place


def test_waits_double_up_to_the_cap() -> None:
    policy = RetryPolicy(max_attempts=7, base_seconds=0.5, cap_seconds=5.0)

    assert [policy.wait_seconds(n, None, Chance(1.0)) for n in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]
    assert [policy.wait_seconds(n, None, Chance(0.0)) for n in range(1, 7)] == [0.25, 0.5, 1, 2, 2.5, 2.5]


def test_the_last_attempt_is_not_followed_by_another() -> None:
    policy = RetryPolicy(max_attempts=3)

    assert policy.wait_seconds(2, None, Chance(0.0)) is not None
    assert policy.wait_seconds(3, None, Chance(0.0)) is None
    assert policy.wait_seconds(3, 0.0, Chance(0.0)) is None
    assert RetryPolicy(max_attempts=1).wait_seconds(1, None, Chance(0.0)) is None


def test_a_named_wait_is_never_shortened() -> None:
    policy = RetryPolicy(base_seconds=0.5, cap_seconds=1.0, patience_seconds=120.0)

    assert policy.wait_seconds(1, 30.0, Chance(0.0)) == 30.25
    assert policy.wait_seconds(1, 120.0, Chance(1.0)) == 120.5


def test_a_wait_beyond_all_patience_is_not_begun() -> None:
    policy = RetryPolicy(patience_seconds=120.0)

    assert policy.wait_seconds(1, 120.5, Chance(0.0)) is None


@pytest.mark.prove
def test_no_wait_is_negative_or_longer_than_what_was_named_and_the_cap(
    proof_count: Callable[[int], int],
) -> None:
    for seed in range(proof_count(500)):
        chance = random.Random(seed)
        policy = RetryPolicy(
            chance.randrange(1, 40), chance.random(), chance.uniform(0.1, 60), chance.uniform(0, 600)
        )
        attempt, named = chance.randrange(1, 45), chance.choice([None, 0.0, chance.uniform(0, 900)])
        wait = policy.wait_seconds(attempt, named, chance)
        is_over = attempt >= policy.max_attempts or (named or 0.0) > policy.patience_seconds

        assert (wait is None) == is_over, seed
        assert wait is None or (named or 0.0) <= wait <= (named or 0.0) + policy.cap_seconds, seed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 17 ", 17.0),
        ("120", 120.0),
        ("9" * 400, 999_999_999.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(text: str, seconds: float) -> None:
    assert find_named_wait({"Retry-After": text}, NOW) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", "1.5", "1e3", "²", "Sun, 99 Foo 2023 10:00:00 GMT", ",,,"]
)
def test_a_retry_after_that_means_nothing_is_as_none(text: str) -> None:
    assert find_named_wait({"Retry-After": text}, NOW) is None
    assert find_named_wait({"Retry-After": text, "RateLimit": '"api";r=0;t=9'}, NOW) == 9.0


def test_retry_after_counts_before_the_rate_limit() -> None:
    assert find_named_wait({"Retry-After": "3", "RateLimit": '"api";r=0;t=9'}, NOW) == 3.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('"api";r=0;t=55', 55.0),
        ('"api" ; r = 0 ; t = 55', 55.0),
        ('"resolvers";t=8;r=0', 8.0),
        ('"api";r=12;t=55', None),
        ('"api";r=12;t=55, "pages";r=0;t=7', 7.0),
        ('"api";r=0', None),
        ('"api";t=55', None),
        ("", None),
        ("nonsense", None),
        ('"api";r=0;t=' + "9" * 400, 999_999_999.0),
    ],
)
def test_a_rate_limit_names_a_wait_only_where_nothing_is_left(text: str, seconds: float | None) -> None:
    assert find_limit_wait({"RateLimit": text}) == seconds


@pytest.mark.prove
def test_no_header_can_make_the_reading_fail(proof_count: Callable[[int], int]) -> None:
    letters = '0123456789:,-+ .()GMTSunNov;rt="/\\\udcffé²'
    for seed in range(proof_count(2000)):
        chance = random.Random(seed)
        texts = ["".join(chance.choices(letters, k=chance.randrange(30))) for _ in range(2)]
        wait = find_named_wait({"Retry-After": texts[0], "RateLimit": texts[1]}, NOW)

        assert wait is None or wait >= 0, texts
