# SPDX-License-Identifier: Apache-2.0
"""The origin of the Hub endpoint dies, stumbles, limits or lies: what is here is served, nothing wrong is."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.asking import Asker
from tests.support.house import House, Origin, open_house

from modelexpress.cache import hub_files
from modelexpress.domain.errors import MxError
from modelexpress.providers.retry import RetryPolicy
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME, GATED = "demo/tiny", "demo/gated"
LARGE, SMALL = "model.safetensors", "config.json"
FILES = tiny_files()
CONTENT = random.Random(5).randbytes(9_000_000)
OUTAGES = {
    "dead": Fault("reset", times=None),
    "500": Fault("status", times=None, status=500),
    "503": Fault("status", times=None, status=503, headers={"Retry-After": "1"}),
    "429": Fault("status", times=None, status=429, headers={"Retry-After": "3"}),
    "hanging": Fault("hang", times=None),
}
UNKNOWN = (
    "/demo/nothing/resolve/main/x", f"/demo/nothing/resolve/{'a' * 40}/x", "/api/models/demo/nothing",
    "/api/models/demo/nothing/revision/main", f"/api/models/demo/nothing/tree/{'a' * 40}",
)  # fmt: skip


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    gated, large = Repository(GATED, is_gated=True), Repository("demo/large")
    gated.commit(FILES)
    large.commit({LARGE: CONTENT, SMALL: b"{}"})
    async with LocalHub([tiny_model(NAME), gated, large]) as hub:
        hub.grant("hf_member", GATED)
        yield hub


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(hub, tmp_path, access__denied_ttl=0) as house:
        yield house


@pytest.fixture(params=sorted(OUTAGES))
def outage(request: pytest.FixtureRequest, hub: LocalHub) -> Iterator[str]:
    """The name of one; it begins with `begin`."""
    yield request.param
    hub.faults.clear()


def begin(hub: LocalHub, outage: str) -> None:
    kept = OUTAGES[outage]
    hub.faults.add(Fault(kept.action, times=None, status=kept.status, headers=kept.headers))


def path_of(name: str, file: str = LARGE, revision: str = "main") -> str:
    return f"/{name}/resolve/{revision}/{file}"


async def test_who_reads_what_is_here_notices_nothing_and_is_told(house: House, outage: str) -> None:
    ask = Asker(house.hub_endpoint)
    for file in (LARGE, SMALL):
        await ask.get(path_of(NAME, file))
    await house.settle()
    begin(house.hub, outage)

    for file in (LARGE, SMALL):
        answer = await ask.get(path_of(NAME, file))
        assert (answer.status, answer.body) == (200, FILES[file])
        assert answer.headers["mx-stale"] == "true"
        assert (await ask.head(path_of(NAME, file))).status == 200
    assert house.metrics.registry.get_sample_value("mx_hub_stale_answers_total") == 4


@pytest.mark.parametrize("token", [None, "hf_member"])
async def test_who_reads_what_is_here_waits_for_a_silent_origin_only_at_first(
    hub: LocalHub, tmp_path: Path, outage: str, token: str | None
) -> None:
    origin, name = Origin(retry=RetryPolicy()), GATED if token else NAME
    async with open_house(hub, tmp_path, origin=origin, access__granted_ttl=1) as house:
        ask = Asker(house.hub_endpoint, token)
        files = [LARGE, SMALL, "tokenizer.json"]
        commit = (await ask.get(path_of(name))).headers["x-repo-commit"]
        for file in files:
            await ask.get(path_of(name, file))
        await house.settle()
        begin(hub, outage)
        await asyncio.sleep(1.0)  # until its permission is over

        hub.log.clear()
        statuses = []
        for _ in range(3):
            for file in files:
                async with asyncio.timeout(4.0):
                    statuses.append((await ask.head(path_of(name, file, commit))).status)
        if outage == "429" and token:
            assert set(statuses) == {429}
            return
        assert set(statuses) == {200}
        assert len({request.file for request in hub.log.requests}) <= 2, "two files are enough to know"
        hub.faults.clear()
        other = await Asker(house.hub_endpoint, "hf_other").head(path_of(name, LARGE, commit))
        assert other.status in (200, 401), "others go on asking"


async def test_what_is_said_of_a_commit_is_marked_too_where_somebody_had_to_be_asked(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, access__granted_ttl=0) as house:
        ask = Asker(house.hub_endpoint)
        commit = (await ask.get(path_of(NAME))).headers["x-repo-commit"]
        async with house.client(tmp_path / "mine") as client:
            await client.pull(NAME)
        begin(hub, "500")
        for file, status in ((LARGE, 200), ("nothing", 404)):
            answer = await ask.head(path_of(NAME, file, commit))
            assert (answer.status, answer.headers["mx-stale"]) == (status, "true")


async def test_one_path_without_an_answer_makes_a_branch_stale_for_nobody(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        ask, other = Asker(house.hub_endpoint), Asker(house.hub_endpoint, "hf_other")
        async with house.client(tmp_path / "mine") as client:
            await client.pull(NAME)
        assert (await ask.get(path_of(NAME))).status == 200
        await house.settle()
        for file in ("made-up.bin", SMALL):
            hub.faults.add(Fault("status", status=500, path=file, times=None, token="hf_other"))
            assert (await other.head(path_of(NAME, file))).headers["mx-stale"] == "true"
            hub.log.clear()
            assert (await other.head(path_of(NAME, file))).headers["mx-stale"] == "true"
            assert hub.log.requests == [], "he waits for the same no second time"
            assert "mx-stale" not in (await ask.head(path_of(NAME))).headers


async def test_a_whole_model_that_is_here_is_described_and_listed(
    house: House, tmp_path: Path, outage: str
) -> None:
    ask = Asker(house.hub_endpoint)
    await ask.get(path_of(NAME))  # now it is known that everybody may read it
    async with house.client(tmp_path / "mine") as client:
        await client.pull(NAME)
    begin(house.hub, outage)
    commit = house.hub._repositories[NAME].branches["main"]

    described = await ask.get("/api/models/demo/tiny/revision/main")
    listed = await ask.get(f"/api/models/demo/tiny/tree/{commit}?recursive=true&expand=false")
    missing = await ask.head(path_of(NAME, "nothing", commit))
    of_branch = [await ask.head(path_of(NAME, "nothing")) for _ in range(2)]

    assert described.status == listed.status == 200 and described.headers["mx-stale"] == "true"
    assert commit.encode() in described.body and b"extra file" in listed.body
    assert (missing.status, missing.code) == (404, "EntryNotFound")
    assert "mx-stale" not in missing.headers, "nobody had to be asked"
    for answer in of_branch:  # clients remember that, and `main` may have it by now
        assert (answer.code, answer.headers.get("mx-stale")) == ("EntryNotFound", "true")


async def test_who_reads_something_else_hears_a_hubs_error(
    hub: LocalHub, tmp_path: Path, outage: str
) -> None:
    begin(hub, outage)
    # One that hangs is waited for, three times as long as origin.timeout_seconds says.
    async with open_house(hub, tmp_path, origin=Origin(timeout_seconds=0.3)) as house:
        ask = Asker(house.hub_endpoint)
        for path in (path_of(NAME), "/api/models/demo/tiny", "/api/models/demo/tiny/tree/main"):
            async with asyncio.timeout(10):
                answer = await ask.get(path)
            assert answer.status == (429 if outage == "429" else 502), path
            assert answer.headers["x-error-message"] and b'"error"' in answer.body
            if outage == "429":
                assert int(answer.headers["retry-after"]) >= 3
            if outage == "hanging":
                assert "no answer in time" in answer.headers["x-error-message"]
        assert not [path for path in house.root.rglob("*") if "models--" in path.name]


async def test_a_token_counts_for_a_while_in_an_outage_and_only_for_what_it_could_read(
    hub: LocalHub, tmp_path: Path
) -> None:
    settings = {"access__granted_ttl": 0, "access__denied_ttl": 0}
    async with open_house(hub, tmp_path, **settings) as house:
        member = Asker(house.hub_endpoint, "hf_member")
        assert (await member.get(path_of(GATED))).status == 200
        await house.settle()
        begin(hub, "500")

        assert (await member.get(path_of(GATED))).body == FILES[LARGE]
        for token in (None, "hf_other"):
            refused = await Asker(house.hub_endpoint, token).get(path_of(GATED))
            assert refused.status == 502 and FILES[LARGE] not in refused.body


async def test_who_reads_a_file_that_is_known_and_not_here_hears_it_before_he_leaves(
    hub: LocalHub, tmp_path: Path
) -> None:
    async with open_house(hub, tmp_path, origin=Origin(retry=RetryPolicy())) as house:
        ask, commit = Asker(house.hub_endpoint), hub._repositories[NAME].branches["main"]
        assert (await ask.get(f"/api/models/{NAME}/tree/{commit}")).status == 200
        assert (await ask.get(path_of(NAME, SMALL, commit))).status == 200
        begin(hub, "500")
        async with asyncio.timeout(5):  # clients leave after ten
            answer = await ask.get(path_of(NAME, LARGE, commit))
    assert answer.status == 502 and "500" in answer.headers["x-error-message"]


async def test_a_token_counts_no_longer_than_the_settings_say(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path, access__granted_ttl=0, access__outage_ttl=0) as house:
        member = Asker(house.hub_endpoint, "hf_member")
        assert (await member.get(path_of(GATED))).status == 200
        await house.settle()
        begin(hub, "500")

        assert (await member.get(path_of(GATED))).status == 502


async def test_a_no_that_comes_late_counts_all_the_same(hub: LocalHub, tmp_path: Path) -> None:
    settings = {"origin__revalidate": 60, "access__granted_ttl": 0}
    async with open_house(hub, tmp_path, **settings) as house:
        member = Asker(house.hub_endpoint, "hf_member")
        assert (await member.get(path_of(GATED))).status == 200
        await house.settle()
        hub.revoke("hf_member")
        slow = hub.faults.add(Fault("hang"))
        assert (await member.get(path_of(GATED))).headers["mx-stale"] == "true"
        slow.release()
        async with asyncio.timeout(5.0):
            while hub.log.requests[-1].status != 401:
                await asyncio.sleep(0.01)

        begin(hub, "dead")
        assert (await member.get(path_of(GATED))).status == 401


async def test_who_is_limited_reads_on_only_what_is_everybodys(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path, access__granted_ttl=0) as house:
        member = Asker(house.hub_endpoint, "hf_member")
        for name in (NAME, GATED):
            assert (await member.get(path_of(name))).status == 200
            assert (await member.get(f"/api/models/{name}/tree/main")).status == 200
        assert (await Asker(house.hub_endpoint).head(path_of(NAME))).status == 200
        await house.settle()
        hub.faults.add(Fault("status", status=429, headers={"Retry-After": "60"}, token="hf_member"))

        assert (await member.get(path_of(NAME))).body == FILES[LARGE]
        assert (await member.get(f"/api/models/{NAME}/tree/main")).status == 200
        for path in (path_of(GATED), f"/api/models/{GATED}/tree/main"):
            refused = await member.get(path)
            assert refused.status == 429
            assert FILES[LARGE] not in refused.body


@pytest.mark.parametrize("after", [0, 5_000_000, 8_999_999])
async def test_wrong_bytes_never_come_as_a_whole_file(
    house: House, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_files, "_WRONG_SECONDS", 1.0)
    house.hub.faults.add(Fault("wrong_bytes", "body", LARGE, times=None, after=after))
    ask = Asker(house.hub_endpoint)

    answer = await ask.get(path_of("demo/large"))

    assert answer.status == 502 or answer.is_cut
    await house.settle()  # it is read twice before it is given up
    assert not list(house.root.rglob("blobs/*"))
    house.hub.faults.clear()
    house.hub.log.clear()
    told = await ask.get(path_of("demo/large"))
    assert told.status == 502 and "arrived wrong" in told.headers["x-error-message"]
    assert house.hub.log.bytes_sent == 0, "a client that asks at once costs the origin the file again"
    await asyncio.sleep(1.0)
    assert (await ask.get(path_of("demo/large"))).body == CONTENT


async def test_after_a_false_start_nobody_goes_on_from_wrong_bytes(house: House) -> None:
    house.hub.faults.add(Fault("wrong_bytes", "body", LARGE, times=1, after=100))
    ask = Asker(house.hub_endpoint)
    first = await ask.get(path_of("demo/large"))
    assert first.is_cut or first.body == CONTENT
    await house.settle()

    resumed = await ask.get(path_of("demo/large"), Range="bytes=4000000-")

    expected = (200, CONTENT) if first.is_cut else (206, CONTENT[4_000_000:])
    assert (resumed.status, resumed.body) == expected


async def test_a_broken_line_is_mended_on_the_way(house: House) -> None:
    house.hub.faults.add(Fault("reset", "body", LARGE, times=2, after=3_000_000))
    house.hub.faults.add(Fault("truncate", "body", LARGE, times=1, after=6_000_000))

    assert (await Asker(house.hub_endpoint).get(path_of("demo/large"))).body == CONTENT


async def test_a_revision_that_went_away_at_the_origin_is_gone_here_too(house: House) -> None:
    ask = Asker(house.hub_endpoint)
    await ask.get(path_of(NAME))
    await house.settle()
    house.hub.remove(NAME)

    assert (await ask.get(path_of(NAME))).code == "RepoNotFound", "a no of the origin is no outage"


async def test_a_description_from_here_says_no_more_than_is_known(house: House, tmp_path: Path) -> None:
    member, ask = Asker(house.hub_endpoint, "hf_member"), Asker(house.hub_endpoint)
    assert (await member.get(path_of(GATED))).status == (await ask.get(path_of(NAME))).status == 200
    await house.settle()
    for token, name in (("hf_member", GATED), (None, NAME)):
        async with house.client(tmp_path / name, hub_token=token) as client:
            await client.pull(name)
    begin(house.hub, "dead")

    gated = json.loads((await member.get(f"/api/models/{GATED}/revision/main")).body)
    open_one = json.loads((await ask.get(f"/api/models/{NAME}/revision/main")).body)
    house.hub.faults.clear()

    assert gated["siblings"] and not {"private", "gated", "disabled"} & gated.keys()
    assert open_one["private"] is open_one["gated"] is False


class TestNonsense:
    """Something that is no Hub answers in the origin's place: a proxy, a page to sign in at."""

    @pytest.fixture(
        params=[(200, {"Content-Type": "text/html"}), (204, {}), (302, {"Location": "/api/whoami-v2"}),
                (302, {"Location": "http://10.0.0.1/login"}), (400, {}), (407, {}), (418, {}), (501, {})],
        ids=str,
    )  # fmt: skip
    def nonsense(self, request: pytest.FixtureRequest) -> Fault:
        status, headers = request.param
        return Fault("status", times=None, status=status, headers=headers)

    async def test_it_is_an_outage(self, hub: LocalHub, tmp_path: Path, nonsense: Fault) -> None:
        async with open_house(hub, tmp_path, access__granted_ttl=0, access__denied_ttl=0) as house:
            member, ask = Asker(house.hub_endpoint, "hf_member"), Asker(house.hub_endpoint)
            commit = (await ask.get(path_of(NAME))).headers["x-repo-commit"]
            assert (await member.get(path_of(GATED))).status == 200
            described = await ask.get(f"/api/models/{NAME}")
            listed = await member.get(f"/api/models/{GATED}/tree/main")
            async with house.client(tmp_path / "mine") as client:
                await client.pull(NAME)
                hub.faults.add(nonsense)

                for revision in ("main", commit):
                    answer = await ask.get(path_of(NAME, LARGE, revision))
                    assert (answer.body, answer.headers["mx-stale"]) == (FILES[LARGE], "true")
                assert (await member.get(path_of(GATED))).body == FILES[LARGE]
                assert (await member.get(f"/api/models/{GATED}/tree/main")).body == listed.body
                for _ in range(2):  # what the origin said before is not replaced
                    assert (await ask.get(f"/api/models/{NAME}")).body == described.body
                assert (await ask.get(f"/api/models/{NAME}/tree/{commit}")).status == 200, (
                    "made of the record"
                )
                assert (await client.pull(NAME)).commit == commit
            assert (await Asker(house.hub_endpoint).get(path_of(GATED))).status in (403, 502)
            hub.faults.clear()
            assert "mx-stale" not in (await ask.get(f"/api/models/{NAME}")).headers

    async def test_where_nothing_is_here_it_is_neither_told_nor_kept(
        self, hub: LocalHub, tmp_path: Path, nonsense: Fault
    ) -> None:
        async with open_house(hub, tmp_path, origin__revalidate=60) as house:
            ask, commit = Asker(house.hub_endpoint), hub._repositories[NAME].branches["main"]
            paths = [
                f"/api/models/{NAME}{path}" for path in ("", f"/tree/{commit}", "/refs", "/commits/main")
            ]
            hub.faults.add(nonsense)
            for path in (*paths, path_of(NAME), path_of(NAME, LARGE, commit)):
                answer = await ask.get(path)
                # A redirect is told with the setting that allows it.
                assert answer.status == (403 if nonsense.status == 302 else 502), path
                assert answer.headers["x-error-message"] and b'"error"' in answer.body
            hub.faults.clear()
            for path in paths:
                assert json.loads((await ask.get(path)).body)
            assert (await ask.head(path_of(NAME))).status == 200

    async def test_it_is_no_permission_over_grpc(
        self, hub: LocalHub, tmp_path: Path, nonsense: Fault
    ) -> None:
        async with open_house(hub, tmp_path, access__granted_ttl=0) as house:
            async with house.client(tmp_path / "mine", hub_token="hf_member") as client:
                await client.pull(GATED)
            hub.faults.add(
                Fault("status", "api", times=None, status=nonsense.status, headers=nonsense.headers)
            )
            async with house.client(tmp_path / "other", hub_token="hf_other") as client:
                with pytest.raises(MxError):
                    await client.pull(GATED)

    @pytest.mark.parametrize(
        ("status", "headers"),
        [(404, {}), (403, {}), (400, {"X-Error-Message": "no"}), (400, {"Content-Type": "application/json"})],
    )
    async def test_what_a_hub_may_say_is_no_outage(
        self, hub: LocalHub, tmp_path: Path, status: int, headers: dict[str, str]
    ) -> None:
        async with open_house(hub, tmp_path, access__granted_ttl=0) as house:
            ask = Asker(house.hub_endpoint)
            assert (await ask.get(path_of(NAME))).status == 200
            await house.settle()
            hub.faults.add(Fault("status", times=None, status=status, headers=headers))
            for path in (path_of(NAME), f"/api/models/{NAME}"):
                assert (await ask.get(path)).status == status

    async def test_who_asks_too_much_brings_no_outage_about(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path) as house:
            ask, path = Asker(house.hub_endpoint), f"/api/models/{NAME}/tree/main?limit="
            assert {(await ask.get(one)).status for one in (path_of(NAME), path + "5")} == {200}
            hub.faults.add(Fault("status", times=None, status=400))
            assert (await ask.get(path + "5")).headers["mx-stale"] == "true"
            assert (await ask.get(path + "5" * 2000)).status == 400


class TestOffline:
    @pytest.fixture
    async def house(self, hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
        async with open_house(hub, tmp_path) as online:
            await Asker(online.hub_endpoint).get(path_of("demo/large"))
            await Asker(online.hub_endpoint).get(path_of(NAME))
            await Asker(online.hub_endpoint, "hf_member").get(path_of(GATED))
            async with online.client(tmp_path / "mine") as client:
                await client.pull(NAME)
            await online.settle()
        hub.log.clear()
        async with open_house(hub, tmp_path, origin__offline=True) as house:
            yield house
        assert hub.log.requests == []

    async def test_what_another_tool_left_is_served_once_it_is_proven(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        async with open_house(hub, tmp_path / "other") as other, other.client(tmp_path / "mine") as client:
            await client.pull(NAME)
            folder = "models--demo--tiny"
            shutil.copytree(other.root / folder, tmp_path / "server-cache" / folder, symlinks=True)
        settings = {"origin__offline": True, "access__open_models": NAME}
        async with open_house(hub, tmp_path, **settings) as house:
            ask = Asker(house.hub_endpoint)
            unproven = await ask.get(path_of(NAME))
            async with house.client(tmp_path / "yours") as client:
                await client.pull(NAME)
            proven = await ask.get(path_of(NAME))

        assert unproven.status == 504 and "pull it once" in unproven.headers["x-error-message"]
        assert proven.body == FILES[LARGE]

    async def test_it_serves_what_is_here(self, house: House) -> None:
        ask = Asker(house.hub_endpoint)
        for path, content in FILES.items():
            quoted = path.replace(" ", "%20").replace("ü", "%C3%BC")
            answer = await ask.get(path_of(NAME, quoted))
            assert answer.body == content and "mx-stale" not in answer.headers
        assert (await ask.get(path_of("demo/large"))).body == CONTENT
        for path in ("", "/revision/main", "/tree/main?recursive=true", "/refs"):
            answer = await ask.get(f"/api/models/demo/tiny{path}")
            assert answer.status == 200 and "mx-stale" not in answer.headers, path
        assert "mx-stale" not in (await ask.get(path_of(NAME, "nothing"))).headers

    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            (path_of(NAME, "nothing"), 404, "EntryNotFound"),
            (path_of(NAME, SMALL, "other"), 404, "RevisionNotFound"),
            *((path, 404, "RepoNotFound") for path in UNKNOWN),
            (path_of("demo/large", SMALL), 504, None),
            *((path_of(GATED, file), 403, "GatedRepo") for file in (LARGE, SMALL, "nothing")),
            *((f"/api/models/{GATED}{path}", 403, "GatedRepo") for path in ("", "/tree/main", "/refs")),
            (f"/api/models/{GATED}/revision/main", 403, "GatedRepo"),
            (f"/api/models/{GATED}/revision/other", 404, "RevisionNotFound"),
            ("/api/models/demo/large/revision/main", 504, None),
            ("/api/whoami-v2", 504, None),
        ],
    )
    async def test_it_says_what_it_has_not(
        self, house: House, path: str, status: int, code: str | None
    ) -> None:
        for token in (None, "hf_member"):
            for method in ("HEAD", "GET"):
                answer = await Asker(house.hub_endpoint, token).ask(method, path)
                assert (answer.status, answer.code) == (status, code), answer.headers
