# SPDX-License-Identifier: Apache-2.0
"""One file's life: obtained, proven, published, removed; on a real directory."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from modelexpress.domain.errors import Cancelled, Corrupt, NoRoom, NotFound, StorageFailed, Unsupported
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest, Proof
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion
from modelexpress.store.arriving import Watch
from modelexpress.store.blobs import Blobs, Obtained
from modelexpress.store.disk import DiskPool, disk_errors
from modelexpress.store.layout import Layout
from modelexpress.store.partial import Partial
from modelexpress.store.proof import find_damage, opened
from modelexpress.store.publish import Publication, Publisher
from modelexpress.store.records import CompleteSelection, Owned, Records, SnapshotRecord
from modelexpress.store.removal import RepositoryRemoval, carry_out, note_removal, plan_removal
from modelexpress.store.survey import Finding, Presence, find_touched, read_foreign_manifest, survey
from modelexpress.store.volume import open_volume, remove_tree, sweep
from modelexpress.store.window import RangedSource, Reader, Slots

REF = ModelRef.parse("org/name")
COMMIT = "1" * 40
OTHER = "2" * 40


def remove(layout: Layout, plan: RepositoryRemoval, records: Records) -> None:
    remove_tree(carry_out(layout, note_removal(layout, "me", plan), plan, records))


def sha256_entry(path: str, content: bytes) -> FileEntry:
    return FileEntry(
        path, len(content), Digest(DigestKind.SHA256, hashlib.sha256(content).hexdigest()), "b" * 40
    )


def git_entry(path: str, content: bytes) -> FileEntry:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return FileEntry(path, len(content), Digest(DigestKind.GIT_BLOB, oid), oid)


CONTENT = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 9000, "sub/deep/empty": b""}
ENTRIES = tuple(
    sha256_entry(path, content) if path.endswith("safetensors") else git_entry(path, content)
    for path, content in sorted(CONTENT.items())
)
MANIFEST = Manifest(REF, COMMIT, ENTRIES)


class OneClaim:
    """A claim keeper for a single process: one holder of a name at a time."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    def held(self, name: str, what: str) -> AbstractAsyncContextManager[object]:
        return self._locks.setdefault(name, asyncio.Lock())


class ByRanges:
    """A source over its own `read`, which the subclass has."""

    vouches_chunks = False

    async def fill(self, entry: FileEntry, partial: Partial) -> None:
        pool = DiskPool()
        try:
            await RangedSource(cast(Reader, self), pool, Slots(lambda: 4)).fill(entry, partial)
        finally:
            pool.close()


class Listed(ByRanges):
    """A source that gives listed bytes, in the order of its readings of a file."""

    def __init__(self, content: dict[str, bytes], *wrong_first: bytes) -> None:
        self.content = content
        self.wrong_first = list(wrong_first)
        self.readings: list[str] = []

    async def read(self, entry: FileEntry, span: ByteSpan, on_version: OnVersion) -> AsyncIterator[bytes]:
        self.readings.append(entry.path)
        if entry.path not in self.content:
            raise NotFound(f"{entry.path} is not there")
        content = self.wrong_first.pop(0) if self.wrong_first else self.content[entry.path]
        content = content[span.start : span.end]
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]


@pytest.fixture
def pool() -> Iterator[DiskPool]:
    made = DiskPool()
    yield made
    made.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cache")
    open_volume(made, "me")
    return made


@pytest.fixture
def blobs(layout: Layout, pool: DiskPool) -> Blobs:
    return Blobs(layout, pool, OneClaim(), Records(layout, "me"), "me")


def finding(layout: Layout, entry: FileEntry) -> Finding:
    [found] = survey(layout.repository(REF), MANIFEST, [entry], [])
    return found


async def obtain_all(layout: Layout, blobs: Blobs) -> dict[str, Obtained]:
    source, repository = Listed(CONTENT), layout.repository(REF)
    return {e.path: await blobs.obtain(repository, finding(layout, e), source, Watch()) for e in ENTRIES}


async def publish_all(layout: Layout, blobs: Blobs, commit: str = COMMIT) -> SnapshotRecord:
    obtained = await obtain_all(layout, blobs)
    record = SnapshotRecord(
        Manifest(REF, commit, ENTRIES),
        owned=dict.fromkeys(CONTENT, Owned(True, True)),
        held={path: found.held for path, found in obtained.items()},
        selections={"all": CompleteSelection(1.0)},
    )
    records = Records(layout, "me")
    Publisher(layout, records, "me").publish(Publication(layout.repository(REF), record, frozenset({"main"})))
    return record


def tree(root: Path) -> dict[str, bytes | str]:
    return {
        path.relative_to(root).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


async def test_a_fetched_file_is_proven_and_stands_under_its_digest(layout: Layout, blobs: Blobs) -> None:
    for entry in ENTRIES:
        obtained = await blobs.obtain(
            layout.repository(REF), finding(layout, entry), Listed(CONTENT), Watch()
        )

        assert entry.digest is not None
        assert layout.repository(REF).blob(entry.digest).read_bytes() == CONTENT[entry.path]
        assert obtained.held.proof is Proof.DIGEST
    assert not list(layout.partials.iterdir())


async def test_wrong_bytes_are_read_once_more_and_then_refused(layout: Layout, blobs: Blobs) -> None:
    entry = ENTRIES[1]
    wrong = b"x" * entry.size
    heard: list[int] = []

    once = Listed(CONTENT, wrong)
    await blobs.obtain(layout.repository(REF), finding(layout, entry), once, Watch(heard.append))
    assert len(once.readings) == 2 and sum(heard) == entry.size

    other = replace(entry, digest=Digest(DigestKind.SHA256, "0" * 64))
    twice = Listed(CONTENT, wrong, wrong)
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        await blobs.obtain(layout.repository(REF), finding(layout, other), twice, Watch())
    assert not list(layout.partials.iterdir())
    assert [p.name for p in layout.repository(REF).blobs.iterdir()] == [str(entry.digest).partition(":")[2]]


@pytest.mark.parametrize("cut", [0, 1, 100])
async def test_a_short_body_never_becomes_a_blob(layout: Layout, blobs: Blobs, cut: int) -> None:
    entry = ENTRIES[1]
    short = CONTENT[entry.path][:cut]

    with pytest.raises(Corrupt, match="bytes instead of"):
        await blobs.obtain(
            layout.repository(REF), finding(layout, entry), Listed(CONTENT, short, short), Watch()
        )

    assert not layout.repository(REF).blobs.exists()


async def test_a_cancelled_fetch_leaves_nothing(layout: Layout, blobs: Blobs) -> None:
    reached, entry = asyncio.Event(), ENTRIES[1]

    class Endless(ByRanges):
        async def read(self, entry: FileEntry, span: ByteSpan, on_version: OnVersion) -> AsyncIterator[bytes]:
            yield b"x" * 10
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(
        blobs.obtain(layout.repository(REF), finding(layout, entry), Endless(), Watch())
    )
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not list(layout.partials.iterdir())


async def test_many_who_want_one_file_cost_one_reading(layout: Layout, blobs: Blobs) -> None:
    source, entry = Listed(CONTENT), ENTRIES[1]
    found = finding(layout, entry)

    await asyncio.gather(*(blobs.obtain(layout.repository(REF), found, source, Watch()) for _ in range(20)))

    assert source.readings == [entry.path]


async def test_a_file_without_a_digest_gets_our_own_and_the_lower_grade(layout: Layout, blobs: Blobs) -> None:
    entry = FileEntry("config.json", 2)

    obtained = await blobs.obtain(layout.repository(REF), finding(layout, entry), Listed(CONTENT), Watch())

    assert obtained.entry.digest == Digest(DigestKind.LOCAL_SHA256, hashlib.sha256(b"{}").hexdigest())
    assert obtained.held.proof is Proof.TRANSPORT


async def test_files_of_another_tool_are_proven_not_fetched(layout: Layout, blobs: Blobs) -> None:
    repository = layout.repository(REF)
    repository.blobs.mkdir(parents=True)
    for entry in ENTRIES:
        assert entry.digest is not None
        repository.blob(entry.digest).write_bytes(CONTENT[entry.path])
    source = Listed({})

    for entry in ENTRIES:
        found = finding(layout, entry)
        assert found.presence is Presence.UNPROVEN and not found.owned.blob
        await blobs.obtain(repository, found, source, Watch())

    assert source.readings == []


async def test_a_damaged_file_of_another_tool_is_fetched(layout: Layout, blobs: Blobs) -> None:
    entry = ENTRIES[1]
    assert entry.digest is not None
    blob = layout.repository(REF).blob(entry.digest)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * entry.size)
    source = Listed(CONTENT)

    await blobs.obtain(layout.repository(REF), finding(layout, entry), source, Watch())

    assert source.readings == [entry.path] and blob.read_bytes() == CONTENT[entry.path]


async def test_publication_is_the_standard_layout_and_done_twice_is_the_same(
    layout: Layout, blobs: Blobs
) -> None:
    record = await publish_all(layout, blobs)
    repository = layout.repository(REF)
    before = tree(repository.path)

    Publisher(layout, Records(layout, "me"), "me").publish(
        Publication(repository, record, frozenset({"main"}))
    )

    assert tree(repository.path) == before
    assert before["refs/main"] == COMMIT.encode()
    assert before[f"snapshots/{COMMIT}/sub/deep/empty"] == f"../../../../blobs/{ENTRIES[2].digest.value}"  # type: ignore[union-attr]
    for path, content in CONTENT.items():
        assert (repository.snapshot(COMMIT) / path).read_bytes() == content
    assert not list(layout.staging.iterdir()) and not list(layout.partials.iterdir())


async def test_a_larger_selection_adds_links_to_a_snapshot_that_stands(layout: Layout, blobs: Blobs) -> None:
    record = await publish_all(layout, blobs)
    repository = layout.repository(REF)
    publisher = Publisher(layout, Records(layout, "me"), "me")
    for path in ("model.safetensors", "sub/deep/empty"):
        (repository.snapshot(COMMIT) / path).unlink()

    publisher.publish(Publication(repository, record, frozenset()))

    assert find_touched(repository, record, ENTRIES) is None


async def test_a_record_is_read_back_as_it_was_saved(layout: Layout, blobs: Blobs) -> None:
    record = await publish_all(layout, blobs)

    assert Records(layout, "me").find(REF, COMMIT) == record
    assert list(Records(layout, "me").scan()) == [record]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"format": 1}', b'{"format": "x"}', b"\xff"]
)
async def test_a_damaged_record_is_no_record(layout: Layout, blobs: Blobs, content: bytes) -> None:
    await publish_all(layout, blobs)
    layout.record(REF, COMMIT).write_bytes(content)

    assert Records(layout, "me").find(REF, COMMIT) is None


async def test_a_record_of_a_newer_format_is_left_alone(layout: Layout, blobs: Blobs) -> None:
    record = await publish_all(layout, blobs)
    path, records = layout.record(REF, COMMIT), Records(layout, "me")
    newer = path.read_bytes().replace(b'"format": 1', b'"format": 2')
    path.write_bytes(newer)

    assert records.find(REF, COMMIT) is None
    with pytest.raises(Unsupported, match="newer version"):
        records.save(record)
    assert path.read_bytes() == newer


async def test_a_file_whose_size_or_time_changed_is_not_proven_any_more(layout: Layout, blobs: Blobs) -> None:
    record = await publish_all(layout, blobs)
    repository = layout.repository(REF)
    assert find_touched(repository, record, ENTRIES) is None

    path = repository.snapshot(COMMIT) / "model.safetensors"
    os.utime(path, ns=(1, 1))

    assert find_touched(repository, record, ENTRIES) == ENTRIES[1]
    assert survey(repository, MANIFEST, ENTRIES, [record])[1].presence is Presence.UNPROVEN


async def test_removal_takes_all_that_is_ours(layout: Layout, blobs: Blobs) -> None:
    await publish_all(layout, blobs)
    records = Records(layout, "me")

    plan = plan_removal(layout, REF, records, frozenset({COMMIT}), "asked for")
    assert plan.removals[0].bytes_freed == MANIFEST.total_bytes
    remove(layout, plan, records)

    assert not layout.repository(REF).path.exists()
    assert records.find(REF, COMMIT) is None and not list(layout.trash.iterdir())


async def test_removal_keeps_blobs_that_another_commit_links(layout: Layout, blobs: Blobs) -> None:
    await publish_all(layout, blobs)
    await publish_all(layout, blobs, OTHER)
    records = Records(layout, "me")

    plan = plan_removal(layout, REF, records, frozenset({COMMIT}), "asked for")
    remove(layout, plan, records)

    record = records.find(REF, OTHER)
    assert plan.removals[0].bytes_freed == 0
    assert record is not None and find_touched(layout.repository(REF), record, ENTRIES) is None
    assert not layout.repository(REF).snapshot(COMMIT).exists()


async def test_removal_never_touches_what_another_tool_linked(layout: Layout, blobs: Blobs) -> None:
    await publish_all(layout, blobs)
    repository, records = layout.repository(REF), Records(layout, "me")
    foreign = repository.snapshot(OTHER)
    foreign.mkdir()
    (foreign / "mine.safetensors").symlink_to(f"../../blobs/{ENTRIES[1].digest.value}")  # type: ignore[union-attr]
    (repository.refs / "theirs").write_text(OTHER)

    remove(layout, plan_removal(layout, REF, records, frozenset({COMMIT}), ""), records)

    assert (foreign / "mine.safetensors").read_bytes() == CONTENT["model.safetensors"]
    assert (repository.refs / "theirs").read_text() == OTHER and not (repository.refs / "main").exists()


async def test_removing_a_snapshot_of_another_tool_removes_no_file(layout: Layout, blobs: Blobs) -> None:
    record = await publish_all(layout, blobs)
    records, repository = Records(layout, "me"), layout.repository(REF)
    records.save(replace(record, owned={}))
    before = tree(repository.path)

    remove(layout, plan_removal(layout, REF, records, frozenset({COMMIT}), ""), records)

    assert tree(repository.path) == before


async def test_a_removal_torn_at_any_step_can_be_done_again(
    layout: Layout, blobs: Blobs, tmp_path: Path
) -> None:
    await publish_all(layout, blobs)
    records = Records(layout, "me")
    plan = plan_removal(layout, REF, records, frozenset({COMMIT}), "")
    records.delete(REF, COMMIT)  # the first step, then a crash
    plan.links[0].unlink()

    remove(layout, plan, records)

    assert not layout.repository(REF).path.exists()


def test_a_snapshot_of_another_tool_is_listed_by_its_links(layout: Layout) -> None:
    repository = layout.repository(REF)
    for entry in ENTRIES:
        assert entry.digest is not None
        link = repository.snapshot(COMMIT) / entry.path
        link.parent.mkdir(parents=True, exist_ok=True)
        repository.blobs.mkdir(parents=True, exist_ok=True)
        repository.blob(entry.digest).write_bytes(CONTENT[entry.path])
        link.symlink_to(os.path.relpath(repository.blob(entry.digest), link.parent))

    manifest = read_foreign_manifest(repository, COMMIT)

    assert manifest is not None
    assert [(e.path, e.size, e.digest) for e in manifest.files] == [
        (e.path, e.size, e.digest) for e in ENTRIES
    ]


def test_a_snapshot_with_a_dangling_link_is_not_whole(layout: Layout) -> None:
    snapshot = layout.repository(REF).snapshot(COMMIT)
    snapshot.mkdir(parents=True)
    (snapshot / "a").symlink_to("../../blobs/" + "a" * 64)

    assert read_foreign_manifest(layout.repository(REF), COMMIT) is None


def test_opening_a_volume_twice_gives_the_same_id(layout: Layout) -> None:
    assert open_volume(layout, "me") == open_volume(layout, "you")


def test_a_sweep_takes_what_dead_sessions_left_and_nothing_of_living_ones(layout: Layout) -> None:
    for name in ("dead.1.part", "alive.1.part"):
        (layout.partials / name).write_bytes(b"12345")
    (layout.trash / "x").mkdir()
    (layout.trash / "x" / "0").write_bytes(b"12345")
    now = (layout.partials / "alive.1.part").stat().st_mtime

    assert sweep(layout, frozenset({"dead"}), now) == 10
    assert [path.name for path in layout.partials.iterdir()] == ["alive.1.part"]


def test_a_sweep_takes_files_of_unknown_sessions_a_day_after_their_last_write(layout: Layout) -> None:
    path = layout.partials / "unknown.1.part"
    path.write_bytes(b"12345")

    assert sweep(layout, frozenset(), path.stat().st_mtime + 3600) == 0
    assert sweep(layout, frozenset(), path.stat().st_mtime + 25 * 3600) == 5


@pytest.mark.parametrize(
    ("number", "kind"), [(28, NoRoom), (122, NoRoom), (30, StorageFailed), (5, StorageFailed)]
)
def test_disk_errors_are_told_in_our_words(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="writing x"), disk_errors("writing x"):
        raise OSError(number, os.strerror(number), "/some/where")


async def test_damage_is_found_whatever_it_is(pool: DiskPool, tmp_path: Path) -> None:
    content = CONTENT["model.safetensors"]
    entry, path = ENTRIES[1], tmp_path / "f"
    for damaged in (b"", content[:-1], content + b"x", b"x" + content[1:]):
        path.write_bytes(damaged)
        assert await find_damage(pool, path, entry) is not None
    path.write_bytes(content)
    assert await find_damage(pool, path, entry) is None
    assert await find_damage(pool, tmp_path / "absent", entry) == "missing"


async def test_a_file_is_closed_though_the_pool_was_closed_before(tmp_path: Path) -> None:
    path, pool = tmp_path / "file", DiskPool()
    path.write_bytes(b"x")
    async with opened(pool, path) as descriptor:
        assert isinstance(descriptor, int)
        pool.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with pytest.raises(Cancelled, match="stopping"):
        await pool.run("looking", path.stat)
