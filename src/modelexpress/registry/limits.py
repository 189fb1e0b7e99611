# SPDX-License-Identifier: Apache-2.0
"""The limits that every table keeps, so that a value which fits one fits all."""

from __future__ import annotations

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown
from modelexpress.registry.port import MAX_KEY_BYTES, MAX_VALUE_BYTES


def check_key(key: str) -> str:
    """`key` itself. Raises Invalid when it is empty, too long, or no text that can be stored."""
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= MAX_KEY_BYTES or "\0" in key:
        raise Invalid(
            f"registry key {shown(key)} is empty, longer than {MAX_KEY_BYTES} bytes, or holds a NUL"
        )
    return key


def check_value(key: str, value: bytes) -> bytes:
    """`value` itself. Raises Invalid when it is too long."""
    if len(value) > MAX_VALUE_BYTES:
        raise Invalid(f"registry value of {shown(key)} has {len(value)} bytes; {MAX_VALUE_BYTES} is the most")
    return bytes(value)
