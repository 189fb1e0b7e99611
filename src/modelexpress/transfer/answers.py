# SPDX-License-Identifier: Apache-2.0
"""What a data plane's answer to a ranged GET means. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from modelexpress.domain.errors import Busy, Corrupt, Forbidden, MxError, NotFound, Unreachable
from modelexpress.domain.spans import ByteSpan

_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_MAY_PASS = frozenset({404, 408, 425, 429, 500, 502, 503, 504})
_LATEST_DIGITS = 6  # of a Retry-After that is read


class Broken(Exception):
    """An exchange did not work and another may. `reason` names no secret.

    `is_stall`: the request was accepted and then no byte came. `wait_seconds`: what the server named.
    """

    def __init__(self, reason: str, is_stall: bool = False, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_stall = is_stall
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer; names in lower case, what is said twice is joined by a comma."""

    status: int
    headers: Mapping[str, str]

    @property
    def is_last(self) -> bool:
        """True when the server ends the connection after this answer."""
        return self.headers.get("connection", "").lower() == "close"


def parse_head(head: bytes) -> Head:
    """Read a head up to and with its empty line. Raises Broken when it is not one of HTTP/1."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise Broken("it does not answer in HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise Broken("it answers with a broken header")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(int(found[1]), headers)


def check_head(head: Head, span: ByteSpan, size: int, where: str) -> None:
    """Return when exactly `span` of a file of `size` bytes follows.

    Raises Broken when it may another time, Forbidden and NotFound for a ticket that is no longer
    good, Busy, Corrupt for other bytes than were asked for, and Unreachable for everything else.
    """
    if head.status not in (200, 206):
        raise _refusal(head, where)
    is_right = head.headers.get("content-length") == str(span.length)
    if head.status == 206:
        asked = f"bytes {span.start}-{span.end - 1}/{size}"
        is_right = is_right and head.headers.get("content-range") == asked
    else:
        is_right = is_right and span == ByteSpan(0, size)
    is_plain = head.headers.get("content-encoding", "identity").lower() == "identity"
    if not is_right or not is_plain or "transfer-encoding" in head.headers:
        raise Corrupt(
            f"the data plane at {where} answers with other bytes than {span.start}..{span.end} of {size};"
            " the file may have changed there: ask for its manifest again"
        )


def _refusal(head: Head, where: str) -> Exception:
    if head.status == 404 and head.headers.get("mx-error-code") == NotFound.code:
        return NotFound(f"the server at {where} was to get this file, and its origin does not have it")
    refused = _final_refusal(head.status, f"the data plane at {where}")
    if refused is not None:
        return refused
    if head.status in _MAY_PASS or head.status >= 500:
        return Broken(f"it answers {head.status}", wait_seconds=_named_wait(head))
    return Unreachable(
        f"something at {where} answers {head.status} where a data plane was announced;"
        " check the address and what stands in between"
    )


def _final_refusal(status: int, where: str) -> MxError | None:
    if status == 403:
        return Forbidden(f"{where} does not accept the ticket of this file; ask the server for a new one")
    if status == 410:
        return NotFound(f"{where} no longer has this file under this ticket; ask the server again")
    if status == 409:
        return Busy(f"{where} cannot serve this file now; try again later")
    if status == 416:
        return Corrupt(f"{where} has a shorter file than was announced; ask for its manifest again")
    return None


def _named_wait(head: Head) -> float:
    text = head.headers.get("retry-after", "")
    return float(text[:_LATEST_DIGITS]) if text.isdecimal() and text.isascii() else 0.0
