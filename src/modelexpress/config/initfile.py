# SPDX-License-Identifier: Apache-2.0
"""The small file that `model init` leaves in the home directory: where models are, and which server."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from modelexpress.config.document import Document, read_document
from modelexpress.config.endpoint import DEFAULT_ENDPOINT, parse_endpoint
from modelexpress.config.places import expand_path, home_directory
from modelexpress.domain.errors import Invalid, StorageFailed
from modelexpress.domain.refs import shown

ENDPOINT_VARIABLE = "MODEL_EXPRESS_SERVER_ENDPOINT"

_REQUIRED = ("local_path", "server_endpoint")
# What other versions write and nobody reads, with the values that say nothing.
_UNREAD = {
    "timeout_secs": (None,),
    "shared_storage": (None, "true", "True"),
    "transfer_chunk_size": (None, "32768"),
}


@dataclass(frozen=True, slots=True)
class InitFile:
    """What the file says; `lines` tell where each of the two stands."""

    path: Path
    local_path: str
    server_endpoint: str
    lines: tuple[int | None, int | None] = (None, None)
    warnings: tuple[str, ...] = ()


def init_path(env: Mapping[str, str]) -> Path:
    """Where the file is: `~/.model-express/config.yaml`."""
    return home_directory(env) / ".model-express" / "config.yaml"


def find_init(env: Mapping[str, str]) -> InitFile | None:
    """The file's content, or None when there is none. Invalid when it cannot be read or lacks a key."""
    path = init_path(env)
    if not os.path.lexists(path):
        return None
    document = read_document(path, str(path))
    entries = document.root.value
    assert isinstance(entries, dict)
    problems = [*document.problems, *_problems(document)]
    if problems:
        raise Invalid("\n".join(problems))
    return InitFile(
        path,
        entries["local_path"].value,
        entries["server_endpoint"].value,
        (entries["local_path"].line, entries["server_endpoint"].line),
        tuple(_warnings(document)),
    )


def write_init(
    env: Mapping[str, str],
    storage_path: str | None = None,
    server_endpoint: str | None = None,
    cwd: Path | None = None,
) -> InitFile:
    """Write the file, replacing what was there, and make the directory that `storage_path` names.

    Raises Invalid, with nothing written, for what no later command could use.
    """
    path = init_path(env)
    directory = expand_path(storage_path or "~/.model-express/cache", env, cwd or Path.cwd())
    endpoint, source = _choose_endpoint(server_endpoint, env if storage_path else {})
    parse_endpoint(endpoint, source)
    text = yaml.safe_dump(
        {
            "local_path": str(directory),
            "server_endpoint": endpoint,
            "timeout_secs": None,
            "shared_storage": True,
            "transfer_chunk_size": 32768,
        },
        sort_keys=False,
        allow_unicode=True,
    )
    try:
        if storage_path:
            directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise StorageFailed(f"{error.filename or path}: cannot be written ({error.strerror})") from error
    return InitFile(path, str(directory), endpoint)


def _choose_endpoint(given: str | None, env: Mapping[str, str]) -> tuple[str, str]:
    """The server's address to write, and who named it."""
    if given is not None:
        return given.strip(), "--server-endpoint"
    named = env.get(ENDPOINT_VARIABLE, "").strip()
    return (named, f"env {ENDPOINT_VARIABLE}") if named else (DEFAULT_ENDPOINT, "default")


def write_whole(path: Path, text: str) -> None:
    """Put `text` at `path` in one step, making its directory; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    # The only portable way to read it is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _problems(document: Document) -> list[str]:
    entries = document.root.value
    assert isinstance(entries, dict)
    problems = [
        f"{document.name}: {key} is missing or no text: run 'modelexpress-cli model init' to write it anew"
        for key in _REQUIRED
        if key not in entries or not isinstance(entries[key].value, str) or not entries[key].value.strip()
    ]
    known = (*_REQUIRED, *_UNREAD)
    problems += [
        f"{document.name}:{entry.line}: unknown key {shown(str(key))}: this file has {', '.join(known)}"
        for key, entry in entries.items()
        if key not in known
    ]
    return problems


def _warnings(document: Document) -> list[str]:
    entries = document.root.value
    assert isinstance(entries, dict)
    return [
        f"{document.name}:{entries[key].line}: {key} is not read from this file: set it in modelexpress.yaml"
        for key, silent in _UNREAD.items()
        if key in entries and entries[key].value not in silent
    ]
