# SPDX-License-Identifier: Apache-2.0
"""`may_read`: the one question before every door, blob, manifest and peer."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase

from modelexpress.cache.asking import Asking
from modelexpress.cache.marks import Marks
from modelexpress.cache.parts import CacheParts
from modelexpress.domain.caller import ANONYMOUS, STRANGER, Caller
from modelexpress.domain.errors import Forbidden, Limited, MxError, Unauthenticated, Unsupported, is_nonsense
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.providers import Provider

_MAX_REMEMBERED = 10_000  # permissions, and as many refusals
_STALE_AFTER_SECONDS = 2.0  # an origin is waited for where an earlier yes can answer instead
_UNKNOWN_AFTER_SECONDS = 5.0  # and here, where no other answer is but to ask for a token
_SEND_TOKEN = "send one that may read it as x-hf-token"


class ServerToken(Enum):
    """What the server's own credentials do for a caller that sends none."""

    SERVE = "serve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class AccessRules:
    """How long answers of the origin are believed, and our own policy beside them.

    `granted_seconds`, `denied_seconds`: so long nobody is asked again. `outage_seconds`: so long after the
    last yes it still counts while the origin does not answer. `server_token`: for callers of the gRPC
    services that send no token. `open_models`: patterns of what anybody may read with the server's own
    credentials. Whoever shows the token that `find_service_token` gives may read `service_models` with them.
    """

    server_token: ServerToken = ServerToken.SERVE
    granted_seconds: float = 300.0
    denied_seconds: float = 30.0
    outage_seconds: float = 86_400.0
    open_models: tuple[str, ...] = ()
    service_models: tuple[str, ...] = ("*",)
    find_service_token: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What the origin said of somebody, and when. `commit`: that it said yes to last, if it named one."""

    is_allowed: bool
    said_at: float
    until: float
    commit: str | None = None


class Access:
    """Decides who may read a repository; remembers what the origin said, never the token itself."""

    def __init__(self, parts: CacheParts, rules: AccessRules) -> None:
        self._providers = parts.providers
        self._rules = rules
        self._clock = parts.clock
        self._meter = parts.meter
        self._is_offline = parts.is_offline
        self.marks = Marks(parts)
        # Apart, so that no number of made-up names sends away what was allowed to somebody.
        self._granted: dict[tuple[str, ModelRef], _Remembered] = {}
        self._refused: dict[tuple[str, ModelRef], _Remembered] = {}
        self._asking = Asking()
        self.on_no: list[Callable[[Caller, ModelRef], None]] = []  # called when the origin refuses somebody

    @property
    def denied_seconds(self) -> float:
        """How long a refusal is not asked about again."""
        return self._rules.denied_seconds

    @property
    def granted_seconds(self) -> float:
        """How long a permission is not asked about again."""
        return self._rules.granted_seconds

    # -- by our own policy

    def identify(self, caller: Caller, ref: ModelRef) -> Caller:
        """With whose rights `caller` reads `ref`: his own, or the server's where our policy says so.

        Raises Forbidden for the service token beyond its models. That token never reaches an origin.
        """
        if _is_listed(ref.name, self._rules.open_models):
            return Caller(via=caller.via)
        if not self.is_service(caller):
            return caller
        if not _is_listed(ref.name, self._rules.service_models):
            raise Forbidden(f"the service token may not read {ref.name} (access.service_models)")
        return Caller(via=caller.via)

    def is_service(self, caller: Caller) -> bool:
        """Whether `caller` shows the service token, which is ours and means nothing to an origin."""
        if caller.hub_token is None:
            return False
        service = self._rules.find_service_token()
        return service is not None and hmac.compare_digest(service.encode(), caller.hub_token.encode())

    # -- by what the origin says

    async def check(self, caller: Caller, ref: ModelRef, is_served_here: bool) -> None:
        """Return if `caller` may read the repository of `ref`, else raise.

        `is_served_here`: the server's own credentials have read the very commit that is wanted, or nothing
        of it is here yet, so that the origin itself will decide. Without it, bytes that were pulled with
        another caller's token would be open to everybody.
        """
        rights = self.identify(caller, ref)
        is_ours = rights is not caller  # our policy has said so
        if self._rules.server_token is ServerToken.REFUSE and caller.hub_token is None and not is_ours:
            raise Unauthenticated(
                f"reading {ref.name} needs a token of your own here (access.server_token is 'refuse'): "
                "send it as x-hf-token"
            )
        if rights.hub_token is None:
            self._meter.count("mx_anonymous_reads_total")
        if (self._rules.server_token is ServerToken.SERVE or is_ours) and is_served_here:
            return  # open to callers without any token, so no token needs to be asked about
        await self._check_rights(rights, ref)

    async def _check_rights(self, rights: Caller, ref: ModelRef) -> None:
        repository = ref.repository
        if self._is_offline and self.recall(rights, repository) is None:
            raise Forbidden(_OFFLINE[rights.hub_token is None].format(repository.name))
        commit = ref.revision if ref.is_pinned else ""  # of a branch nobody knows here what it means
        if self.recall_in_outage(rights, repository, commit):
            is_allowed = await self._is_still_allowed(rights, repository)
        elif rights.hub_token is None:
            is_allowed = await self._is_allowed_without_token(rights, repository)
        else:
            is_allowed = await self.is_allowed(rights, repository)
        if not is_allowed:
            raise Forbidden(_REFUSED[rights.hub_token is None].format(repository.name))

    async def _is_still_allowed(self, rights: Caller, repository: ModelRef) -> bool:
        """The same of whom the origin let read before: that counts while it does not answer."""
        try:
            return await self._is_allowed_soon(rights, repository, _STALE_AFTER_SECONDS)
        except MxError as error:
            if not is_silence(error, rights):
                raise
            return True

    async def _is_allowed_without_token(self, rights: Caller, repository: ModelRef) -> bool:
        """The same of who sent no token. Clients do so first, and show theirs when they are told to.

        So they are told soon when the origin does not say: it may have let that token read before.
        """
        try:
            return await self._is_allowed_soon(rights, repository, _UNKNOWN_AFTER_SECONDS)
        except MxError as error:
            if not is_outage(error):
                raise
            raise Unauthenticated(
                f"whether {repository.name} may be read without a token is not known now ({error.message}); "
                "send one that has read it as x-hf-token, or try again later"
            ) from error

    async def _is_allowed_soon(self, rights: Caller, repository: ModelRef, seconds: float) -> bool:
        """Whether the origin lets these rights read a repository; raises Unreachable when it takes long."""
        allowed = self.recall(rights, repository)
        if allowed is not None:
            return allowed
        impatient = replace(rights, is_impatient=True)  # a wait of ours would look as if it did not answer
        asked = (rights.fingerprint, repository, "impatient")
        ask = functools.partial(self._ask, repository, impatient)
        return await self._asking.once(asked, ask, repository, rights.fingerprint, seconds)

    async def is_allowed(self, rights: Caller, ref: ModelRef, since: float | None = None) -> bool:
        """Whether the origin lets these rights read the repository of `ref`: as it said lately, or asked now.

        `since`: a yes from before that time, by the clock, does not do. Raises Limited and Unreachable.
        """
        repository = ref.repository
        allowed = self.recall(rights, repository)
        if allowed is not None and not (
            allowed and since is not None and self._is_before(rights, ref, since)
        ):
            return allowed
        asked = (rights.fingerprint, repository)
        ask = functools.partial(self._ask, repository, rights)
        return await self._asking.once(asked, ask, repository, rights.fingerprint)

    def recall(self, rights: Caller, repository: ModelRef) -> bool | None:
        """What the origin said not long ago of these rights; None: it has to be asked."""
        known = self._find(rights, repository)
        if known is not None and self._clock.monotonic() < known.until:
            return known.is_allowed
        return None

    def recall_in_outage(self, rights: Caller, repository: ModelRef, commit: str | None) -> bool:
        """Whether the origin said yes so lately that it counts while it does not answer.

        Of `commit`, where something of it is here: without a token only what was said of that very commit
        counts, as what was everybody's once need not be so of what a member has brought since.
        """
        since = self._clock.monotonic() - self._rules.outage_seconds

        def counts(one: Caller) -> bool:
            known = self._find(one, repository)
            if known is None or not known.is_allowed or known.said_at < since:
                return False
            return commit is None or one.hub_token is not None or known.commit == commit

        return counts(rights) or counts(STRANGER)

    def note(
        self,
        rights: Caller,
        repository: ModelRef,
        is_allowed: bool,
        commit: str | None = None,
        began: float | None = None,
    ) -> None:
        """Remember what the origin has just said, asked with these rights; `commit`: of which it said yes.

        `began`: when the question began; a yes to an earlier one than was refused since is no news.
        """
        if is_allowed and began is not None and self.has_refused_since(rights, repository, began):
            return
        for hear in () if is_allowed else self.on_no:
            hear(rights, repository)
        seconds = self._rules.granted_seconds if is_allowed else self._rules.denied_seconds
        now, key = self._clock.monotonic(), (rights.fingerprint, repository)
        # A no ends what an earlier yes was worth in an outage.
        before = self._granted.pop(key, None)
        self._refused.pop(key, None)
        if is_allowed:
            named = commit if commit is not None or before is None else before.commit
            kept, said = self._granted, _Remembered(True, now, now + seconds, named)
        else:
            kept, said = self._refused, _Remembered(False, now, now + seconds)
        kept[key] = said
        if len(kept) > _MAX_REMEMBERED:
            del kept[next(iter(kept))]

    def has_shown(self, rights: Caller, repository: ModelRef, commit: str) -> bool:
        """Whether the origin's last word to these rights was yes, of this very commit."""
        known = self._find(rights, repository)
        return known is not None and known.is_allowed and known.commit == commit

    def has_refused(self, rights: Caller, repository: ModelRef) -> bool:
        """Whether the origin's last word to these rights was no, however long ago."""
        known = self._find(rights, repository)
        return known is not None and not known.is_allowed

    def has_refused_since(self, rights: Caller, repository: ModelRef, began: float) -> bool:
        """Whether that was said after `began`, by the clock."""
        refused = self._refused.get((rights.fingerprint, repository))
        return refused is not None and refused.said_at > began

    def is_anybody(self, rights: Caller, ref: ModelRef) -> bool:
        """Whether what the origin shows to these rights it shows to everybody, as it is told of nobody."""
        return rights.is_stranger or not get_provider(self._providers, ref).has_credentials(rights)

    async def refuse(self, rights: Caller, repository: ModelRef) -> None:
        """The origin has just said no to these rights: nothing that was written down says otherwise."""
        for one in self._alike(rights, repository):
            self.note(one, repository, is_allowed=False)
            await self.marks.clear(repository, one)

    async def mark(self, rights: Caller, ref: ModelRef, commit: str) -> None:
        """The origin has just let these rights read this commit: for those without a token it is kept."""
        await self.marks.set(ref, commit, rights, lambda: self.has_refused(rights, ref.repository))

    def _alike(self, rights: Caller, repository: ModelRef) -> tuple[Caller, ...]:
        """These rights and those that are the same to the origin: a server without a token is a stranger."""
        is_shared = rights.hub_token is None and self.is_anybody(ANONYMOUS, repository)
        return (STRANGER, ANONYMOUS) if is_shared else (rights,)

    def _is_before(self, rights: Caller, ref: ModelRef, since: float) -> bool:
        known = self._find(rights, ref.repository)
        return known is None or not known.is_allowed or known.said_at < since

    def _find(self, rights: Caller, repository: ModelRef) -> _Remembered | None:
        key = (rights.fingerprint, repository)
        return self._granted.get(key) or self._refused.get(key)

    async def _ask(self, repository: ModelRef, rights: Caller) -> bool:
        began = self._clock.monotonic()
        allowed = await get_provider(self._providers, repository).may_read(repository, rights)
        if allowed:
            self.note(rights, repository, is_allowed=True, began=began)
        else:
            await self.refuse(rights, repository)
        return allowed


# By whether no token was sent.
_OFFLINE = {
    False: "nobody can be asked offline whether this token may read {}",
    True: "{} was pulled with a caller's own token; " + _SEND_TOKEN,
}
_REFUSED = {
    False: "the origin does not let this token read {}; ask for access there",
    True: "{} was pulled with a caller's own token; " + _SEND_TOKEN,
}


def _is_listed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def get_provider(providers: Mapping[ProviderKind, Provider], ref: ModelRef) -> Provider:
    """The provider of `ref`; raises Unsupported when this process has none of that kind."""
    try:
        return providers[ref.provider]
    except KeyError:
        available = ", ".join(sorted(kind.value for kind in providers)) or "none"
        raise Unsupported(
            f"provider {ref.provider.value} is not available in this version (available: {available})"
        ) from None


def is_outage(error: MxError) -> bool:
    """True for errors that say nothing about the model: the origin did not answer, or only 'later'.

    Or something else answers in its place, as a page to sign in at does.
    """
    return error.code in ("Unreachable", "Limited") or is_nonsense(error)


def is_silence(error: MxError, rights: Caller) -> bool:
    """Whether an earlier yes counts, as the origin says nothing now.

    Who is limited by his token may have lost what he was allowed, and could see to it that he is never told.
    """
    return is_outage(error) and not (isinstance(error, Limited) and rights.hub_token is not None)
