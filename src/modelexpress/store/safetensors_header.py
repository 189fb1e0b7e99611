# SPDX-License-Identifier: Apache-2.0
"""What a safetensors file and its index must look like to be loaded. Pure: bytes in, a problem out.

The bytes may be anybody's: nothing here raises for them. What is parsed is bounded by who reads it.
"""

from __future__ import annotations

import json
import math
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
    header = _parse(text, "its header")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Malformed(f"its {_METADATA} is not an object of texts")
    return [_tensor(name, described) for name, described in header.items()]


def _parse(text: str, what: str) -> dict[str, Any]:
    """The object that `text` is, in which no key stands twice."""
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"{what} is no JSON that a loader takes: {shown(str(error))}") from None
    if not isinstance(found, dict):
        raise _Malformed(f"{what} is not an object")
    return found


def _tensor(name: str, described: object) -> _Tensor:
    if not isinstance(described, dict):
        raise _Malformed(f"tensor {shown(name)} is not described by an object")
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
    shards = _parse(text, "it").get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise _Malformed("it has no weight_map from tensors to files")
    return set(shards.values())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found
