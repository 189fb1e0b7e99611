# SPDX-License-Identifier: Apache-2.0
"""What came of a case, as JSON that can be compared: values, errors, and what lies on disk."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.conformance.registry import Case, Place


def outcome_of(case: Case, place: Place) -> dict[str, Any]:
    """Run the case: its value or its error, and the tree that it left."""
    place.folder.mkdir(parents=True)
    outcome: dict[str, Any] = {}
    try:
        outcome["value"] = plain(case.run(place), place)
    except Exception as error:  # noqa: BLE001 - any error of a client is an outcome
        outcome["error"] = failure(error)
        outcome["said"] = _neutral(str(error), place)
    outcome["tree"] = dict(tree(place.folder, case.ignores_xet))
    return outcome


def without_chance(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an outcome that is the same each time: no seconds, and no wording of an error."""
    return {key: value for key, value in outcome.items() if key not in ("seconds", "said")}


def failure(error: BaseException) -> dict[str, Any]:
    """An error by its class and, where a server's answer is behind it, status and error code."""
    found: dict[str, Any] = {"class": type(error).__name__}
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if response is not None:
            code = response.headers.get("X-Error-Code")
            return found | {"status": response.status_code, "code": code}
        seen = seen.__cause__ or seen.__context__
    return found


def plain(value: Any, place: Place) -> Any:
    """A value in JSON's words; addresses of the Hub and paths below the case's folder made neutral."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Path):
        return _neutral(str(value), place)
    if isinstance(value, bytes):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(entry, place) for key, entry in value.items()}
    if isinstance(value, Iterable):
        return [plain(entry, place) for entry in value]
    return {"is": type(value).__name__, **plain(_attributes(value), place)}


def _attributes(value: Any) -> dict[str, Any]:
    own = {field.name: getattr(value, field.name) for field in fields(value)} if is_dataclass(value) else {}
    return own | {key: entry for key, entry in vars(value).items() if not key.startswith("_")}


def _neutral(text: str, place: Place) -> str:
    # Files beyond a redirect lie on the same port under another name.
    port = urlsplit(place.endpoint).port
    text = text.replace(place.endpoint, "<hub>").replace(f"http://localhost:{port}", "<cdn>")
    return text.replace(str(place.folder), "<folder>").replace(str(place.folder.resolve()), "<folder>")


def tree(root: Path, ignores_xet: bool = False) -> Iterable[tuple[str, str]]:
    """Everything below `root` by relative path: folders, links by their target, files by mode and digest."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            yield name, f"-> {os.readlink(path).replace(str(root), '<folder>')}"
        elif path.is_dir():
            yield f"{name}/", "folder"
        else:
            content = _timeless(path, ignores_xet)
            digest = hashlib.sha256(content).hexdigest()
            yield name, f"{stat.filemode(path.stat().st_mode)} {len(content)} {digest}"


def _timeless(path: Path, ignores_xet: bool) -> bytes:
    content = path.read_bytes()
    if path.match("*.metadata"):
        # Commit, etag, and the moment of the download.
        return b"\n".join(content.splitlines()[:2])
    if ignores_xet and path.match("trees/*.json"):
        listing = json.loads(content)
        for entry in listing["files"].values():
            entry.pop("xet_hash", None)
        return json.dumps(listing).encode()
    return content
