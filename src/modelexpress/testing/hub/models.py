# SPDX-License-Identifier: Apache-2.0
"""Small models with real file formats, deterministic from a seed, made with the standard library alone."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path

from modelexpress.testing.hub.content import Repository

_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060"
    "0000000500010d0a2db40000000049454e44ae426082"
)


def safetensors(tensors: dict[str, int], seed: int = 0) -> bytes:
    """A safetensors file with F32 vectors: name to number of elements."""
    header, offset, bodies = {}, 0, []
    chance = random.Random(seed)
    for name, count in tensors.items():
        header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [offset, offset + 4 * count]}
        bodies.append(struct.pack(f"<{count}f", *(chance.uniform(-1, 1) for _ in range(count))))
        offset += 4 * count
    return _with_header(header) + b"".join(bodies)


def _with_header(header: Mapping[str, object]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def tiny_model(name: str = "demo/tiny", seed: int = 0) -> Repository:
    """A repository of every kind of file: LFS and small, nested, empty, picture, odd names."""
    repository = Repository(name)
    repository.commit(tiny_files(seed))
    return repository


def tiny_files(seed: int = 0) -> dict[str, bytes | Path]:
    """The files of `tiny_model`."""
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "model_type": "llama", "seed": seed}
    return {
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "README.md": f"# tiny {seed}\n".encode(),
        "config.json": json.dumps(config, indent=2).encode(),
        "tokenizer.json": json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}}).encode(),
        "model.safetensors": safetensors({"a.weight": 20_000, "b.weight": 5_000}, seed),
        "pytorch_model.bin": bytes(random.Random(seed).randbytes(50_000)),
        "onnx/model.onnx": bytes(random.Random(seed + 1).randbytes(30_000)),
        "onnx/deep/er/extra file ü.txt": b"nested, with a name that must be quoted\n",
        "empty.txt": b"",
        "figure.png": _PNG,
    }


def sharded_files(shards: int, bytes_per_shard: int, seed: int = 0) -> dict[str, bytes | Path]:
    """A sharded model with its index, and a config."""
    files: dict[str, bytes | Path] = {"config.json": b'{"model_type": "llama"}'}
    index, total = {}, 0
    for number in range(1, shards + 1):
        name, count = f"model-{number:05}-of-{shards:05}.safetensors", bytes_per_shard // 4
        header = {f"layer.{number}": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
        files[name] = _with_header(header) + random.Random(seed * 1000 + number).randbytes(4 * count)
        index[f"layer.{number}"] = name
        total += 4 * count
    content = {"metadata": {"total_size": total}, "weight_map": index}
    files["model.safetensors.index.json"] = json.dumps(content).encode()
    return files


def from_directory(name: str, folder: Path) -> Repository:
    """A repository with the files below `folder`, read from there when they are asked for."""
    repository = Repository(name)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    repository.commit({path.relative_to(folder).as_posix(): path for path in paths})
    return repository
