# SPDX-License-Identifier: Apache-2.0
"""What tests do to a cache directory: fill it as huggingface_hub does, damage it, look at it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from tests.support.house import House, lasting_of, tree

from modelexpress.client import LocalModel
from modelexpress.domain.selection import Selection
from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import tiny_files

NAME = "demo/tiny"
WEIGHTS = "model.safetensors"

_DOWNLOAD = "import json, sys, huggingface_hub as h; print(h.snapshot_download(**json.loads(sys.argv[1])))"


async def pull(house: House, model: str = NAME, selection: Selection | None = None) -> LocalModel:
    """Pull at the server of `house` and use its directory."""
    async with house.client(house.root, is_shared=True) as client:
        return await client.pull(model, selection)


async def fill_by_huggingface_hub(hub: LocalHub, root: Path, name: str = NAME, **arguments: object) -> Path:
    """The snapshot that the real huggingface_hub makes in `root`."""
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    path = await asyncio.to_thread(
        snapshot_download, name, cache_dir=root, endpoint=hub.endpoint, token=False, **arguments
    )
    return Path(path)


async def start_huggingface_hub(
    arguments: dict[str, object], env: dict[str, str]
) -> asyncio.subprocess.Process:
    """`snapshot_download` with `arguments` in a process of its own, which prints where it is."""
    full = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **env}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DOWNLOAD, json.dumps(arguments), env=full, stdout=asyncio.subprocess.PIPE
    )


def blob_of(path: Path) -> Path:
    """The file that a snapshot's link leads to."""
    return Path(os.path.realpath(path))


def flip_a_byte(path: Path) -> None:
    """Damage a file so that neither its size nor its time tells."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def models_tree(root: Path) -> dict[str, bytes | str]:
    """All models and all records; what else is below .mx belongs to running processes."""
    found = tree(root)
    return {path: found[path] for path in found if not path.startswith(".mx/") or "/records/" in path}


def repository_tree(root: Path, name: str = NAME) -> dict[str, bytes | str]:
    """One model as every tool sees it."""
    return tree(root / ("models--" + name.replace("/", "--")))


def unfinished(root: Path) -> list[Path]:
    """Everything below `.mx` that no pull may leave when it has ended well."""
    folders = ("partials", "staging", "trash")
    return lasting_of(path for folder in folders for path in (root / ".mx" / folder).glob("*"))


def useless(root: Path) -> list[Path]:
    """What of it nobody can go on from: all but partial files with their journals."""
    pair = (".part", ".journal")
    return [
        path
        for path in unfinished(root)
        if path.suffix not in pair or not all(path.with_suffix(suffix).is_file() for suffix in pair)
    ]


def requested_files() -> set[str]:
    """The files of the tiny model that an origin is asked for: what an empty one holds is known."""
    return {path for path, content in tiny_files().items() if content}
