# SPDX-License-Identifier: Apache-2.0
"""Every table keeps the contract; SQLite also keeps what it stored, from everybody else."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelexpress.domain.errors import Busy, Invalid, StorageFailed
from modelexpress.registry import Table
from modelexpress.registry.memory import MemoryTable
from modelexpress.registry.mounts import file_system_type
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


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(content)

    table = await open_table(path)

    assert await table.scan("") == []
    assert (tmp_path / "registry.db.corrupt-1").read_bytes() == content
    await table.close()


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
