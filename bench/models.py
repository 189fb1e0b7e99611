# SPDX-License-Identifier: Apache-2.0
"""The models of the suite: safetensors of any size, written once and kept, without a hole or a repetition."""

from __future__ import annotations

import json
import random
import shutil
import struct
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from bench.nginx import HubPages
from scripts.local_hub import LocalHub

CACHE = Path(__file__).parents[1] / ".cache" / "bench"

_PIECE_BYTES = 64 * 1024 * 1024
_SPARE_BYTES = 2 * 10**9


def keep_model(megabytes: int, shards: int) -> Path:
    """The folder of a model of so many MB in so many files; written unless an earlier run has."""
    folder = CACHE / f"model-{megabytes}-{shards}"
    if not folder.exists():
        arriving = CACHE / f"{folder.name}.part"
        shutil.rmtree(arriving, ignore_errors=True)
        arriving.mkdir(parents=True)
        for number in range(1, shards + 1):
            _write_shard(arriving / f"model-{number:05}-of-{shards:05}.safetensors", megabytes, shards)
        (arriving / "config.json").write_text('{"model_type": "llama"}')
        arriving.rename(folder)
    return folder


def check_room(folder: Path, copies: int, megabytes: int) -> None:
    """Raise SystemExit when the disk does not hold what the suite is about to write."""
    folder.mkdir(parents=True, exist_ok=True)
    free, wanted = shutil.disk_usage(folder).free, copies * megabytes * 10**6 + _SPARE_BYTES
    if free < wanted:
        raise SystemExit(
            f"{folder} has {free / 1e9:.0f} GB free and {wanted / 1e9:.0f} GB are wanted: "
            "give a smaller --megabytes, or another folder in TMPDIR"
        )


def sizes_of(folder: Path) -> dict[str, int]:
    """The files of a model by path."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_pages(hub: LocalHub, name: str) -> HubPages:
    """What the local Hub says about a repository, for another server to say it as well."""
    revision = _get(f"{hub.endpoint}/api/models/{name}/revision/main")
    commit = json.loads(revision)["sha"]
    tree = _get(f"{hub.endpoint}/api/models/{name}/tree/{commit}?recursive=true&expand=false")
    files: list[dict[str, Any]] = [item for item in json.loads(tree) if item["type"] == "file"]
    etags = {item["path"]: item["lfs"]["oid"] if "lfs" in item else item["oid"] for item in files}
    return HubPages(name, commit, revision, tree, etags)


def urls_of(hub: LocalHub, name: str, folder: Path) -> dict[str, str]:
    """Where each file of a model is downloaded."""
    root = f"{hub.endpoint}/{name}/resolve/main"
    return {path: f"{root}/{urllib.parse.quote(path)}" for path in sizes_of(folder)}


def _write_shard(path: Path, megabytes: int, shards: int) -> None:
    count = megabytes * 10**6 // shards // 4
    entry = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    header = json.dumps({path.name: entry}).encode()
    chance, left = random.Random(path.name), 4 * count
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        while left:
            piece = min(left, _PIECE_BYTES)
            file.write(chance.randbytes(piece))
            left -= piece


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
    return content
