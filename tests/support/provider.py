# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face provider over local Hubs, and what is asked of it in tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from tests.support.house import QUICK

from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.clock import SYSTEM_CLOCK, Clock
from modelexpress.domain.manifest import FileEntry, Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers import OnVersion, ignore_version
from modelexpress.providers.huggingface import HubOptions, HuggingFaceProvider, make_provider
from modelexpress.testing.hub import LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files

NAME = "demo/tiny"
REF = ModelRef.parse(NAME)
MEMBER, STRANGER, UNKNOWN = Caller("hf_member"), Caller("hf_stranger"), Caller("hf_unknown")


@asynccontextmanager
async def open_provider(
    hub: LocalHub,
    env: Mapping[str, str] | None = None,
    *mirrors: LocalHub,
    clock: Clock = SYSTEM_CLOCK,
    max_bytes_per_second: int = 0,
) -> AsyncIterator[HuggingFaceProvider]:
    """A provider whose origin is `hub`."""
    options = HubOptions(
        endpoint=hub.endpoint,
        redirect_hosts=("localhost",),
        timeout_seconds=5.0,
        retry=QUICK,
        mirrors=tuple(mirror.endpoint for mirror in mirrors),
        max_bytes_per_second=max_bytes_per_second,
    )
    provider = make_provider(options, env if env is not None else {"HOME": "/nonexistent"}, clock)
    try:
        yield provider
    finally:
        await provider.close()


async def list_all(
    provider: HuggingFaceProvider, ref: ModelRef = REF, caller: Caller = ANONYMOUS
) -> Manifest:
    """The manifest of what `ref` means now."""
    return await provider.list_files(ref, await provider.resolve(ref, caller), caller)


async def read_all(
    provider: HuggingFaceProvider, manifest: Manifest, caller: Caller = ANONYMOUS
) -> dict[str, bytes]:
    """Every file of `manifest`, one after the other."""
    found = {}
    for entry in manifest.files:
        pieces = provider.read(manifest, entry, ByteSpan(0, entry.size), caller)
        found[entry.path] = b"".join([piece async for piece in pieces])
    return found


async def read_span(
    provider: HuggingFaceProvider,
    manifest: Manifest,
    span: ByteSpan,
    caller: Caller = ANONYMOUS,
    on_version: OnVersion = ignore_version,
) -> bytes:
    """A span of the first file of `manifest`."""
    reading = provider.read(manifest, manifest.files[0], span, caller, on_version)
    return b"".join([piece async for piece in reading])


def content_of(entry: FileEntry) -> bytes:
    """What the file of a tiny model holds."""
    content = tiny_files()[entry.path]
    assert isinstance(content, bytes)
    return content


def restricted(hub: LocalHub, name: str, kind: str) -> ModelRef:
    """A private or gated repository that only MEMBER may read."""
    repository = Repository(name, is_private=kind == "private", is_gated=kind == "gated")
    repository.commit(tiny_files())
    hub.add(repository)
    hub.grant("hf_member", name)
    hub.grant("hf_stranger")
    return ModelRef.parse(name)


class MovedClock:
    """The machine's clock, moved on by hand."""

    def __init__(self) -> None:
        self.moved_by = 0.0

    def monotonic(self) -> float:
        """Seconds of the machine, and those it was moved by."""
        return SYSTEM_CLOCK.monotonic() + self.moved_by

    def wall(self) -> float:
        """The machine's own."""
        return SYSTEM_CLOCK.wall()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)
