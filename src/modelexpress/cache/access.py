# SPDX-License-Identifier: Apache-2.0
"""`may_read`: the one question before every door, blob, manifest and peer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.clock import Clock
from modelexpress.domain.errors import Forbidden, MxError, Unauthenticated, Unsupported
from modelexpress.domain.meter import Meter
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.providers import Provider

_MAX_REMEMBERED = 10_000
_SEND_TOKEN = "send one that may read it as x-hf-token"
_SERVER = "server"  # stands where another caller's fingerprint stands


class ServerToken(Enum):
    """What the server's own credentials do for a caller that sends none."""

    SERVE = "serve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class AccessRules:
    """How long answers of the origin are believed, and the rule for callers without a token."""

    server_token: ServerToken = ServerToken.SERVE
    granted_seconds: float = 300.0
    denied_seconds: float = 30.0


class Access:
    """Decides who may read a repository; remembers what the origin said, never the token itself."""

    def __init__(
        self,
        providers: Mapping[ProviderKind, Provider],
        rules: AccessRules,
        clock: Clock,
        meter: Meter,
        is_offline: bool = False,
    ) -> None:
        self._providers = providers
        self._rules = rules
        self._clock = clock
        self._meter = meter
        self._is_offline = is_offline
        self._answers: dict[tuple[str, ModelRef], tuple[bool, float]] = {}
        self._asking: dict[tuple[str, ModelRef], asyncio.Task[bool]] = {}

    async def check(self, caller: Caller, ref: ModelRef, is_served_here: bool) -> None:
        """Return if `caller` may read the repository of `ref`, else raise.

        `is_served_here`: the server's own credentials have read this repository, or nothing of it
        is here yet, so that the origin itself will decide. Without it, bytes that were pulled with
        another caller's token would be open to everybody.
        """
        if self._rules.server_token is ServerToken.REFUSE and caller.hub_token is None:
            raise Unauthenticated(
                f"reading {ref.name} needs a token of your own here (access.server_token is 'refuse'): "
                "send it as x-hf-token"
            )
        if caller.hub_token is None:
            self._meter.count("mx_anonymous_reads_total")
        if self._rules.server_token is ServerToken.SERVE and is_served_here:
            return  # open to callers without any token, so no token needs to be asked about
        if caller.hub_token is not None:
            await self._check_token(caller, ModelRef(ref.provider, ref.name))
        else:
            await self._check_server(ref)

    async def _check_token(self, caller: Caller, repository: ModelRef) -> None:
        key = (caller.fingerprint, repository)
        known = self._answers.get(key)
        if known is None or self._clock.monotonic() >= known[1]:
            if self._is_offline:
                raise Forbidden(f"nobody can be asked offline whether this token may read {repository.name}")
            allowed = await self._ask_once(key, caller)
        else:
            allowed = known[0]
        if not allowed:
            raise Forbidden(
                f"the origin does not let this token read {repository.name}; ask for access there"
            )

    async def _ask_once(self, key: tuple[str, ModelRef], caller: Caller) -> bool:
        if key not in self._asking:
            task = asyncio.create_task(self._ask(key, caller))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    async def _ask(self, key: tuple[str, ModelRef], caller: Caller) -> bool:
        repository = key[1]
        allowed = await get_provider(self._providers, repository).may_read(repository, caller)
        self._remember(key, allowed)
        return allowed

    async def _check_server(self, ref: ModelRef) -> None:
        repository = ModelRef(ref.provider, ref.name)
        key = (_SERVER, repository)
        known = self._answers.get(key)
        if known is None or self._clock.monotonic() >= known[1]:
            if self._is_offline:
                raise Forbidden(f"{ref.name} was pulled with a caller's own token; {_SEND_TOKEN}")
            allowed = await self._ask_once(key, ANONYMOUS)
        else:
            allowed = known[0]
        if not allowed:
            raise Forbidden(f"{ref.name} was pulled with a caller's own token; {_SEND_TOKEN}")

    def _remember(self, key: tuple[str, ModelRef], is_allowed: bool) -> None:
        seconds = self._rules.granted_seconds if is_allowed else self._rules.denied_seconds
        if len(self._answers) >= _MAX_REMEMBERED:
            self._answers.pop(next(iter(self._answers)))
        self._answers[key] = (is_allowed, self._clock.monotonic() + seconds)


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
    """True for errors that say nothing about the model: the origin did not answer, or only 'later'."""
    return error.code in ("Unreachable", "Limited")
