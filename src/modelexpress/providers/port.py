# SPDX-License-Identifier: Apache-2.0
"""What one kind of origin must be able to do: name a commit, list it, read it, say who may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from modelexpress.domain.caller import Caller
from modelexpress.domain.hub import Document, DocumentRequest, Located
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.spans import ByteSpan

OnVersion = Callable[[str, str], None]


def ignore_version(host: str, etag: str) -> None:
    """Hear a version and compare it with nothing."""


class Provider(Protocol):
    """One kind of origin. All calls may run at once; each has its own deadlines and retries.

    Errors are domain errors: NotFound, Unauthenticated, Forbidden (401/403), Limited, Unreachable
    (after the retries), Corrupt (an answer that cannot be understood), Invalid.
    """

    kind: ProviderKind

    async def resolve(self, ref: ModelRef, caller: Caller, has_mirrors: bool = True) -> str:
        """The commit that `ref` means now, in one request; never another revision in its place.

        Without `has_mirrors` the origin alone says it: a mirror may lag behind what is known.
        """
        ...

    async def list_files(self, ref: ModelRef, commit: str, caller: Caller) -> Manifest:
        """All files of `commit`, with sizes and digests."""
        ...

    def read(
        self,
        manifest: Manifest,
        entry: FileEntry,
        span: ByteSpan,
        caller: Caller,
        on_version: OnVersion = ignore_version,
    ) -> AsyncIterator[bytes]:
        """The bytes of `span` in order, in pieces of at most 1 MiB; resumed inside after resets.

        Ends after exactly `span.length` bytes or raises; whether they are the right bytes is for
        the caller to prove. Each answer that names the file's version is told as
        `on_version(host, etag)` before its first byte; hosts name the same version differently. What
        `on_version` raises (Corrupt: that host has another version now) ends the reading.

        Raises Unsupported, at little cost, for a span that does not begin the file where the origin
        can only send whole files: then the file must be read from 0 to its end, in one go.
        """
        ...

    async def may_read(self, ref: ModelRef, caller: Caller) -> bool:
        """Whether the origin lets this caller, by its own token alone, read the repository's files.

        A caller without a token stands for this process with its own credentials.
        """
        ...

    def has_credentials(self, caller: Caller) -> bool:
        """Whether this caller is more to the origin than anybody: what it shows else is everybody's."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class HubProvider(Provider, Protocol):
    """An origin that is a Hub, and can answer for one by whose endpoint clients of Hubs come to us."""

    async def look_up(
        self, ref: ModelRef, path: str, caller: Caller, has_mirrors: bool = False
    ) -> Located | Document:
        """One file of what `ref` means now, by one question; or the origin's refusal, word for word.

        With `has_mirrors` a mirror may answer where the origin does not: only for who is known to be
        allowed, as no mirror knows that.
        Raises Limited, Unreachable, Corrupt, and Invalid for a loop.
        """
        ...

    async def ask(self, request: DocumentRequest, caller: Caller) -> Document:
        """What the origin itself answers, a refusal too, asked with the caller's rights. Raises the same."""
        ...
