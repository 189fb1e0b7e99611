# SPDX-License-Identifier: Apache-2.0
"""A ModelExpress server as the origin of a local cache: a transfer is a pull from it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from modelexpress.client.server_calls import ServerCalls
from modelexpress.domain.caller import Caller
from modelexpress.domain.errors import Internal, Unsupported
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion, ignore_version


class ServerProvider:
    """Implements the provider port over a server that has the commit already."""

    def __init__(self, kind: ProviderKind, calls: ServerCalls) -> None:
        self.kind = kind
        self._calls = calls

    async def resolve(self, ref: ModelRef, caller: Caller, has_mirrors: bool = True) -> str:
        """Only the server's own pull says what a ref means, so a commit must be given to `begin`."""
        raise Internal(f"{ref} must be resolved by a pull at the server first")

    async def list_files(self, ref: ModelRef, commit: str, caller: Caller) -> Manifest:
        """The files of `commit` as the server lists them."""
        return await self._calls.list_files(ref, commit)

    async def read(
        self,
        manifest: Manifest,
        entry: FileEntry,
        span: ByteSpan,
        caller: Caller,
        on_version: OnVersion = ignore_version,
    ) -> AsyncIterator[bytes]:
        """The bytes of a whole file; the established stream cannot begin in the middle."""
        if span != ByteSpan(0, entry.size):
            raise Unsupported(f"{entry.path}: a server's stream has whole files only")
        async for piece in self._calls.stream_file(manifest.ref, manifest.commit, entry):
            yield piece

    def has_credentials(self, caller: Caller) -> bool:
        """Whether it is told who asks: whatever the server shows, it may be to him alone."""
        return True

    async def may_read(self, ref: ModelRef, caller: Caller) -> bool:
        """The server has decided already, for every call by itself."""
        return True

    async def close(self) -> None:
        """The connection belongs to the client."""
