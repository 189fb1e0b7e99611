# SPDX-License-Identifier: Apache-2.0
"""An origin that is a dictionary: many models, and no time spent on the way."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping

from modelexpress.domain.caller import Caller
from modelexpress.domain.errors import NotFound
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion, ignore_version

_PIECE = 1024 * 1024


class MemoryOrigin:
    """A Provider. `models`: by name the files of its only commit."""

    kind = ProviderKind.HUGGING_FACE

    def __init__(self, models: Mapping[str, Mapping[str, bytes]]) -> None:
        self._files = dict(models)
        self._manifests = {name: _list(name, files) for name, files in models.items()}
        self.bytes_read = 0

    def release(self, name: str, files: Mapping[str, bytes]) -> None:
        """Publish a commit, of a new model or in place of the one before."""
        self._files[name] = files
        self._manifests[name] = _list(name, files)

    def manifest(self, name: str) -> Manifest:
        """The listing of a model."""
        return self._manifests[name]

    async def resolve(self, ref: ModelRef, caller: Caller, has_mirrors: bool = True) -> str:
        """The commit of a model."""
        if ref.name not in self._manifests:
            raise NotFound(f"{ref} is not here")
        return self._manifests[ref.name].commit

    async def list_files(self, ref: ModelRef, commit: str, caller: Caller) -> Manifest:
        """Its files."""
        return self._manifests[ref.name]

    async def read(
        self,
        manifest: Manifest,
        entry: FileEntry,
        span: ByteSpan,
        caller: Caller,
        on_version: OnVersion = ignore_version,
    ) -> AsyncIterator[bytes]:
        """The bytes of a span."""
        content = self._files[manifest.ref.name][entry.path]
        for start in range(span.start, span.end, _PIECE):
            piece = content[start : min(start + _PIECE, span.end)]
            self.bytes_read += len(piece)
            yield piece

    def has_credentials(self, caller: Caller) -> bool:
        return caller.hub_token is not None

    async def may_read(self, ref: ModelRef, caller: Caller) -> bool:
        """Everybody may."""
        return True

    async def close(self) -> None:
        """There is nothing to close."""


def _list(name: str, files: Mapping[str, bytes]) -> Manifest:
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    entries = [
        FileEntry(path, len(content), Digest(DigestKind.SHA256, digests[path]), "b" * 40)
        for path, content in sorted(files.items())
    ]
    said = "".join(f"{entry.path} {entry.digest}" for entry in entries)
    commit = hashlib.sha1(f"{name} {said}".encode()).hexdigest()
    return Manifest(ModelRef(ProviderKind.HUGGING_FACE, name), commit, tuple(entries))
