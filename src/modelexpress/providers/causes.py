# SPDX-License-Identifier: Apache-2.0
"""Why a request failed, in words that anybody may read: addresses and heads hold passwords and signatures."""

from __future__ import annotations

import os
import re

import aiohttp

from modelexpress.domain.refs import shown

_SECRET = re.compile(r"[?#].*|(?<=//)[^/?#]*@", re.DOTALL)


def cause_of(error: Exception) -> str:
    """What went wrong; nothing of what was asked, nor of the bytes of an answer.

    The text of an error of aiohttp is never it: it may be the address, the proxy's too, or a line of a head.
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answers {error.status} {shown(error.message)}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the head of its answer is no HTTP that can be read ({error.status})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection before its answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body of its answer broke off, or cannot be read"
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error)  # a host and a port, and what the system says
    if isinstance(error, aiohttp.ClientError):
        number = error.errno if isinstance(error, OSError) else None
        return os.strerror(number) if number else type(error).__name__
    return str(error) or type(error).__name__


def without_secrets(address: str) -> str:
    """An address that cannot be read as one, without what may be a signature or credentials."""
    return _SECRET.sub("", address)
