# SPDX-License-Identifier: Apache-2.0
"""What the interrupted left: taken over from the dead, left to the living, copied from the unknown."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.arrivals import (
    REF,
    bury_writers,
    chunk_of,
    content_of,
    digests_of,
    entry_of,
    move_writers_away,
    open_descriptors,
    rewrite_writer,
)
from tests.support.limits import files_limited_to

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import MxError
from modelexpress.domain.manifest import FileEntry
from modelexpress.store.layout import Layout, Repository
from modelexpress.store.partial import Partial
from modelexpress.store.partials import Partials
from modelexpress.store.volume import open_volume, sweep

SIZE = 4 * CHUNK_BYTES + 9
CONTENT = content_of(SIZE)
ENTRY = entry_of(CONTENT)
DAY = 24 * 3600.0

Leave = Callable[..., None]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cache")
    open_volume(made, "me")
    return made


@pytest.fixture
def repository(layout: Layout) -> Repository:
    return layout.repository(REF)


@pytest.fixture
def opened(layout: Layout, repository: Repository) -> Iterator[Callable[..., Partial]]:
    """Open a file, and close it in the end unless it was released."""
    folders: list[tuple[Partials, Partial]] = []

    def opened(owner: str, entry: FileEntry = ENTRY, partials: Partials | None = None) -> Partial:
        partials = partials or Partials(layout, owner)
        folders.append((partials, partials.open(repository, entry, lambda count: None)))
        return folders[-1][1]

    yield opened
    for partials, partial in folders:
        partials.release(partial, is_kept=True)


@pytest.fixture
def leave(layout: Layout, repository: Repository) -> Leave:
    """Leave a file of `owner` with some chunks, as whoever was interrupted."""

    def leave(owner: str, *chunks: int, entry: FileEntry = ENTRY, content: bytes = CONTENT) -> None:
        folder = Partials(Layout(layout.root.parent / f"made-by-{owner}"), owner)
        open_volume(folder._layout, owner)
        partial = folder.open(repository, entry, lambda count: None)
        for index in chunks:
            partial.put(index, chunk_of(content, index))
        partial.close()  # and nothing is said in the journal: it was torn away
        for path in folder._layout.partials.iterdir():
            path.rename(layout.partials / path.name)

    return leave


def names(layout: Layout) -> set[str]:
    """The owners of what is here, with `.part` or `.journal`."""
    return {path.name.split(".")[0] + path.suffix for path in layout.partials.iterdir()}


def test_of_several_dead_the_best_is_taken_over_and_none_stays(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("one", 0)
    leave("two", 1, 3, 4)
    leave("three", 2, 0)
    bury_writers(layout)
    partial = opened("me")

    assert partial.arrived_bytes == 2 * CHUNK_BYTES + 9 and partial.prefix_bytes == 0
    assert names(layout) == {"me.part", "me.journal"}
    assert partial.digests[-32:] == digests_of(CONTENT)[-32:]


def test_a_file_is_taken_over_without_copying_it(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("dead", 0, 1)
    bury_writers(layout)
    [before] = layout.partials.glob("*.part")
    inode = before.stat().st_ino

    assert opened("me").path.stat().st_ino == inode


def test_files_of_processes_alive_beside_us_are_left_alone(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("alive", 0, 1, 2)
    partial = opened("me")

    assert partial.arrived_bytes == 0
    assert names(layout) == {"me.part", "me.journal", "alive.part", "alive.journal"}


def test_what_this_session_left_is_its_own(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("me", 0, 4)

    assert opened("me").arrived_bytes == CHUNK_BYTES + 9
    assert len(list(layout.partials.iterdir())) == 2


def test_a_session_whose_name_only_begins_like_ours_is_another_one(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("mea", 0)

    assert opened("me").arrived_bytes == 0 and "mea.part" in names(layout)


def test_from_an_unknown_machine_the_chunks_are_copied_and_its_file_stays(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("far", 0, 2)
    move_writers_away(layout)
    [theirs] = layout.partials.glob("far.*.part")
    partial = opened("me")
    partial.put(0, memoryview(bytes(CHUNK_BYTES)))

    assert partial.arrived_bytes == 2 * CHUNK_BYTES
    assert names(layout) == {"me.part", "me.journal", "far.part", "far.journal"}
    assert theirs.read_bytes()[:CHUNK_BYTES] == CONTENT[:CHUNK_BYTES], "ours was written into theirs"


def test_a_dead_neighbours_file_comes_before_one_of_an_unknown_machine(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("far", 0, 1, 2, 3)
    move_writers_away(layout)
    leave("dead", 4)
    for journal in layout.partials.glob("dead.*.journal"):
        text = journal.read_text()
        journal.write_text(text.replace('"started":"', '"started":"1'))

    assert opened("me").arrived_bytes == 9 and "far.part" in names(layout)


def test_other_bytes_are_no_leftover_of_these(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    other = content_of(SIZE, seed=1)
    leave("dead", 0, 1, entry=entry_of(other), content=other)
    bury_writers(layout)

    assert opened("me").arrived_bytes == 0 and "dead.part" in names(layout)


def test_bytes_that_nothing_vouches_for_are_never_taken_over(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    entry = FileEntry(ENTRY.path, SIZE)
    leave("dead", 0, 1, entry=entry)
    bury_writers(layout)

    assert opened("me", entry).arrived_bytes == 0


def test_the_same_bytes_under_another_path_are_taken_over(
    layout: Layout, leave: Leave, opened: Callable[..., Partial]
) -> None:
    leave("dead", 0, 1)
    bury_writers(layout)

    assert opened("me", entry_of(CONTENT, "copy.bin")).arrived_bytes == 2 * CHUNK_BYTES


@pytest.mark.parametrize("spoil", ["no part", "no journal", "garbage", "empty", "part is a directory"])
def test_half_of_a_leftover_is_none_and_in_nobodys_way(
    layout: Layout, leave: Leave, opened: Callable[..., Partial], spoil: str
) -> None:
    leave("dead", 0)
    bury_writers(layout)
    [part], [journal] = layout.partials.glob("*.part"), layout.partials.glob("*.journal")
    if spoil in ("no part", "part is a directory"):
        part.unlink()
    if spoil == "part is a directory":
        part.mkdir()
    if spoil == "no journal":
        journal.unlink()
    if spoil in ("garbage", "empty"):
        journal.write_bytes(b"\xff\0garbage\n" if spoil == "garbage" else b"")

    assert opened("me").arrived_bytes == 0


@pytest.mark.parametrize("pid", ["\0", "\ud800", "x" * 5000, "../self", None, -1, 10**30, [1], {}])
def test_a_journal_whose_writer_is_nonsense_stops_nobody(
    layout: Layout, leave: Leave, repository: Repository, opened: Callable[..., Partial], pid: object
) -> None:
    leave("dead", 0)
    rewrite_writer(layout, pid=pid)

    assert opened("me").prefix_bytes in (0, CHUNK_BYTES)
    Partials(layout, "you").find_dead()
    Partials(layout, "you").delete_of(repository)


def test_a_crash_between_taking_over_and_the_end_loses_no_chunk(
    layout: Layout, leave: Leave, repository: Repository, opened: Callable[..., Partial]
) -> None:
    leave("dead", 0, 1, 2)
    bury_writers(layout)
    copy = layout.root.parent / "as-it-was"
    shutil.copytree(layout.partials, copy)
    successor = opened("me")
    # As it would stand had the successor died before it had journalled anything: both names of one file.
    for path in copy.iterdir():
        if path.suffix == ".part":
            (layout.partials / path.name).hardlink_to(successor.path)
        else:
            shutil.copy(path, layout.partials / path.name)
    [journal] = layout.partials.glob("me.*.journal")
    journal.write_bytes(journal.read_bytes().split(b"\n")[0] + b"\n")
    bury_writers(layout)
    third = opened("third")

    assert third.prefix_bytes == 3 * CHUNK_BYTES and names(layout) == {"third.part", "third.journal"}


def test_where_a_file_cannot_have_two_names_it_is_renamed(
    layout: Layout, leave: Leave, opened: Callable[..., Partial], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave("dead", 0, 3)
    bury_writers(layout)
    [before] = layout.partials.glob("*.part")
    inode = before.stat().st_ino

    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links on this file system", str(path))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    partial = opened("me")

    assert partial.arrived_bytes == 2 * CHUNK_BYTES and partial.path.stat().st_ino == inode
    assert partial.path.stat().st_nlink == 1
    assert {name for name in names(layout) if name.endswith(".part")} == {"me.part"}


def test_without_room_for_a_journal_nothing_is_left_and_the_dead_keep_theirs(
    layout: Layout, leave: Leave, repository: Repository
) -> None:
    leave("dead", 0, 1)
    bury_writers(layout)
    before, descriptors = names(layout), open_descriptors()
    with files_limited_to(0), pytest.raises(OSError):
        Partials(layout, "me").open(repository, ENTRY, lambda count: None)

    assert names(layout) == before
    assert open_descriptors() == descriptors


def test_without_room_for_the_file_nothing_is_left_and_the_dead_keep_theirs(
    layout: Layout, leave: Leave, repository: Repository
) -> None:
    leave("far", 0, 1)
    move_writers_away(layout)
    before, descriptors = names(layout), open_descriptors()
    with files_limited_to(CHUNK_BYTES), pytest.raises(OSError):
        Partials(layout, "me").open(repository, ENTRY, lambda count: None)

    assert names(layout) == before and open_descriptors() == descriptors


def test_a_leftover_that_cannot_be_read_costs_nothing_but_itself(
    layout: Layout, leave: Leave, repository: Repository
) -> None:
    leave("far", 0, 1)
    move_writers_away(layout)
    [theirs] = layout.partials.glob("far.*.part")
    theirs.unlink()
    theirs.symlink_to("/proc/self/mem")  # a regular file whose every read is an input/output error
    partials, descriptors = Partials(layout, "me"), open_descriptors()
    try:
        partial = partials.open(repository, ENTRY, lambda count: None)
    except (OSError, MxError):
        assert names(layout) == {"far.part", "far.journal"}
    else:
        assert partial.arrived_bytes == 0
        partials.release(partial, is_kept=False)
    assert open_descriptors() == descriptors, "the file that was begun is still open"


def test_released_files_stay_or_go(layout: Layout, repository: Repository) -> None:
    partials = Partials(layout, "me")
    descriptors = open_descriptors()
    kept = partials.open(repository, ENTRY, lambda count: None)
    kept.put(1, chunk_of(CONTENT, 1))
    partials.release(kept, is_kept=True)
    assert names(layout) == {"me.part", "me.journal"}
    again = partials.open(repository, ENTRY, lambda count: None)
    assert again.arrived_bytes == CHUNK_BYTES
    partials.release(again, is_kept=False)

    assert names(layout) == set() and open_descriptors() == descriptors


def test_a_file_in_use_is_no_leftover(
    layout: Layout, repository: Repository, opened: Callable[..., Partial]
) -> None:
    partials = Partials(layout, "me")
    mine = opened("me", ENTRY, partials)
    mine.put(0, chunk_of(CONTENT, 0))

    assert partials.allocated_bytes(repository, [ENTRY]) == 0
    assert partials.find_dead() == [] and partials.delete_of(repository) == 0
    assert names(layout) == {"me.part", "me.journal"}


class TestCounting:
    def test_what_the_dead_have_allocated_need_not_be_promised_again(
        self, layout: Layout, leave: Leave, repository: Repository
    ) -> None:
        leave("dead", 0)
        partials = Partials(layout, "me")
        assert partials.allocated_bytes(repository, [ENTRY]) == 0, "its writer is alive"
        bury_writers(layout)
        [part] = layout.partials.glob("*.part")

        assert partials.allocated_bytes(repository, [ENTRY]) == min(part.stat().st_blocks * 512, SIZE)
        assert partials.allocated_bytes(repository, [entry_of(b"x", "other")]) == 0
        move_writers_away(layout)
        assert partials.allocated_bytes(repository, [ENTRY]) == 0, "a copy needs room of its own"

    def test_what_is_deleted_of_a_model_is_the_deads_alone(
        self, layout: Layout, leave: Leave, repository: Repository
    ) -> None:
        leave("dead", 0)
        bury_writers(layout)
        leave("alive", 1)
        [part] = layout.partials.glob("dead.*.part")
        blocks = part.stat().st_blocks * 512
        partials = Partials(layout, "me")
        assert partials.delete_of(Repository(layout.root, "org/other")) == 0

        assert partials.delete_of(repository) == blocks
        assert names(layout) == {"alive.part", "alive.journal"}

    def test_a_file_with_two_names_is_freed_once(
        self, layout: Layout, leave: Leave, repository: Repository
    ) -> None:
        leave("dead", 0)
        [part], [journal] = layout.partials.glob("*.part"), layout.partials.glob("*.journal")
        (layout.partials / part.name.replace("dead", "later")).hardlink_to(part)
        shutil.copy(journal, layout.partials / journal.name.replace("dead", "later"))
        bury_writers(layout)
        blocks = part.stat().st_blocks * 512

        assert Partials(layout, "me").delete_of(repository) == blocks and names(layout) == set()

    def test_the_dead_are_found_with_their_bytes(self, layout: Layout, leave: Leave) -> None:
        leave("alive", 1)
        leave("dead", 0)
        partials = Partials(layout, "me")
        assert partials.find_dead() == []
        bury_writers(layout)
        for journal in layout.partials.glob("alive.*.journal"):
            journal.unlink()
        found = partials.find_dead()

        assert sorted(path.suffix for path, _ in found) == [".journal", ".part"]
        assert sum(size for _, size in found) == sum(path.stat().st_size for path, _ in found)


class TestSweep:
    def test_pairs_of_the_dead_are_given_a_day_and_lone_files_none(
        self, layout: Layout, leave: Leave
    ) -> None:
        leave("dead", 0)
        leave("gone", 0)
        leave("lost", 0)
        for path in (*layout.partials.glob("gone.*.journal"), *layout.partials.glob("lost.*.part")):
            path.unlink()
        now = next(layout.partials.glob("dead.*.part")).stat().st_mtime
        dead = frozenset({"dead", "gone", "lost"})

        assert sweep(layout, dead, now) >= SIZE
        assert names(layout) == {"dead.part", "dead.journal"}
        assert sweep(layout, dead, now + DAY / 2) == 0
        sweep(layout, dead, now + DAY + 60)
        assert names(layout) == set()


KILLED = """
import os, sys
from pathlib import Path
from tests.support.arrivals import REF, chunk_of, content_of, entry_of
from modelexpress.store.layout import Layout
from modelexpress.store.partials import Partials
content = content_of(int(sys.argv[2]))
layout = Layout(Path(sys.argv[1]))
partial = Partials(layout, "killed").open(layout.repository(REF), entry_of(content), lambda count: None)
for index in (0, 2):
    partial.put(index, chunk_of(content, index))
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_wrote_is_taken_over_once_it_is_dead(
    layout: Layout, opened: Callable[..., Partial]
) -> None:
    command = [sys.executable, "-c", KILLED, str(layout.root), str(SIZE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd()) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        alive = opened("me")
        assert alive.arrived_bytes == 0 and "killed.part" in names(layout)
        process.send_signal(signal.SIGKILL)
        process.wait()
    partial = opened("you")

    assert partial.arrived_bytes == 2 * CHUNK_BYTES and "killed.part" not in names(layout)
