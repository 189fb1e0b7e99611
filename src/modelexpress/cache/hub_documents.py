# SPDX-License-Identifier: Apache-2.0
"""Documents of a Hub's API: asked once for many, kept for a while, made from our records in an outage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl

from modelexpress.cache.hub_known import (
    KeptDocument,
    KeptDocuments,
    Lately,
    Occasion,
    asked_key,
    document_key,
)
from modelexpress.cache.hub_listing import describe, list_paths, list_refs, list_tree
from modelexpress.cache.hub_reading import Reading, read_document
from modelexpress.cache.hub_room import HubRoom
from modelexpress.domain.caller import Caller
from modelexpress.domain.errors import Corrupt, Forbidden, Limited, MxError, Unreachable
from modelexpress.domain.hub import (
    ERROR_CODE,
    REFUSALS,
    Document,
    DocumentRequest,
    is_about_repository,
    is_no_hubs,
    refusal,
)
from modelexpress.domain.refs import DEFAULT_BRANCH, ModelRef, ProviderKind, shown
from modelexpress.store.names import Meaning, commits_of
from modelexpress.store.records import SnapshotRecord
from modelexpress.store.window import Slots

_MOST_AT_ONCE = 16  # of the 64 connections to the origin: the others are for files
_MOST_ASKED_BYTES = 32 * 1024 * 1024  # of long questions; everybody may have short ones
_LONG_ASKED_BYTES = 16 * 1024
_AGAIN_SECONDS = 5.0
_SHORT_BYTES = 64 * 1024  # read at once; what is longer in a thread, beside everything else
_ACCEPTED_SECONDS = 3600.0
_MADE_UP = "made up"
_ORIGINS_OWN = frozenset({"pages", "other"})
_NAMES = frozenset(
    (
        "blobs", "cardData", "config", "cursor", "expand", "expand[]", "full", "include_prs", "limit", "p",
        "recursive", "securityStatus",
    )
)  # fmt: skip
_HUB = ProviderKind.HUGGING_FACE
_UNAUTHORIZED = 401

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a Hub's API. `ref` None: it is about no repository.

    `kind`: `description`, `tree`, `paths`, `refs`; or what only the origin can answer: `pages` (of a tree,
    or with what changed last), `other`.
    `folder`, `paths`, `is_recursive`, `has_blobs` say what a tree, paths or a description is asked for.
    """

    kind: str
    request: DocumentRequest
    ref: ModelRef | None = None
    folder: str = ""
    paths: tuple[str, ...] = ()
    is_recursive: bool = False
    has_blobs: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A document. `is_stale`: the origin did not answer; this is what it said before, or what we know."""

    document: Document
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class _StandIn:
    """What can answer in place of the origin: what it said before, or else what our record says."""

    before: Document | None = None
    record: SnapshotRecord | None = None
    refs: Mapping[str, str] = field(default_factory=dict)


class HubDocuments:
    """Answers questions with the rights of who asks; what one may see is never shown to another."""

    def __init__(self, room: HubRoom) -> None:
        self._room = room
        self._parts = room.parts
        self._kept = KeptDocuments()
        room.access.on_no.append(self._drop)
        self._turns = Slots(lambda: _MOST_AT_ONCE)
        self._accepted = Lately[str, bool](room.parts.clock)  # tokens that the origin knows
        self._asked_bytes = 0

    async def get(self, question: Question, caller: Caller) -> Answered:
        """The answer, or the origin's refusal word for word.

        Raises Limited, Unreachable, Corrupt, and Invalid for a loop.
        """
        ref, access = question.ref, self._room.access
        if ref is None and access.is_service(caller):
            raise Forbidden("the service token is this server's own: the origin does not know whose it is")
        rights = caller if ref is None else access.identify(caller, ref)
        if self._parts.is_offline:
            return await self._answer_offline(question, rights)
        key = document_key(rights.fingerprint, question.request)
        kept = self._kept.find(key)
        if kept is not None and kept.until > self._parts.clock.monotonic():
            return Answered(kept.document)
        # A refusal that is over is worth nothing: our own record can say more.
        before = None if kept is None or kept.document.is_refusal else kept
        stand_in = await self._find_stand_in(question, rights, before)
        if ref is None or stand_in is None:
            said = await self._ask(key, question, rights, self._room.freshness.deadline_seconds)
            return Answered(said.document)
        return await self._ask_or_stand_in(key, question, ref, rights, stand_in)

    async def _ask_or_stand_in(
        self, key: bytes, question: Question, ref: ModelRef, rights: Caller, stand_in: _StandIn
    ) -> Answered:
        silence, asked = self._room.silence, _asked_path(question.request)
        if silence.is_on(rights, ref.repository, asked):
            return Answered(await self._use(stand_in, question), is_stale=True)
        # Who is told to wait has to hear it: a wait of ours would look as if the origin did not answer.
        impatient, seconds = replace(rights, is_impatient=True), self._room.freshness.stale_after_seconds
        try:
            return Answered((await self._ask(key, question, impatient, seconds)).document)
        except MxError as error:
            if not self._room.is_outage(error, stand_in.record, ref, rights):
                raise
            _log.debug("%s: answered from here, %s", ref, error)
            if isinstance(error, Unreachable):
                silence.note(rights, ref.repository, asked, error.is_gone, is_file=False)
            return Answered(await self._use(stand_in, question), is_stale=True)

    async def _ask(self, key: bytes, question: Question, rights: Caller, seconds: float) -> Reading:
        about, request = question.ref or ModelRef(_HUB, "models"), question.request
        provider = self._room.provider(about)

        async def ask() -> Reading:
            size = len(request.body or b"")
            size = size if size > _LONG_ASKED_BYTES else 0
            if size and self._asked_bytes + size > _MOST_ASKED_BYTES:
                raise Limited("too many long questions are being asked; try again", _AGAIN_SECONDS)
            self._asked_bytes += size
            began = self._parts.clock.monotonic()
            try:
                async with self._turns.one(group=self._group_of(rights)):
                    said = await self._read(question, await provider.ask(request, rights))
                if said.document.status != _UNAUTHORIZED:
                    self._accepted.note(rights.fingerprint, True, _ACCEPTED_SECONDS)
                # Here, since it counts though nobody may wait for it any more.
                await self._take(question, rights, said, began)
                return said
            finally:
                self._asked_bytes -= size

        # Through whom one came can make a question fail, and must not make another's fail.
        what = question.ref or request.path
        asked, owner = (key, rights.via, rights.is_impatient), rights.fingerprint
        return await self._room.asking.once(asked, ask, what, owner, seconds)

    def _group_of(self, rights: Caller) -> str:
        """With whom these rights share their turns: anybody can make up as many tokens as he likes."""
        is_accepted = rights.hub_token is None or self._accepted.find(rights.fingerprint) is not None
        return rights.fingerprint if is_accepted else _MADE_UP

    async def _read(self, question: Question, said: Document) -> Reading:
        if question.ref is not None and is_no_hubs(said, question.request.asked_bytes):
            what = f"the origin's answer about {question.ref} is {said.status}"
            raise Corrupt(f"{what}, which no Hub says to that; try again later", is_nonsense=True)
        if len(said.body) <= _SHORT_BYTES:
            return read_document(said, question.kind, question.ref)
        what = f"reading what is said of {shown(str(question.ref or question.request.path))}"
        return await self._parts.pool.run(what, read_document, said, question.kind, question.ref)

    # -- kept

    def _drop(self, rights: Caller, repository: ModelRef) -> None:
        """The origin has refused a repository to these rights: what it said to them before is over."""
        self._kept.drop_all(asked_key(rights, repository, ""))

    def _lasting(self, question: Question, document: Document) -> float:
        if question.kind == "other" or question.ref is None:
            return 0.0
        access, moving = self._room.access, self._room.freshness.document_seconds
        if document.is_refusal:
            return min(access.denied_seconds, moving)
        return access.granted_seconds if question.ref.is_pinned else min(moving, access.granted_seconds)

    def _keep(
        self, question: Question, ref: ModelRef, rights: Caller, document: Document, commit: str | None
    ) -> None:
        key, seconds = document_key(rights.fingerprint, question.request), self._lasting(question, document)
        if document.is_refusal and seconds <= 0:
            self._kept.drop(key)  # nothing of it is worth anything later
        else:
            owner, clock = asked_key(rights, ref.repository, ""), self._parts.clock
            if commit is None and (fresh := self._room.freshness.recall(ref, None)) is not None:
                commit = fresh.commit
            occasion = Occasion(clock.wall(), commit)
            self._kept.note(key, document, clock.monotonic() + seconds, owner, occasion)

    async def _take(self, question: Question, rights: Caller, said: Reading, began: float) -> None:
        ref, document = question.ref, said.document
        if ref is not None:
            self._room.silence.note_answer(rights, ref.repository)
        if ref is not None and document.is_refusal:
            if is_about_repository(document, rights):
                await self._room.learn_denial(ref.repository, rights, document)
        elif ref is not None and _is_known(question.request.query):
            self._learn(ref, said, began)
            await self._learn_who_may_read(ref, rights, said, began)
        # Of what is about no repository that we know of, nobody could say later who may have it.
        if ref is None or not _is_known(question.request.query) or not _is_kept(document, rights):
            return
        is_over = self._room.access.has_refused_since(rights, ref.repository, began)
        if document.is_refusal or not is_over:
            self._keep(question, ref, rights, document, said.commit)

    def _learn(self, ref: ModelRef, said: Reading, began: float) -> None:
        """What is said of a commit need not be asked again file by file."""
        if said.commit is not None:
            self._room.freshness.note(ref, said.commit, began=began)
        if said.listed is not None:
            self._room.statements.note_listing(*said.listed)
        for located in said.files:
            self._room.known.note(ref.name, located)

    async def _learn_who_may_read(self, ref: ModelRef, rights: Caller, said: Reading, began: float) -> None:
        commit = ref.revision if ref.is_pinned else said.commit
        if said.is_open and commit is not None:
            await self._room.learn_openness(ref, commit, rights, began)
        elif said.is_closed:
            await self._room.learn_closedness(ref.repository)

    # -- made from what is here

    async def _answer_offline(self, question: Question, rights: Caller) -> Answered:
        stand_in = await self._find_stand_in(question, rights, None)
        if stand_in is not None:
            return Answered(await self._use(stand_in, question))
        ref = question.ref
        if ref is None or question.kind in _ORIGINS_OWN:
            return Answered(refusal(504, "", "only the origin knows that, and this server is offline"))
        return Answered(await self._parts.pool.run(f"looking for {ref}", self._refuse_offline, ref, rights))

    def _refuse_offline(self, ref: ModelRef, rights: Caller) -> Document:
        """Why it cannot be had, as a file of the same revision would be refused."""
        commit = self._parts.names.find_commit(ref)
        if (unknown := self._room.find_unknown(ref, commit)) is not None:
            return unknown
        record = None if commit is None else self._parts.records.find(ref, commit)
        if not self._room.may_read_alone(record, ref, rights):
            return refusal(403, "GatedRepo", f"nobody can be asked offline whether you may read {ref.name}")
        return refusal(
            504, "", f"only some files of {ref} are known to this cache, and the server is offline"
        )

    async def _find_stand_in(
        self, question: Question, rights: Caller, kept: KeptDocument | None
    ) -> _StandIn | None:
        """What can answer in place of the origin; nothing is made of it yet.

        None: there is nothing, or nobody can be asked whether this caller may have it.
        """
        ref = question.ref
        if ref is None or (kept is None and question.kind in _ORIGINS_OWN):
            return None
        what = f"reading the record of {ref.name}"
        record, names = await self._parts.pool.run(what, self._find_record, ref, question.kind == "refs")
        if not self._room.may_read_alone(record, ref, rights):
            return None
        can_make = record is not None and _can_make(question, record)
        if kept is None or (can_make and _is_outdated(kept, question, names)):
            return _StandIn(None, record, commits_of(names)) if can_make else None
        return _StandIn(kept.document, record)

    async def _use(self, stand_in: _StandIn, question: Question) -> Document:
        """What it answers. Made in a thread: a long list takes a second."""
        if stand_in.before is not None:
            return stand_in.before
        assert stand_in.record is not None
        what = f"listing {shown(str(question.ref))}"
        return await self._parts.pool.run(what, _make, question, stand_in.record, stand_in.refs)

    def _find_record(self, ref: ModelRef, is_any: bool) -> tuple[SnapshotRecord | None, dict[str, Meaning]]:
        """The record of a revision, or where `is_any` of another one; and what all names mean."""
        commit, names = self._parts.names.find_commit(ref), self._parts.names.find_all(ref)
        if commit is None and is_any:
            commit = next(iter(commits_of(names).values()), None)
        return None if commit is None else self._parts.records.find(ref, commit), names


def _asked_path(request: DocumentRequest) -> str:
    """What the origin left without an answer, apart from all files: none begins so."""
    return f"/{request.path}?{request.query}"


def _is_known(query: str) -> bool:
    """Whether all names in it are some that clients use: others ask the same again and again.

    And nobody here knows what an origin makes of a name like `revision`.
    """
    return {name for name, _ in parse_qsl(query, keep_blank_values=True)} <= _NAMES


def _is_kept(document: Document, rights: Caller) -> bool:
    """Whether it is the answer to all who ask the same with these rights.

    A refusal can be about how somebody came or asked: one without a word of the Hub's, or to whoever came
    through others.
    """
    is_told = is_about_repository(document, rights) or document.headers.get(ERROR_CODE) in REFUSALS
    return not document.is_refusal or (is_told and not rights.via)


def _is_outdated(kept: KeptDocument, question: Question, names: Mapping[str, Meaning]) -> bool:
    """Whether the origin has said since, perhaps to others, that its revision means another commit."""
    ref, occasion = question.ref, kept.occasion
    if ref is None or ref.is_pinned or occasion is None or question.kind == "refs":
        return False
    meaning = names.get(ref.revision or DEFAULT_BRANCH)
    return meaning is not None and meaning.commit != occasion.commit and meaning.said_at > occasion.said_at


def _can_make(question: Question, record: SnapshotRecord) -> bool:
    return question.kind == "refs" or (record.lists_all and question.kind not in _ORIGINS_OWN)


def _make(question: Question, record: SnapshotRecord, refs: Mapping[str, str]) -> Document:
    manifest = record.manifest
    if question.kind == "refs":
        return list_refs(refs)
    if question.kind == "description":
        return describe(manifest, question.has_blobs, record.is_public)
    if question.kind == "paths":
        return list_paths(manifest, question.paths)
    made = list_tree(manifest, question.folder, question.is_recursive)
    absent = f"{question.folder} does not exist in this revision"
    return made or refusal(404, "EntryNotFound", absent, manifest.commit)
