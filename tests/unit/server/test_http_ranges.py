# SPDX-License-Identifier: Apache-2.0
"""What a GET or HEAD asks for by its headers, against slicing and the words of RFC 9110."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.domain.errors import ALL_ERRORS, MxError
from modelexpress.domain.spans import ByteSpan
from modelexpress.server.http_ranges import Wanted, choose_bytes
from modelexpress.server.http_status import HTTP_STATUS

ETAG = '"abc"'
NUMBERS = st.integers(0, 40)
WHOLE = Wanted(200, ByteSpan(0, 30))
PART = Wanted(206, ByteSpan(1, 3))


def choose(size: int, method: str = "GET", **headers: str) -> Wanted:
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return choose_bytes(method, named, ETAG, size)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_range_with_both_ends_is_a_slice(size: int, first: int, last: int) -> None:
    wanted = choose(size, range=f"bytes={first}-{last}")

    if last < first:
        assert wanted == Wanted(200, ByteSpan(0, size))
    elif first >= size:
        assert wanted == Wanted(416, ByteSpan(0, 0))
    else:
        assert wanted == Wanted(206, ByteSpan(first, first + len(range(size)[first : last + 1])))


@given(NUMBERS, NUMBERS)
def test_a_range_without_an_end_is_what_follows(size: int, first: int) -> None:
    expected = Wanted(206, ByteSpan(first, size)) if first < size else Wanted(416, ByteSpan(0, 0))

    assert choose(size, range=f"bytes={first}-") == expected


@given(st.integers(1, 40), NUMBERS)
def test_a_suffix_is_what_is_last(size: int, count: int) -> None:
    span = ByteSpan(size - len(range(size)[-count:]), size) if count else ByteSpan(0, 0)

    assert choose(size, range=f"bytes=-{count}") == Wanted(206 if count else 416, span)


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_no_text_in_a_range_breaks_anything(text: str) -> None:
    wanted = choose(30, range=text)

    assert wanted.status in (200, 206, 416) and wanted.span.end <= 30


@pytest.mark.parametrize(
    "text",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,4-5", "items=0-1", "bytes=٣-", "bytes=-1-2"],
)
def test_what_is_no_single_range_means_the_whole_file(text: str) -> None:
    assert choose(30, range=text) == WHOLE


def test_numbers_beyond_all_measure_are_numbers() -> None:
    huge = "9" * 99

    assert choose(30, range=f"bytes=1-{huge}") == Wanted(206, ByteSpan(1, 30))
    assert choose(30, range=f"bytes=-{huge}") == Wanted(206, ByteSpan(0, 30))
    assert choose(30, range=f"bytes={huge}-").status == 416
    assert choose(30, range=f"bytes=1-{'9' * 5000}") == WHOLE


def test_the_last_bytes_of_an_empty_file_are_the_whole_of_it() -> None:
    assert choose(0, range="bytes=-5") == Wanted(200, ByteSpan(0, 0))
    assert choose(0, range="bytes=0-") == Wanted(416, ByteSpan(0, 0))


def test_a_range_is_for_get_alone() -> None:
    assert choose(30, method="HEAD", range="bytes=1-2") == WHOLE


@pytest.mark.parametrize(
    ("tags", "is_match"),
    [("*", True), (ETAG, True), (f'"x", {ETAG}', True), (f"W/{ETAG}", False), ('"x"', False), ("abc", False)],
)
def test_if_match_compares_strongly(tags: str, is_match: bool) -> None:
    assert choose(30, if_match=tags).status == (200 if is_match else 412)


@pytest.mark.parametrize(
    ("tags", "is_match"), [("*", True), (f'"x",W/{ETAG}', True), (ETAG, True), ('"x"', False), ("", False)]
)
def test_if_none_match_compares_weakly_and_goes_before_the_range(tags: str, is_match: bool) -> None:
    assert choose(30, if_none_match=tags, range="bytes=99-").status == (304 if is_match else 416)


@pytest.mark.parametrize(
    ("validator", "wanted"),
    [(ETAG, PART), (f"W/{ETAG}", WHOLE), ('"x"', WHOLE), ("Wed, 21 Oct 2015 07:28:00 GMT", WHOLE)],
)
def test_if_range_of_another_file_brings_the_whole_one(validator: str, wanted: Wanted) -> None:
    assert choose(30, if_range=validator, range="bytes=1-2") == wanted


def test_the_table_of_http_statuses_forgets_no_error() -> None:
    assert set(HTTP_STATUS) == set(ALL_ERRORS) == set(MxError.__subclasses__())
