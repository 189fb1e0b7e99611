# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face provider against a real Hub: what it is asked, and what comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.house import open_house, tree
from tests.support.provider import (
    MEMBER,
    NAME,
    REF,
    STRANGER,
    UNKNOWN,
    list_all,
    open_provider,
    read_all,
    restricted,
)

from modelexpress.domain.caller import ANONYMOUS, Caller
from modelexpress.domain.errors import (
    Corrupt,
    Forbidden,
    Invalid,
    NotFound,
    Unauthenticated,
    Unreachable,
    Unsupported,
)
from modelexpress.domain.manifest import DigestKind
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.spans import ByteSpan
from modelexpress.providers.huggingface import HuggingFaceProvider
from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model


@pytest.fixture
async def provider(hub: LocalHub) -> AsyncIterator[HuggingFaceProvider]:
    async with open_provider(hub) as provider:
        yield provider


async def test_a_model_is_listed_and_read_as_it_was_published(provider: HuggingFaceProvider) -> None:
    manifest = await list_all(provider)

    assert await read_all(provider, manifest) == tiny_files()
    assert {entry.path: entry.digest and entry.digest.kind for entry in manifest.files} == {
        path: DigestKind.SHA256
        if path.endswith((".safetensors", ".bin", ".onnx", ".png"))
        else DigestKind.GIT_BLOB
        for path in tiny_files()
    }


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
async def test_a_listing_of_many_pages_is_as_complete_as_one_of_one(page_size: int) -> None:
    async with LocalHub([tiny_model(NAME)], HubOptions(page_size=page_size)) as hub:
        async with open_provider(hub) as provider:
            manifest = await list_all(provider)
        pages = len(hub.log.of("tree"))

    rows = len(tiny_files()) + 3  # the folders
    assert {entry.path for entry in manifest.files} == set(tiny_files())
    assert pages == -(-rows // page_size)


async def test_no_page_of_a_private_listing_is_asked_without_the_token() -> None:
    async with LocalHub(options=HubOptions(page_size=2)) as hub:
        ref = restricted(hub, "demo/private", "private")
        async with open_provider(hub) as provider:
            assert len((await list_all(provider, ref, MEMBER)).files) == len(tiny_files())

        assert {request.token for request in hub.log.requests} == {"hf_member"}


async def test_an_old_mirror_without_a_tree_lists_the_same_files(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    new = await list_all(provider)
    async with (
        LocalHub([tiny_model(NAME)], HubOptions(has_tree=False, has_cdn=False)) as mirror,
        open_provider(mirror) as old_provider,
    ):
        old = await list_all(old_provider)
        assert await read_all(old_provider, old) == tiny_files()

    assert old == new


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_each_way_to_say_that_there_is_no_tree_is_understood(
    hub: LocalHub, provider: HuggingFaceProvider, status: int
) -> None:
    hub.faults.add(Fault("status", "tree", status=status, times=None))

    assert {entry.path for entry in (await list_all(provider)).files} == set(tiny_files())


async def test_a_mirror_without_a_tree_tells_what_is_missing_apart() -> None:
    async with LocalHub([tiny_model(NAME)], HubOptions(has_tree=False)) as mirror:
        ref = restricted(mirror, "demo/private", "private")
        async with open_provider(mirror) as provider:
            with pytest.raises(NotFound, match="revision"):
                await provider.list_files(REF, "0" * 40, ANONYMOUS)
            with pytest.raises(Unauthenticated, match="HF_TOKEN"):
                await provider.list_files(ref, "0" * 40, ANONYMOUS)
            with pytest.raises(NotFound):
                await provider.list_files(ref, "0" * 40, STRANGER)


async def test_every_kind_of_revision_means_its_commit(hub: LocalHub, provider: HuggingFaceProvider) -> None:
    repository = Repository("demo/many")
    first = repository.commit({"config.json": b"1"})
    second = repository.commit({"config.json": b"2"}, branch="dev/x")
    third = repository.commit({"config.json": b"3"})
    repository.tags["v1.0+build=7"] = first
    repository.pull_requests["refs/pr/1"] = second
    hub.add(repository)
    meanings = {
        None: third,
        "main": third,
        "dev/x": second,
        "v1.0+build=7": first,
        "refs/pr/1": second,
        first[:8]: first,
    }
    for revision, commit in meanings.items():
        ref = ModelRef.parse("demo/many", revision=revision)
        assert await provider.resolve(ref, ANONYMOUS) == commit
    asked = len(hub.log.requests)
    assert await provider.resolve(ModelRef.parse("demo/many", revision=first), ANONYMOUS) == first
    assert len(hub.log.requests) == asked == len(meanings)
    manifest = await provider.list_files(ModelRef.parse("demo/many"), first, ANONYMOUS)

    assert await read_all(provider, manifest) == {"config.json": b"1"}


async def test_a_branch_that_moves_meanwhile_changes_nothing_of_a_listing(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    commit = await provider.resolve(REF, ANONYMOUS)
    hub._repositories[NAME].commit({"config.json": b"moved", "added.txt": b"new"})
    manifest = await provider.list_files(REF, commit, ANONYMOUS)

    assert await read_all(provider, manifest) == tiny_files()


async def test_a_renamed_repository_answers_to_its_old_name(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    before = await list_all(provider)
    hub.rename(NAME, "other-org/renamed")
    after = await list_all(provider)

    assert after == before and after.ref.name == NAME
    assert await read_all(provider, after) == tiny_files()
    assert await provider.may_read(REF, ANONYMOUS)


async def test_a_renamed_private_repository_is_still_asked_with_the_token() -> None:
    async with LocalHub(options=HubOptions(page_size=2)) as hub:
        old = restricted(hub, "demo/old", "private")
        hub.grant("hf_member", "demo/new")
        hub.rename("demo/old", "demo/new")
        async with open_provider(hub) as provider:
            manifest = await list_all(provider, old, MEMBER)
            assert await read_all(provider, manifest, MEMBER) == tiny_files()
            assert await provider.may_read(old, MEMBER) and not await provider.may_read(old, STRANGER)


async def test_what_does_not_exist_is_told_apart(hub: LocalHub, provider: HuggingFaceProvider) -> None:
    hub.grant("hf_stranger")
    nothing = ModelRef.parse("demo/nothing")
    with pytest.raises(Unauthenticated, match=r"demo/nothing does not exist .* private .*HF_TOKEN"):
        await provider.resolve(nothing, ANONYMOUS)
    with pytest.raises(NotFound, match=r"demo/nothing does not exist .*check the name"):
        await provider.resolve(nothing, STRANGER)
    with pytest.raises(NotFound, match=r"demo/tiny@nope: the revision does not exist"):
        await provider.resolve(ModelRef.parse(NAME, revision="nope"), ANONYMOUS)
    with pytest.raises(NotFound, match=r"0{40}: the revision"):
        await provider.list_files(REF, "0" * 40, ANONYMOUS)


async def test_a_file_that_is_gone_is_not_found(hub: LocalHub, provider: HuggingFaceProvider) -> None:
    manifest = await list_all(provider)
    hub.faults.add(
        Fault("status", "resolve", "config.json", status=404, headers={"X-Error-Code": "EntryNotFound"})
    )
    with pytest.raises(NotFound, match=r"'config\.json': the file does not exist"):
        await read_all(provider, manifest.only(["config.json"]))


async def test_a_private_repository_is_open_to_its_members_alone(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    ref = restricted(hub, "demo/private", "private")
    with pytest.raises(Unauthenticated, match="HF_TOKEN"):
        await provider.resolve(ref, ANONYMOUS)
    with pytest.raises(NotFound, match="the token may not see it"):
        await provider.resolve(ref, STRANGER)
    with pytest.raises(Unauthenticated, match="needs a token that may read it"):
        await provider.resolve(ref, UNKNOWN)
    manifest = await list_all(provider, ref, MEMBER)

    assert await read_all(provider, manifest, MEMBER) == tiny_files()
    with pytest.raises(NotFound):
        await read_all(provider, manifest, STRANGER)
    assert [await provider.may_read(ref, who) for who in (ANONYMOUS, STRANGER, UNKNOWN, MEMBER)] == [
        False, False, False, True,
    ]  # fmt: skip


async def test_a_gated_repository_is_seen_by_all_and_read_by_those_with_access(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    ref = restricted(hub, "demo/gated", "gated")
    commit = await provider.resolve(ref, ANONYMOUS)
    with pytest.raises(Unauthenticated, match=r"gated: ask for access .*HF_TOKEN"):
        await provider.list_files(ref, commit, ANONYMOUS)
    with pytest.raises(Forbidden, match="gated"):
        await provider.list_files(ref, commit, STRANGER)
    manifest = await provider.list_files(ref, commit, MEMBER)
    assert await read_all(provider, manifest, MEMBER) == tiny_files()
    for caller, error in ((ANONYMOUS, Unauthenticated), (STRANGER, Forbidden)):
        with pytest.raises(error, match="gated"):
            await read_all(provider, manifest, caller)

    assert [await provider.may_read(ref, who) for who in (ANONYMOUS, STRANGER, UNKNOWN, MEMBER)] == [
        False, False, False, True,
    ]  # fmt: skip


async def test_a_403_without_a_reason_is_a_refusal(hub: LocalHub, provider: HuggingFaceProvider) -> None:
    hub.faults.add(Fault("status", "api", status=403))
    with pytest.raises(Forbidden, match="demo/tiny"):
        await provider.resolve(REF, MEMBER)
    assert len(hub.log.requests) == 1


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("kind", ["open", "gated", "private"])
async def test_an_origin_without_the_question_shows_by_its_description_who_may_read(
    hub: LocalHub, provider: HuggingFaceProvider, kind: str, status: int
) -> None:
    ref = REF if kind == "open" else restricted(hub, "demo/r", kind)
    hub.faults.add(Fault("status", "api", status=status))

    assert await provider.may_read(ref, ANONYMOUS) is (kind == "open")
    assert [request.path.rpartition("/")[2] for request in hub.log.requests] == ["auth-check", ref.name[5:]]
    if kind == "private":
        hub.faults.add(Fault("status", "api", status=status))
        assert await provider.may_read(ref, MEMBER)


async def test_a_status_that_says_nothing_of_the_caller_is_no_refusal(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    hub.faults.add(Fault("status", "api", status=400))
    with pytest.raises(Unreachable, match="400"):
        await provider.may_read(REF, ANONYMOUS)
    assert await provider.may_read(REF, ANONYMOUS)


async def test_whether_somebody_may_read_is_not_guessed_in_an_outage(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    hub.faults.add(Fault("status", "api", status=503, times=None))
    with pytest.raises(Unreachable):
        await provider.may_read(REF, MEMBER)


async def test_the_processs_own_token_is_found_sent_and_read_anew(hub: LocalHub, tmp_path: Path) -> None:
    ref = restricted(hub, "demo/private", "private")
    path = tmp_path / "token"
    async with open_provider(hub, {"HOME": str(tmp_path), "HF_TOKEN_PATH": str(path)}) as provider:
        assert not await provider.may_read(ref, ANONYMOUS)
        path.write_text("hf_member\n")
        assert await provider.may_read(ref, ANONYMOUS)
        manifest = await list_all(provider, ref)
        assert await read_all(provider, manifest) == tiny_files()
        path.unlink()
        assert not await provider.may_read(ref, ANONYMOUS)


async def test_a_callers_token_stands_before_the_processs_own(hub: LocalHub) -> None:
    ref = restricted(hub, "demo/private", "private")
    async with open_provider(hub, {"HF_TOKEN": "hf_member"}) as provider:
        assert await provider.may_read(ref, ANONYMOUS)
        assert not await provider.may_read(ref, STRANGER)
        with pytest.raises(NotFound):
            await provider.resolve(ref, STRANGER)

    assert [request.token for request in hub.log.requests][-1] == "hf_stranger"


async def test_without_an_implicit_token_the_login_file_stays_closed(hub: LocalHub, tmp_path: Path) -> None:
    ref = restricted(hub, "demo/private", "private")
    (tmp_path / "token").write_text("hf_member")
    env = {"HF_HOME": str(tmp_path)}
    async with open_provider(hub, env) as provider:
        assert await provider.may_read(ref, ANONYMOUS)
    async with open_provider(hub, {**env, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}) as provider:
        assert not await provider.may_read(ref, ANONYMOUS)

    assert hub.log.requests[-1].token is None


async def test_a_token_that_no_header_can_carry_is_invalid_before_anything_is_asked(hub: LocalHub) -> None:
    async with open_provider(hub, {"HF_TOKEN": "hf_ä"}) as provider:
        with pytest.raises(Invalid, match="HF_TOKEN"):
            await provider.resolve(REF, ANONYMOUS)
        for token in ("hf_a\r\nX-Evil: 1", "hf_ä", "hf_\x00"):
            with pytest.raises(Invalid) as refusal:
                await provider.resolve(REF, Caller(token))
            assert token not in refusal.value.message

    assert hub.log.requests == []


async def test_the_cdn_never_sees_a_token(hub: LocalHub, provider: HuggingFaceProvider) -> None:
    ref = restricted(hub, "demo/private", "private")
    await read_all(provider, await list_all(provider, ref, MEMBER), MEMBER)
    tokens = {
        kind: {request.token for request in hub.log.of("body", path)}
        for kind, path in (("cdn", "model.safetensors"), ("small", "config.json"))
    }

    assert {request.token for request in hub.log.of("resolve")} == {"hf_member"}
    assert tokens == {"cdn": {None}, "small": {"hf_member"}}


async def test_an_address_that_has_expired_is_asked_for_again(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    manifest = (await list_all(provider)).only(["model.safetensors"])
    hub.faults.add(Fault("status", "body", status=403, times=2))

    assert (await read_all(provider, manifest))["model.safetensors"] == tiny_files()["model.safetensors"]
    assert len(hub.log.of("resolve")) == 3


async def test_reading_goes_on_at_the_byte_where_it_broke_off(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    manifest = (await list_all(provider)).only(["model.safetensors"])
    hub.faults.add(Fault("reset", "body", after=70_000))
    hub.faults.add(Fault("truncate", "body", after=90_000))

    assert (await read_all(provider, manifest))["model.safetensors"] == tiny_files()["model.safetensors"]
    starts = [request.range for request in hub.log.of("body")]
    assert starts[0] is None and all(start is not None for start in starts[1:]) and len(starts) == 3


@pytest.mark.parametrize("is_ignored", [False, True], ids=["range", "whole"])
@pytest.mark.parametrize("span", [(0, 0), (0, 10), (5, 6), (99_000, 100_000), (10, None), (0, None)])
async def test_a_span_is_read_and_nothing_else(
    hub: LocalHub, provider: HuggingFaceProvider, span: tuple[int, int | None], is_ignored: bool
) -> None:
    content = tiny_files()["model.safetensors"]
    assert isinstance(content, bytes)
    manifest = (await list_all(provider)).only(["model.safetensors"])
    if is_ignored:
        hub.faults.add(Fault("ignore_range", "body", times=None))
    wanted = ByteSpan(span[0], span[1] if span[1] is not None else len(content))
    reading = provider.read(manifest, manifest.files[0], wanted, ANONYMOUS)
    if is_ignored and wanted.start:
        with pytest.raises(Unsupported, match=r"'model\.safetensors': localhost:\d+ answers ranges with the"):
            await anext(reading)
        return
    pieces = [piece async for piece in reading]

    assert b"".join(pieces) == content[wanted.start : wanted.end]
    assert all(0 < len(piece) <= 1024 * 1024 for piece in pieces)


async def test_a_reading_from_the_front_goes_on_though_ranges_are_ignored(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    manifest = (await list_all(provider)).only(["model.safetensors"])
    hub.faults.add(Fault("reset", "body", after=70_000))
    hub.faults.add(Fault("ignore_range", "body"))

    assert (await read_all(provider, manifest))["model.safetensors"] == tiny_files()["model.safetensors"]
    assert [(request.status, request.bytes_sent > 70_000) for request in hub.log.of("body")] == [
        (200, False), (200, True),
    ]  # fmt: skip


async def test_a_file_that_changes_while_it_is_read_is_corrupt(
    hub: LocalHub, provider: HuggingFaceProvider
) -> None:
    manifest = (await list_all(provider)).only(["model.safetensors"])
    hub.faults.add(Fault("reset", "body", after=70_000))
    hub.faults.add(Fault("etag", "body"))
    with pytest.raises(Corrupt, match=r"'model\.safetensors': the file changed at the origin"):
        await read_all(provider, manifest)


async def test_a_xet_repository_is_read_by_the_plain_path(tmp_path: Path) -> None:
    repository = Repository("demo/xet", has_xet=True)
    repository.commit(tiny_files())
    async with LocalHub([repository]) as hub:
        async with open_provider(hub) as provider:
            manifest = await list_all(provider, ModelRef.parse("demo/xet"))
            assert await read_all(provider, manifest) == tiny_files()
        async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
            model = await client.pull("demo/xet")

    files = repository.files(manifest.commit)
    assert {e.path: e.xet_hash for e in manifest.files} == {
        path: file.xet_hash for path, file in files.items()
    }
    assert sum(entry.xet_hash is not None for entry in manifest.files) == 4
    assert (model.path / "model.safetensors").read_bytes() == tiny_files()["model.safetensors"]


async def test_offline_what_is_here_is_served_and_nothing_is_asked(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
        online = await client.pull(NAME)
    hub.log.clear()
    async with (
        open_house(hub, tmp_path, origin__offline=True) as house,
        house.client(tmp_path / "other") as client,
    ):
        assert (await client.ensure(NAME)).was_hit
        offline = await client.pull(NAME)
        pinned = await client.pull(ModelRef.parse(NAME, revision=online.commit))
        for missing in ("demo/other", f"{NAME}@v9", f"{NAME}@{'0' * 40}"):
            with pytest.raises(NotFound, match="offline"):
                await client.pull(missing)

    assert hub.log.requests == []
    assert pinned.commit == offline.commit == online.commit
    assert tree(offline.path.parents[1] / "blobs") == tree(online.path.parents[1] / "blobs")


async def test_offline_a_callers_token_is_not_asked_about(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path) as house, house.client(tmp_path / "mine") as client:
        await client.pull(NAME)
    hub.log.clear()
    async with (
        open_house(hub, tmp_path, origin__offline=True) as house,
        house.client(tmp_path / "other", hub_token="hf_member") as client,
    ):
        assert (await client.ensure(NAME)).was_hit

    assert hub.log.requests == []
