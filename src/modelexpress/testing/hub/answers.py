# SPDX-License-Identifier: Apache-2.0
"""The forms that answers have: refusals with the words of the real Hub, and rows in pages."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from modelexpress.testing.hub.log import Request

_NUMBER = re.compile(r"[0-9]{1,9}")


def error(status: int, code: str, message: str) -> web.Response:
    """A refusal that names its reason as clients look for it."""
    # What was asked for may hold anything, a header may not.
    headers = {"X-Error-Message": "".join(c if c.isprintable() and c.isascii() else "?" for c in message)}
    if code:
        headers["X-Error-Code"] = code
    return web.json_response({"error": message}, status=status, headers=headers)


def no_such_page() -> web.Response:
    """What is said of an address that means nothing."""
    return web.Response(status=404, text="no such page")


def noted(entry: Request, response: web.StreamResponse) -> web.StreamResponse:
    """The response, with its status in the log."""
    entry.status = response.status
    return response


def cursor_page(request: web.Request, rows: list[dict[str, Any]], size: int) -> web.Response:
    """`size` rows from where the cursor says, with a link to those that follow."""
    start = find_number(request, "cursor", 0)
    if start is None:
        return error(400, "", "Invalid cursor")
    return _page(request, rows, (start, start + size), {"cursor": start + size})


def numbered_page(request: web.Request, rows: list[dict[str, Any]], size: int) -> web.Response:
    """Page `p` of the rows, with how many there are and a link to the next one."""
    number = find_number(request, "p", 0)
    if number is None:
        return error(400, "", "Invalid page")
    answer = _page(request, rows, (number * size, (number + 1) * size), {"p": number + 1})
    answer.headers["X-Total-Count"] = str(len(rows))
    return answer


def find_number(request: web.Request, name: str, default: int) -> int | None:
    """The number called `name` in the query, or `default`; None for what is no number."""
    text = request.query.get(name, str(default))
    return int(text) if _NUMBER.fullmatch(text) else None


def find_size(request: web.Request, largest: int, default: int) -> int | None:
    """How many rows a page is to have; None for what is no such number."""
    limit = find_number(request, "limit", default)
    return min(limit, largest) if limit else None


def is_true(text: str | None) -> bool:
    """Whether a value in a query means yes."""
    return (text or "").lower() in ("true", "1")


def _page(
    request: web.Request, rows: list[dict[str, Any]], span: tuple[int, int], following: dict[str, int]
) -> web.Response:
    start, end = span
    headers = {}
    if end < len(rows):
        headers["Link"] = f'<{request.url.update_query(following)}>; rel="next"'
    return web.json_response(rows[start:end], headers=headers)
