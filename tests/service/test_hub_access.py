# SPDX-License-Identifier: Apache-2.0
"""Who may read through the Hub endpoint: the caller's own token decides, whatever is here already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.support.asking import Answer, Asker
from tests.support.house import House, open_house

from modelexpress.cache.access import _MAX_REMEMBERED
from modelexpress.client import AsyncClient
from modelexpress.domain.caller import STRANGER
from modelexpress.domain.errors import Forbidden, MxError
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import is_ancillary
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

LARGE, SMALL = "model.safetensors", "config.json"
GATED, PRIVATE, OPEN = "demo/gated", "demo/private", "demo/tiny"
FILES = tiny_files()
SERVICE = "our-own-service-token"


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    gated, private = Repository(GATED, is_gated=True), Repository(PRIVATE, is_private=True)
    for repository in (gated, private):
        repository.commit(FILES)
    async with LocalHub([tiny_model(OPEN), gated, private]) as hub:
        hub.grant("hf_member", GATED, PRIVATE)
        hub.grant("hf_other")
        hub.grant("hf_server", GATED, PRIVATE)
        yield hub


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    """A server that remembers permissions for five minutes, and refusals not at all."""
    async with open_house(hub, tmp_path, origin__revalidate=60, access__denied_ttl=0) as house:
        yield house


def path_of(name: str, file: str = LARGE, kind: str = "resolve") -> str:
    return f"/{name}/{kind}/main/{file}"


async def read(house: House, name: str, token: str | None, file: str = LARGE) -> Answer:
    return await Asker(house.hub_endpoint, token).get(path_of(name, file))


@pytest.mark.parametrize("name", [GATED, PRIVATE])
@pytest.mark.parametrize("token", [None, "hf_other", "hf_unknown"], ids=["none", "another's", "unknown"])
@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
async def test_without_a_token_that_may_read_it_nothing_is_had(
    house: House, name: str, token: str | None, is_warm: bool
) -> None:
    if is_warm:
        assert (await read(house, name, "hf_member")).body == FILES[LARGE]
        await house.settle()
    origin = Asker(house.hub.endpoint, token)
    paths = [
        path_of(name), path_of(name, SMALL), path_of(name, kind="raw"), path_of(name, "nothing"),
        f"/api/models/{name}/tree/main", f"/api/models/{name}/auth-check", f"/api/models/{name}",
        f"/api/models/{name}/revision/main",
    ]  # fmt: skip
    for path in paths:
        for method in ("HEAD", "GET"):
            ours = await Asker(house.hub_endpoint, token).ask(method, path)
            theirs = await origin.ask(method, path)
            assert (ours.status, ours.code) == (theirs.status, theirs.code), (method, path)
            assert FILES[LARGE] not in ours.body and FILES[SMALL] not in ours.body


async def test_a_refused_stranger_does_not_hear_which_commit_a_member_was_told(house: House) -> None:
    path = path_of(PRIVATE)
    commit = (await Asker(house.hub_endpoint, "hf_member").head(path)).headers["x-repo-commit"]
    house.hub.faults.add(Fault("status", "any", status=429, headers={"Retry-After": "30"}, times=None))

    limited = await Asker(house.hub_endpoint).head(path)

    assert limited.status == 429 and "/main/" in limited.headers["x-error-message"]
    assert commit not in str(limited.headers)


async def test_one_question_for_many_reads_with_one_token(house: House) -> None:
    ask = Asker(house.hub_endpoint, "hf_member")
    await ask.get(path_of(GATED))
    await house.settle()
    house.hub.log.clear()

    for _ in range(3):
        assert (await ask.get(path_of(GATED))).body == FILES[LARGE]
    assert house.hub.log.requests == []
    await Asker(house.hub_endpoint, "hf_server").get(path_of(GATED))
    assert [(r.kind, r.method, r.token) for r in house.hub.log.requests] == [("resolve", "HEAD", "hf_server")]


async def test_a_revoked_token_reads_nothing_once_its_permission_is_over(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, access__granted_ttl=1) as house:
        member = Asker(house.hub_endpoint, "hf_member")
        commit = (await member.get(path_of(GATED))).headers["x-repo-commit"]
        await house.settle()
        hub.revoke("hf_member")
        # Of a commit nothing has to be asked but who may read it.
        path = f"/{GATED}/resolve/{commit}/{LARGE}"
        async with asyncio.timeout(10):
            while (refused := await member.get(path)).status == 200:
                await asyncio.sleep(0.05)
        house.hub.log.clear()
        again = await member.get(path)

    assert refused.status == again.status == 401 and FILES[LARGE] not in again.body
    assert house.hub.log.requests == [], "a refusal is remembered too"


@pytest.mark.parametrize("name", [GATED, PRIVATE])
@pytest.mark.parametrize("is_known", [False, True], ids=["no token any more", "another's token"])
async def test_who_lost_his_right_after_a_head_hears_it_of_the_get_and_it_counts(
    hub: LocalHub, tmp_path: Path, name: str, is_known: bool
) -> None:
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        member, origin = Asker(house.hub_endpoint, "hf_member"), Asker(hub.endpoint, "hf_member")
        assert (await member.get(path_of(name, SMALL))).status == 200
        assert (await member.head(path_of(name))).status == 200
        await house.settle()
        hub.revoke("hf_member")
        if is_known:
            hub.grant("hf_member")

        refused, theirs = await member.get(path_of(name)), await origin.get(path_of(name))
        hub.log.clear()
        after = [await member.head(path_of(name)), await member.get(path_of(name, SMALL))]

    for answer in (refused, *after):
        assert (answer.status, answer.code) == (theirs.status, theirs.code)
        assert answer.headers["x-error-message"]
    assert hub.log.requests == [], "it is remembered"


@pytest.mark.parametrize(("name", "status"), [(GATED, 403), (PRIVATE, 404)])
async def test_a_no_is_about_the_whole_repository_and_ends_what_counts_in_an_outage(
    hub: LocalHub, tmp_path: Path, name: str, status: int
) -> None:
    async with open_house(hub, tmp_path, origin__revalidate=60, access__granted_ttl=0) as house:
        assert (await read(house, name, "hf_member")).status == 200
        await house.settle()
        hub.revoke("hf_member")
        hub.grant("hf_member")  # the token itself is as good as before
        hub.log.clear()

        files = [path for path in FILES if not is_ancillary(path)]
        refused = [await read(house, name, "hf_member", quote(file)) for file in files]
        assert len(hub.log.requests) == 1, "one no is remembered for all files that it is about"
        hub.faults.add(Fault("reset", times=None))
        refused.append(await read(house, name, "hf_member"))

    assert len(files) > 3 and {answer.status for answer in refused} == {status}
    assert {answer.code for answer in refused} == {"GatedRepo" if name == GATED else "RepoNotFound"}


@pytest.mark.parametrize("status", [401, 403])
async def test_a_bare_no_is_about_one_path_and_takes_nothing_back(
    hub: LocalHub, tmp_path: Path, status: int
) -> None:
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        assert (await read(house, OPEN, None)).status == 200
        await house.settle()
        hub.faults.add(Fault("status", status=status, path="blocked.bin", times=None))
        hub.log.clear()

        refused = [await read(house, OPEN, None, "blocked.bin") for _ in range(2)]
        assert {answer.status for answer in refused} == {status} and len(hub.log.requests) == 1
        assert (await read(house, OPEN, None)).body == FILES[LARGE]
        assert (await read(house, OPEN, None, SMALL)).body == FILES[SMALL]
        hub.faults.add(Fault("reset", times=None))
        assert (await read(house, OPEN, None)).body == FILES[LARGE], "it was everybody's a moment ago"
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await read(house, OPEN, None)).body == FILES[LARGE]


async def test_who_may_read_gets_a_file_that_another_began_who_may_not(hub: LocalHub, tmp_path: Path) -> None:
    hub.grant("hf_former", GATED)
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        former, member = (Asker(house.hub_endpoint, token) for token in ("hf_former", "hf_member"))
        for ask in (former, member):
            assert (await ask.head(path_of(GATED))).status == 200
        hub.revoke("hf_former")
        held = hub.faults.add(Fault("hang", token="hf_former"))
        begun = asyncio.create_task(former.get(path_of(GATED)))
        while not held.applied:
            await asyncio.sleep(0.01)
        joined = [asyncio.create_task(ask.get(path_of(GATED))) for ask in (member, former)]
        counted, labels = "mx_hub_files_total", {"outcome": "joined"}
        while (house.metrics.registry.get_sample_value(counted, labels) or 0) < 2:
            await asyncio.sleep(0.01)
        held.release()

        refused, served, refused_too = await asyncio.gather(begun, *joined)
    assert (served.status, served.body) == (200, FILES[LARGE])
    for answer in (refused, refused_too):
        assert answer.status in (200, 401, 403) and (answer.status == 200) == (answer.body == FILES[LARGE])


async def test_what_one_is_sent_in_place_of_a_file_refuses_it_to_nobody_else(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        member, other = (Asker(house.hub_endpoint, token) for token in ("hf_member", "hf_other"))
        for ask in (member, other):
            assert (await ask.head(path_of(OPEN))).status == 200
        hub.faults.add(Fault("status", status=200, token="hf_other", times=None))
        assert (await other.get(path_of(OPEN))).status == 502
        await house.settle()
        hub.log.clear()
        assert (await other.get(path_of(OPEN))).status == 502
        assert hub.log.requests == [], "he has been told"
        assert (await member.get(path_of(OPEN))).body == FILES[LARGE]
        assert (await other.get(path_of(OPEN))).body == FILES[LARGE]


async def test_after_a_no_nothing_counts_in_an_outage_however_long_ago_it_was(house: House) -> None:
    assert (await read(house, PRIVATE, "hf_member")).status == 200
    await house.settle()
    house.hub.revoke("hf_member")
    house.hub.grant("hf_member")
    assert (await read(house, PRIVATE, "hf_member", "nothing")).status == 404
    house.hub.faults.add(Fault("reset", times=None))

    assert (await read(house, PRIVATE, "hf_member")).status == 502


async def test_refusals_of_made_up_names_send_no_permission_away(house: House) -> None:
    assert (await read(house, PRIVATE, "hf_member")).status == 200
    await house.settle()
    access = house.cache._access
    for number in range(_MAX_REMEMBERED + 1):
        access.note(STRANGER, ModelRef.parse(f"demo/no{number}"), is_allowed=False)
    house.hub.faults.add(Fault("reset", "any", times=None))

    assert (await read(house, PRIVATE, "hf_member")).body == FILES[LARGE]
    assert len(access._refused) == _MAX_REMEMBERED


async def test_what_a_gated_model_shows_everybody_is_not_refused_with_the_rest(
    hub: LocalHub, tmp_path: Path
) -> None:
    commit = hub._repositories[GATED].branches["main"]
    shown = {"X-Repo-Commit": commit, "ETag": f'"{"a" * 40}"'}
    hub.faults.add(Fault("status", status=200, headers=shown, path="README.md", times=None))
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        ask = Asker(house.hub_endpoint, "hf_other")
        for _ in range(2):
            assert (await ask.head(path_of(GATED))).code == "GatedRepo"
            assert (await ask.head(path_of(GATED, "README.md"))).status == 200


async def test_a_readme_costs_one_question_and_is_a_permission_for_itself_alone(house: House) -> None:
    commit = house.hub._repositories[GATED].branches["main"]
    said = {"X-Repo-Commit": commit, "ETag": f'"{"a" * 40}"'}
    house.hub.faults.add(Fault("status", status=200, headers=said, path="README.md"))
    for token, name in (("hf_other", GATED), (None, OPEN)):
        house.hub.log.clear()
        for _ in range(3):
            assert (await Asker(house.hub_endpoint, token).head(path_of(name, "README.md"))).status == 200
        assert len(house.hub.log.of("resolve")) == 1

    for file in (LARGE, ".gitattributes"):
        assert (await read(house, GATED, "hf_other", file)).status == 403
    assert (await Asker(house.hub_endpoint).head(path_of(GATED, "README.md"))).status == 401


async def test_a_token_goes_to_the_origin_alone_and_is_kept_nowhere(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for file in (LARGE, SMALL):
        await read(house, GATED, "hf_member", file)
    await read(house, GATED, "hf_unknown")
    await house.settle()

    elsewhere = [r for r in house.hub.log.requests if r.path.startswith("/cdn")]
    assert elsewhere and all(request.token is None for request in elsewhere)
    kept = b"".join(path.read_bytes() for path in house.root.parent.rglob("*") if path.is_file())
    assert b"hf_member" not in kept and "hf_member" not in caplog.text and "hf_unknown" not in caplog.text


async def test_what_is_public_is_everybodys_and_the_servers_token_stays_here(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, outgoing_env={"HF_TOKEN": "hf_server"}) as house:
        assert (await read(house, OPEN, None)).body == FILES[LARGE]
        assert (await read(house, GATED, None)).status == 401

    assert {request.token for request in hub.log.requests} == {None}


async def test_what_the_servers_own_token_brought_is_nobody_elses(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path, outgoing_env={"HF_TOKEN": "hf_server"}) as house:
        async with house.client(tmp_path / "mine") as client:
            await client.pull(GATED)
        assert (await read(house, GATED, None)).status == 401
        assert (await read(house, GATED, "hf_other")).status == 403
        hub.log.clear()
        assert (await read(house, GATED, "hf_member")).body == FILES[LARGE]

    assert hub.log.of("body") == []


@pytest.mark.parametrize("path", [path_of(OPEN), f"/api/models/{OPEN}", f"/api/models/{OPEN}/tree/main"])
async def test_what_is_public_no_more_is_nobodys_in_an_outage_either(
    hub: LocalHub, tmp_path: Path, path: str
) -> None:
    async with open_house(hub, tmp_path, access__granted_ttl=0, access__denied_ttl=0) as house:
        assert (await read(house, OPEN, None)).status == 200
        await house.settle()
        private = Repository(OPEN, is_private=True)
        private.commit(FILES)
        hub.add(private)
        assert (await Asker(house.hub_endpoint).get(path)).status == 401
        hub.faults.add(Fault("reset", "any", times=None))
        assert (await read(house, OPEN, None)).status == 502
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await read(house, OPEN, None)).status == 403


@pytest.mark.parametrize("path", [path_of(OPEN), f"/api/models/{OPEN}"])
@pytest.mark.parametrize("was_closed", [False, True], ids=["the server's", "closed for a moment"])
async def test_what_strangers_are_shown_is_public_from_then_on(
    hub: LocalHub, tmp_path: Path, path: str, was_closed: bool
) -> None:
    never = {"access__granted_ttl": 0, "access__denied_ttl": 0}
    async with open_house(hub, tmp_path, {"HF_TOKEN": "hf_server"}, **never) as house:
        ask = Asker(house.hub_endpoint)
        if was_closed:
            assert (await read(house, OPEN, None)).status == 200
            await house.settle()
            closed = Repository(OPEN, is_private=True)
            closed.commit(FILES)
            hub.add(closed)
            assert (await read(house, OPEN, None)).status == 401
            hub.add(tiny_model(OPEN))
        else:
            async with house.client(tmp_path / "mine") as own:
                await own.ensure(OPEN)
        assert (await ask.get(path)).status == 200
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await read(house, OPEN, None)).body == FILES[LARGE]


@pytest.mark.parametrize("file", [LARGE, SMALL])
async def test_what_a_member_brought_of_a_later_commit_was_nobodys(
    hub: LocalHub, tmp_path: Path, file: str
) -> None:
    never = {"access__granted_ttl": 0, "access__denied_ttl": 0}
    async with open_house(hub, tmp_path, **never) as house:
        first = await read(house, OPEN, None, file)
        await house.settle()
        gated = Repository(OPEN, is_gated=True)
        gated.commit({LARGE: b"new weights " * 1000, SMALL: b"{}"})
        hub.add(gated)
        hub.grant("hf_member", OPEN)
        later = await read(house, OPEN, "hf_member", file)
        await house.settle()
        hub.faults.add(Fault("reset", "any", times=None))

        assert first.status == later.status == 200 and first.body != later.body
        for token in (None, "hf_other"):
            assert (await read(house, OPEN, token, file)).status == 502
            tree = await Asker(house.hub_endpoint, token).get(f"/api/models/{OPEN}/tree/main")
            assert tree.status == 502
        assert (await read(house, OPEN, "hf_member", file)).body == later.body
        before = f"/{OPEN}/resolve/{first.headers['x-repo-commit']}/{file}"
        assert (await Asker(house.hub_endpoint).get(before)).body == first.body


async def test_a_yes_to_strangers_counts_in_an_outage_for_what_a_member_brings_of_it(
    hub: LocalHub, tmp_path: Path
) -> None:
    hub.grant("hf_member", OPEN)
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        assert (await Asker(house.hub_endpoint).head(path_of(OPEN))).status == 200
        assert (await read(house, OPEN, "hf_member")).status == 200
        await house.settle()
        hub.faults.add(Fault("reset", "any", times=None))
        house.cache._freshness.forget(ModelRef.parse(OPEN))
        assert (await read(house, OPEN, None)).body == FILES[LARGE]


async def test_a_no_counts_also_for_bytes_that_were_on_their_way(hub: LocalHub, tmp_path: Path) -> None:
    held = hub.faults.add(Fault("hold", "body", LARGE, after=1000))
    async with open_house(hub, tmp_path, access__granted_ttl=0, access__denied_ttl=0) as house:
        reading = asyncio.create_task(read(house, OPEN, None))
        while not held.applied:
            await asyncio.sleep(0.01)
        private = Repository(OPEN, is_private=True)
        private.commit(FILES)
        hub.add(private)
        assert (await read(house, OPEN, None)).status == 401
        held.release()
        assert (await reading).body == FILES[LARGE]
        await house.settle()
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await read(house, OPEN, None)).status == 403


@pytest.mark.parametrize("whose", ["another tool's", "the server's"])
async def test_a_readme_that_was_here_says_nothing_of_the_rest(
    hub: LocalHub, tmp_path: Path, whose: str
) -> None:
    """Everybody may read it, also of a gated model: whoever brought it, it opens nothing else."""
    described = Repository("demo/described", is_gated=True)
    described.open_paths = frozenset({"README.md", "tree"})
    described.commit(FILES)
    hub.add(described)
    for token in ("hf_member", "hf_server"):
        hub.grant(token, "demo/described")
    if whose == "another tool's":
        readme = described.files(described.branches["main"])["README.md"]
        blob = tmp_path / "server-cache" / "models--demo--described" / "blobs" / readme.etag
        blob.parent.mkdir(parents=True)
        blob.write_bytes(readme.read())
    rules = {"origin__revalidate": 60, "access__granted_ttl": 0, "access__denied_ttl": 0}
    outgoing = {} if whose == "another tool's" else {"HF_TOKEN": "hf_server"}
    async with open_house(hub, tmp_path, outgoing, **rules) as house:
        if whose == "the server's":
            async with house.client(tmp_path / "own") as own:
                await own.ensure("demo/described")
            described.commit({LARGE: b"new weights " * 100_000})
            house.cache._freshness.forget(ModelRef.parse("demo/described"))
        assert (await read(house, "demo/described", None, "README.md")).status == 200
        await house.settle()
        assert (await read(house, "demo/described", "hf_member")).status == 200
        await house.settle()
        hub.faults.add(Fault("status", "any", status=503, times=None))
        assert (await read(house, "demo/described", None)).status == 502
    async with open_house(hub, tmp_path, origin__offline=True) as house:
        assert (await read(house, "demo/described", None)).status == 403


@pytest.mark.parametrize("how", ["pulled", "streamed"])
async def test_what_a_callers_token_brought_here_is_not_to_be_had_over_grpc(
    house: House, tmp_path: Path, how: str
) -> None:
    async with house.client(tmp_path / "member", hub_token="hf_member") as client:
        await client.pull(GATED)
    for token in (None, "hf_other"):
        client = house.client(tmp_path / f"by {token}", hub_token=token)
        async with client:
            with pytest.raises(MxError):
                await _read_by(client, how)
    assert not list((tmp_path / "by hf_other").rglob("*.safetensors"))


async def _read_by(client: AsyncClient, how: str) -> None:
    if how == "pulled":
        await client.pull(GATED)
    else:
        await client.pull_into(GATED, lambda files: {file.path: bytearray(file.size) for file in files})


async def test_equal_bytes_in_a_repository_of_ones_own_open_no_other(house: House) -> None:
    """A digest is no permission: who has the same file elsewhere still may not read it here."""
    await read(house, GATED, "hf_member")
    assert (await read(house, OPEN, "hf_other")).body == FILES[LARGE]
    await house.settle()

    refused = await read(house, GATED, "hf_other")

    assert refused.status == 403 and refused.code == "GatedRepo"


class TestPolicy:
    @pytest.fixture
    async def house(self, hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
        (tmp_path / "token").write_text(SERVICE + "\n")
        settings = {
            "access__service_token_file": str(tmp_path / "token"),
            "access__service_models": "demo/gated",
            "access__open_models": "demo/pri*",
        }
        env = {"HF_TOKEN": "hf_server"}
        async with open_house(hub, tmp_path, outgoing_env=env, **settings) as house:
            yield house

    async def test_the_service_token_reads_its_models_and_never_leaves(self, house: House) -> None:
        assert (await read(house, GATED, SERVICE)).body == FILES[LARGE]
        other = await read(house, OPEN, SERVICE)
        anywhere = await Asker(house.hub_endpoint, SERVICE).get("/api/whoami-v2")

        assert other.status == 403 and "access.service_models" in other.headers["x-error-message"]
        assert anywhere.status == 403
        assert SERVICE not in {request.token for request in house.hub.log.requests}

    async def test_the_service_token_does_the_same_over_grpc(self, house: House, tmp_path: Path) -> None:
        async with house.client(tmp_path / "mine", hub_token=SERVICE) as client:
            pulled = await client.pull(GATED)
            assert (pulled.path / LARGE).read_bytes() == FILES[LARGE]
            with pytest.raises(Forbidden, match="service_models"):
                await client.pull(OPEN)
        assert SERVICE not in {request.token for request in house.hub.log.requests}

    async def test_open_models_are_everybodys(self, house: House) -> None:
        for token in (None, "hf_other", "hf_unknown", SERVICE):
            assert (await read(house, PRIVATE, token)).body == FILES[LARGE]
            tree = await Asker(house.hub_endpoint, token).get(f"/api/models/{PRIVATE}/tree/main")
            assert tree.status == 200
        assert (await read(house, GATED, None)).status == 401


@pytest.mark.parametrize(
    "said", ["Basic aGY6eA==", "Bearer", "Bearer a b", "Bearer h\u00e4", "Bearer " + "x" * 2000]
)
async def test_what_is_no_token_is_refused(house: House, said: str) -> None:
    answer = await Asker(house.hub_endpoint).get(path_of(OPEN), Authorization=said)

    assert answer.status == 401 and answer.headers["x-error-message"].startswith("Invalid credentials")


@pytest.mark.parametrize("way", ["open to everybody", "by the service token"])
async def test_a_no_to_the_servers_own_token_counts_in_an_outage(
    hub: LocalHub, tmp_path: Path, way: str
) -> None:
    (tmp_path / "token").write_text(SERVICE + "\n")
    settings: dict[str, object] = {
        "access__granted_ttl": 0,
        "access__denied_ttl": 0,
        "access__service_token_file": str(tmp_path / "token"),
    }
    if way == "open to everybody":
        settings["access__open_models"] = PRIVATE
    token = None if way == "open to everybody" else SERVICE
    async with open_house(hub, tmp_path, {"HF_TOKEN": "hf_server"}, **settings) as house:
        assert (await read(house, PRIVATE, token)).status == 200
        await house.settle()
        hub.revoke("hf_server")
        hub.grant("hf_server")
        assert (await read(house, PRIVATE, token)).status == 404
        hub.faults.add(Fault("reset", "any", times=None))
        assert (await read(house, PRIVATE, token)).status == 502
    async with open_house(hub, tmp_path, origin__offline=True, **settings) as house:
        assert (await read(house, PRIVATE, token)).status == 403
