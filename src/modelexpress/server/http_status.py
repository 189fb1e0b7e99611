# SPDX-License-Identifier: Apache-2.0
"""The one table from our errors to HTTP statuses, and an answer that is no file."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from modelexpress.domain import errors
from modelexpress.domain.errors import MxError

CODE_HEADER = "MX-Error-Code"
COMMON_HEADERS = {"Server": "modelexpress", "Cache-Control": "no-store"}
_AGAIN_SECONDS = 1

HTTP_STATUS: dict[type[MxError], int] = {
    errors.Invalid: 400,
    errors.Unsupported: 501,
    errors.NotFound: 404,
    # The origin's 401 too: there is nothing that the caller of this server could log in to.
    errors.Unauthenticated: 403,
    errors.Forbidden: 403,
    errors.NoRoom: 507,
    errors.Limited: 503,
    errors.Busy: 503,
    errors.Corrupt: 502,
    errors.Unreachable: 502,
    errors.StorageFailed: 500,
    errors.Cancelled: 503,
    errors.Internal: 500,
}


class Refusal(Exception):
    """A request that is answered with an error; `status` where it is not the table's for that error."""

    def __init__(
        self, error: MxError, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.status = status or HTTP_STATUS.get(type(error), 500)
        again = {"Retry-After": str(_AGAIN_SECONDS)} if self.status == 503 else {}
        self.headers = {**again, **(headers or {})}

    def answer(self) -> web.Response:
        """The error's words as plain text, its code in a header."""
        return text_answer(self.status, self.error.message, {CODE_HEADER: self.error.code, **self.headers})


def text_answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """One line of plain text."""
    body = text.encode("utf-8", "backslashreplace") + b"\n"
    return web.Response(
        status=status,
        body=body,
        headers={**COMMON_HEADERS, **(headers or {})},
        content_type="text/plain",
        charset="utf-8",
    )
