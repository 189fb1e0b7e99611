# SPDX-License-Identifier: Apache-2.0
"""What the Hub's refusals mean."""

from __future__ import annotations

import aiohttp

from modelexpress.domain.errors import Forbidden, MxError, NotFound, Unauthenticated, Unreachable


def raise_for_status(response: aiohttp.ClientResponse, what: str, has_token: bool, base: str) -> None:
    """Raise what a status of 400 or more says about `what` at the Hub `base`."""
    if response.status < 400:
        return
    error = _error_for(response, what, has_token, base)
    if not isinstance(error, Unreachable):
        error.hub_status, error.hub_code = response.status, response.headers.get("X-Error-Code", "")[:100]
    raise error


def _error_for(response: aiohttp.ClientResponse, what: str, has_token: bool, base: str) -> MxError:
    code = response.headers.get("X-Error-Code", "")
    status = response.status
    if code == "GatedRepo":
        kind = Forbidden if has_token else Unauthenticated
        return kind(f"{what} is gated: ask for access at {base}, and give a token that has it (HF_TOKEN)")
    if status == 401 or code == "RepoNotFound":
        if has_token and code == "RepoNotFound":
            return NotFound(f"{what} does not exist at {base}, or the token may not see it; check the name")
        return Unauthenticated(
            f"{what} does not exist at {base}, or it is private and needs a token "
            f"{'that may read it' if has_token else '(HF_TOKEN)'}"
        )
    if status == 403:
        return Forbidden(f"{base} does not let this token read {what}")
    if status in (404, 410):
        missing = {"RevisionNotFound": "the revision", "EntryNotFound": "the file"}.get(code, "it")
        return NotFound(f"{what}: {missing} does not exist at {base}")
    said = f"{base} answers {status} {response.reason} for {what}"
    return Unreachable(said, has_answered=status < 500)
