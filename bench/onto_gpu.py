# SPDX-License-Identifier: Apache-2.0
"""Tensors of safetensors files onto a GPU with torch, from a disk and from buffers, and their check."""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<Q")
_SUFFIX = ".safetensors"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def find_gpu() -> str | None:
    """What the first GPU is called; None where there is no torch, or none that sees a GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    cuda = importlib.import_module("torch").cuda
    return str(cuda.get_device_name(0)) if cuda.is_available() else None


class OntoGpu:
    """The first GPU, woken. `like` is the folder of a model whose tensors every load has to give."""

    def __init__(self, like: Path) -> None:
        self._torch = importlib.import_module("torch")
        self._load_file = importlib.import_module("safetensors.torch").load_file
        self._right = self.load_files(like)

    def load_files(self, folder: Path) -> dict[str, Any]:
        """The tensors of all files below `folder`, by name, as a model loader takes them."""
        tensors: dict[str, Any] = {}
        for path in sorted(folder.rglob(f"*{_SUFFIX}")):
            tensors |= self._load_file(path, device="cuda")
        self._torch.cuda.synchronize()
        return tensors

    def load_buffers(self, buffers: Mapping[str, memoryview]) -> dict[str, Any]:
        """The tensors of files in memory, by name: one copy for each file, the tensors are parts of it."""
        tensors: dict[str, Any] = {}
        for path, buffer in buffers.items():
            if path.endswith(_SUFFIX):
                tensors |= self._copy(buffer)
        self._torch.cuda.synchronize()
        return tensors

    def pinned(self, size: int) -> memoryview:
        """Memory of the host that a GPU reads by itself; every page of it is there."""
        return memoryview(self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True).numpy())

    def check(self, tensors: Mapping[str, Any]) -> None:
        """Raise when they are not the right ones, every element."""
        if tensors.keys() != self._right.keys():
            raise RuntimeError(f"other tensors: {sorted(tensors.keys() ^ self._right.keys())[:5]}")
        wrong = [name for name, tensor in tensors.items() if not self._same(tensor, self._right[name])]
        if wrong:
            raise RuntimeError(f"tensors with other values: {wrong[:5]}")

    def _copy(self, buffer: memoryview) -> dict[str, Any]:
        [length] = _HEADER.unpack_from(buffer)
        start = _HEADER.size + length
        header: dict[str, Any] = json.loads(bytes(buffer[_HEADER.size : start]))
        header.pop("__metadata__", None)
        there = self._torch.frombuffer(buffer, dtype=self._torch.uint8, offset=start)
        there = there.to("cuda", non_blocking=True)
        return {name: self._part(there, entry) for name, entry in header.items()}

    def _part(self, there: Any, entry: Mapping[str, Any]) -> Any:
        first, end = entry["data_offsets"]
        dtype = getattr(self._torch, _DTYPES[entry["dtype"]])
        return there[first:end].view(dtype).reshape(entry["shape"])

    def _same(self, one: Any, other: Any) -> bool:
        """Bit for bit: random bits are NaN now and then, and no NaN equals another."""
        bits = self._torch.uint8
        return bool(self._torch.equal(one.view(bits), other.view(bits)))
