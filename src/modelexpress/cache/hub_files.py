# SPDX-License-Identifier: Apache-2.0
"""Single files for clients of a Hub: found by at most one question, read while they arrive, kept as blobs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from modelexpress.cache.flights import FlightKey, PullState
from modelexpress.cache.hub_known import FileKey, Lately, Refusals, asked_key
from modelexpress.cache.hub_room import HubRoom
from modelexpress.cache.pull import PullRequest
from modelexpress.domain.caller import Caller
from modelexpress.domain.errors import (
    Cancelled,
    Corrupt,
    Forbidden,
    MxError,
    NotFound,
    Unauthenticated,
    Unreachable,
)
from modelexpress.domain.held import Pulled
from modelexpress.domain.hub import (
    COMMIT,
    ERROR_CODE,
    Document,
    Located,
    is_about_repository,
    is_denial,
    refusal,
)
from modelexpress.domain.inventory import ModelKey
from modelexpress.domain.manifest import DigestKind, FileEntry, check_path
from modelexpress.domain.refs import DEFAULT_BRANCH, ModelRef, is_commit, shown
from modelexpress.domain.selection import ALL_FILES, is_ancillary
from modelexpress.store.offers import Offer, Standing, offer_id_of
from modelexpress.store.records import SnapshotRecord
from modelexpress.store.survey import is_untouched, place_of

_WRONG_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file that its caller may have. `offer`: its bytes, here or arriving; None: not asked for.

    `is_missed`: its bytes were not here a moment ago. `is_stale`: the origin did not answer, so this is
    what the revision was when it was last asked. `is_anothers`: it arrives with the rights of somebody else
    alone, so that it may fail for a reason that is his.
    """

    located: Located
    offer: Offer | None = None
    is_missed: bool = False
    is_stale: bool = False
    is_anothers: bool = False


@dataclass(frozen=True, slots=True)
class Here:
    """What this cache knows of a file by itself. `unknown`: offline, why nothing of it is here."""

    commit: str | None = None
    record: SnapshotRecord | None = None
    entry: FileEntry | None = None
    is_said_absent: bool = False
    unknown: Document | None = None

    @property
    def located(self) -> Located | None:
        """The file as the origin would name it; None where only the origin knows that."""
        digest = None if self.entry is None else self.entry.digest
        if self.commit is None or self.entry is None or digest is None:
            return None
        is_named = digest.kind is not DigestKind.LOCAL_SHA256
        return Located(self.commit, self.entry, digest.value, self.is_of_mirror) if is_named else None

    @property
    def is_of_mirror(self) -> bool:
        """Whether only a mirror has said what it is."""
        return self.record is not None and self.entry is not None and self.entry.path in self.record.of_mirror

    def with_digest(self, located: Located) -> Located:
        """With the digest that the origin's listing has, where its answer about the file has none."""
        entry, said = self.entry, located.entry
        if (
            said.digest is None
            and entry is not None
            and not self.is_of_mirror
            and (self.commit, entry.size) == (located.commit, said.size)
        ):
            return replace(located, entry=entry)
        return located

    @property
    def is_absent(self) -> bool:
        """Whether the commit has no such file."""
        return self.entry is None and self.record is not None and self.record.lists_all

    @property
    def is_held(self) -> bool:
        """Whether its bytes are here."""
        return self.record is not None and self.entry is not None and self.entry.path in self.record.held


class HubFiles:
    """Finds and opens files. All calls may run at once."""

    def __init__(self, room: HubRoom) -> None:
        self._room = room
        self._parts = room.parts
        self._refusals = Refusals(room.parts.clock)
        self._shown = Lately[bytes, float](room.parts.clock)  # what proves only itself, and when it was asked
        self._wrong = Lately[FlightKey, Corrupt](room.parts.clock)

    async def find(self, ref: ModelRef, path: str, caller: Caller) -> HubFile | Document:
        """The file of what `ref` means now, or a refusal as the origin would have it.

        Costs at most one question at the origin, which is at the same time the question whether the
        caller may read it. Raises Limited, Unreachable, Corrupt, Invalid for a loop, Forbidden by our policy.
        """
        check_path(path)
        rights, repository = self._room.access.identify(caller, ref), ref.repository
        here = await self._parts.pool.run(f"looking for {ref}", self._find_here, ref, path)
        if self._parts.is_offline:
            return self._answer_offline(here, ref, path, rights)
        fresh = self._room.freshness.recall(ref, here.commit)
        if fresh is not None and self._may_read_now(rights, repository, path):
            answer = self._recall(ref.name, fresh.commit, path, here)
            if isinstance(answer, Document):
                return replace(answer, is_stale=fresh.is_stale)
            if answer is not None:
                is_missed = here.commit == answer.commit and not here.is_held
                found = HubFile(answer, is_missed=is_missed, is_stale=fresh.is_stale)
                return self._with_empty(found, ref, rights, here)
        refused = self._refusals.find(rights, repository, path)
        if refused is not None:
            return refused
        # What others were told of a branch is not his to hear, not even in the text of an error.
        is_told = fresh is not None and not fresh.is_stale and self._room.access.recall(rights, repository)
        wanted = ref.at(fresh.commit) if fresh is not None and is_told else ref
        asked = await self._ask(wanted, ref, path, rights, here)
        return self._with_empty(asked, ref, rights, here) if isinstance(asked, HubFile) else asked

    def _with_empty(self, found: HubFile, ref: ModelRef, rights: Caller, here: Here) -> HubFile:
        """The same; if it is an empty file, it is brought meanwhile.

        Clients make such a file themselves once they have heard of it: nobody would ever ask for its bytes.
        """
        located = found.located
        is_here = here.is_held and here.commit == located.commit
        if located.entry.size or is_here or found.is_stale or located.is_of_mirror:
            return found
        if self._wrong.find(_flight_key(ref.at(located.commit), located, rights)) is None:
            self._join(ref.at(located.commit), ref.revision or DEFAULT_BRANCH, located, rights)
        return found

    async def open(
        self,
        ref: ModelRef,
        path: str,
        caller: Caller,
        found: HubFile | Document | None = None,
        is_own: bool = False,
    ) -> HubFile | Document:
        """The same, with its bytes: those that are here, or those of a pull that begins now.

        `found`: what `find` has just said to the same question, which is then not asked again. `is_own`:
        a pull with the caller's own rights, whoever brings the file already.
        """
        found = found or await self.find(ref, path, caller)
        if isinstance(found, Document):
            return found
        located, pinned = found.located, ref.at(found.located.commit)
        revision, rights = ref.revision or DEFAULT_BRANCH, self._room.access.identify(caller, ref)
        async with self._parts.leases.held(_model(ref), "read by a client of the Hub"):
            offer = None if found.is_missed else await self._find_standing(pinned, located)
            outcome, is_anothers = "stale" if found.is_stale else "hit", False
            if offer is None:
                begun = None if is_own else self._find_arriving(pinned, located, rights)
                outcome = "miss" if begun is None else "joined"
                offer, is_anothers = begun or (await self._begin(pinned, revision, located, rights), False)
        self._parts.meter.count("mx_hub_files_total", outcome=outcome)
        if outcome == "miss" and self._room.prefetch is not None:
            self._room.prefetch(pinned, revision, rights)
        return replace(found, offer=offer, is_anothers=is_anothers)

    def _may_read_now(self, rights: Caller, repository: ModelRef, path: str) -> bool:
        """Whether the origin said so not long ago: of the repository, or of this very file."""
        if self._room.access.recall(rights, repository):
            return True
        began = self._shown.find(asked_key(rights, repository, path))
        if began is None or self._room.access.has_refused_since(rights, repository, began):
            return False  # it may have been the last that everybody saw of it
        return self._refusals.find(rights, repository, path) is None

    # -- what is known here

    def _find_here(self, ref: ModelRef, path: str) -> Here:
        commit = self._parts.names.find_commit(ref)
        if commit is None:
            return Here(unknown=self._room.find_unknown(ref, None) if self._parts.is_offline else None)
        record = self._parts.records.find(ref, commit)
        files = () if record is None else record.manifest.files
        entry = next((entry for entry in files if entry.path == path), None)
        is_absent = record is not None and entry is None and path in record.absent
        is_unknown = record is None and self._parts.is_offline
        unknown = self._room.find_unknown(ref, commit) if is_unknown else None
        return Here(commit, record, entry, is_absent, unknown)

    def _recall(
        self, name: str, commit: str, path: str, here: Here, is_alone: bool = False
    ) -> Located | Document | None:
        """What is known of a file of a commit; None: the origin has to be asked. `is_alone`: it cannot be."""
        key, counts = FileKey(name, commit, path), is_alone or not here.is_of_mirror
        if here.commit == commit and here.located is not None and counts:
            return here.located
        known = self._room.known.find(key)
        if known is not None:
            return known
        if self._room.known.is_absent(key) or (here.commit == commit and here.is_absent):
            return _absent(path, commit)
        return None

    def _answer_alone(
        self, here: Here, ref: ModelRef, path: str, rights: Caller
    ) -> HubFile | Document | None:
        """What can be said without the origin, as it was when it was last asked; None: nothing."""
        if here.commit is None or not self._room.may_read_alone(here.record, ref, rights):
            return None
        known = self._recall(ref.name, here.commit, path, here, is_alone=True)
        if known is None and here.is_said_absent:
            known = _absent(path, here.commit)
        if isinstance(known, Document):
            return replace(known, is_stale=True)
        return None if known is None else HubFile(known, is_stale=True)

    def _answer_offline(self, here: Here, ref: ModelRef, path: str, rights: Caller) -> HubFile | Document:
        """Exactly what is here, or why it cannot be had of a server that asks no origin."""
        answer = self._answer_alone(here, ref, path, rights)
        if answer is not None and (isinstance(answer, Document) or here.is_held):
            return replace(answer, is_stale=False)  # nobody was asked
        if here.unknown is not None:
            return here.unknown
        if here.record is not None and not self._room.may_read_alone(here.record, ref, rights):
            return refusal(403, "GatedRepo", f"nobody can be asked offline whether you may read {ref.name}")
        if here.record is None:
            why = "pull it once, so that what another tool may have left here is proven"
            return refusal(504, "", f"this cache knows nothing of {ref}, and the server is offline: {why}")
        return refusal(504, "", f"{path} of {ref} is not in this cache, and the server is offline")

    # -- asking

    async def _ask(
        self, wanted: ModelRef, ref: ModelRef, path: str, rights: Caller, here: Here
    ) -> HubFile | Document:
        alone, freshness = self._answer_alone(here, ref, path, rights), self._room.freshness
        seconds = freshness.deadline_seconds if alone is None else freshness.stale_after_seconds
        # What is here has been said by the origin, of a branch and of a file: no mirror says it better.
        has_mirrors = alone is None and self._room.may_read_alone(here.record, ref, rights)
        # Who is told to wait has to hear it: a wait of ours would look as if the origin did not answer.
        rights = rights if alone is None else replace(rights, is_impatient=True)
        repository, silence = ref.repository, self._room.silence

        def key(asked: ModelRef, by_mirrors: bool) -> tuple[object, ...]:
            # Not joined by who came another way: what goes round in a circle for one does not for all.
            return (rights.fingerprint, rights.via, rights.is_impatient, asked, path, by_mirrors)

        # What began before another file told the commit, and who may read, answers this as well.
        earlier = (key(ref, False), key(ref, has_mirrors), key(wanted, False))
        running = self._room.asking.find_running(earlier)
        if alone is not None and silence.is_on(rights, repository, path):
            return alone
        try:
            answer = await self._room.asking.once(
                running or key(wanted, has_mirrors),
                lambda: self._ask_and_learn(wanted, path, rights, here, has_mirrors),
                f"{shown(path)} of {ref}",
                rights.fingerprint,
                seconds,
            )
        except MxError as error:
            if alone is None or not self._room.is_outage(error, here.record, ref, rights):
                raise
            _log.debug("%s: answered from here, %s", ref, error)
            if isinstance(error, Unreachable):
                silence.note(rights, repository, path, error.is_gone, isinstance(alone, HubFile))
                # What one client has no answer to does not hide from others what a branch means now.
                if error.is_gone and freshness.recall(ref, None) is None:
                    freshness.note(ref, None)
            return alone
        return HubFile(answer) if isinstance(answer, Located) else answer

    async def _ask_and_learn(
        self, wanted: ModelRef, path: str, rights: Caller, here: Here, has_mirrors: bool
    ) -> Located | Document:
        """What the origin says, which counts from then on, though nobody may wait for it any more."""
        provider, began = self._room.provider(wanted), self._parts.clock.monotonic()
        answer = await provider.look_up(wanted, path, rights, has_mirrors=has_mirrors)
        if isinstance(answer, Located):
            answer = here.with_digest(answer)
        self._learn(wanted, path, rights, answer, began)
        if isinstance(answer, Document) and is_denial(answer):
            self._refusals.note(rights, wanted.repository, path, answer, self._room.access.denied_seconds)
            if is_about_repository(answer, rights):
                await self._room.learn_denial(wanted.repository, rights, answer)
        if isinstance(answer, Located) and not answer.is_of_mirror and not is_ancillary(path):
            await self._room.learn_permission(wanted, answer.commit, rights, here.record)
        return answer

    def _learn(
        self, ref: ModelRef, path: str, rights: Caller, answer: Located | Document, began: float
    ) -> None:
        room, repository = self._room, ref.repository
        if isinstance(answer, Located) and answer.is_of_mirror:
            return
        room.silence.note_answer(rights, repository)
        if isinstance(answer, Located):
            room.known.note(ref.name, answer)
            # Of a gated model everybody may read the description: that proves nothing about the rest.
            if is_ancillary(path):
                key = asked_key(rights, repository, path)
                self._shown.note(key, began, room.access.granted_seconds)
            else:
                room.access.note(rights, repository, True, answer.commit, began)
        commit = answer.commit if isinstance(answer, Located) else answer.headers.get(COMMIT, "")
        if not is_commit(commit):
            return
        if not ref.is_pinned:
            room.freshness.note(ref, commit, began=began)
        if isinstance(answer, Document) and answer.headers.get(ERROR_CODE) == "EntryNotFound":
            room.known.note_absent(FileKey(ref.name, commit, path))
            room.statements.note_absent(ref.at(commit), path)

    # -- bytes

    async def _find_standing(self, ref: ModelRef, located: Located) -> Offer | None:
        what = f"looking for {shown(located.entry.path)}"
        found = await self._parts.pool.run(what, self._find_standing_blocking, ref, located)
        if found is None:
            return None
        record, entry, standing = found
        self._parts.leases.give_addresses(record.manifest)
        await self._parts.holdings.touch(self._parts.holding(record))
        return self._parts.offers.stand(ref.name, located.commit, entry, standing)

    def _find_standing_blocking(
        self, ref: ModelRef, located: Located
    ) -> tuple[SnapshotRecord, FileEntry, Standing] | None:
        repository, path = self._parts.layout.repository(ref), located.entry.path
        record = self._parts.records.find(ref, located.commit)
        held = None if record is None else record.held.get(path)
        if record is None or held is None:
            return None
        entry = next(entry for entry in record.manifest.files if entry.path == path)
        place = place_of(repository, record, entry)
        if entry.digest is None or not _is_same(entry, located) or not is_untouched(place, entry, held):
            return None
        standing = Standing(place, held.mtime_ns, self._parts.layout.digest_list(entry.digest))
        return record, entry, standing

    def _find_arriving(self, ref: ModelRef, located: Located, rights: Caller) -> tuple[Offer, bool] | None:
        """The bytes of a running pull, whosever it is, and whether it is only somebody else's."""
        running = self._parts.offers.find(offer_id_of(ref.name, located.commit, located.entry))
        if running is None or not running.holders:
            return None
        return running, not self._room.flights.is_running(_flight_key(ref, located, rights))

    async def _begin(self, ref: ModelRef, revision: str, located: Located, rights: Caller) -> Offer:
        """The bytes of a pull of this file alone, with these rights."""
        offer_id = offer_id_of(ref.name, located.commit, located.entry)
        # By who asks: what an origin sends one in place of a file, it does not send all.
        if (wrong := self._wrong.find(_flight_key(ref, located, rights))) is not None:
            raise wrong
        task, state = self._join(ref, revision, located, rights)
        listed = asyncio.ensure_future(state.listed.wait())
        try:
            await asyncio.wait({listed, task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listed.cancel()
        offer = self._parts.offers.find(offer_id)
        if offer is not None and (not task.done() or isinstance(offer.state, Standing)):
            return offer
        if task.cancelled():
            raise Cancelled(f"the pull of {shown(located.entry.path)} was stopped: {state.cancel_reason}")
        if task.done():
            task.result()  # raises what went wrong
        standing = await self._find_standing(ref, located)
        if standing is None:
            raise Unreachable(f"{shown(located.entry.path)} was removed right after it came; ask again")
        return standing

    def _join(
        self, ref: ModelRef, revision: str, located: Located, rights: Caller
    ) -> tuple[asyncio.Task[Pulled], PullState]:
        """The pull of a file alone that runs with these rights, or one that begins now."""
        impatient = replace(rights, is_impatient=True)
        request = PullRequest(
            ref, located.commit, ALL_FILES, impatient, False, located.entry, located.is_of_mirror
        )
        key = _flight_key(ref, located, rights)
        return self._room.flights.join(key, revision, lambda state: self._pull(request, state))

    async def _pull(self, request: PullRequest, state: PullState) -> Pulled:
        try:
            return await self._room.pull(request, state)
        except Corrupt as error:
            # A client that sees its connection end asks again, and would have the origin send it all again:
            # for ever, as each time some of it is new to the client. A clear no ends that.
            self._wrong.note(state.key, error, _WRONG_SECONDS)
            raise
        except (Forbidden, NotFound, Unauthenticated) as error:
            await self._learn_refusal(request, error)
            raise

    async def _learn_refusal(self, request: PullRequest, error: MxError) -> None:
        """Bytes were refused to who might read them a moment ago: what is known of him is over."""
        rights, repository, single = request.caller, request.ref.repository, request.single
        # Not in the words of the error, which name a commit: others may hear this.
        answer = refusal(error.hub_status, error.hub_code, f"the origin refuses {repository.name}")
        if single is None or not is_about_repository(answer, rights):
            return
        self._refusals.note(rights, repository, single.path, answer, self._room.access.denied_seconds)
        await self._room.learn_denial(repository, rights, answer)


def _model(ref: ModelRef) -> ModelKey:
    return ModelKey.of(ref.provider, ref.name)


def _flight_key(ref: ModelRef, located: Located, rights: Caller) -> FlightKey:
    by = f"{rights.fingerprint} by way of {', '.join(rights.via)}"
    return FlightKey(ref.provider, ref.name, located.commit, f"file:{located.entry.path}", by)


def _is_same(entry: FileEntry, located: Located) -> bool:
    return located.entry.digest in (None, entry.digest) and located.entry.size == entry.size


def _absent(path: str, commit: str) -> Document:
    return refusal(404, "EntryNotFound", f"{path} does not exist in this revision", commit)
