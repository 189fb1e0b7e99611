# SPDX-License-Identifier: Apache-2.0
"""Every table keeps the contract; SQLite also keeps what it stored, from everybody else."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from modelexpress.domain.errors import Busy, Invalid, StorageFailed
from modelexpress.registry import Table
from modelexpress.registry.memory import MemoryTable
from modelexpress.registry.mounts import file_system_type
from modelexpress.registry.ownership import APPLICATION_ID, read_application_id
from modelexpress.registry.sqlite import open_table
from modelexpress.testing.contracts import TableContract

HOLDER = """
import asyncio, sys
from pathlib import Path
from modelexpress.registry.sqlite import open_table
async def main():
    table = await open_table(Path(sys.argv[1]))
    await table.put("kept", b"1", None)
    print("open", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /mnt/nfs\\040share rw - nfs4 server:/x rw
31 22 0:41 / /data rw - xfs /dev/sdb rw
32 31 0:42 / /data/remote rw - fuse.sshfs host: rw
"""


class TestMemoryTable(TableContract):
    @pytest.fixture
    async def table(self) -> AsyncIterator[Table]:
        table = MemoryTable()
        yield table
        await table.close()


class TestSqliteTable(TableContract):
    @pytest.fixture
    async def table(self, tmp_path: Path) -> AsyncIterator[Table]:
        table = await open_table(tmp_path / "state" / "registry.db")
        yield table
        await table.close()


async def test_rows_and_the_count_of_versions_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    table = await open_table(path)
    first = await table.put("a", b"1", None)
    await table.close()

    table = await open_table(path)
    assert first is not None and await table.get("a") == first
    assert await table.delete("a", first.version)
    await table.close()
    table = await open_table(path)
    second = await table.put("a", b"1", None)
    assert second is not None and second.version != first.version
    await table.close()


async def test_a_second_opener_is_told_who_is_in_the_way(tmp_path: Path) -> None:
    table = await open_table(tmp_path / "registry.db")

    with pytest.raises(Busy, match="another server"):
        await open_table(tmp_path / "registry.db")

    await table.put("still", b"fine", None)
    await table.close()


async def test_a_killed_holder_leaves_its_rows_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        with pytest.raises(Busy):
            await open_table(path)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()

    table = await open_table(path)
    row = await table.get("kept")
    assert row is not None and row.value == b"1"
    await table.close()


async def make_registry(path: Path) -> bytes:
    """A registry with a row, closed; its bytes."""
    table = await open_table(path)
    await table.put("a", b"1" * 9000, None)
    await table.close()
    return path.read_bytes()


def siblings_of(path: Path, content: bytes) -> dict[str, bytes]:
    """Write what SQLite would take for its own beside `path`; all of the folder as it is then."""
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).write_bytes(content)
    return {one.name: one.read_bytes() for one in path.parent.iterdir()}


@pytest.mark.parametrize("damage", ["cut short", "pages overwritten", "header overwritten"])
async def test_a_damaged_file_of_ours_is_moved_aside_with_what_stands_beside_it(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "registry.db"
    content = await make_registry(path)
    content = {
        "cut short": content[: len(content) // 2],
        "pages overwritten": content[:100] + b"\xff" * (len(content) - 100),
        "header overwritten": content[:16] + b"\xff" * 40 + content[56:],
    }[damage]
    path.write_bytes(content)
    path.with_name("registry.db.corrupt-1").write_bytes(b"from before")
    path.with_name("registry.db-shm").write_bytes(b"kept")

    table = await open_table(path)

    assert await table.scan("") == []
    await table.close()
    assert (tmp_path / "registry.db.corrupt-1").read_bytes() == b"from before"
    assert (tmp_path / "registry.db.corrupt-2").read_bytes() == content
    assert (tmp_path / "registry.db.corrupt-2-shm").read_bytes() == b"kept"


@pytest.mark.parametrize(
    "content",
    [b"dear diary\n", b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"SQLite format 3\0"],
    ids=["short text", "long text", "another id", "a header alone"],
)
async def test_a_file_that_nothing_shows_to_be_ours_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    before = siblings_of(path, b"mine too")

    with pytest.raises(Invalid, match=r"registry\.path \S+ is .*; nothing was changed: name another file"):
        await open_table(path)

    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("application_id", [0, 0x0F055112])
@pytest.mark.parametrize("tables", [["bookmarks"], ["rows", "counter"], ["rows", "counter", "bookmarks"]])
async def test_the_database_of_another_program_is_refused_and_left_as_it_is(
    tmp_path: Path, mode: str, application_id: int, tables: list[str]
) -> None:
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute(f"PRAGMA application_id = {application_id}")
        for name in tables:
            database.execute(f"CREATE TABLE {name} (url TEXT)")
    content = path.read_bytes()

    with pytest.raises(Invalid, match="is another program's database"):
        await open_table(path)

    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {path.name: content}


async def test_a_file_of_ours_from_before_it_had_an_id_is_kept_and_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    await make_registry(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA application_id = 0")

    table = await open_table(path)

    assert [row.key for row in await table.scan("")] == ["a"]
    await table.close()
    assert read_application_id(path) == APPLICATION_ID


async def test_a_killed_holder_of_a_new_file_leaves_one_that_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()

    assert read_application_id(path) == APPLICATION_ID


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "fifo"])
async def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "registry.db")

    with pytest.raises(Invalid, match="no regular file"):
        await open_table(tmp_path / "registry.db")


async def test_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    await (await open_table(path)).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(Invalid, match="newer version"):
        await open_table(path)

    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (99,)
    database.close()


async def test_a_path_below_a_file_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageFailed, match=r"registry\.path"):
        await open_table(tmp_path / "file" / "registry.db")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", "ext4"),
        ("/mnt/nfs share/db", "nfs4"),
        ("/data/db", "xfs"),
        ("/data/remote/db", "fuse.sshfs"),
        ("/dataset", "ext4"),
    ],
)
def test_the_innermost_mount_says_what_a_path_is_on(path: str, kind: str) -> None:
    assert file_system_type(MOUNTINFO, Path(path)) == kind


async def test_calls_from_many_tasks_are_all_answered(tmp_path: Path) -> None:
    table = await open_table(tmp_path / "registry.db")

    await asyncio.gather(*(table.put(f"k/{n}", b"", None) for n in range(200)))

    assert len(await table.scan("k/", limit=1000)) == 200
    await table.close()
