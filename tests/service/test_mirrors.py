# SPDX-License-Identifier: Apache-2.0
"""An origin that does not answer: its mirrors stand in for the bytes, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.support.provider import (
    MEMBER,
    REF,
    MovedClock,
    content_of,
    list_all,
    open_provider,
    read_all,
    read_span,
    restricted,
)

from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.errors import Corrupt, NotFound, Unreachable, Unsupported
from modelexpress.domain.manifest import Manifest
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME = "demo/tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture(params=["cdn", "in place"])
async def mirror(request: pytest.FixtureRequest) -> AsyncIterator[LocalHub]:
    """Another Hub with the same model."""
    async with LocalHub([tiny_model(NAME)], HubOptions(has_cdn=request.param == "cdn")) as mirror:
        yield mirror


def fail(hub: LocalHub, status: int = 503, **headers: str) -> Fault:
    """Let every request to `hub` fail from now on."""
    return hub.faults.add(Fault("status", "any", status=status, times=None, headers=headers))


async def weights_of(hub: LocalHub) -> Manifest:
    """What the hub has, with the one large file."""
    async with open_provider(hub) as provider:
        return (await list_all(provider)).only([WEIGHTS])


async def test_when_the_origin_dies_in_the_middle_of_a_file_the_rest_comes_from_the_mirror(
    mirror: LocalHub,
) -> None:
    async with LocalHub([tiny_model(NAME)]) as hub, open_provider(hub, {}, mirror) as provider:
        manifest = await weights_of(hub)
        hub.faults.add(Fault("hold", "body", after=70_000))
        seen: list[str] = []
        reading = provider.read(
            manifest,
            manifest.files[0],
            ByteSpan(0, manifest.total_bytes),
            ANONYMOUS,
            lambda host, etag: seen.append(host),
        )
        content = b""
        async for piece in reading:
            content += piece
            if len(content) == 70_000 and hub._runner is not None:
                sent = hub.log.bytes_sent
                await hub._runner.cleanup()  # nobody listens there any more
        hub._runner = None

    assert content == content_of(manifest.files[0])
    assert sent == 70_000 and mirror.log.bytes_sent == manifest.total_bytes - 70_000
    assert [request.range for request in mirror.log.of("body")] == [f"bytes=70000-{len(content) - 1}"]
    assert len(set(seen)) == len(seen) == 2


async def test_ranges_that_are_read_at_once_all_find_the_mirror(hub: LocalHub, mirror: LocalHub) -> None:
    manifest = await weights_of(hub)
    hub.faults.add(Fault("reset", "body", after=60_000, times=None))
    async with open_provider(hub, {}, mirror) as provider:
        spans = [ByteSpan(start, start + 20_000) for start in range(0, 100_000, 20_000)]
        parts = await asyncio.gather(*(read_span(provider, manifest, span) for span in spans))

    assert b"".join(parts) == content_of(manifest.files[0])[:100_000]


@pytest.mark.parametrize(
    ("status", "headers"), [(503, {}), (500, {}), (429, {}), (429, {"Retry-After": "3600"})]
)
async def test_a_refusal_to_serve_is_an_outage_like_any_other(
    hub: LocalHub, mirror: LocalHub, status: int, headers: dict[str, str]
) -> None:
    manifest = await weights_of(hub)
    hub.faults.add(Fault("status", "resolve", status=status, times=None, headers=headers))
    async with open_provider(hub, {}, mirror) as provider:
        assert await read_all(provider, manifest) == {WEIGHTS: content_of(manifest.files[0])}

    assert len(hub.log.of("resolve")) == (1 if headers else 3)


async def test_the_origin_is_left_in_peace_for_a_while_and_then_asked_again(
    hub: LocalHub, mirror: LocalHub
) -> None:
    manifest, clock = await weights_of(hub), MovedClock()
    hub.log.clear()
    outage = fail(hub)
    async with open_provider(hub, {}, mirror, clock=clock) as provider:
        for moved_by, asked in ((0.0, 3), (1.0, 3), (25.0, 3), (31.0, 6), (32.0, 6)):
            clock.moved_by = moved_by
            assert await read_span(provider, manifest, ByteSpan(5, 9)) == content_of(manifest.files[0])[5:9]
            assert len(hub.log.requests) == asked
        outage.times = 0
        clock.moved_by = 70.0
        mirror.log.clear()
        await read_span(provider, manifest, ByteSpan(5, 9))

    assert mirror.log.requests == []


async def test_no_token_is_sent_to_a_mirror(hub: LocalHub, mirror: LocalHub) -> None:
    ref = restricted(hub, "demo/private", "private")
    repository = Repository(ref.name)
    repository.commit(tiny_files())
    mirror.add(repository)
    async with open_provider(hub, {"HF_TOKEN": "hf_own"}, mirror) as provider:
        before = await list_all(provider, ref, MEMBER)
        fail(hub)
        assert await provider.resolve(ref, MEMBER) == before.commit
        assert await provider.list_files(ref, before.commit, MEMBER) == before
        assert await read_all(provider, before, MEMBER) == tiny_files()
        assert await read_all(provider, before) == tiny_files()

    assert {request.token for request in mirror.log.requests} == {None}
    assert {"hf_member", "hf_own"} >= {request.token for request in hub.log.requests}


async def test_a_mirror_has_no_say_in_who_may_read(hub: LocalHub, mirror: LocalHub) -> None:
    fail(hub)
    async with open_provider(hub, {}, mirror) as provider:
        for caller in (ANONYMOUS, MEMBER):
            with pytest.raises(Unreachable):
                await provider.may_read(REF, caller)

    assert mirror.log.requests == []


async def test_a_name_and_a_listing_are_had_from_the_mirror_in_an_outage(
    hub: LocalHub, mirror: LocalHub
) -> None:
    async with open_provider(hub) as provider:
        expected = await list_all(provider)
    hub.faults.add(Fault("status", "tree", status=503, times=None))
    async with open_provider(hub, {}, mirror) as provider:
        assert await list_all(provider) == expected
    fail(hub)
    async with open_provider(hub, {}, mirror) as provider:
        assert await list_all(provider) == expected


async def test_a_definite_no_of_the_origin_is_final(hub: LocalHub, mirror: LocalHub) -> None:
    manifest = await weights_of(hub)
    hub.remove(NAME)
    hub.grant("hf_member")
    async with open_provider(hub, {}, mirror) as provider:
        for asking in (
            provider.resolve(REF, MEMBER),
            provider.list_files(REF, manifest.commit, MEMBER),
            read_span(provider, manifest, ByteSpan(0, 9), MEMBER),
        ):
            with pytest.raises(NotFound):
                await asking
    hub.add(tiny_model(NAME))
    hub.faults.add(Fault("ignore_range", "body", times=None))
    async with open_provider(hub, {}, mirror) as provider:
        with pytest.raises(Unsupported):
            await read_span(provider, manifest, ByteSpan(5, 9))

    assert mirror.log.requests == []


@pytest.mark.parametrize("content", [b"short", None], ids=["another file", "no such model"])
async def test_a_mirror_without_the_file_is_passed_over(
    hub: LocalHub, mirror: LocalHub, content: bytes | None
) -> None:
    manifest = await weights_of(hub)
    wrong = Repository(NAME if content is not None else "demo/other")
    wrong.commit({WEIGHTS: content or b""})
    wrong._commits[manifest.commit] = dict(wrong.files(wrong.branches["main"]))
    async with LocalHub([wrong], HubOptions(has_cdn=False)) as useless:
        outage = fail(hub)
        async with open_provider(hub, {}, useless, mirror) as provider:
            assert await read_all(provider, manifest) == {WEIGHTS: content_of(manifest.files[0])}
        async with open_provider(hub, {}, useless) as provider:
            with pytest.raises(Unreachable, match="503"):
                await read_all(provider, manifest)
        assert useless.log.of("resolve") and outage.applied > 3


async def test_what_nothing_vouches_for_comes_from_the_origin_alone(hub: LocalHub, mirror: LocalHub) -> None:
    manifest = await weights_of(hub)
    plain = replace(manifest, files=(replace(manifest.files[0], digest=None),))
    fail(hub)
    async with open_provider(hub, {}, mirror) as provider:
        with pytest.raises(Unreachable):
            await read_span(provider, plain, ByteSpan(0, 9))

    assert mirror.log.requests == []


async def test_when_the_mirrors_fail_too_the_origin_is_waited_for(hub: LocalHub, mirror: LocalHub) -> None:
    manifest = await weights_of(hub)
    hub.faults.add(Fault("status", "resolve", status=503, times=10))
    fail(mirror)
    async with open_provider(hub, {}, mirror) as provider:
        assert await read_all(provider, manifest) == {WEIGHTS: content_of(manifest.files[0])}

    assert len(mirror.log.requests) == 3


async def test_a_version_that_changed_at_a_mirror_is_heard(hub: LocalHub, mirror: LocalHub) -> None:
    manifest = await weights_of(hub)
    known: dict[str, str] = {}

    def compare(host: str, etag: str) -> None:
        if known.setdefault(host, etag) != etag:
            raise Corrupt(f"{host} has another version")

    fail(hub)
    async with open_provider(hub, {}, mirror) as provider:
        await read_span(provider, manifest, ByteSpan(0, 9), on_version=compare)
        mirror.faults.add(Fault("etag", "body"))
        with pytest.raises(Corrupt, match="another version"):
            await read_span(provider, manifest, ByteSpan(9, 20), on_version=compare)


async def test_a_mirror_that_fails_in_its_turn_hands_over_at_its_last_byte(
    hub: LocalHub, mirror: LocalHub
) -> None:
    manifest = await weights_of(hub)
    entry = manifest.files[0]

    def stop_answering(host: str, etag: str) -> None:
        fail(mirror)  # as soon as it has begun to

    fail(hub)
    async with LocalHub([tiny_model(NAME)]) as second:
        mirror.faults.add(Fault("truncate", "body", after=40_000))
        async with open_provider(hub, {}, mirror, second) as provider:
            whole = ByteSpan(0, entry.size)
            content = await read_span(provider, manifest, whole, on_version=stop_answering)
        assert content == content_of(entry)
        spans = [request.range for request in second.log.of("body")]

    assert spans == [f"bytes=40000-{entry.size - 1}"]


async def test_a_pinned_name_is_its_own_answer_whoever_is_down(hub: LocalHub, mirror: LocalHub) -> None:
    fail(hub)
    fail(mirror)
    async with open_provider(hub, {}, mirror) as provider:
        assert await provider.resolve(ModelRef.parse(NAME, revision="a" * 40), ANONYMOUS) == "a" * 40
