# SPDX-License-Identifier: Apache-2.0
"""The one table from our errors to gRPC statuses."""

from __future__ import annotations

import grpc

from modelexpress.domain import errors
from modelexpress.domain.errors import MxError

CODE_KEY = "mx-error-code"
_MOST_DETAIL_BYTES = 4000  # trailers share 8 KiB with everything else

STATUS: dict[type[MxError], grpc.StatusCode] = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unsupported: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    # The origin's 401 too: the caller of this server is known well enough, it just may not.
    errors.Unauthenticated: grpc.StatusCode.PERMISSION_DENIED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NoRoom: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Limited: grpc.StatusCode.UNAVAILABLE,
    errors.Busy: grpc.StatusCode.UNAVAILABLE,
    errors.Corrupt: grpc.StatusCode.DATA_LOSS,
    errors.Unreachable: grpc.StatusCode.UNAVAILABLE,
    errors.StorageFailed: grpc.StatusCode.INTERNAL,
    # Not CANCELLED, which says that the client itself gave up.
    errors.Cancelled: grpc.StatusCode.ABORTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


def status_of(error: MxError) -> grpc.StatusCode:
    """The status of an error."""
    return STATUS.get(type(error), grpc.StatusCode.INTERNAL)


def detail_of(error: MxError) -> str:
    """The error's words as a status can carry them."""
    text = error.message.encode("utf-8", "backslashreplace").decode()
    left = _MOST_DETAIL_BYTES
    for number, character in enumerate(text):
        # On the wire everything but plain ASCII is percent-encoded: up to twelve bytes a character.
        left -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if left < 0:
            return text[:number] + "…"
    return text
