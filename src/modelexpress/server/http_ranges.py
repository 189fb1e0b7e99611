# SPDX-License-Identifier: Apache-2.0
"""What a GET or HEAD of one file asks for by its headers, as RFC 9110 has it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelexpress.domain.spans import ByteSpan

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,100})-([0-9]{0,100})[ \t]*", re.IGNORECASE)
_TAG = re.compile(r'(W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Wanted:
    """The status of the answer, and the bytes that are its body (none of them for 304, 412 and 416)."""

    status: int
    span: ByteSpan


def choose_bytes(method: str, headers: Mapping[str, str], etag: str, size: int) -> Wanted:
    """What to answer for a file of `size` bytes with the strong validator `etag` (in quotes).

    Several ranges, and ranges that cannot be read, are answered with the whole file.
    """
    nothing = ByteSpan(0, 0)
    if "If-Match" in headers and not _is_listed(headers["If-Match"], etag, is_weak_enough=False):
        return Wanted(412, nothing)
    if "If-None-Match" in headers and _is_listed(headers["If-None-Match"], etag, is_weak_enough=True):
        return Wanted(304, nothing)
    is_ranged = method == "GET" and "Range" in headers and headers.get("If-Range", etag).strip() == etag
    found = _RANGE.fullmatch(headers["Range"].strip()) if is_ranged else None
    if found is None:
        return Wanted(200, ByteSpan(0, size))
    return _choose_range(found[1], found[2], size)


def _choose_range(first: str, last: str, size: int) -> Wanted:
    whole = Wanted(200, ByteSpan(0, size))
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return whole
    elif last:
        start, end = max(size - int(last), 0), size
        if size == 0 and int(last) > 0:
            return whole
    else:
        return whole
    if start >= size:
        return Wanted(416, ByteSpan(0, 0))
    return Wanted(206, ByteSpan(start, end))


def _is_listed(header: str, etag: str, is_weak_enough: bool) -> bool:
    return header.strip() == "*" or etag in _tags(header, is_weak_enough)


def _tags(header: str, is_weak_enough: bool) -> Iterator[str]:
    return (tag for weak, tag in _TAG.findall(header) if is_weak_enough or not weak)
