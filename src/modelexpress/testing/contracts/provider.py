# SPDX-License-Identifier: Apache-2.0
"""What every provider promises, as tests: subclass and give the fixture `origin`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import pytest

from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.errors import Corrupt, NotFound
from modelexpress.domain.manifest import DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion, Provider, ignore_version

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
    `has_versions` False: nothing there names a file's version.
    """

    can_resolve = True
    has_spans = True
    has_versions = True

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
        entry = _largest(manifest)
        content = origin.files[entry.path]
        for span in (ByteSpan(0, 1), ByteSpan(7, 1000), ByteSpan(entry.size - 1, entry.size)):
            assert await _read(origin, manifest, entry, span) == content[span.start : span.end]

    async def test_spans_of_one_file_are_read_at_the_same_time(self, origin: Origin) -> None:
        """Four ranges at once give the bytes of four ranges."""
        if not self.has_spans:
            pytest.skip("this provider reads whole files only")
        manifest = await _list(origin)
        entry = _largest(manifest)
        bounds = [entry.size * quarter // 4 for quarter in range(5)]
        spans = [ByteSpan(start, end) for start, end in pairwise(bounds)]
        parts = await asyncio.gather(*(_read(origin, manifest, entry, span) for span in spans))

        assert b"".join(parts) == origin.files[entry.path]

    async def test_a_version_is_told_before_the_first_byte_and_stays_the_same(self, origin: Origin) -> None:
        """Each host names the version of a file by itself, and does so each time it is asked."""
        if not self.has_versions:
            pytest.skip("nothing here names a file's version")
        manifest = await _list(origin)
        entry = _largest(manifest)
        seen: list[tuple[str, str]] = []
        reading = origin.provider.read(
            manifest, entry, ByteSpan(0, entry.size), ANONYMOUS, lambda host, etag: seen.append((host, etag))
        )
        async for _ in reading:
            assert len(seen) == 1
            break
        await _read(origin, manifest, entry, ByteSpan(1, 9), lambda host, etag: seen.append((host, etag)))

        assert len(seen) == 2 and seen[0] == seen[1]
        assert all(seen[0])

    async def test_a_version_that_is_refused_ends_the_reading_without_a_byte(self, origin: Origin) -> None:
        """What the one who compares versions raises reaches the one who reads."""
        if not self.has_versions:
            pytest.skip("nothing here names a file's version")
        manifest = await _list(origin)
        entry = _largest(manifest)

        def refuse(host: str, etag: str) -> None:
            raise Corrupt(f"{host} had another version")

        with pytest.raises(Corrupt, match="had another version"):
            async for _ in origin.provider.read(manifest, entry, ByteSpan(0, entry.size), ANONYMOUS, refuse):
                raise AssertionError("a byte came of a version that was refused")
        assert await _read(origin, manifest, entry) == origin.files[entry.path]

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
        entry = _largest(manifest)
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


def _largest(manifest: Manifest) -> FileEntry:
    return max(manifest.files, key=lambda entry: entry.size)


async def _read(
    origin: Origin,
    manifest: Manifest,
    entry: FileEntry,
    span: ByteSpan | None = None,
    on_version: OnVersion = ignore_version,
) -> bytes:
    wanted = span if span is not None else ByteSpan(0, entry.size)
    reading = origin.provider.read(manifest, entry, wanted, ANONYMOUS, on_version)
    pieces = [piece async for piece in reading]
    assert all(len(piece) <= _MOST_PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


def _digest(kind: DigestKind, content: bytes) -> str:
    if kind is DigestKind.GIT_BLOB:
        header = f"blob {len(content)}\0".encode()
        return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
    return hashlib.sha256(content).hexdigest()
