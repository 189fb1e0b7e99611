# SPDX-License-Identifier: Apache-2.0
"""The verbs of `modelexpress cache` on a directory: list, remove, prune, verify, adopt."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from modelexpress.cache.collecting import collect
from modelexpress.cache.parts import CacheParts
from modelexpress.cache.removing import Remover
from modelexpress.cache.verifying import Suspect, Verification
from modelexpress.domain.errors import Busy, Invalid, NotFound
from modelexpress.domain.held import HeldSnapshot, OnProgress, Removal, RemovalPlan, Verified
from modelexpress.domain.inventory import ModelKey, SnapshotKey
from modelexpress.domain.manifest import Digest, FileEntry, Manifest
from modelexpress.domain.pins import Pin
from modelexpress.domain.refs import ModelRef, shown
from modelexpress.domain.selection import ALL_FILES, Selection, Weights
from modelexpress.store.layout import Repository, model_ref
from modelexpress.store.proof import find_damage
from modelexpress.store.records import CompleteSelection, HeldEntry, Owned, SnapshotRecord
from modelexpress.store.removal import RepositoryRemoval, plan_removal
from modelexpress.store.survey import (
    list_commits,
    list_repositories,
    place_of,
    read_foreign_manifest,
    read_refs,
)
from modelexpress.store.tally import Tally, tally
from modelexpress.store.volume import Ownership

_COMMIT_START = re.compile(r"[0-9a-f]{7,40}")
_SHOWN_COMMITS = 5

_log = logging.getLogger(__name__)


class LocalControl:
    """CacheControl on the directory itself (see `domain.control.CacheControl` for the promises)."""

    def __init__(self, parts: CacheParts) -> None:
        self._parts = parts
        self.where = str(parts.layout.root)
        self._remover = Remover(parts)

    async def list_held(self) -> list[HeldSnapshot]:
        """Everything in the cache, by name and commit, also what other tools wrote."""
        used = {(h.name, h.commit): h.last_used_at async for h in self._parts.holdings.list(self._parts.node)}
        held = await self._parts.pool.run("listing the cache", self._list_blocking)
        return [replace(s, last_used_at=used.get((s.name, s.commit), s.last_used_at)) for s in held]

    async def remove(self, refs: list[ModelRef], is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of models; NotFound when nothing here has such a name."""
        asked = _by_model(refs)
        # All are planned before any is carried out: a name that is not here stops no removal halfway.
        parts = [await self._remove_model(revisions, is_dry_run=True) for revisions in asked]
        if not is_dry_run:
            await self._check_not_served()
            parts = [await self._remove_model(revisions, is_dry_run=False) for revisions in asked]
        removals = [removal for part in parts for removal in part.removals]
        return RemovalPlan(tuple(removals), notes=tuple(note for part in parts for note in part.notes))

    async def prune(self, is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of our snapshots that no branch or tag names, and of leftovers."""
        removals: list[Removal] = []
        notes: list[str] = []
        pins = await self._parts.pool.run("reading the pins", self._parts.pins.read)
        if not is_dry_run:
            await self._check_not_served()
        for repository in await self._parts.pool.run("listing", list_repositories, self._parts.layout):
            async with self._parts.turns.of(repository.name):
                what = f"planning {repository.name}"
                plan, kept = await self._parts.pool.run(what, self._plan_prune, repository, pins)
                notes += kept
                if plan is None or self._parts.leases.is_used(_model_of(repository)):
                    continue  # nothing names a commit that is just being pulled
                if not is_dry_run:
                    await self._remover.carry_out(plan)
                removals.extend(plan.removals)
        count, size = await collect(self._parts, is_dry_run, takes_resumable=True)
        return RemovalPlan(tuple(removals), count, size, tuple(notes))

    async def verify(
        self, ref: ModelRef | None, on_progress: OnProgress, is_repair: bool = False
    ) -> list[Verified]:
        """Prove every file again from its bytes; what is damaged no longer counts as held, until repaired.

        Raises NotFound when `ref` is not in the cache.
        """
        suspects = await self._parts.pool.run("listing the cache", self._list_to_verify, ref)
        if ref is not None and not suspects:
            raise NotFound(f"{ref} is not in the cache at {self.where}; nothing to verify")
        if is_repair:
            await self._check_not_served()
        return await Verification(self._parts, suspects, on_progress, is_repair).run()

    async def adopt(self, ref: ModelRef | None, is_dry_run: bool) -> list[HeldSnapshot]:
        """Prove and take over snapshots that other tools wrote; damaged ones are left as they are."""
        found = await self._parts.pool.run("listing the cache", self._find_snapshots, ref)
        if ref is not None and not found:
            raise NotFound(f"{ref} is not in the cache at {self.where}; nothing to adopt")
        adopted = []
        if not is_dry_run:
            await self._check_not_served()
        for record in found:
            if not _is_wholly_owned(record):
                async with self._parts.leases.held(SnapshotKey.of(record.manifest).model, "adopted"):
                    taken = await self._adopt_snapshot(record, is_dry_run)
                adopted.extend([taken] if taken is not None else [])
        return adopted

    async def _check_not_served(self) -> None:
        """Raise Busy while a server of another process decides about this directory: two would not agree."""
        layout, now = self._parts.layout, self._parts.clock.wall()
        server = await self._parts.pool.run("looking at the owner", Ownership.find_foreign, layout, now)
        if server is not None:
            raise Busy(
                f"the cache at {self.where} is served by {server}: let that server do it (--endpoint), "
                "or stop it first"
            )

    async def prove_foreign(self, ref: ModelRef, commit: str, selection: Selection) -> SnapshotRecord | None:
        """Prove what another tool wrote, without its origin, and record it; None if it is not whole.

        A file outside its listing may be missing when the other tool wrote no listing: then complete
        means "all that is here", as that tool itself would have it.
        """
        what, repository = f"looking at {ref.name}", self._parts.layout.repository(ref)
        known = await self._parts.pool.run(what, self._find_or_read, repository, commit)
        if known is None:
            return None
        before = known.selections.get(selection.key)
        missing = () if before is None else before.missing
        chosen = [e for e in selection.choose(known.manifest.files) if e.path not in missing]
        proven = await self._prove(known, chosen)
        if any(entry.path not in proven.held for entry in chosen):
            return None
        done = CompleteSelection(self._parts.clock.wall(), missing)
        return await self._merge(proven, replace(proven, selections={selection.key: done}))

    async def _merge(self, before: SnapshotRecord, found: SnapshotRecord) -> SnapshotRecord:
        """Save what was `found` upon the record as it is now: a pull may have ended meanwhile."""
        ref, commit = found.manifest.ref, found.manifest.commit
        damaged = set(before.held) - set(found.held)
        async with self._parts.turns.of(ref.name):
            now = await self._parts.pool.run(f"reading {ref}", self._parts.records.find, ref, commit)
            base = before if now is None else now
            merged = replace(
                base,
                is_adopted=base.is_adopted or found.is_adopted,
                owned={**base.owned, **found.owned},
                held={p: h for p, h in {**base.held, **found.held}.items() if p not in damaged},
                selections={**base.selections, **found.selections},
            )
            await self._parts.save(merged)
        return merged

    async def _prove(self, record: SnapshotRecord, entries: Iterable[FileEntry]) -> SnapshotRecord:
        """`record` with the files of `entries` held that are proven by reading them."""
        repository, held = self._parts.layout.repository(record.manifest.ref), dict(record.held)
        for entry in entries:
            path = place_of(repository, record, entry)
            if entry.digest is None or await find_damage(self._parts.pool, path, entry) is not None:
                held.pop(entry.path, None)
                continue
            status = await self._parts.pool.run(f"looking at {path}", path.stat)
            held[entry.path] = HeldEntry(entry.digest.proof, status.st_mtime_ns)
        return replace(record, held=held)

    # -- list

    def _list_blocking(self) -> list[HeldSnapshot]:
        counted: dict[ModelRef, set[Digest | str]] = {}
        named = functools.cache(self._parts.names.list_names)  # once for all commits of a model
        return [
            self._describe(record, named(record.manifest.ref), counted.setdefault(record.manifest.ref, set()))
            for record in self._find_snapshots(None)
        ]

    def _find_snapshots(self, ref: ModelRef | None) -> list[SnapshotRecord]:
        """A record for every snapshot here, made up from the directory where we have none."""
        found = []
        for repository in list_repositories(self._parts.layout):
            if ref is not None and model_ref(repository.name) != replace(ref, revision=None):
                continue
            wanted = self._wanted_commits(repository, ref)
            for commit in self._list_commits(repository):
                record = self._find_or_read(repository, commit)
                if record is not None and (wanted is None or commit in wanted):
                    found.append(record)
        return found

    def _list_commits(self, repository: Repository) -> list[str]:
        """The commits that have a snapshot, and those of which single files were read alone."""
        records = self._parts.records.find_all(model_ref(repository.name))
        loose = {record.manifest.commit for record in records if record.held and not record.selections}
        return sorted(loose.union(list_commits(repository)))

    def _find_snapshots_and_lost(self, ref: ModelRef | None) -> list[SnapshotRecord]:
        """The same, and the records whose snapshot is not there any more."""
        found = self._find_snapshots(ref)
        known = {(record.manifest.ref, record.manifest.commit) for record in found}
        lost = self._parts.records.scan() if ref is None else self._parts.records.find_all(ref)
        wanted = None if ref is None else self._wanted_commits(self._parts.layout.repository(ref), ref)
        for record in lost:
            commit = record.manifest.commit
            if (record.manifest.ref, commit) not in known and (wanted is None or commit in wanted):
                found.append(record)
        return found

    def _wanted_commits(self, repository: Repository, ref: ModelRef | None) -> set[str] | None:
        """The commits that a revision stands for; None: all. Invalid for the beginning of several."""
        if ref is None or ref.revision is None:
            return None
        named = self._parts.names.list_names(ref).get(ref.revision)
        if named is not None or not _COMMIT_START.fullmatch(ref.revision):
            return {named or ref.revision}
        recorded = (record.manifest.commit for record in self._parts.records.find_all(ref))
        here = {c for c in (*list_commits(repository), *recorded) if c.startswith(ref.revision)}
        if len(here) > 1:
            raise Invalid(
                f"{ref} can be any of {', '.join(sorted(here)[:_SHOWN_COMMITS])}: give more of its digits"
            )
        return here

    def _list_to_verify(self, ref: ModelRef | None) -> list[Suspect]:
        records = self._find_snapshots_and_lost(ref)
        found = [Suspect(record, self._list_expected(record)) for record in records]
        return [suspect for suspect in found if suspect.entries]

    def _list_expected(self, record: SnapshotRecord) -> tuple[FileEntry, ...]:
        """The files that should be here: also those that were found damaged before and count no more."""
        paths = {*record.held, *(entry.path for entry in self._list_present(record))}
        for selection in (Selection(weights) for weights in Weights):
            done = record.selections.get(selection.key)
            if done is not None:
                chosen = {entry.path for entry in selection.choose(record.manifest.files)}
                paths |= chosen - set(done.missing)
        return tuple(entry for entry in record.manifest.files if entry.path in paths)

    def _list_present(self, record: SnapshotRecord) -> list[FileEntry]:
        """The files that have a name in the snapshot; another tool may have brought a part on purpose."""
        folder = self._parts.layout.repository(record.manifest.ref).snapshot(record.manifest.commit)
        return [entry for entry in record.manifest.files if os.path.lexists(folder / entry.path)]

    def _find_or_read(self, repository: Repository, commit: str) -> SnapshotRecord | None:
        ref = model_ref(repository.name)
        record = self._parts.records.find(ref, commit)
        if record is not None:
            return record
        manifest = read_foreign_manifest(repository, commit)
        return None if manifest is None else _empty_record(manifest)

    def _describe_alone(self, record: SnapshotRecord) -> HeldSnapshot:
        return self._describe(record, self._parts.names.list_names(record.manifest.ref))

    def _describe(
        self, record: SnapshotRecord, named: Mapping[str, str], listed: set[Digest | str] | None = None
    ) -> HeldSnapshot:
        """The snapshot in our callers' words.

        `named`: what its model's branches and tags mean; `listed`: the model's blobs counted before it.
        """
        manifest = record.manifest
        repository = self._parts.layout.repository(manifest.ref)
        counted = tally(record) if record.held else _tally_listed(repository, record)
        known = listed if listed is not None else set()
        added = sum(size for blob, size in counted.blobs.items() if blob not in known)
        known.update(counted.blobs)
        times = [done.completed_at for done in record.selections.values()]
        refs = [name for name, commit in named.items() if commit == manifest.commit]
        return HeldSnapshot(
            provider=manifest.ref.provider,
            name=manifest.ref.name,
            commit=manifest.commit,
            refs=tuple(sorted(refs)),
            selections=tuple(sorted(record.selections)),
            files=counted.files,
            bytes=counted.bytes,
            bytes_added=added,
            bytes_ours=counted.bytes_ours,
            path=str(repository.snapshot(manifest.commit)),
            last_used_at=max(times, default=None),
            is_recorded=bool(record.held),
            is_adopted=record.is_adopted,
        )

    # -- remove and prune

    async def _remove_model(self, revisions: list[ModelRef], is_dry_run: bool) -> RemovalPlan:
        name = revisions[0].name
        async with self._parts.turns.of(name):
            plan, notes = await self._parts.pool.run(f"planning {name}", self._plan_removal, revisions)
            if not is_dry_run:
                await self._remover.carry_out(plan)
        return RemovalPlan(plan.removals, notes=tuple(notes))

    async def _records_of(self, ref: ModelRef) -> list[SnapshotRecord]:
        """The records of what a ref means here; NotFound when it is nothing."""
        found = await self._parts.pool.run(f"looking for {ref}", self._find_snapshots_and_lost, ref)
        if not found:
            raise NotFound(f"{ref} is not in the cache at {self.where}; nothing to remove")
        return found

    def _plan_removal(self, revisions: list[ModelRef]) -> tuple[RepositoryRemoval, list[str]]:
        """The plan for some revisions of one model."""
        found: dict[str, SnapshotRecord] = {}
        for ref in revisions:
            here = {record.manifest.commit: record for record in self._find_snapshots_and_lost(ref)}
            if not here:
                raise NotFound(f"{ref} is not in the cache at {self.where}; nothing to remove")
            found |= here
        model = replace(revisions[0], revision=None)
        plan = plan_removal(self._parts.layout, model, self._parts.records, frozenset(found), "asked for")
        return plan, [_note(found[c]) for c in sorted(found) if not _is_wholly_owned(found[c])]

    def _plan_prune(
        self, repository: Repository, pins: list[Pin]
    ) -> tuple[RepositoryRemoval | None, list[str]]:
        """What nothing names of a model, and what of it stays all the same and why."""
        ref = model_ref(repository.name)
        # A ref that leads nowhere says nothing of what is here.
        named = set(read_refs(repository).values()) & set(list_commits(repository))
        known = {record.manifest.commit for record in self._parts.records.find_all(ref)}
        # Of what was read file by file no ref is written, but the origin has said what it is called.
        said = set(self._parts.names.list_names(ref).values())
        now = self._parts.clock.wall()
        lasting = [pin for pin in pins if not pin.is_over(now)]
        model, holders = _model_of(repository), self._parts.leases.paths.holders
        unnamed, kept = known - named - said, {}
        for commit in sorted(unnamed):
            if any(pin.matches(repository.name, commit, ()) for pin in lasting):
                kept[commit] = "pinned"
            elif holders(SnapshotKey(model, commit), now):
                kept[commit] = "handed out as a path; 'modelexpress cache rm' removes it all the same"
        loose = frozenset(unnamed - kept.keys())
        notes = [f"{repository.name}@{commit[:12]} stays: {why}" for commit, why in kept.items()]
        # A model that was only ever pulled by commit has no refs at all; its snapshots are in use.
        if not loose or not named:
            return None, notes if named else []
        reason = "no branch or tag names it"
        return plan_removal(self._parts.layout, ref, self._parts.records, loose, reason), notes

    # -- adopt

    async def _adopt_snapshot(self, record: SnapshotRecord, is_dry_run: bool) -> HeldSnapshot | None:
        ref, commit = record.manifest.ref, record.manifest.commit
        present = await self._parts.pool.run(f"looking at {ref}", self._list_present, record)
        proven = await self._prove(record, present)
        lost = [entry.path for entry in present if entry.path not in proven.held]
        if (lost and not record.selections) or not proven.held:
            problem = f"{shown(lost[0])} is not proven" if lost else "no file of it is here"
            _log.warning("%s@%s is not adopted: %s", ref.name, commit, problem)
            return None
        adopted = replace(
            proven,
            owned=dict.fromkeys(proven.held, Owned(blob=True, link=True)),
            selections={**self._whole(proven), **record.selections},
            is_adopted=True,
        )
        if not is_dry_run:
            adopted = await self._merge(record, adopted)
        return await self._parts.pool.run(f"describing {ref}", self._describe_alone, adopted)

    def _whole(self, record: SnapshotRecord) -> dict[str, CompleteSelection]:
        is_whole = len(record.held) == len(record.manifest.files)
        return {ALL_FILES.key: CompleteSelection(self._parts.clock.wall())} if is_whole else {}


def _by_model(refs: Iterable[ModelRef]) -> list[list[ModelRef]]:
    found: dict[ModelRef, list[ModelRef]] = {}
    for ref in refs:
        found.setdefault(replace(ref, revision=None), []).append(ref)
    return list(found.values())


def _model_of(repository: Repository) -> ModelKey:
    return ModelKey.of(model_ref(repository.name).provider, repository.name)


def _empty_record(manifest: Manifest) -> SnapshotRecord:
    return SnapshotRecord(manifest, is_listed_by_origin=False)


def _is_wholly_owned(record: SnapshotRecord) -> bool:
    return bool(record.held) and all(record.owned.get(p, Owned()) == Owned(True, True) for p in record.held)


def _note(record: SnapshotRecord) -> str:
    name = f"{record.manifest.ref.name}@{record.manifest.commit[:12]}"
    return (
        f"{name} holds files that another tool wrote; they stay. "
        f"'modelexpress cache adopt {record.manifest.ref.name}' lets them be removed"
    )


def _tally_listed(repository: Repository, record: SnapshotRecord) -> Tally:
    folder = repository.snapshot(record.manifest.commit)
    present = [entry for entry in record.manifest.files if (folder / entry.path).exists()]
    return Tally(len(present), {entry.digest or entry.path: entry.size for entry in present}, 0)
