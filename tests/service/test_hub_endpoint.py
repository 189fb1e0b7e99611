# SPDX-License-Identifier: Apache-2.0
"""The Hub endpoint, asked without a library in between: what it says, what it costs, what it keeps."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.asking import Asker
from tests.support.house import House, open_house, tree

from modelexpress.domain.hub import lfs_pointer
from modelexpress.domain.refs import ModelRef
from modelexpress.testing.hub import Fault, HubOptions, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME = "demo/tiny"
LARGE, SMALL = "model.safetensors", "config.json"
FILES = tiny_files()
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FOLDER = "models--demo--tiny"


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    dataset = Repository("datasets/demo/rows", lfs_bytes=1000)
    dataset.commit({"data/train.bin": bytes(5000), "README.md": b"rows"})
    space = Repository("spaces/demo/app")
    space.commit({"app.py": b"print(1)"})
    async with LocalHub([tiny_model(NAME), dataset, space], HubOptions(page_size=4)) as hub:
        yield hub


@pytest.fixture
async def house(hub: LocalHub, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(hub, tmp_path, origin__revalidate=60) as house:
        yield house


@pytest.fixture
def ask(house: House) -> Asker:
    return Asker(house.hub_endpoint)


def file_path(path: str, revision: str = "main", name: str = NAME) -> str:
    return f"/{name}/resolve/{revision}/{path}"


def asked(house: House) -> list[tuple[str, str]]:
    return [(request.method, request.kind) for request in house.hub.log.requests]


class TestFiles:
    async def test_a_large_file_is_named_by_its_sha256_and_sent_without_a_redirect(
        self, house: House, ask: Asker
    ) -> None:
        file = house.hub._repositories[NAME].files(house.hub._repositories[NAME].branches["main"])[LARGE]
        for method in ("HEAD", "GET"):
            answer = await ask.ask(method, file_path(LARGE))
            assert answer.status == 200 and "location" not in answer.headers
            said = {name: answer.headers[name] for name in ("etag", "x-linked-etag", "x-linked-size")}
            assert said == {
                "etag": f'"{file.sha256}"',
                "x-linked-etag": f'"{file.sha256}"',
                "x-linked-size": str(file.size),
            }
            assert answer.headers["content-length"] == str(file.size)
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["x-repo-commit"] == house.hub._repositories[NAME].branches["main"]
            assert answer.body == (FILES[LARGE] if method == "GET" else b"")

    async def test_a_small_file_is_named_by_its_git_id(self, house: House, ask: Asker) -> None:
        answer = await ask.get(file_path(SMALL))

        files = house.hub._repositories[NAME].files(answer.headers["x-repo-commit"])
        assert answer.headers["etag"] == f'"{files[SMALL].blob_id}"' and answer.body == FILES[SMALL]
        assert "x-linked-etag" not in answer.headers

    @pytest.mark.parametrize("path", sorted(FILES))
    async def test_every_file_comes_as_it_is(self, ask: Asker, path: str) -> None:
        quoted = path.replace(" ", "%20").replace("ü", "%C3%BC")

        assert (await ask.get(file_path(quoted))).body == FILES[path]

    @pytest.mark.parametrize(
        ("said", "status", "span"),
        [
            ("bytes=10-99", 206, slice(10, 100)),
            ("bytes=99990-", 206, slice(99990, None)),
            ("bytes=-7", 206, slice(-7, None)),
            ("bytes=0-0", 206, slice(0, 1)),
            ("bytes=200000-", 416, slice(0, 0)),
            ("bytes=0-1,5-6", 200, slice(None)),
            ("lines=1-2", 200, slice(None)),
        ],
    )
    async def test_ranges(self, ask: Asker, said: str, status: int, span: slice) -> None:
        for _ in ("cold", "warm"):
            answer = await ask.get(file_path(LARGE), Range=said)
            assert answer.status == status
            if status != 416:
                assert answer.body == FILES[LARGE][span]
        if status == 206:
            start = range(len(FILES[LARGE]))[span].start
            end = range(len(FILES[LARGE]))[span].stop - 1
            assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(FILES[LARGE])}"

    async def test_conditional_requests(self, ask: Asker) -> None:
        etag = (await ask.head(file_path(LARGE))).headers["etag"]
        for method in ("HEAD", "GET"):
            same = await ask.ask(method, file_path(LARGE), {"If-None-Match": etag})
            assert (same.status, same.body) == (304, b"")
            other = await ask.ask(method, file_path(LARGE), {"If-Match": '"another"'})
            assert other.status == 412
        resumed = await ask.get(file_path(LARGE), Range="bytes=5-", If_Range='"another"')
        assert (resumed.status, resumed.body) == (200, FILES[LARGE])

    async def test_revisions_of_every_kind(self, house: House, ask: Asker) -> None:
        repository = house.hub._repositories[NAME]
        first = repository.branches["main"]
        repository.branches["!(a,b)&c's/d"] = first
        repository.tags["v1"] = repository.branches["dev/x"] = repository.pull_requests["refs/pr/1"] = first
        repository.commit({SMALL: b"newer"})

        for revision in ("v1", "!(a,b)%26c's%2Fd", "dev%2Fx", "refs%2Fpr%2F1", "refs/pr/1", first):
            answer = await ask.get(file_path(SMALL, revision))
            assert (answer.body, answer.headers["x-repo-commit"]) == (FILES[SMALL], first), revision
        assert (await ask.get(file_path(SMALL))).body == b"newer"

    async def test_as_git_holds_it_a_large_file_is_a_pointer(self, ask: Asker) -> None:
        pointer = await ask.get(f"/{NAME}/raw/main/{LARGE}")
        small = await ask.get(f"/{NAME}/raw/main/{SMALL}")

        assert pointer.body.startswith(b"version https://git-lfs.github.com/spec/v1\noid sha256:")
        assert f"size {len(FILES[LARGE])}\n".encode() in pointer.body
        assert small.body == FILES[SMALL]

    @pytest.mark.parametrize("file", [LARGE, SMALL])
    async def test_what_git_holds_is_a_text_with_a_version_and_ranges(
        self, house: House, ask: Asker, file: str
    ) -> None:
        repository = house.hub._repositories[NAME]
        commit = repository.branches["main"]
        for method in ("HEAD", "GET"):
            answer = await ask.ask(method, f"/{NAME}/raw/main/{file}")
            assert answer.headers["etag"] == f'"{repository.files(commit)[file].blob_id}"'
            said = [answer.headers[name] for name in ("x-repo-commit", "accept-ranges", "content-type")]
            assert said == [commit, "bytes", "text/plain; charset=utf-8"]
        part = await ask.get(f"/{NAME}/raw/main/{file}", Range="bytes=2-5")
        beyond = await ask.get(f"/{NAME}/raw/main/{file}", Range="bytes=99999-")
        same = await ask.get(f"/{NAME}/raw/main/{file}", If_None_Match=answer.headers["etag"])
        other = await ask.get(f"/{NAME}/raw/main/{file}", If_Match='"another"')

        size = len(answer.body)
        assert (part.status, part.body) == (206, answer.body[2:6])
        assert part.headers["content-range"] == f"bytes 2-5/{size}"
        assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
        assert (same.status, same.body, other.status) == (304, b"", 412)

    async def test_datasets_and_spaces_are_read_alike_and_kept_as_their_own_tools_keep_them(
        self, house: House, ask: Asker
    ) -> None:
        rows = await ask.get(file_path("data/train.bin", name="datasets/demo/rows"))
        app = await ask.get(file_path("app.py", name="spaces/demo/app"))

        assert (rows.body, app.body) == (bytes(5000), b"print(1)")
        await house.settle()
        kept = {path.partition("/")[0] for path in tree(house.root) if not path.startswith(".mx")}
        assert kept == {"datasets--demo--rows", "spaces--demo--app"}
        assert (await ask.get("/api/datasets/demo/rows")).status == 200
        assert (await ask.get("/api/models/demo/rows")).code == "RepoNotFound"

    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            (file_path("nothing.json"), 404, "EntryNotFound"),
            (file_path("onnx"), 404, "EntryNotFound"),
            (file_path(SMALL, "no-branch"), 404, "RevisionNotFound"),
            (file_path(SMALL, name="demo/nothing"), 401, "RepoNotFound"),
            ("/api/models/demo/nothing", 401, "RepoNotFound"),
            ("/api/models/demo/tiny/revision/no-branch", 404, "RevisionNotFound"),
            ("/api/models/demo/tiny/tree/main/no-folder", 404, "EntryNotFound"),
        ],
    )
    async def test_what_there_is_not_is_refused_as_the_hub_refuses_it(
        self, house: House, ask: Asker, path: str, status: int, code: str
    ) -> None:
        ours, theirs = await ask.get(path), await Asker(house.hub.endpoint).get(path)

        assert (ours.status, ours.code) == (theirs.status, theirs.code) == (status, code)
        assert ours.headers.get("x-repo-commit") == theirs.headers.get("x-repo-commit")
        assert ours.headers["x-error-message"] and json.loads(ours.body)["error"]


class TestDocuments:
    @pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
    async def test_a_refusal_without_a_word_is_told_as_that(
        self, house: House, ask: Asker, status: int
    ) -> None:
        house.hub.faults.add(Fault("status", times=None, status=status))
        answer, said = await ask.get(file_path(SMALL)), f"refused with {status}, without a reason"

        assert (answer.status, answer.code) == (status, None)
        assert answer.headers["x-error-message"] == json.loads(answer.body)["error"] == said

    async def test_descriptions_are_the_origins_own_words(self, house: House, ask: Asker) -> None:
        for path in (
            "/api/models/demo/tiny",
            "/api/models/demo/tiny?blobs=true",
            "/api/models/demo/tiny/revision/main",
            "/api/models/demo/tiny/refs",
            "/api/spaces/demo/app",
        ):
            ours, theirs = await ask.get(path), await Asker(house.hub.endpoint).get(path)
            assert (ours.status, json.loads(ours.body)) == (200, json.loads(theirs.body)), path

    async def test_pages_lead_on_at_our_address(self, house: House, ask: Asker) -> None:
        path: str | None = "/api/models/demo/tiny/tree/main?recursive=true&expand=false"
        rows: list[dict[str, object]] = []
        while path is not None:
            answer = await ask.get(path)
            rows += json.loads(answer.body)
            link = answer.headers.get("link")
            assert link is None or link.startswith(f"<{house.hub_endpoint}/api/models/demo/tiny/tree/main?")
            path = None if link is None else link[1:].partition(">")[0].removeprefix(house.hub_endpoint)

        files = [row["path"] for row in rows if row["type"] == "file"]
        assert sorted(map(str, files)) == sorted(FILES) and len(rows) > 4

    @pytest.mark.parametrize("body", ["paths=config.json&paths=onnx&paths=no", '{"paths": ["config.json"]}'])
    async def test_what_is_at_paths(self, house: House, ask: Asker, body: str) -> None:
        kind = "application/json" if body[0] == "{" else "application/x-www-form-urlencoded"
        path, headers = "/api/models/demo/tiny/paths-info/main", {"Content-Type": kind}

        ours = await ask.ask("POST", path, headers, body)
        theirs = await Asker(house.hub.endpoint).ask("POST", path, headers, body)

        assert (ours.status, json.loads(ours.body)) == (200, json.loads(theirs.body))

    async def test_nothing_is_said_of_xet(self, tmp_path: Path) -> None:
        repository = Repository("demo/xet", has_xet=True, lfs_bytes=10)
        repository.commit({LARGE: bytes(1000)})
        async with LocalHub([repository]) as hub, open_house(hub, tmp_path) as house:
            ask, origin = Asker(house.hub_endpoint), Asker(hub.endpoint)
            path = "/api/models/demo/xet/tree/main?recursive=true"
            assert b"xetHash" in (await origin.get(path)).body
            answers = [
                await ask.get(path),
                await ask.ask("POST", "/api/models/demo/xet/paths-info/main", FORM, f"paths={LARGE}"),
                await ask.head(file_path(LARGE, name="demo/xet")),
                await ask.get(file_path(LARGE, name="demo/xet")),
            ]
            token = await ask.get("/api/models/demo/xet/xet-read-token/main")

        assert token.status == 404
        for answer in answers:
            assert answer.status == 200 and b"xet" not in answer.body.lower().replace(b"demo/xet", b"")
            assert not any("xet" in name or "xet" in text for name, text in answer.headers.items())

    @pytest.mark.parametrize("name", ["demo/tiny", "tiny"])
    @pytest.mark.parametrize(
        "word",
        ["xet-read-token", "xet-write-token", "xet-read%2Dtoken", "x/XET-write-token", "x%2Fxet-read-token"],
    )
    async def test_no_token_for_xet_is_passed_through(
        self, hub: LocalHub, tmp_path: Path, name: str, word: str
    ) -> None:
        async with open_house(hub, tmp_path, hub__pass_through=True) as house:
            answer = await Asker(house.hub_endpoint).get(f"/api/models/{name}/{word}/main")

        assert answer.status == 404 and "without Xet" in answer.headers["x-error-message"]
        assert hub.log.requests == []

    async def test_writing_is_refused_and_so_is_what_nobody_asks_of_a_cache(self, ask: Asker) -> None:
        for method, path in (
            ("POST", "/api/repos/create"),
            ("PUT", file_path(SMALL)),
            ("DELETE", "/api/repos/delete"),
            ("POST", "/api/models/demo/tiny/commit/main"),
        ):
            answer = await ask.ask(method, path, {}, b"{}")
            assert answer.status == 405 and "read from" in answer.headers["x-error-message"], path
        for path in ("/api/models", "/api/collections", "/", "/demo/tiny", "/demo"):
            answer = await ask.get(path)
            assert answer.status == 404 and "ask the Hub itself" in answer.headers["x-error-message"], path
        assert (await ask.head("/api/telemetry/transformers")).status == 200

    async def test_what_it_does_not_know_is_passed_on_where_that_is_configured(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        async with open_house(hub, tmp_path, hub__pass_through=True) as house:
            ask = Asker(house.hub_endpoint)
            listed = json.loads((await ask.get("/api/models?search=tiny")).body)
            refused = await ask.ask("POST", "/api/repos/create", {}, b"{}")

        assert [row["id"] for row in listed] == [NAME] and refused.status == 405


class TestCosts:
    async def test_a_head_costs_one_question_and_then_none(self, house: House, ask: Asker) -> None:
        await ask.head(file_path(LARGE))
        assert asked(house) == [("HEAD", "resolve")]
        for _ in range(3):
            await ask.head(file_path(LARGE))
        assert asked(house) == [("HEAD", "resolve")]

    async def test_a_head_of_a_small_file_follows_the_hub_to_where_it_has_small_files(
        self, house: House, ask: Asker
    ) -> None:
        for _ in range(3):
            assert (await ask.head(file_path(SMALL))).headers["content-length"] == str(len(FILES[SMALL]))
        assert asked(house) == [("HEAD", "resolve"), ("HEAD", "body")]

    async def test_after_a_listing_no_file_is_asked_about(self, house: House, ask: Asker) -> None:
        commit = house.hub._repositories[NAME].branches["main"]
        await ask.head(file_path(LARGE))  # who may read is known from here on
        for cursor in (0, 4, 8, 12):
            query = f"recursive=true&expand=false&cursor={cursor}"
            await ask.get(f"/api/models/demo/tiny/tree/{commit}?{query}")
        before = len(house.hub.log.requests)

        for path in (SMALL, "tokenizer.json", "onnx/model.onnx", "empty.txt"):
            assert (await ask.head(file_path(path, commit))).status == 200
        missing = [await ask.head(file_path("nothing", commit)) for _ in range(3)]

        assert [answer.code for answer in missing] == ["EntryNotFound"] * 3
        assert len(house.hub.log.requests) == before + 1, "of what was in no listing the origin is asked once"

    @pytest.mark.parametrize(
        "settings", [{}, {"cache__max_size_bytes": 1000}, {"origin__revalidate": "always"}]
    )
    async def test_an_answer_without_a_body_brings_no_bytes(
        self, hub: LocalHub, tmp_path: Path, settings: dict[str, object]
    ) -> None:
        async with open_house(hub, tmp_path, **{"origin__revalidate": 60, **settings}) as house:
            ask = Asker(house.hub_endpoint)
            etag = (await ask.head(file_path(LARGE))).headers["etag"]
            same = await ask.get(file_path(LARGE), If_None_Match=etag)
            other = await ask.get(file_path(LARGE), If_Match='"another"')
            beyond = await ask.get(file_path(LARGE), Range="bytes=99999999-")
            await house.settle()

            assert (same.status, other.status, beyond.status) == (304, 412, 416)
            assert same.headers["etag"] == etag and same.body == b""
            assert beyond.headers["content-range"] == f"bytes */{len(FILES[LARGE])}"
            assert hub.log.of("body") == []

    async def test_a_range_asks_the_origin_about_its_file_once(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path, origin__revalidate="always") as house:
            part = await Asker(house.hub_endpoint).get(file_path(LARGE), Range="bytes=5-9")

            assert (part.status, part.body) == (206, FILES[LARGE][5:10])
            assert len(hub.log.of("resolve", method="HEAD")) == 1

    async def test_many_clients_at_once_cost_the_origin_one_reading(self, house: House, ask: Asker) -> None:
        content = random.Random(1).randbytes(9_000_000)
        house.hub.add(repository := Repository("demo/large"))
        repository.commit({LARGE: content, SMALL: b"{}"})
        paths = [file_path(path, name="demo/large") for path in (LARGE, SMALL)]

        answers = await asyncio.gather(*(ask.get(path) for path in paths for _ in range(32)))

        assert [answer.body for answer in answers] == [content] * 32 + [b"{}"] * 32
        assert house.hub.log.bytes_sent == len(content) + 2
        assert len(house.hub.log.of("resolve", method="HEAD")) == 2
        # Each three chunks may come by an address of their own, and small files are led on once.
        assert len(asked(house)) <= (1 + 2 * 3) + (2 + 2), asked(house)

    async def test_what_is_asked_already_is_not_asked_again_when_another_file_tells_the_commit(
        self, house: House, ask: Asker
    ) -> None:
        held = house.hub.faults.add(Fault("hang", "resolve", path=SMALL))
        first = asyncio.create_task(ask.head(file_path(SMALL)))
        while not held.applied:
            await asyncio.sleep(0.01)
        assert (await ask.head(file_path(LARGE))).status == 200
        second = asyncio.create_task(ask.head(file_path(SMALL)))
        (question,) = house.cache._asking._running.values()
        while question.waiting < 2 and not second.done():
            await asyncio.sleep(0.01)
        held.release()

        assert [answer.status for answer in await asyncio.gather(first, second)] == [200, 200]
        assert [request.file for request in house.hub.log.of("resolve", method="HEAD")].count(SMALL) == 1

    async def test_a_hit_costs_the_origin_nothing(self, house: House, ask: Asker) -> None:
        await ask.get(file_path(LARGE))
        await house.settle()
        house.hub.log.clear()

        assert (await ask.get(file_path(LARGE))).body == FILES[LARGE]

        assert house.hub.log.requests == []

    async def test_the_bytes_come_while_they_arrive(self, house: House, ask: Asker) -> None:
        content = random.Random(2).randbytes(9_000_000)
        house.hub.add(repository := Repository("demo/large"))
        repository.commit({LARGE: content})
        held = house.hub.faults.add(Fault("hold", "body", after=8_500_000))
        reader, writer = await asyncio.open_connection("127.0.0.1", house.data_port)
        writer.write(f"GET {file_path(LARGE, name='demo/large')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        head = await reader.readuntil(b"\r\n\r\n")
        first = await reader.readexactly(8_000_000)
        assert b"200 OK" in head and first == content[:8_000_000] and held.applied
        held.release()
        assert await reader.readexactly(1_000_000) == content[8_000_000:]
        writer.close()


class TestKeeping:
    async def test_single_files_stay_blobs_until_a_whole_selection_is_published(
        self, house: House, ask: Asker
    ) -> None:
        for path in (LARGE, SMALL):
            await ask.get(file_path(path))
        await house.settle()
        assert {path.split("/")[1] for path in tree(house.root) if path.startswith(FOLDER)} == {"blobs"}
        house.hub.log.clear()

        async with house.client(house.root, is_shared=True) as client:
            pulled = await client.pull(NAME)

        assert {path: (pulled.path / path).read_bytes() for path in FILES} == FILES
        read = {request.file for request in house.hub.log.of("body")}
        assert read == set(FILES) - {LARGE, SMALL, "empty.txt"}, "they were here"
        assert "snapshots" in {path.split("/")[1] for path in tree(house.root) if path.startswith(FOLDER)}

    async def test_they_are_listed_proven_again_and_removed_like_everything(
        self, house: House, ask: Asker
    ) -> None:
        await ask.get(file_path(LARGE))
        await house.settle()

        [held] = await house.cache.list_held()
        assert (held.name, held.files, held.bytes, held.selections) == (NAME, 1, len(FILES[LARGE]), ())
        [verified] = await house.cache.verify(None, lambda progress: None)
        assert verified.is_sound and verified.files == 1
        assert (await house.cache.prune(is_dry_run=False)).removals == ()
        assert (await ask.get(file_path(LARGE))).body == FILES[LARGE]
        await house.settle()
        plan = await house.cache.remove([ModelRef.parse(NAME)], is_dry_run=False)
        assert [removal.bytes_freed for removal in plan.removals] == [len(FILES[LARGE])]
        assert [path for path in tree(house.root) if path.startswith(FOLDER)] == []
        assert (await ask.get(file_path(LARGE))).body == FILES[LARGE], "it is fetched again"

    async def test_a_budget_is_kept_by_letting_them_go(self, hub: LocalHub, tmp_path: Path) -> None:
        chance = random.Random(3)
        contents = {f"demo/m{n}": chance.randbytes(3_000_000) for n in range(4)}
        for name, content in contents.items():
            hub.add(repository := Repository(name))
            repository.commit({LARGE: content})
        async with open_house(hub, tmp_path, cache__max_size_bytes=8_000_000) as house:
            ask = Asker(house.hub_endpoint)
            for name, content in contents.items():
                assert (await ask.get(file_path(LARGE, name=name))).body == content
                await house.settle()
            assert [held.name for held in await house.cache.list_held()] == ["demo/m2", "demo/m3"]
            hub.add(repository := Repository("demo/huge"))
            repository.commit({LARGE: bytes(9_000_000)})
            refused = await ask.get(file_path(LARGE, name="demo/huge"))

        assert (
            refused.status == 507 and "evicting everything that may go" in refused.headers["x-error-message"]
        )

    async def test_what_another_commit_holds_stays_when_one_goes(self, house: House, ask: Asker) -> None:
        repository = house.hub._repositories[NAME]
        first = repository.branches["main"]
        second = repository.commit({SMALL: b"second"})
        await ask.get(file_path(LARGE, first))
        await house.settle()
        await ask.get(file_path(LARGE, second))
        await house.settle()

        await house.cache.remove([ModelRef.parse(f"{NAME}@{first}")], is_dry_run=False)
        house.hub.log.clear()

        assert (await ask.get(file_path(LARGE, second))).body == FILES[LARGE]
        assert house.hub.log.of("body") == []

    async def test_a_restart_keeps_them(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path) as house:
            await Asker(house.hub_endpoint).get(file_path(LARGE))
            await house.settle()
        hub.log.clear()
        async with open_house(hub, tmp_path) as house:
            assert (await Asker(house.hub_endpoint).get(file_path(LARGE))).body == FILES[LARGE]
        assert hub.log.of("body") == []

    async def test_the_rest_comes_too_where_that_is_configured(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path, hub__prefetch=True) as house:
            await Asker(house.hub_endpoint).get(file_path(SMALL))
            await house.settle()
            [held] = await house.cache.list_held()
        assert held.files == len(FILES)

    async def test_a_rest_that_cannot_come_is_told_with_the_reason(
        self, hub: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        hub.add(large := Repository("demo/large"))
        large.commit({LARGE: bytes(3_000_000), SMALL: b"{}"})
        async with open_house(hub, tmp_path, hub__prefetch=True, cache__max_size_bytes=2_000_000) as house:
            assert (await Asker(house.hub_endpoint).get(file_path(SMALL, name="demo/large"))).status == 200
            await house.settle()
        [told] = [record for record in caplog.records if "hub.prefetch" in record.getMessage()]
        assert told.levelname == "WARNING"
        assert "demo/large" in told.getMessage() and "evicting everything" in told.getMessage()

    async def test_a_file_that_is_here_brings_no_others(self, hub: LocalHub, tmp_path: Path) -> None:
        async with open_house(hub, tmp_path) as house:
            await Asker(house.hub_endpoint).get(file_path(SMALL))
            await house.settle()
        async with open_house(hub, tmp_path, hub__prefetch=True) as house:
            await Asker(house.hub_endpoint).get(file_path(SMALL))
            await house.settle()
            [held] = await house.cache.list_held()
        assert held.files == 1

    async def test_a_damaged_blob_is_fetched_again(self, house: House, ask: Asker) -> None:
        await ask.get(file_path(LARGE))
        await house.settle()
        [blob] = (house.root / FOLDER / "blobs").iterdir()
        blob.write_bytes(b"x" * len(FILES[LARGE]))

        assert (await ask.get(file_path(LARGE))).body == FILES[LARGE]


def test_a_pointer_has_the_git_id_that_the_hub_gives() -> None:
    from modelexpress.domain.hub import git_id
    from modelexpress.domain.manifest import Digest, DigestKind, FileEntry

    repository = tiny_model(NAME)
    for file in repository.files(repository.branches["main"]).values():
        kind = DigestKind.SHA256 if file.sha256 else DigestKind.GIT_BLOB
        entry = FileEntry(file.path, file.size, Digest(kind, file.etag))
        assert git_id(entry) == file.blob_id
        assert len(lfs_pointer(entry) or b"") == (file.pointer_size if file.sha256 else 0)
