# SPDX-License-Identifier: Apache-2.0
"""The cache's front: begin a pull, say what is here, and the verbs of `modelexpress cache`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from modelexpress.cache.access import Access, get_provider
from modelexpress.cache.flights import Confirm, Flight, FlightKey, Flights, PullState, landed
from modelexpress.cache.freshness import Freshness, FreshnessRules, Resolved
from modelexpress.cache.hub_documents import HubDocuments
from modelexpress.cache.hub_files import HubFiles
from modelexpress.cache.hub_room import HubRoom
from modelexpress.cache.leases import Lease
from modelexpress.cache.parts import CacheParts
from modelexpress.cache.proofs import watch_proofs
from modelexpress.cache.pull import Pull, PullRequest, describe
from modelexpress.cache.removing import Aside
from modelexpress.cache.space_control import SpaceControl
from modelexpress.cache.statements import Statements
from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import Cancelled, MxError, NoRoom, NotFound, StorageFailed
from modelexpress.domain.held import HeldFile, HeldFiles, ProvenFile, Pulled, RemovalPlan
from modelexpress.domain.inventory import ModelKey, SnapshotKey
from modelexpress.domain.manifest import Manifest
from modelexpress.domain.refs import DEFAULT_BRANCH, ModelRef
from modelexpress.domain.selection import Selection
from modelexpress.domain.space import EvictionPlan
from modelexpress.domain.tasks import finish
from modelexpress.registry import Holding
from modelexpress.registry.sessions import Session
from modelexpress.store.offers import Offers, Standing
from modelexpress.store.records import SnapshotRecord
from modelexpress.store.survey import find_touched
from modelexpress.store.volume import check_writable

_log = logging.getLogger(__name__)


class ModelCache(SpaceControl):
    """One cache directory with its origins. Every call may run at once with every other."""

    def __init__(
        self, parts: CacheParts, access: Access, freshness: FreshnessRules, session: Session
    ) -> None:
        super().__init__(parts)
        self._session = session
        self.volume = parts.volume
        self.root: Path = parts.layout.root
        self._access = access
        self._flights = Flights()
        self._statements = Statements(parts)
        self._freshness = Freshness(
            freshness, parts.clock, self._ask_origin, self._find_local_commit, self._statements.note_name
        )
        self._is_offline = freshness.is_offline
        room = HubRoom(
            parts, access, self._freshness, self._flights, self._statements, self._pull,
            self._prefetch if parts.rules.is_prefetched else None,
        )  # fmt: skip
        self._asking = room.asking
        self.hub_files, self.hub_documents = HubFiles(room), HubDocuments(room)

    async def begin(
        self, ref: ModelRef, selection: Selection | None, caller: Caller, commit: str | None = None
    ) -> Flight:
        """Allow, resolve, and answer from here, join the running pull, or start one.

        `selection` None means what the settings say for this model; `commit` is what `ref` is known
        to mean, where somebody has asked already. Raises what forbids or prevents the pull before
        it begins; what goes wrong later is raised by `Flight.result`.
        """
        get_provider(self._parts.providers, ref)
        resolved, confirm = await self._resolve(ref, caller, commit)
        caller = self._access.identify(caller, ref)
        chosen = selection if selection is not None else self._parts.rules.selection_for(ref.name)
        request = PullRequest(ref, resolved.commit, chosen, caller, resolved.is_stale)
        revision = ref.revision or DEFAULT_BRANCH
        key = FlightKey(ref.provider, ref.name, resolved.commit, chosen.key, caller.fingerprint)
        async with self.using(ref, "looked at"):
            hit = None if self._flights.is_running(key) else await self._find_hit(request, revision)
        if hit is not None:
            return landed(ref, chosen, hit, confirm)
        if self._is_offline:
            raise NotFound(
                f"{ref} is not complete in this cache, and this process is offline; pull it once online"
            )
        task, state = self._flights.join(key, revision, lambda state: self._pull(request, state))
        flight = Flight(ref, resolved.commit, chosen, task, state, confirm)
        if ref.is_pinned:
            # Nobody has asked the origin yet whether there is such a commit.
            await flight.check_exists(self._freshness.deadline_seconds)
        return flight

    async def held_files(self, ref: ModelRef, selection: Selection, caller: Caller) -> HeldFiles:
        """The proven files of a model that are here, by path; the origin is not asked.

        Raises NotFound when nothing of that revision is here.
        """
        record, root = await self._get_record(ref, caller)
        entries = selection.choose(record.entries_held())
        return HeldFiles(record.manifest.commit, root, tuple(HeldFile(e.path, e.size) for e in entries))

    @asynccontextmanager
    async def opened_files(
        self, ref: ModelRef, selection: Selection, caller: Caller
    ) -> AsyncIterator[HeldFiles]:
        """The same, to be read in the body: they stay readable to its end, whatever is removed."""
        async with self.using(ref, "streamed") as lease:
            held = await self.held_files(ref, selection, caller)
            lease.commit = held.commit
            if held.root != self.snapshot_path(ref, held.commit):
                lease.moved[held.commit] = held.root  # removed already, and kept for those who read it
            yield replace(held, moved=lease.moved)

    async def held_manifest(self, ref: ModelRef, selection: Selection | None, caller: Caller) -> Manifest:
        """The files of a complete selection with their digests; `selection` None: the whole listing.

        Raises NotFound when the selection is not complete here.
        """
        rights = self._access.identify(caller, ref)
        running = self._flights.find_whole(ref, rights.fingerprint) if selection is None else None
        if running is not None:
            await self._access.check(caller, ref, is_served_here=False)
            return running
        record, _ = await self._get_record(ref, caller)
        return _manifest_of(record, ref, selection)

    async def offered_manifest(self, ref: ModelRef, selection: Selection, caller: Caller) -> Manifest:
        """The files of a selection that is complete here or on its way, each of them on offer to readers.

        `ref` is pinned. Raises NotFound when the selection is neither.
        """
        rights = self._access.identify(caller, ref)
        key = FlightKey(ref.provider, ref.name, ref.revision or "", selection.key, rights.fingerprint)
        running = self._flights.find_listing(key)
        if running is not None:
            # Whoever began it may have had a token that this caller has not: the origin is asked.
            await self._access.check(caller, ref, is_served_here=False)
            return running
        record, folder = await self._get_record(ref, caller)
        manifest = _manifest_of(record, ref, selection)
        self._parts.leases.give_addresses(manifest)
        for entry in manifest.files:
            if entry.digest is not None:
                standing = Standing(
                    folder / entry.path,
                    record.held[entry.path].mtime_ns,
                    self._parts.layout.digest_list(entry.digest),
                )
                self._parts.offers.stand(ref.name, manifest.commit, entry, standing)
        return manifest

    def watch_proofs(self, manifest: Manifest) -> AsyncIterator[ProvenFile]:
        """Each file of an offered manifest once it is proven (see `cache.proofs`)."""
        return watch_proofs(self._parts, manifest)

    def snapshot_path(self, ref: ModelRef, commit: str) -> Path:
        """The directory where a commit's files stand, or will."""
        return self._parts.layout.repository(ref).snapshot(commit)

    @property
    def offers(self) -> Offers:
        """What readers may have now or soon."""
        return self._parts.offers

    async def wait_lost(self) -> None:
        """Return when the registry takes this process for dead: what it claims may be another's by then."""
        await self._session.lost.wait()

    async def interrupt(self) -> None:
        """Stop the running pulls, leaving no partial file; whoever waits for one hears why."""
        await self._flights.close()

    async def check(self) -> None:
        """Raise the reason why this cache cannot do its work now, if there is one."""
        await self._parts.pool.run("checking the cache directory", check_writable, self._parts.layout)
        await self._parts.holdings.check()

    async def rebuild_holdings(self) -> None:
        """Make the registry say of this node what the records on disk say."""
        used = {(h.name, h.commit): h async for h in self._parts.holdings.list(self._parts.node)}
        records = await self._parts.pool.run("reading the records", lambda: list(self._parts.records.scan()))
        holdings = [self._parts.holding(record) for record in records if record.held]
        await self._parts.holdings.replace_all(
            [self._used_as(h, used.get((h.name, h.commit))) for h in holdings]
        )

    def _used_as(self, holding: Holding, before: Holding | None) -> Holding:
        """What a record says, with what the registry remembers of its use."""
        if before is None:
            # Nobody knows when it was used: better too late than gone too early.
            return replace(holding, last_used_at=self._parts.clock.wall())
        last = max(holding.last_used_at, before.last_used_at)
        return replace(holding, last_used_at=last, uses=before.uses, credit=before.credit)

    @asynccontextmanager
    async def evicting(self) -> AsyncIterator[None]:
        """Keep to the rules of eviction and sweep, now and then, while the body runs."""
        running = asyncio.create_task(self._evictor.run(), name="eviction")
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @asynccontextmanager
    async def using(self, ref: ModelRef, what: str) -> AsyncIterator[Lease]:
        """Nothing evicts the model while the body runs; `what` tells people what is done with it."""
        async with self._parts.leases.held(ModelKey.of(ref.provider, ref.name), what) as lease:
            yield lease

    async def give_path(self, ref: ModelRef, commit: str, holder: str, seconds: float | None = None) -> float:
        """`holder` reads a commit where it stands: it stays for `seconds`, at most as the settings say.

        The seconds that it stays; None: as the settings say, 0: he has let go of it.
        """
        most = self._parts.path_lease_seconds
        lasting = most if seconds is None else min(seconds, most)
        key = SnapshotKey(ModelKey.of(ref.provider, ref.name), commit)
        if lasting > 0 and not await self._is_recorded(ref, commit):
            return 0.0  # it was removed meanwhile: there is nothing to keep
        try:
            await self._parts.leases.give_path(key, holder, lasting)
        except (NoRoom, StorageFailed) as error:
            # What was asked for is here all the same.
            _log.warning("%s is not kept for %s: %s", key, holder, error)
            return 0.0
        return lasting

    async def _is_recorded(self, ref: ModelRef, commit: str) -> bool:
        what = f"reading the record of {ref.name}"
        return await self._parts.pool.run(what, self._parts.records.find, ref, commit) is not None

    async def close(self) -> None:
        """Stop running pulls, leaving no partial file, and let go of origins."""
        await self._asking.close()
        await self._flights.close()
        await self._statements.close()
        await self._remover.close()
        await self._freshness.close()
        for provider in self._parts.providers.values():
            await provider.close()

    async def remove(self, refs: list[ModelRef], is_dry_run: bool) -> RemovalPlan:
        """Plan (and carry out) the removal of models; running pulls of them are stopped first."""
        await self._check_not_pinned(refs)
        if not is_dry_run:
            await self._check_not_served()
            for ref in refs:
                await self._flights.cancel(ref.provider, ref.name, "the model was removed")
                self._freshness.forget(ref)
                await self._drop_partials(ref)
        return await super().remove(refs, is_dry_run)

    async def evict(
        self, refs: Sequence[ModelRef], wanted: int, is_dry_run: bool, is_forced: bool = False
    ) -> EvictionPlan:
        """Evict; where it is forced, running pulls of the models are stopped first."""
        if is_forced and not is_dry_run:
            await self._check_not_pinned(refs)
            for ref in refs:
                await self._flights.cancel(ref.provider, ref.name, "the model was evicted")
        return await super().evict(refs, wanted, is_dry_run, is_forced)

    async def _drop_partials(self, ref: ModelRef) -> None:
        what, repository = f"removing partial files of {ref.name}", self._parts.layout.repository(ref)
        await finish(self._parts.pool.run(what, self._parts.blobs.partials.delete_of, repository))

    async def _pull(self, request: PullRequest, state: PullState) -> Pulled:
        provider, started = request.ref.provider.value, time.monotonic()
        outcome = "failed"
        try:
            async with self.using(request.ref, "pulled") as lease:
                tell = self._statements.complete
                pulled = await Pull(self._parts, request, state, lease, self._access, tell).run()
                self._parts.leases.give_addresses(pulled.manifest)
            if request.single is None:
                self._statements.repeat(request.ref.repository, state.revisions)
            outcome = "pulled"
            return pulled
        except MxError as error:
            self._parts.meter.count("mx_errors_total", code=error.code)
            raise
        finally:
            self._parts.meter.count("mx_pulls_total", provider=provider, outcome=outcome)
            self._parts.meter.observe("mx_pull_seconds", time.monotonic() - started, provider=provider)

    async def _resolve(
        self, ref: ModelRef, caller: Caller, commit: str | None
    ) -> tuple[Resolved, Confirm | None]:
        """What `ref` means (`commit`, where that is known), once `caller` may read it."""
        expected = commit or await self._find_expected(ref)
        confirm = await self._check_access(ref, expected, caller)
        if commit is not None:
            return Resolved(commit), confirm
        rights = self._access.identify(caller, ref)
        resolved = await self._freshness.resolve(ref, rights, is_shown=confirm is None)
        if resolved.commit != expected:
            confirm = await self._check_access(ref, resolved.commit, caller)
        return resolved, confirm

    async def _find_expected(self, ref: ModelRef) -> str | None:
        """What `ref` means, as far as nobody has to be asked."""
        local = await self._find_local_commit(ref)
        known = self._freshness.recall(ref, local)
        return local if known is None else known.commit

    async def _check_access(self, ref: ModelRef, commit: str | None, caller: Caller) -> Confirm | None:
        """Raise unless `caller` may read a commit; the check to repeat at the end if nothing is known yet.

        Without a token, a cold pull is decided by the origin for whoever began it. Another caller that
        joined it is judged when the record says with whose token it was read. `commit` None: nobody knows.
        """
        record = None if commit is None else await self._find_record(ref, commit)
        await self._check_record(ref, record, caller)
        if record is not None or caller.hub_token is not None:
            return None

        async def confirm() -> None:
            await self._check_access(ref, commit, caller)

        return confirm

    async def _check_record(self, ref: ModelRef, record: SnapshotRecord | None, caller: Caller) -> None:
        """Raise unless `caller` may read what a record holds. That another commit is open says nothing of it.

        `record` None: nothing of the commit is here.
        """
        access, repository = self._access, ref.repository
        is_marked = record is not None and record.is_read_by_server
        is_known_open = is_marked and not access.has_refused(ANONYMOUS, repository)
        is_cold = record is None and caller.hub_token is None
        rights = access.identify(caller, ref)
        was_known = access.recall(rights, repository) is not None
        await access.check(caller, ref, is_known_open or is_cold)
        if record is not None and not is_known_open and not was_known:
            await access.mark(rights, ref, record.manifest.commit)

    async def _find_record(self, ref: ModelRef, commit: str) -> SnapshotRecord | None:
        """What is held of a commit, or was until it was removed in the middle of somebody's reading."""
        what = f"reading the record of {ref.name}"
        record = await self._parts.pool.run(what, self._parts.records.find, ref, commit)
        if record is not None and record.held:
            return record
        aside = self._find_aside(ref.at(commit))
        return None if aside is None else aside.record

    def _prefetch(self, ref: ModelRef, revision: str, rights: Caller) -> None:
        """Bring the rest of a model of which a file is read, with the rights it is read with."""
        commit, chosen = ref.revision or "", self._parts.rules.selection_for(ref.name)
        request = PullRequest(ref, commit, chosen, rights, is_stale=False)
        key = FlightKey(ref.provider, ref.name, commit, chosen.key, rights.fingerprint)
        self._flights.join(key, revision, lambda state: self._pull_beside(request, state))

    async def _pull_beside(self, request: PullRequest, state: PullState) -> Pulled:
        """A pull that nobody waits for: why it fails is told here."""
        try:
            return await self._pull(request, state)
        except Cancelled:
            raise
        except MxError as error:
            _log.warning("the rest of %s is not brought (hub.prefetch): %s", request.ref, error)
            raise

    async def _ask_origin(self, ref: ModelRef, caller: Caller) -> str:
        provider, local = get_provider(self._parts.providers, ref), await self._find_local_commit(ref)
        # What was said of it last is here: a mirror that lags behind must not take it back.
        return await provider.resolve(ref, caller, has_mirrors=local is None)

    async def _find_local_commit(self, ref: ModelRef) -> str | None:
        return await self._parts.pool.run(f"reading refs of {ref.name}", self._parts.names.find_commit, ref)

    def _find_aside(self, ref: ModelRef) -> Aside | None:
        """A pinned commit that was removed in the middle of somebody's reading, who comes for the rest."""
        if ref.revision is None:
            return None
        return self._remover.find_aside(SnapshotKey(ModelKey.of(ref.provider, ref.name), ref.revision))

    async def _get_record(self, ref: ModelRef, caller: Caller) -> tuple[SnapshotRecord, Path]:
        """What is held of a ref, and where it stands. Raises NotFound when nothing of it is here."""
        record = await self._parts.pool.run(f"reading the record of {ref.name}", self._find_held, ref)
        aside = self._find_aside(ref) if record is None else None
        # Only now: what is published in between was not asked about, and is not given out.
        await self._check_record(ref, record if aside is None else aside.record, caller)
        if record is not None:
            return record, self._parts.layout.repository(ref).snapshot(record.manifest.commit)
        if aside is not None:
            return aside.record, aside.folder
        where = f" at {ref.revision}" if ref.revision else ""
        raise NotFound(f"Model not found: {ref.name}{where} is not in this cache; pull it first")

    def _find_held(self, ref: ModelRef) -> SnapshotRecord | None:
        commit = self._parts.names.find_commit(ref)
        record = None if commit is None else self._parts.records.find(ref, commit)
        return record if record is not None and record.held and self._is_shown(record) else None

    def _is_shown(self, record: SnapshotRecord) -> bool:
        """Whether a snapshot shows its files; those that were read one by one are blobs alone."""
        repository = self._parts.layout.repository(record.manifest.ref)
        return bool(record.selections) or repository.snapshot(record.manifest.commit).is_dir()

    async def _find_hit(self, request: PullRequest, revision: str) -> Pulled | None:
        what = f"looking for {request.ref}"
        record = await self._parts.pool.run(what, self._find_hit_blocking, request, revision)
        if record is None and self._is_offline:
            record = await self._prove_foreign(request)
        if record is None:
            return None
        self._parts.leases.give_addresses(record.manifest)
        await self._parts.holdings.touch(self._parts.holding(record))
        outcome = "stale" if request.is_stale else "hit"
        self._parts.meter.count("mx_pulls_total", provider=request.ref.provider.value, outcome=outcome)
        return describe(self._parts, record, request, was_hit=True)

    def _find_hit_blocking(self, request: PullRequest, revision: str) -> SnapshotRecord | None:
        record = self._parts.records.find(request.ref, request.commit)
        done = record.selections.get(request.selection.key) if record else None
        if record is None or done is None:
            return None
        if not (record.is_listed_by_origin or request.is_stale or self._is_offline):
            return None  # another tool may have brought a part of it; its origin can say so now
        repository = self._parts.layout.repository(request.ref)
        chosen = request.selection.choose(record.manifest.files)
        expected = [entry for entry in chosen if entry.path not in done.missing]
        if find_touched(repository, record, expected) is not None:
            return None
        self._parts.publisher.write_ref(repository, revision, request.commit)
        return record

    async def _prove_foreign(self, request: PullRequest) -> SnapshotRecord | None:
        """Offline: what another tool left here, once every file of it is proven by its name."""
        record = await self.prove_foreign(request.ref, request.commit, request.selection)
        return record if record is not None and request.selection.key in record.selections else None


def _manifest_of(record: SnapshotRecord, ref: ModelRef, selection: Selection | None) -> Manifest:
    if selection is None:
        return record.manifest
    done = record.selections.get(selection.key)
    if done is None:
        raise NotFound(f"{ref} is here, but not complete for this selection; pull it first")
    paths = {e.path for e in selection.choose(record.manifest.files)} - set(done.missing)
    return record.manifest.only(paths)
