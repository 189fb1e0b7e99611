# SPDX-License-Identifier: Apache-2.0
"""The embedded table: one SQLite file, one process, nothing else to run."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from modelexpress.domain.errors import Busy, Invalid, NoRoom, StorageFailed, Unreachable
from modelexpress.registry.limits import check_key, check_value
from modelexpress.registry.mounts import find_network_file_system
from modelexpress.registry.ownership import (
    APPLICATION_ID,
    TABLES,
    check_tables,
    damaged,
    read_application_id,
    set_aside,
)
from modelexpress.registry.port import Row
from modelexpress.registry.watching import Watchers

FORMAT = 1
_DEADLINE_SECONDS = 30.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def open_table(path: Path) -> SqliteTable:
    """The table in the file at `path`, created if it is not there.

    Raises Busy when another process has it, Invalid for a network file system, a newer format or a file
    that is not ours, StorageFailed when the disk refuses. A damaged file of ours is moved aside: what the
    table says can be found out again from the cache directory.
    """
    table = SqliteTable(path)
    try:
        await table.open()
    except BaseException:
        await table.close()
        raise
    return table


class SqliteTable:
    """Implements Table on a file that this process has for itself alone."""

    is_exclusive = True

    def __init__(self, path: Path) -> None:
        self._path = path
        # SQLite's own thread: the event loop never waits for a disk.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mx-sqlite")
        self._watchers = Watchers()
        self._database: sqlite3.Connection | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Open the file; called once, by `open_table`."""
        await self._run(self._open_or_set_aside)

    async def get(self, key: str) -> Row | None:
        """The row, or None."""
        check_key(key)
        return await self._run(lambda: self._get(key))

    async def put(self, key: str, value: bytes, expected: str | None) -> Row | None:
        """Store if the key's version is `expected` (None: the key is absent); None if it is not."""
        check_key(key)
        row = await self._run(lambda: self._put(key, check_value(key, value), expected))
        if row is not None:
            self._watchers.tell(key)
        return row

    async def delete(self, key: str, expected: str) -> bool:
        """Remove if the key's version is `expected`; False if it is not, or the key is absent."""
        check_key(key)
        is_gone = await self._run(lambda: self._delete(key, expected))
        if is_gone:
            self._watchers.tell(key)
        return is_gone

    async def scan(self, prefix: str, after: str = "", limit: int = 500) -> list[Row]:
        """Up to `limit` rows whose key starts with `prefix`, in key order, from just behind `after`."""
        return await self._run(lambda: self._scan(prefix, after, limit))

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Keys under `prefix` that change while the body runs; a hint."""
        self._check_open()
        return self._watchers.watch(prefix)

    async def close(self) -> None:
        """Close the file and end every watch; later calls raise Unreachable."""
        if self._is_closed:
            return
        self._is_closed = True
        self._watchers.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, job: Callable[[], T]) -> T:
        self._check_open()
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, job)
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                return await asyncio.shield(running)
        except TimeoutError:
            raise Unreachable(
                f"registry {self._path} did not answer in {_DEADLINE_SECONDS:.0f} s; is its disk stuck?"
            ) from None

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unreachable("the registry is closed; this process is stopping")

    def _guarded(self, job: Callable[[], T]) -> T:
        try:
            return job()
        except sqlite3.OperationalError as error:
            raise self._translate(error) from error
        except sqlite3.DatabaseError as error:
            raise StorageFailed(
                f"registry {self._path} is damaged ({error}); stop the server and move the file away: "
                "it is rebuilt from the cache"
            ) from error
        except OSError as error:
            raise StorageFailed(
                f"registry {self._path} cannot be opened: {error.strerror}; set registry.path"
            ) from error

    def _translate(self, error: sqlite3.OperationalError) -> Busy | NoRoom | StorageFailed:
        code = error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Busy(
                f"registry {self._path} is in use by another server; stop it, or give this one another "
                "registry.path (and another cache.directory)"
            )
        if code == sqlite3.SQLITE_FULL:
            return NoRoom(f"registry {self._path}: no space left on its disk")
        return StorageFailed(f"registry {self._path}: {error}; check the directory, or set registry.path")

    def _open_or_set_aside(self) -> None:
        kind = find_network_file_system(self._path)
        if kind is not None:
            raise Invalid(
                f"registry.path {self._path} is on a network file system ({kind}), where SQLite's locks "
                "cannot be trusted; put it on a local disk, the cache itself may stay there"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_ours = read_application_id(self._path) == APPLICATION_ID
        try:
            check_tables(self._connect(), self._path)
            is_ours = True
            self._prepare()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._close()
            if not is_ours:
                raise damaged(self._path, error) from error
            aside = set_aside(self._path)
            _log.warning("registry %s is damaged (%s); moved to %s", self._path, error, aside)
            self._connect()
            self._prepare()

    def _connect(self) -> sqlite3.Connection:
        self._database = database = sqlite3.connect(
            self._path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        # Exclusive for the life of the process: the kernel frees the lock even after kill -9.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        return database

    def _prepare(self) -> None:
        database = self._connection()
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise Invalid(
                f"registry {self._path} was written by a newer version (format {found}, this version "
                f"knows {FORMAT}); nothing was changed: upgrade, or set another registry.path"
            )
        # Before the log is switched on, so that the file itself says whose it is from its first page on.
        if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("PRAGMA journal_mode = WAL")
        # The records on disk are the truth; a power cut may cost the table its last moments.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("BEGIN EXCLUSIVE")
        for name, statement in TABLES.items():
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
                database.execute(statement)
        if database.execute("SELECT next FROM counter").fetchone() is None:
            database.execute("INSERT INTO counter VALUES (1)")
        database.execute(f"PRAGMA user_version = {FORMAT}")
        database.execute("COMMIT")

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _get(self, key: str) -> Row | None:
        found = self._query("SELECT key, value, version FROM rows WHERE key = ?", key)
        return found[0] if found else None

    def _put(self, key: str, value: bytes, expected: str | None) -> Row | None:
        with self._transaction() as database:
            found = self._get(key)
            if (found.version if found else None) != expected:
                return None
            # One counter for all keys, never set back: a version does not repeat, not even for a
            # key that was deleted in between, nor after a restart.
            [version] = database.execute("UPDATE counter SET next = next + 1 RETURNING next").fetchone()
            database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (key, value, version))
            return Row(key, value, str(version))

    def _delete(self, key: str, expected: str) -> bool:
        with self._transaction() as database:
            # Compared as text: a version is opaque, so one of another table is simply never equal.
            done = database.execute(
                "DELETE FROM rows WHERE key = ? AND CAST(version AS TEXT) = ?", (key, expected)
            )
            return done.rowcount == 1

    def _scan(self, prefix: str, after: str, limit: int) -> list[Row]:
        # SQLite compares texts as bytes, and U+10FFFF is above every other character.
        return self._query(
            "SELECT key, value, version FROM rows"
            " WHERE key >= ? AND key > ? AND key < ? ORDER BY key LIMIT ?",
            prefix, after, prefix + "\U0010ffff\U0010ffff", limit,
        )  # fmt: skip

    def _query(self, statement: str, *values: str | int) -> list[Row]:
        rows = self._connection().execute(statement, values).fetchall()
        return [Row(key, bytes(value), str(version)) for key, value, version in rows]

    def _transaction(self) -> sqlite3.Connection:
        database = self._connection()
        database.execute("BEGIN IMMEDIATE")
        return database  # as a context manager it commits, or rolls back on an error

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise Unreachable(f"registry {self._path} is closed")
        return self._database
