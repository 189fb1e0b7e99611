# SPDX-License-Identifier: Apache-2.0
"""Readers are told of each file when it is proven: while it is pulled, afterwards, and never wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.arrivals import GatedPool, content_of, digests_of, wait_until
from tests.support.caches import blob_of, fill_by_huggingface_hub, flip_a_byte
from tests.support.house import House

from modelexpress.cache import proofs as proofs_module
from modelexpress.cache.proofs import watch_proofs
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Corrupt, MxError, NotFound, StorageFailed
from modelexpress.domain.held import ProvenFile
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import ALL_FILES
from modelexpress.store.digests import DigestList
from modelexpress.store.disk import DiskPool
from modelexpress.store.offers import Standing, offer_id_of
from modelexpress.testing.hub import Fault, Repository

NAME = "demo/proofs"
REF = ModelRef.parse(NAME)
CONTENT = {
    "big.safetensors": content_of(CHUNK_BYTES + 5),
    "config.json": b"{}",
    "empty.txt": b"",
    "README.md": b"# read me",
    "small.safetensors": content_of(1000, seed=3),
}


def root_of(path: str) -> str:
    return DigestList(len(CONTENT[path]), digests_of(CONTENT[path])).root


EXPECTED = {path: ProvenFile(path, len(content), root_of(path)) for path, content in CONTENT.items()}


class Watched:
    """One who listens to the proofs of a manifest from now on."""

    def __init__(self, house: House, manifest: Manifest) -> None:
        self.heard: dict[str, ProvenFile] = {}
        self.task = asyncio.create_task(self._listen(house, manifest))

    async def _listen(self, house: House, manifest: Manifest) -> None:
        async for proven in house.cache.watch_proofs(manifest):
            assert proven.path not in self.heard, "told twice"
            self.heard[proven.path] = proven


@pytest.fixture
def proofs(house: House) -> Iterator[House]:
    repository = Repository(NAME)
    repository.commit(CONTENT)
    house.hub.add(repository)
    yield house
    house.hub.faults.clear()


async def listed(house: House) -> tuple[asyncio.Task[object], Manifest]:
    """A pull that has begun, and its files on offer."""
    flight = await house.cache.begin(REF, ALL_FILES, ANONYMOUS)
    pulling = asyncio.create_task(flight.result())
    await flight.wait_listed()
    manifest = await house.cache.offered_manifest(REF.at(flight.commit), ALL_FILES, ANONYMOUS)
    return pulling, manifest


async def test_each_file_is_told_as_soon_as_it_is_proven(proofs: House) -> None:
    held = proofs.hub.faults.add(Fault("hold", "body", "big.safetensors", after=CHUNK_BYTES + 1))
    pulling, manifest = await listed(proofs)
    watched = Watched(proofs, manifest)
    await wait_until(lambda: len(watched.heard) == len(CONTENT) - 1)
    assert "big.safetensors" not in watched.heard and held.applied
    held.release()
    await watched.task

    assert watched.heard == EXPECTED and list(watched.heard)[-1] == "big.safetensors"
    await pulling


async def test_of_what_is_here_all_is_told_at_once_and_again_to_everybody(proofs: House) -> None:
    pulling, _ = await listed(proofs)
    await pulling
    proofs.hub.log.clear()
    _, manifest = await listed(proofs)
    watched = [Watched(proofs, manifest) for _ in range(5)]
    await asyncio.gather(*(each.task for each in watched))

    assert all(each.heard == EXPECTED for each in watched) and proofs.hub.log.of("body") == []


async def test_what_ends_the_pull_ends_the_watching(proofs: House) -> None:
    held = proofs.hub.faults.add(Fault("hold", "body", "big.safetensors", after=10))
    pulling, manifest = await listed(proofs)
    watched = Watched(proofs, manifest)
    await wait_until(lambda: held.applied > 0)
    await proofs.cache.remove([REF], is_dry_run=False)

    with pytest.raises(MxError, match="ask again"):
        await watched.task
    await asyncio.gather(pulling, return_exceptions=True)


async def test_a_listed_file_that_the_origin_does_not_have_is_not_waited_for(proofs: House) -> None:
    proofs.hub.faults.add(Fault("status", "resolve", "README.md", times=None, status=404))
    pulling, manifest = await listed(proofs)
    watched = Watched(proofs, manifest)
    await asyncio.wait_for(watched.task, 20)

    assert set(watched.heard) == set(CONTENT) - {"README.md"}
    await pulling


async def test_a_file_that_was_missing_once_is_waited_for_the_next_time(proofs: House) -> None:
    proofs.hub.faults.add(Fault("status", "resolve", "README.md", times=None, status=404))
    pulling, _ = await listed(proofs)
    await pulling
    proofs.hub.faults.clear()
    await proofs.cache.remove([REF], is_dry_run=False)
    held = proofs.hub.faults.add(Fault("hold", "body", "big.safetensors", after=10))
    pulling, manifest = await listed(proofs)
    watched = Watched(proofs, manifest)
    await wait_until(lambda: held.applied > 0)
    held.release()
    await watched.task

    assert watched.heard == EXPECTED
    await pulling


async def test_a_model_that_was_removed_and_is_pulled_again_is_told_when_it_is_back(proofs: House) -> None:
    pulling, _ = await listed(proofs)
    await pulling
    await proofs.cache.remove([REF], is_dry_run=False)
    waiting = proofs.hub.faults.add(Fault("hold", "body", times=None, after=0))
    pulling, manifest = await listed(proofs)
    watched = Watched(proofs, manifest)
    await wait_until(lambda: waiting.applied > 0)
    for _ in range(20):
        await asyncio.sleep(0.001)
    early = dict(watched.heard)
    waiting.release()
    await watched.task

    assert watched.heard == EXPECTED
    assert not {"big.safetensors", "small.safetensors"} & set(early), "told before it was here"
    await pulling


@pytest.mark.parametrize("path", ["big.safetensors", "small.safetensors"])
async def test_a_file_that_was_taken_away_and_is_brought_again_is_told_right(
    proofs: House, path: str
) -> None:
    pulling, _ = await listed(proofs)
    await pulling
    root = proofs.root / "models--demo--proofs"
    [snapshot] = (root / "snapshots").iterdir()
    blob_of(snapshot / path).unlink()
    waiting = proofs.hub.faults.add(Fault("hold", "body", path, after=10))
    pulling, manifest = await listed(proofs)
    watched = Watched(proofs, manifest)
    await wait_until(lambda: waiting.applied > 0)
    for _ in range(20):
        await asyncio.sleep(0.001)
    early = set(watched.heard)
    waiting.release()
    await watched.task

    assert watched.heard == EXPECTED and path not in early
    await pulling


async def test_a_file_that_changed_since_its_proof_is_told_to_nobody(proofs: House) -> None:
    pulling, _ = await listed(proofs)
    await pulling
    _, manifest = await listed(proofs)
    [snapshot] = (proofs.root / "models--demo--proofs/snapshots").iterdir()
    blob = blob_of(snapshot / "small.safetensors")
    flip_a_byte(blob)
    with pytest.raises(Corrupt, match=r"small\.safetensors.*pull the model again"):
        await Watched(proofs, manifest).task
    blob.unlink()
    with pytest.raises((Corrupt, StorageFailed), match=r"small\.safetensors"):
        await Watched(proofs, manifest).task


async def test_a_file_that_is_moved_aside_when_it_is_about_to_be_read_is_read_there(
    proofs: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulling, manifest = await listed(proofs)
    await pulling
    aside, read = tmp_path / "aside", proofs_module.prove_chunks
    [config] = [entry for entry in manifest.files if entry.path == "config.json"]
    offer = proofs.cache._parts.offers.find(offer_id_of(NAME, manifest.commit, config))
    assert offer is not None
    standing = offer.state
    assert isinstance(standing, Standing)

    async def moving(pool: DiskPool, path: Path, entry: FileEntry) -> bytes | str:
        if path == standing.path:  # by a removal, which has told the offer before
            path.resolve().rename(aside)
        return await read(pool, path, entry)

    offer.become(replace(standing, aside=aside))
    offer._root = None  # as after a restart
    monkeypatch.setattr(proofs_module, "prove_chunks", moving)
    manifest = replace(manifest, files=(config,))
    assert [one async for one in watch_proofs(proofs.cache._parts, manifest)] == [EXPECTED["config.json"]]


async def test_files_that_are_on_no_offer_are_not_found(proofs: House) -> None:
    pulling, manifest = await listed(proofs)
    await pulling
    other = replace(manifest, ref=ModelRef.parse("demo/other"))
    with pytest.raises(NotFound, match="ask for the manifest again"):
        await Watched(proofs, other).task


async def test_an_adopted_file_without_a_list_is_read_once_for_all_who_ask(proofs: House) -> None:
    await fill_by_huggingface_hub(proofs.hub, proofs.root, NAME)
    await proofs.cache.adopt(REF, is_dry_run=False)
    assert not list(Path(proofs.root, ".mx/digests").rglob("sha256-*"))
    pulling, manifest = await listed(proofs)
    await pulling
    pool = GatedPool()
    try:
        parts = replace(proofs.cache._parts, pool=pool)

        async def hear() -> dict[str, ProvenFile]:
            return {proven.path: proven async for proven in watch_proofs(parts, manifest)}

        heard = await asyncio.gather(*(hear() for _ in range(8)))
    finally:
        pool.close()

    assert all(each == EXPECTED for each in heard)
    # Opened, looked at, two chunks, closed; and whoever came later read the list.
    assert pool.started.count("reading big.safetensors") == 5
