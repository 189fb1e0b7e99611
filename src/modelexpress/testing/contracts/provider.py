# SPDX-License-Identifier: Apache-2.0
"""What every provider promises, as tests: subclass and give the fixture `origin`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.errors import NotFound
from modelexpress.domain.manifest import DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import Provider

_MOST_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """A provider, and a model that is published where it looks: its commit and all its files."""

    provider: Provider
    ref: ModelRef
    commit: str
    files: Mapping[str, bytes]


class ProviderContract:
    """Subclass with a fixture `origin` that gives an Origin, its files some large and one empty.

    `can_resolve` False: commits are found out elsewhere. `has_spans` False: whole files only.
    """

    can_resolve = True
    has_spans = True

    async def test_the_listing_has_every_file_with_its_size_and_digest(self, origin: Origin) -> None:
        """Names and sizes are right, and a digest, where there is one, is that of the content."""
        manifest = await _list(origin)

        assert manifest.commit == origin.commit
        assert {e.path: e.size for e in manifest.files} == {p: len(c) for p, c in origin.files.items()}
        for entry in manifest.files:
            if entry.digest is not None:
                assert entry.digest.value == _digest(entry.digest.kind, origin.files[entry.path])

    async def test_every_file_is_read_whole_in_bounded_pieces_and_all_at_once(self, origin: Origin) -> None:
        """Reading all files at the same time gives their bytes, no piece larger than 1 MiB."""
        manifest = await _list(origin)
        contents = await asyncio.gather(*(_read(origin, manifest, entry) for entry in manifest.files))

        found = dict(zip((entry.path for entry in manifest.files), contents, strict=True))
        assert found == dict(origin.files)
        assert any(not content for content in contents), "the origin of this test lacks an empty file"

    async def test_a_span_is_read_to_the_byte(self, origin: Origin) -> None:
        """Any part of a file can be read by itself."""
        if not self.has_spans:
            pytest.skip("this provider reads whole files only")
        manifest = await _list(origin)
        entry = max(manifest.files, key=lambda entry: entry.size)
        content = origin.files[entry.path]
        for span in (ByteSpan(0, 1), ByteSpan(7, 1000), ByteSpan(entry.size - 1, entry.size)):
            assert await _read(origin, manifest, entry, span) == content[span.start : span.end]

    async def test_a_name_is_resolved_to_the_commit_it_means(self, origin: Origin) -> None:
        """The default branch, and a commit, mean what they mean."""
        if not self.can_resolve:
            pytest.skip("this provider is told commits")
        for ref in (origin.ref, origin.ref.at(origin.commit)):
            assert await origin.provider.resolve(ref, ANONYMOUS) == origin.commit

    async def test_what_does_not_exist_is_not_found(self, origin: Origin) -> None:
        """A commit that is none is NotFound, and never another one in its place."""
        with pytest.raises(NotFound):
            await origin.provider.list_files(origin.ref.at("0" * 40), "0" * 40, ANONYMOUS)

    async def test_a_reader_may_leave_early(self, origin: Origin) -> None:
        """Letting go of a body half-way harms no later read."""
        manifest = await _list(origin)
        entry = max(manifest.files, key=lambda entry: entry.size)
        async for _ in origin.provider.read(manifest, entry, ByteSpan(0, entry.size), ANONYMOUS):
            break

        assert await _read(origin, manifest, entry) == origin.files[entry.path]

    async def test_who_may_read_is_told_so(self, origin: Origin) -> None:
        """The model of this test is public."""
        assert await origin.provider.may_read(origin.ref, ANONYMOUS)

    async def test_closing_twice_is_closing(self, origin: Origin) -> None:
        """Close may be called again."""
        await origin.provider.close()
        await origin.provider.close()


async def _list(origin: Origin) -> Manifest:
    return await origin.provider.list_files(origin.ref, origin.commit, ANONYMOUS)


async def _read(origin: Origin, manifest: Manifest, entry: FileEntry, span: ByteSpan | None = None) -> bytes:
    wanted = span if span is not None else ByteSpan(0, entry.size)
    pieces = [piece async for piece in origin.provider.read(manifest, entry, wanted, ANONYMOUS)]
    assert all(len(piece) <= _MOST_PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


def _digest(kind: DigestKind, content: bytes) -> str:
    if kind is DigestKind.GIT_BLOB:
        header = f"blob {len(content)}\0".encode()
        return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
    return hashlib.sha256(content).hexdigest()
