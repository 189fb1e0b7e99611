# SPDX-License-Identifier: Apache-2.0
"""What a safetensors file and its index must look like to be loaded. Pure: bytes in, a problem out.

The bytes may be anybody's: nothing here raises for them, and nothing long is parsed in one piece, so
that they cost no more memory than a small multiple of their length.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from modelexpress.domain.refs import shown

START_BYTES = 8  # they hold the length of the header, little-endian
MOST_HEADER_BYTES = 100_000_000  # what loaders accept

_METADATA = "__metadata__"
_MOST_COUNT = 2**63
_SHOWN_DIMENSIONS = 8
_DTYPE_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_SPACE = re.compile(r"[ \t\n\r]*")
_SHORT_OBJECT = re.compile(r"\{[^{}]{0,8192}\}")  # of one tensor: about 100 characters
_PIECE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{\[]|[}\]]|[^"{}\[\],]++|,', re.DOTALL)


class _Malformed(Exception):
    """What is wrong, for people."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    start: int
    end: int


def header_length(start: bytes) -> int:
    """How many bytes of header follow the first `START_BYTES`, by what those say."""
    return int.from_bytes(start[:START_BYTES], "little")


def find_header_problem(head: bytes, size: int) -> str | None:
    """Why no loader reads a safetensors file of `size` bytes that begins with `head`; None: it can be read.

    `head` is the length and the header, or as much of them as there is.
    """
    if len(head) < START_BYTES or size < START_BYTES:
        return (
            f"{size} bytes cannot be a safetensors file: the length of its header alone takes {START_BYTES}"
        )
    length = header_length(head)
    if length > MOST_HEADER_BYTES:
        return f"its header is said to have {length} bytes; loaders read at most {MOST_HEADER_BYTES}"
    if length > size - START_BYTES:
        return f"its header is said to have {length} bytes, more than the file of {size} bytes holds"
    try:
        text = head[START_BYTES : START_BYTES + length].decode()
        _check_layout(_read_tensors(text), size - START_BYTES - length)
    except UnicodeDecodeError:
        return "its header is not UTF-8"
    except _Malformed as problem:
        return str(problem)
    return None


def find_missing_shards(index: bytes, path: str, listed: frozenset[str]) -> str | None:
    """Which files the weights' index at `path` names that are not `listed`; None: all of them are."""
    try:
        shards = _read_shards(index.decode())
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except _Malformed as problem:
        return str(problem)
    folder = path.rpartition("/")[0]
    missing = sorted(s for s in shards if (f"{folder}/{s}" if folder else s) not in listed)
    if not missing:
        return None
    others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
    return f"it names {shown(missing[0])}{others}, which the repository does not list"


def _read_tensors(text: str) -> list[_Tensor]:
    if not text.startswith("{"):
        raise _Malformed("its header does not begin with '{'")
    cursor, tensors, names = _Cursor(text), [], set()
    for name in cursor.each_key():
        if name in names:
            raise _Malformed(f"its header has {shown(name)} twice")
        names.add(name)
        if name == _METADATA:
            cursor.read_texts()
        else:
            tensors.append(_tensor(name, cursor.read_short_object()))
    cursor.end()
    return tensors


def _tensor(name: str, described: dict[str, Any]) -> _Tensor:
    dtype, shape, offsets = (described.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise _Malformed(f"tensor {shown(name)} lacks a dtype, a shape or two data_offsets")
    start, end = offsets
    bits = _DTYPE_BITS.get(dtype)  # what a newer version of the format has, we cannot count
    if bits is not None and math.prod(shape) * bits != (end - start) * 8:
        dimensions = f"{shape[:_SHOWN_DIMENSIONS]}"
        raise _Malformed(f"tensor {shown(name)}, {dtype} {dimensions}, does not fit its {end - start} bytes")
    return _Tensor(name, start, end)


def _are_counts(found: object) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(type(n) is int and 0 <= n < _MOST_COUNT for n in found)


def _check_layout(tensors: list[_Tensor], data_bytes: int) -> None:
    """One behind the other, from the first byte to the last: no byte is hidden, shared or not there."""
    at = 0
    for tensor in sorted(tensors, key=lambda one: (one.start, one.end)):
        where = f"tensor {shown(tensor.name)} at bytes {tensor.start} to {tensor.end}"
        if tensor.start != at or tensor.end < at:
            raise _Malformed(f"{where} does not begin where the one before it ends ({at})")
        at = tensor.end
        if at > data_bytes:
            raise _Malformed(f"{where} is not within the {data_bytes} bytes of data that the file has")
    if at != data_bytes:
        raise _Malformed(f"its tensors have {at} bytes, its data {data_bytes}")


def _read_shards(text: str) -> set[str]:
    cursor, shards = _Cursor(text), None
    for key in cursor.each_key():
        if key == "weight_map":
            shards = set(cursor.read_texts())
        else:
            cursor.skip()
    cursor.end()
    if shards is None:
        raise _Malformed("it has no weight_map")
    return shards


class _Cursor:
    """Walks through a JSON text, one member of an object after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._decode = json.JSONDecoder(object_pairs_hook=_unique).raw_decode

    def each_key(self) -> Iterator[str]:
        """The keys of the object that begins here; the value of each is to be read before the next key."""
        self._expect("{")
        if self._has("}"):
            return
        while True:
            key = self._read_text()
            self._expect(":")
            yield key
            if self._has("}"):
                return
            self._expect(",")

    def read_texts(self) -> Iterator[str]:
        """The values of an object that has texts alone; to be asked for to its end."""
        return iter([self._read_text() for _ in self.each_key()])

    def read_short_object(self) -> dict[str, Any]:
        """An object without objects in it."""
        self._skip_space()
        found = _SHORT_OBJECT.match(self._text, self._at)
        if found is None:
            raise self._malformed()
        try:
            value, end = self._decode(found.group())
        except (ValueError, RecursionError):
            raise self._malformed() from None
        self._at += end
        return dict(value)

    def skip(self) -> None:
        """Pass over any value."""
        depth = 0
        self._skip_space()
        while found := _PIECE.match(self._text, self._at):
            piece = found.group()
            depth += (piece in ("{", "[")) - (piece in ("}", "]"))
            if depth < 0 or (depth == 0 and piece == ","):
                return  # the value ended before it
            self._at = found.end()
            if depth == 0 and piece in ("}", "]"):
                return
        raise self._malformed()

    def end(self) -> None:
        """Nothing follows."""
        self._skip_space()
        if self._at != len(self._text):
            raise self._malformed()

    def _read_text(self) -> str:
        self._skip_space()
        if not self._text.startswith('"', self._at):
            raise self._malformed()
        try:
            value, self._at = self._decode(self._text, self._at)
        except ValueError:
            raise self._malformed() from None
        return str(value)

    def _expect(self, mark: str) -> None:
        if not self._has(mark):
            raise self._malformed()

    def _has(self, mark: str) -> bool:
        self._skip_space()
        is_there = self._text.startswith(mark, self._at)
        self._at += is_there
        return is_there

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _malformed(self) -> _Malformed:
        return _Malformed(f"what stands at character {self._at} is not what the format wants there")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found
