# SPDX-License-Identifier: Apache-2.0
"""Whose SQLite file it is: nothing of another program is written to, moved or deleted."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

from modelexpress.domain.errors import Invalid

APPLICATION_ID = 0x4D585247
"""What `PRAGMA application_id` says of a file of ours: MXRG."""

TABLES = {
    "rows": (
        "CREATE TABLE rows (key TEXT PRIMARY KEY, value BLOB NOT NULL,"
        " version INTEGER NOT NULL) WITHOUT ROWID"
    ),
    "counter": "CREATE TABLE counter (next INTEGER NOT NULL)",
}
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_ID = slice(68, 72)
_SIBLINGS = ("-wal", "-shm", "-journal")


def read_application_id(path: Path) -> int | None:
    """The id in the header of the file; None when it is not there, or empty.

    Raises Invalid for a file that is no SQLite database, or another program's by its id. Call it before
    this process opens the database: a file that is closed takes the locks of its process with it.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise Invalid(
            f"registry.path {path} is no regular file; name a file, which is made if it is not there"
        )
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head:
        return None
    if not head.startswith(_MAGIC):
        raise _refusal(path, "is no SQLite database")
    if len(head) < _HEADER_BYTES:
        raise damaged(path, "its header is cut short")
    found = int.from_bytes(head[_ID], "big")
    if found not in (0, APPLICATION_ID):
        raise _refusal(path, f"is another program's database (application id {found:#010x})")
    return found


def check_tables(database: sqlite3.Connection, path: Path) -> None:
    """Raise Invalid when the database holds tables and they are not ours; changes nothing.

    Files of ours from before they had an id are known by their tables.
    """
    if database.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        return
    query = r"SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'"
    found = dict(database.execute(query).fetchall())
    if found and found != TABLES:
        raise _refusal(path, f"is another program's database (it has {', '.join(sorted(found)[:3])})")


def damaged(path: Path, cause: object) -> Invalid:
    """The refusal of a damaged database that nothing shows to be ours."""
    return _refusal(path, f"is a damaged database, and nothing says that it is ours ({cause})")


def set_aside(path: Path) -> Path:
    """Give a damaged file of ours, and what SQLite keeps beside it, another name; the file's new path."""
    number = 1
    while any(_beside(path, number, suffix).exists() for suffix in ("", *_SIBLINGS)):
        number += 1
    for suffix in _SIBLINGS:
        sibling = path.with_name(path.name + suffix)
        if sibling.exists():
            sibling.rename(_beside(path, number, suffix))
    return path.rename(_beside(path, number, ""))


def _beside(path: Path, number: int, suffix: str) -> Path:
    return path.with_name(f"{path.name}.corrupt-{number}{suffix}")


def _refusal(path: Path, cause: str) -> Invalid:
    return Invalid(
        f"registry.path {path} {cause}; nothing was changed: name another file, or move this one away if it "
        "was the registry, which is rebuilt from the cache"
    )
