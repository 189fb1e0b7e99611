# SPDX-License-Identifier: Apache-2.0
"""Files of a Hub by ranges: which version, by which address, how fast, and what contradicts the listing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import pytest
from tests.support.provider import (
    MEMBER,
    NAME,
    STRANGER,
    MovedClock,
    content_of,
    list_all,
    open_provider,
    read_all,
    read_span,
    restricted,
)
from tests.support.proxy import Asked, Origin, answer, json_answer

from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import Corrupt, NotFound, Unsupported
from modelexpress.domain.manifest import Digest, DigestKind, FileEntry, Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers.huggingface import HubOptions as ProviderOptions
from modelexpress.providers.huggingface import HuggingFaceProvider, make_provider
from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_model

WEIGHTS = "model.safetensors"
COMMIT = "c" * 40


@pytest.fixture
async def provider(hub: LocalHub) -> AsyncIterator[HuggingFaceProvider]:
    async with open_provider(hub) as provider:
        yield provider


@pytest.fixture
async def weights(provider: HuggingFaceProvider) -> Manifest:
    """The manifest with its one large file."""
    return (await list_all(provider)).only([WEIGHTS])


def spans_of(entry: FileEntry, count: int) -> list[ByteSpan]:
    """The file in `count` parts."""
    bounds = [entry.size * number // count for number in range(count + 1)]
    return [ByteSpan(start, end) for start, end in pairwise(bounds)]


# Versions


async def test_each_answer_tells_its_host_and_version(
    hub: LocalHub, provider: HuggingFaceProvider, weights: Manifest
) -> None:
    seen: list[tuple[str, str]] = []
    hub.faults.add(Fault("reset", "body", after=70_000))
    content = await read_span(
        provider, weights, ByteSpan(0, weights.total_bytes), on_version=lambda *version: seen.append(version)
    )

    digest = weights.files[0].digest
    assert content == content_of(weights.files[0]) and digest is not None
    assert seen == [(hub.cdn_endpoint.removeprefix("http://"), f'"{digest.value[::-1]}"')] * 2


async def test_a_version_that_differs_from_that_of_an_earlier_range_is_heard(
    hub: LocalHub, provider: HuggingFaceProvider, weights: Manifest
) -> None:
    known: dict[str, str] = {}

    def compare(host: str, etag: str) -> None:
        if known.setdefault(host, etag) != etag:
            raise Corrupt(f"{host} has another version")

    first, second = spans_of(weights.files[0], 2)
    await read_span(provider, weights, first, on_version=compare)
    hub.faults.add(Fault("etag", "body"))
    with pytest.raises(Corrupt, match="another version"):
        await read_span(provider, weights, second, on_version=compare)
    assert await read_span(provider, weights, second, on_version=compare)


async def test_a_file_without_a_strong_version_is_read_without_telling_one() -> None:
    def respond(etag: str | None) -> bytes:
        return answer(200, b"content", {} if etag is None else {"ETag": etag})

    answers = [respond(etag) for etag in (None, 'W/"1"', "", '"1"')]
    seen: list[str] = []
    async with Origin(lambda _: answers.pop(0)) as origin:
        provider = make_provider(ProviderOptions(origin.endpoint), {})
        while answers:
            read = await read_span(
                provider, small_manifest(7), ByteSpan(0, 7), on_version=lambda _, etag: seen.append(etag)
            )
            assert read == b"content"
        await provider.close()
    assert seen == ['"1"']


def small_manifest(size: int) -> Manifest:
    return Manifest(ModelRef.parse(NAME), COMMIT, (FileEntry("file.bin", size),))


# What contradicts the listing


@pytest.mark.parametrize("has_cdn", [True, False], ids=["cdn", "in place"])
async def test_what_the_hub_says_of_another_file_is_corrupt(has_cdn: bool) -> None:
    async with (
        LocalHub([tiny_model(NAME)], HubOptions(has_cdn=has_cdn)) as hub,
        open_provider(hub) as provider,
    ):
        manifest = (await list_all(provider)).only([WEIGHTS])
        entry = manifest.files[0]
        other = replace(entry, digest=Digest(DigestKind.SHA256, "0" * 64))
        for wrong, problem in ((other, "its sha256 is"), (replace(entry, size=entry.size + 1), "100153")):
            with pytest.raises(Corrupt, match=f"the file changed at the origin: .*{problem}"):
                await read_span(provider, replace(manifest, files=(wrong,)), ByteSpan(0, 10))
        for same in (
            replace(entry, digest=None),
            replace(entry, digest=Digest(DigestKind.GIT_BLOB, "0" * 40)),
        ):
            found = await read_span(provider, replace(manifest, files=(same,)), ByteSpan(0, 10))
            assert found == content_of(entry)[:10]


async def test_a_file_that_became_shorter_is_corrupt() -> None:
    async with Origin(lambda _: answer(416, headers={"Content-Range": "bytes */5"})) as origin:
        provider = make_provider(ProviderOptions(origin.endpoint), {})
        with pytest.raises(Corrupt, match="changed at the origin: it ends before"):
            await read_span(provider, small_manifest(20), ByteSpan(10, 20))
        await provider.close()


async def test_an_origin_that_ignores_ranges_costs_no_body_for_each_range() -> None:
    repository = Repository("demo/large")
    repository.commit({"large.bin": random.Random(1).randbytes(30_000_000)})
    async with LocalHub([repository]) as hub, open_provider(hub) as provider:
        manifest = await list_all(provider, ModelRef.parse("demo/large"))
        hub.faults.add(Fault("ignore_range", "body", times=None))
        for start in (1, 10_000_000, 29_999_999):
            with pytest.raises(Unsupported, match="answers ranges with the whole file"):
                await read_span(provider, manifest, ByteSpan(start, 30_000_000))
        spent = hub.log.bytes_sent
        assert len(await read_span(provider, manifest, ByteSpan(0, 1000))) == 1000

    # What the sockets hold had left before anybody could say stop.
    assert spent < 30_000_000


# Addresses


async def test_one_redirect_serves_all_ranges_of_a_file(
    hub: LocalHub, provider: HuggingFaceProvider, weights: Manifest
) -> None:
    first, *rest = spans_of(weights.files[0], 8)
    parts = [await read_span(provider, weights, first)]
    parts += await asyncio.gather(*(read_span(provider, weights, span) for span in rest))

    assert b"".join(parts) == content_of(weights.files[0])
    assert len(hub.log.of("resolve")) == 1 and len(hub.log.of("body")) == 8
    assert {request.token for request in hub.log.of("body")} == {None}


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
async def test_an_address_that_is_refused_is_asked_for_again_at_once(
    hub: LocalHub, provider: HuggingFaceProvider, weights: Manifest, status: int
) -> None:
    first, second = spans_of(weights.files[0], 2)
    head = await read_span(provider, weights, first)
    hub.faults.add(Fault("status", "body", status=status))
    started = time.monotonic()

    assert head + await read_span(provider, weights, second) == content_of(weights.files[0])
    assert len(hub.log.of("resolve")) == 2
    assert time.monotonic() - started < 5


async def test_addresses_that_expire_all_at_once_are_asked_for_again(
    hub: LocalHub, provider: HuggingFaceProvider, weights: Manifest
) -> None:
    spans = spans_of(weights.files[0], 4)
    await asyncio.gather(*(read_span(provider, weights, span) for span in spans))
    hub.expire_addresses()
    before = len(hub.log.of("resolve"))
    parts = await asyncio.gather(*(read_span(provider, weights, span) for span in spans))

    assert b"".join(parts) == content_of(weights.files[0])
    assert before < len(hub.log.of("resolve")) <= before + 4


async def test_an_address_is_forgotten_after_some_minutes(hub: LocalHub) -> None:
    clock = MovedClock()
    async with open_provider(hub, clock=clock) as provider:
        manifest = (await list_all(provider)).only([WEIGHTS])
        for moved_by, resolved in ((0.0, 1), (290.0, 1), (301.0, 2), (302.0, 2)):
            clock.moved_by = moved_by
            await read_span(provider, manifest, ByteSpan(5, 9))
            assert len(hub.log.of("resolve")) == resolved


async def test_a_body_that_broke_off_goes_on_at_the_same_address(
    hub: LocalHub, provider: HuggingFaceProvider, weights: Manifest
) -> None:
    hub.faults.add(Fault("reset", "body", after=70_000))
    content = await read_span(provider, weights, ByteSpan(0, weights.total_bytes))

    assert content == content_of(weights.files[0])
    assert len(hub.log.of("resolve")) == 1 and len(hub.log.of("body")) == 2


async def test_an_address_given_to_one_token_serves_no_other(hub: LocalHub) -> None:
    ref = restricted(hub, "demo/private", "private")
    hub.grant("hf_other", ref.name)
    async with open_provider(hub, {"HF_TOKEN": "hf_own"}) as provider:
        manifest = (await list_all(provider, ref, MEMBER)).only([WEIGHTS])
        for caller in (MEMBER, MEMBER, Caller("hf_other"), Caller("hf_other")):
            await read_span(provider, manifest, ByteSpan(5, 9), caller)
        with pytest.raises(NotFound):
            await read_span(provider, manifest, ByteSpan(5, 9), STRANGER)
        hub.grant("hf_own", ref.name)
        await read_span(provider, manifest, ByteSpan(5, 9), ANONYMOUS)

    resolved = [request.token for request in hub.log.of("resolve")]
    assert resolved == ["hf_member", "hf_other", "hf_stranger", "hf_own"]


async def test_a_corrupt_answer_is_not_asked_for_by_the_same_address_again(
    hub: LocalHub, provider: HuggingFaceProvider, weights: Manifest
) -> None:
    await read_span(provider, weights, ByteSpan(5, 9))

    def refuse(host: str, etag: str) -> None:
        raise Corrupt("another one")

    with pytest.raises(Corrupt):
        await read_span(provider, weights, ByteSpan(5, 9), on_version=refuse)
    await read_span(provider, weights, ByteSpan(5, 9))
    assert len(hub.log.of("resolve")) == 2


async def test_an_address_in_the_origin_itself_is_no_shortcut(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    manifest = (await list_all(provider)).only(["config.json"])
    for _ in range(3):
        await read_all(provider, manifest)
    assert len(hub.log.of("resolve")) == 3


# Bandwidth


async def test_all_ranges_together_stay_below_the_bound(hub: LocalHub) -> None:
    rate = 200_000
    async with open_provider(hub, max_bytes_per_second=rate) as provider:
        manifest = (await list_all(provider)).only([WEIGHTS])
        started = time.monotonic()
        spans = spans_of(manifest.files[0], 4)
        parts = await asyncio.gather(*(read_span(provider, manifest, span) for span in spans))
        elapsed = time.monotonic() - started

    assert b"".join(parts) == content_of(manifest.files[0])
    assert elapsed >= (manifest.total_bytes - rate * 0.1) / rate * 0.95


async def test_a_hub_with_a_total_rate_shares_it_among_all_connections() -> None:
    options = HubOptions(total_rate=200_000)
    async with LocalHub([tiny_model(NAME)], options) as hub, open_provider(hub) as provider:
        manifest = (await list_all(provider)).only([WEIGHTS])
        started = time.monotonic()
        spans = spans_of(manifest.files[0], 4)
        parts = await asyncio.gather(*(read_span(provider, manifest, span) for span in spans))
        elapsed = time.monotonic() - started

        assert b"".join(parts) == content_of(manifest.files[0])
        assert hub.log.bytes_by_file() == {f"{NAME}/{WEIGHTS}": manifest.total_bytes}
    assert elapsed >= (manifest.total_bytes - 20_000) / 200_000 * 0.95


async def test_no_token_reaches_a_remembered_address() -> None:
    content = b"0123456789"

    def give(asked: Asked) -> bytes:
        start, _, end = asked.headers["range"].removeprefix("bytes=").partition("-")
        part = content[int(start) : int(end) + 1]
        return answer(206, part, {"Content-Range": f"bytes {start}-{end}/10"})

    async with Origin(give) as cdn:
        place = cdn.endpoint.replace("127.0.0.1", "localhost")

        def lead(asked: Asked) -> bytes:
            if "/resolve/" in asked.target:
                return answer(302, headers={"Location": f"{place}/x?sig=1"})
            return json_answer({})

        async with Origin(lead) as origin:
            provider = make_provider(ProviderOptions(origin.endpoint, ("localhost",)), {})
            parts = [
                await read_span(provider, small_manifest(10), span, Caller("hf_secret"))
                for span in (ByteSpan(0, 4), ByteSpan(4, 7), ByteSpan(7, 10))
            ]
            await provider.close()

            assert b"".join(parts) == content
            assert [asked.headers.get("authorization") for asked in origin.asked] == ["Bearer hf_secret"]
            assert [asked.headers.get("authorization") for asked in cdn.asked] == [None] * 3
