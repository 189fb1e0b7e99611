# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, as one tree; each class has a stable code that crosses every door.

MxError
├── Invalid          the request or a setting cannot mean anything
├── Unsupported      understood, but this version or provider does not do it
├── NotFound         the model, revision, file or record does not exist
├── Unauthenticated  no token, or one the origin rejects
├── Forbidden        a valid identity without the right, or a place we refuse to go
├── NoRoom           the bytes do not fit the disk or the budget
├── Limited          asked to slow down, by the origin or by us
├── Busy             somebody else holds what this needs; try again
├── Corrupt          bytes that do not match their digest
├── Unreachable      an origin, a server or a registry that does not answer
├── StorageFailed    our own disk refused: read-only, vanished, input/output error
├── Cancelled        stopped on purpose before it was finished
└── Internal         a defect of ours
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class MxError(Exception):
    """Base of all domain errors. The message names the thing, the cause and the next step.

    `hub_status`, `hub_code`: where a Hub refused, its status and its word for why, if it said one.
    """

    code: ClassVar[str] = "Internal"
    hub_status: int = 0
    hub_code: str = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(MxError):
    """The request or a setting cannot mean anything; asking again will not help.

    `is_loop`: what cannot be is an origin whose address leads back to the server that asks.
    """

    code = "Invalid"

    def __init__(self, message: str, is_loop: bool = False) -> None:
        super().__init__(message)
        self.is_loop = is_loop


class Unsupported(MxError):
    """Understood, but this version, provider or build does not do it."""

    code = "Unsupported"


class NotFound(MxError):
    """The model, revision, file or record does not exist."""

    code = "NotFound"


class Unauthenticated(MxError):
    """No credentials where some are needed, or credentials that were rejected."""

    code = "Unauthenticated"


class Forbidden(MxError):
    """A known identity without the right, or an address that is never contacted.

    `is_nonsense`: it is no refusal; who answers in an origin's place leads there.
    """

    code = "Forbidden"

    def __init__(self, message: str, is_nonsense: bool = False) -> None:
        super().__init__(message)
        self.is_nonsense = is_nonsense


class NoRoom(MxError):
    """The bytes do not fit the disk or the budget."""

    code = "NoRoom"


class Limited(MxError):
    """Asked to slow down. `retry_after_seconds` is what the other side named, if it did.

    `limits`: the headers in which it said what its limits are.
    """

    code = "Limited"

    def __init__(
        self,
        message: str,
        retry_after_seconds: float | None = None,
        limits: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.limits = dict(limits)


class Busy(MxError):
    """Somebody else holds what this needs; try again later."""

    code = "Busy"


class Corrupt(MxError):
    """Bytes that do not match the digest the origin vouches for.

    `is_nonsense`: an answer that no origin gives; something else answers in its place.
    """

    code = "Corrupt"

    def __init__(self, message: str, is_nonsense: bool = False) -> None:
        super().__init__(message)
        self.is_nonsense = is_nonsense


class Unreachable(MxError):
    """An origin, a server or a registry that does not answer.

    `address`: what alone is known to have no good answer; empty: that is not known. `is_gone`: nobody is
    there at all, whatever is asked. `has_answered`: it is well, and has no answer to what was asked here.
    `retry_after_seconds`: what it named, if it did.
    """

    code = "Unreachable"

    def __init__(
        self,
        message: str,
        address: str = "",
        is_gone: bool = False,
        has_answered: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.address = address
        self.retry_after_seconds = retry_after_seconds
        self.is_gone = is_gone
        self.has_answered = has_answered


class StorageFailed(MxError):
    """Our own disk refused: read-only, vanished, no permission, input/output error."""

    code = "StorageFailed"


class Cancelled(MxError):
    """Stopped on purpose before it was finished."""

    code = "Cancelled"


class Internal(MxError):
    """A defect of ours, reported with what is known."""

    code = "Internal"


def is_nonsense(error: MxError) -> bool:
    """Whether something else has answered in an origin's place: that says nothing of what was asked."""
    return isinstance(error, Corrupt | Forbidden) and error.is_nonsense


ALL_ERRORS: tuple[type[MxError], ...] = tuple(MxError.__subclasses__())

BY_CODE: dict[str, type[MxError]] = {kind.code: kind for kind in ALL_ERRORS}
