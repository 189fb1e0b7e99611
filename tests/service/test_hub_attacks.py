# SPDX-License-Identifier: Apache-2.0
"""The Hub endpoint under hostile hands: every attack is refused, and the next honest request is answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.asking import Asker
from tests.support.hostile_origin import HostileOrigin
from tests.support.house import House, Origin, open_house
from tests.support.proxy import closed_port

from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files

NAME, LARGE, SMALL = "demo/tiny", "model.safetensors", "config.json"
FILES = tiny_files()


@pytest.fixture
def ask(house: House) -> Asker:
    return Asker(house.hub_endpoint)


@pytest.fixture(autouse=True)
async def is_unharmed(house: House, ask: Asker) -> AsyncIterator[None]:
    """After whatever happened an honest client is served."""
    yield
    assert (await ask.get(f"/{NAME}/resolve/main/{SMALL}")).body == FILES[SMALL]
    assert not (house.root.parent / "stolen").exists()


async def talk(house: House, said: bytes, seconds: float = 10.0) -> bytes:
    """What comes back to raw bytes, until the other side closes or says no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.data_port)
    writer.write(said)
    answer = b""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while b"\r\n\r\n" not in answer:
                piece = await reader.read(65536)
                if not piece:
                    break
                answer += piece
    writer.close()
    return answer


@pytest.mark.parametrize(
    "path",
    [
        "/demo/tiny/resolve/main/../../../../etc/passwd",
        "/demo/tiny/resolve/main/..%2f..%2f..%2fetc%2fpasswd",
        "/demo/tiny/resolve/main/%2e%2e/%2e%2e/etc/passwd",
        "/demo/tiny/resolve/main//etc/passwd",
        "/demo/tiny/resolve/main/%2fetc%2fpasswd",
        "/demo/tiny/resolve/main/..%5c..%5cconfig.json",
        "/demo/tiny/resolve/main/config.json%00.txt",
        "/demo/tiny/resolve/..%2f..%2fowner/config.json",
        "/demo/tiny/resolve/%2e%2e/config.json",
        "/demo/tiny/resolve/refs%2f..%2f..%2fx/config.json",
        "/demo/..%2ftiny/resolve/main/config.json",
        "/../.mx/owner",
        "/.mx/resolve/main/owner",
        "/demo--tiny/resolve/main/config.json",
        "/datasets/../demo/tiny/resolve/main/config.json",
        "/api/models/..%2f..%2fwhoami-v2",
        "/api/models/demo/tiny/tree/..%2f..%2f/x",
        "/api/models/demo/tiny/tree/main/..%2f..%2f..%2fwhoami-v2",
        "/api/models/demo/tiny/tree/main/../../../whoami-v2",
        "/-/../demo/tiny",
        "/-/blobs/..%2f..%2fowner",
    ],
)
async def test_no_path_leads_out_of_its_place(house: House, ask: Asker, path: str) -> None:
    before = len(house.hub.log.requests)
    for method in ("GET", "HEAD"):
        answer = await ask.ask(method, path)
        assert answer.status in (400, 403, 404, 410), (path, answer)
        assert b"root:" not in answer.body and FILES[SMALL] not in answer.body
    asked = {request.path for request in house.hub.log.requests[before:]}
    assert not any(".." in path or "\\" in path or "\0" in path for path in asked)


ESCAPES = [
    ("GET", "/api/models/demo/tiny/refs/../../secret/tree/main"),
    ("GET", "/api/models/demo/tiny/refs/%2e%2e/%2e%2e/secret/tree/main"),
    ("GET", "/api/models/demo/tiny/revision/main/..%2f..%2f..%2fsecret"),
    ("GET", "/api/models/demo/tiny/auth-check/../../../../../api/repositories"),
    ("GET", "/api/models/demo/tiny/commits/main/..;/..;/x"),
    ("GET", "/api/models/demo/tiny/tree/main/./x"),
    ("GET", "/api/models/../../etc"),
    ("GET", "/api/collections/%2e%2e/models"),
    ("POST", "/api/models/demo/tiny/refs/paths-info/../../commit/main"),
    ("POST", f"/api/models/demo/tiny/paths-info/{'a' * 40}/../../../../evil/repo/paths-info/main"),
    ("POST", "/api/models/demo/tiny/commits/paths-info/x"),
    ("PUT", "/api/models/demo/tiny/paths-info/main"),
]


@pytest.mark.parametrize(("method", "path"), ESCAPES)
@pytest.mark.parametrize("passes_through", [False, True])
async def test_an_open_model_opens_nothing_beside_it(
    hub: LocalHub, tmp_path: Path, method: str, path: str, passes_through: bool
) -> None:
    async with HostileOrigin(lambda _: web.json_response({"secret": 1})) as origin:
        settings = {"access__open_models": NAME, "hub__pass_through": passes_through}
        env, where = {"HF_TOKEN": "hf_server"}, Origin(origin.endpoint + "/below")
        async with open_house(hub, tmp_path / "open", env, origin=where, **settings) as house:
            ask, kind = Asker(house.hub_endpoint), {"Content-Type": "application/json"}
            assert (await ask.get("/api/models/demo/tiny/refs")).status == 200
            answer = await ask.ask(method, path, kind, None if method == "GET" else b'{"paths": ["x"]}')

    assert answer.status in (404, 405) and b"secret" not in answer.body
    assert [request.path for request in origin.asked] == ["/below/api/models/demo/tiny/refs"]


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example/x",
        b"a@evil.example",
        b"evil example",
        b"",
        b"evil\texample",
        b"x" * 300,
        b"[::1",
        b"h:99999999",
    ],
)  # fmt: skip
async def test_a_host_that_is_none_is_refused(house: House, host: bytes) -> None:
    said = b"GET /api/models/demo/tiny HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"

    assert b" 400 " in (await talk(house, said)).partition(b"\r\n")[0]


async def test_only_named_hosts_are_answered_where_names_are_given(hub: LocalHub, tmp_path: Path) -> None:
    settings = {
        "server__allowed_hosts": "models.example,127.0.0.1",
        "server__public_url": "https://models.example",
    }
    async with open_house(hub, tmp_path / "named", **settings) as house:
        ask = Asker(house.hub_endpoint)
        assert (await ask.get("/api/models/demo/tiny")).status == 200
        assert (await ask.get("/api/models/demo/tiny", Host="models.example:443")).status == 200
        assert (await ask.get("/api/models/demo/tiny", Host="evil.example")).status == 421


@pytest.mark.parametrize(
    "path",
    [
        "/demo/tiny/resolve/main/x%0d%0aSet-Cookie:%20a=b",
        "/demo/tiny/resolve/main%0d%0aX-Repo-Commit:%20evil/config.json",
        "/demo/x%0d%0a%0d%0a<script>/resolve/main/config.json",
        "/api/models/demo/tiny/revision/x%0d%0aEvil:%201",
        "/api/models/demo/%0aEvil:1",
    ],
)
async def test_nothing_that_is_asked_splits_an_answer(ask: Asker, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await ask.ask(method, path)
        assert answer.status in (400, 404)
        assert not {"set-cookie", "evil"} & answer.headers.keys()
        assert "evil" not in answer.headers.get("x-repo-commit", "")


@pytest.mark.parametrize("name", ["f%C3%BC", "%F0%9F%98%80", "%C2%85x", "%E2%80%A8x"])
async def test_no_answer_has_a_head_that_is_no_plain_text(house: House, ask: Asker, name: str) -> None:
    commit = (await ask.head(f"/{NAME}/resolve/main/{LARGE}")).headers["x-repo-commit"]
    path = f"/{NAME}/resolve/{commit}/{name}"
    assert (await ask.head(path)).status == 404
    said = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"  # now that is known here

    head = (await talk(house, said.encode())).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 404 ")
    assert all(32 <= byte < 127 for line in head.split(b"\r\n") for byte in line), head


async def test_a_thousand_ranges_are_one_answer(house: House, ask: Asker) -> None:
    await ask.get(f"/{NAME}/resolve/main/{LARGE}")
    bomb = "bytes=" + ",".join(f"{n}-" for n in range(1000))

    answer = await ask.get(f"/{NAME}/resolve/main/{LARGE}", Range=bomb)

    assert answer.status == 200 and answer.body == FILES[LARGE]
    huge = await ask.get(f"/{NAME}/resolve/main/{LARGE}", Range="bytes=" + "1," * 5000)
    assert huge.status in (400, 431)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize(
    ("path", "header"),
    [
        (b"", b"Authorization: Bearer \xff\xfe"), (b"", b"Authorization: \xe4"), (b"", b"Content-Type: \xff"),
        (b"", b"Via: 1.1 \xff"), (b"", b"If-None-Match: \xff"), (b"", b"Range: bytes=\xff-"),
        (b"?x=\xff", b"A: b"), (b"/\xff", b"A: b"), (b"/%ff", b"A: b"), (b"?\xc3\xa4", b"A: b"),
    ],
)  # fmt: skip
async def test_bytes_that_are_no_text_are_the_callers_own(
    house: House, method: bytes, path: bytes, header: bytes
) -> None:
    body = b'{"paths": ["x"]}'
    rest = header + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    for address in (
        b"/api/models/demo/tiny/paths-info/main",
        b"/api/models/demo/tiny/tree/main",
        b"/demo/tiny/resolve/main/config.json",
    ):
        answer = await talk(house, b"%s %s HTTP/1.1\r\nHost: x\r\n%s" % (method, address + path, rest))
        status = int(answer.split()[1])
        assert status < 500 and (b"Authorization" not in header or status in (400, 401)), answer


@pytest.mark.parametrize("said", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b""])
async def test_who_does_not_end_his_question_is_not_waited_for(
    hub: LocalHub, tmp_path: Path, said: bytes
) -> None:
    async with open_house(hub, tmp_path / "quick", origin=Origin(silent_seconds=1.0)) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.data_port)
        began = time.monotonic()
        writer.write(said)
        with suppress(ConnectionError):
            while time.monotonic() - began < 20:
                writer.write(b"a")
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        if not await reader.read(1):
                            break
        writer.close()
    assert time.monotonic() - began < 15


async def test_a_question_too_long_or_too_many_paths_are_refused(ask: Asker) -> None:
    path, kind = "/api/models/demo/tiny/paths-info/main", {"Content-Type": "application/json"}
    long = json.dumps({"paths": ["x" * 1_100_000]})
    many = json.dumps({"paths": ["x"] * 20_000})

    assert (await ask.ask("POST", path, kind, long)).status == 413
    assert (await ask.ask("POST", path, kind, many)).status == 400
    for said in ("[", "[]", '{"paths": 5}', '{"paths": null}', "1" * 100, "[" * 100_000, "\u0000"):
        assert (await ask.ask("POST", path, kind, said)).status == 400, said[:20]


async def test_what_was_packed_small_is_not_unpacked(house: House, ask: Asker) -> None:
    path = "/api/models/demo/tiny/paths-info/main"
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    answer = await ask.ask("POST", path, headers, gzip.compress(b'{"paths": ["' + b"x" * 50_000_000 + b'"]}'))

    assert answer.status == 400


# -- where the origin is the enemy


OF_SIX_BYTES = {"X-Repo-Commit": "a" * 40, "X-Linked-Etag": f'"{"0" * 64}"', "X-Linked-Size": "6"}


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/elsewhere", "http://localhost:{port}/elsewhere", "http://localhost:1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/x", "http://[::1]/x", "file:///etc/passwd", "ftp://example.com/x", "http://0.0.0.0/x",
        "//user:pass@127.0.0.1/x", "http://%31%32%37.0.0.1/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["look-up", "body", "api"])
async def test_a_hostile_redirect_is_not_followed(
    hub: LocalHub, tmp_path: Path, target: str, kind: str
) -> None:
    async with HostileOrigin(lambda _: web.Response(status=200, text="secret")) as other:
        location = target.format(port=other.endpoint.rpartition(":")[2])

        def lead_away(request: web.Request) -> web.Response:
            if kind == "body" and request.method == "HEAD":
                return web.Response(headers=OF_SIX_BYTES)
            return web.Response(status=302, headers={**OF_SIX_BYTES, "Location": location})

        async with HostileOrigin(lead_away) as origin:
            named = origin.endpoint.replace("127.0.0.1", "localhost")
            leading = Origin(named, redirect_hosts=())
            async with open_house(hub, tmp_path / "led", origin=leading) as house:
                ask = Asker(house.hub_endpoint, "hf_secret")
                path = "/api/models/demo/tiny" if kind == "api" else f"/{NAME}/resolve/main/{LARGE}"
                answer = await ask.get(path)
        assert (answer.status, b"secret" in answer.body) == (403, False)
        assert "redirect" in answer.headers["x-error-message"]
        asked = {"look-up": ["HEAD"], "body": ["HEAD", "GET"], "api": ["GET"]}[kind]
        assert [request.method for request in origin.asked][: len(asked)] == asked
        assert other.asked == []


async def test_a_redirect_to_the_origin_itself_is_followed(hub: LocalHub, tmp_path: Path) -> None:
    def lead_on(request: web.Request) -> web.Response:
        if request.path == "/elsewhere":
            return web.Response(text='{"id": "demo/tiny"}', content_type="application/json")
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with HostileOrigin(lead_on) as origin:
        leading = Origin(origin.endpoint, redirect_hosts=())
        async with open_house(hub, tmp_path / "led", origin=leading) as house:
            answer = await Asker(house.hub_endpoint).get("/api/models/demo/tiny")
    assert (answer.status, answer.body) == (200, b'{"id": "demo/tiny"}')


async def test_bytes_are_not_fetched_where_the_origin_may_not_lead(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path / "led", origin=Origin(redirect_hosts=())) as house:
        answer = await Asker(house.hub_endpoint).get(f"/{NAME}/resolve/main/{LARGE}")
    assert answer.status == 403 and "redirect" in answer.headers["x-error-message"]
    assert hub.log.of("body") == []


async def test_redirects_end(hub: LocalHub, tmp_path: Path) -> None:
    location = {"Location": f"/{NAME}/resolve/main/{LARGE}"}
    async with (
        HostileOrigin(lambda _: web.Response(status=302, headers=location)) as origin,
        open_house(hub, tmp_path / "led", origin=Origin(origin.endpoint)) as house,
    ):
        answer = await Asker(house.hub_endpoint).get(f"/{NAME}/resolve/main/{LARGE}")
    assert answer.status == 403 and len(origin.asked) <= 6


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Repo-Commit": "main", "ETag": '"a"'},
        {"X-Repo-Commit": "a" * 40},
        {"X-Repo-Commit": "a" * 40, "ETag": '"a b\u00e4"', "X-Linked-Size": "5"},
        {"X-Repo-Commit": "a" * 40, "ETag": '"a"', "X-Linked-Size": "-5"},
        {"X-Repo-Commit": "a" * 40, "ETag": '"a"', "X-Linked-Size": "9" * 30},
        {"X-Repo-Commit": "../../etc", "ETag": '"a"', "X-Linked-Size": "5"},
    ],
)
async def test_an_origin_that_talks_nonsense_is_not_repeated(
    hub: LocalHub, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with (
        HostileOrigin(lambda _: web.Response(headers=headers)) as origin,
        open_house(hub, tmp_path / "led", origin=Origin(origin.endpoint)) as house,
    ):
        for method in ("HEAD", "GET"):
            answer = await Asker(house.hub_endpoint).ask(method, f"/{NAME}/resolve/main/{LARGE}")
            assert answer.status == 502 and "x-repo-commit" not in answer.headers


@pytest.mark.parametrize(
    "row", [{"path": "\ud800"}, {"xetHash": "\ud800"}, {"xetHash": "a", "path": "\udfff"}]
)
async def test_a_list_with_half_a_character_is_no_defect_of_ours(
    hub: LocalHub, tmp_path: Path, row: dict[str, str]
) -> None:
    listed = [{"type": "file", "oid": "b" * 40, "size": 5, "path": "x", **row}]
    async with (
        HostileOrigin(lambda _: web.json_response(listed)) as origin,
        open_house(hub, tmp_path / "led", origin=Origin(origin.endpoint)) as house,
    ):
        answer = await Asker(house.hub_endpoint).get(f"/api/models/demo/tiny/tree/{'a' * 40}")

    assert answer.status == 200
    assert json.loads(answer.body) == [{k: v for k, v in listed[0].items() if k != "xetHash"}]


@pytest.mark.parametrize("said", ["1" * 5000 + "-2/10000000", "0-1/" + "9" * 5000, "\u0663-4/10000000"])
async def test_a_range_that_nothing_can_have_is_no_defect_of_ours(
    hub: LocalHub, tmp_path: Path, said: str
) -> None:
    sha256 = f'"{"b" * 64}"'
    named = {"X-Repo-Commit": "a" * 40, "X-Linked-Etag": sha256, "ETag": sha256, "X-Linked-Size": "10000000"}

    def answerer(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(headers=named)
        return web.Response(status=206, headers={"Content-Range": f"bytes {said}"}, body=b"abcde")

    async with (
        HostileOrigin(answerer) as origin,
        open_house(hub, tmp_path / "led", origin=Origin(origin.endpoint)) as house,
    ):
        answer = await Asker(house.hub_endpoint).get(f"/{NAME}/resolve/main/{LARGE}")

    assert answer.status == 502 and "another range" in answer.headers["x-error-message"]


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example/api/x", "http://evil.example/api/x", "http://h@evil.example/@y", "http://[bad/x",
        "{base}.evil.example/below/x", "{base}/elsewhere", "{base}/below", "{base}/below//evil.example/x",
        "file:///etc/passwd", "/api/models",
    ],
)  # fmt: skip
async def test_a_list_goes_on_nowhere_else(hub: LocalHub, tmp_path: Path, target: str) -> None:
    answerer = lambda _: web.json_response([], headers={"Link": f'<{link}>; rel="next"'})  # noqa: E731
    async with HostileOrigin(answerer) as origin:
        link = target.format(base=origin.endpoint)
        below = Origin(origin.endpoint + "/below")
        async with open_house(hub, tmp_path / "led", origin=below) as house:
            answer = await Asker(house.hub_endpoint).get("/api/models/demo/tiny/tree/main")

    assert answer.status == 502 and "link" not in answer.headers


@pytest.mark.parametrize("folder", ["", "/below", "/below/it/"])
@pytest.mark.parametrize(
    "target", ["{base}/api/m?cursor=a%2Fb", "m?cursor=a%2Fb", ".evil.example", "@evil.example"]
)
async def test_a_list_goes_on_at_this_server_wherever_the_origin_is(
    hub: LocalHub, tmp_path: Path, folder: str, target: str
) -> None:
    answerer = lambda _: web.json_response([], headers={"Link": f'<{link}>; rel="next"'})  # noqa: E731
    async with HostileOrigin(answerer) as origin:
        where = Origin(origin.endpoint + folder)
        link = target.format(base=where.endpoint.rstrip("/"))
        async with open_house(hub, tmp_path / "led", origin=where) as house:
            answer = await Asker(house.hub_endpoint).get("/api/models/demo/tiny/tree/main")

    here = "/api/" if target[0] == "{" else "/api/models/demo/tiny/tree/"
    last = target.rpartition("/api/")[2]
    assert answer.headers["link"] == f'<{house.hub_endpoint}{here}{last}>; rel="next"'


@pytest.mark.parametrize("status", [101, 201, 204, 206, 300, 304, 999])
async def test_only_an_answer_or_a_no_of_the_origin_is_repeated(
    hub: LocalHub, tmp_path: Path, status: int
) -> None:
    async with (
        HostileOrigin(lambda _: web.Response(status=status)) as origin,
        open_house(hub, tmp_path / "led", origin=Origin(origin.endpoint)) as house,
    ):
        answer = await Asker(house.hub_endpoint).get("/api/models/demo/tiny")

    assert answer.status == 502 and str(status) in answer.headers["x-error-message"]


@pytest.mark.parametrize("status", [200, 404])
async def test_what_the_origin_packs_unasked_is_not_handed_on(
    hub: LocalHub, tmp_path: Path, status: int
) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json", "X-Error-Code": "RepoNotFound"}
    packed = gzip.compress(b'{"id": "demo/tiny"}')
    async with (
        HostileOrigin(lambda _: web.Response(status=status, body=packed, headers=headers)) as origin,
        open_house(hub, tmp_path / "led", origin=Origin(origin.endpoint)) as house,
    ):
        for path in ("/api/models/demo/tiny", "/api/models/demo/tiny/commits/main", "/api/whoami-v2"):
            answer = await Asker(house.hub_endpoint).get(path)
            assert (answer.status, answer.code) == ((502, None) if status == 200 else (404, "RepoNotFound"))
            assert json.loads(answer.body)["error"]


async def test_an_endless_document_is_not_swallowed(hub: LocalHub, tmp_path: Path) -> None:
    body = b"[" + b'"x",' * 20_000_000 + b"1]"
    async with (
        HostileOrigin(lambda _: web.Response(body=body)) as origin,
        open_house(hub, tmp_path / "led", origin=Origin(origin.endpoint)) as house,
    ):
        answer = await Asker(house.hub_endpoint).get("/api/models/demo/tiny/tree/main")
    assert answer.status == 502


# -- loops


async def test_a_server_that_is_its_own_origin_says_so(hub: LocalHub, tmp_path: Path) -> None:
    port = closed_port()
    itself = Origin(f"http://127.0.0.1:{port}", data_port=port)
    async with open_house(hub, tmp_path / "loop", origin=itself) as house:
        ask = Asker(house.hub_endpoint)
        for path in (
            f"/{NAME}/resolve/main/{LARGE}",
            "/api/models/demo/tiny",
            "/api/models/demo/tiny/tree/main",
        ):
            answer = await ask.get(path)
            assert answer.status == 508 and "origin.endpoint" in answer.headers["x-error-message"]


async def test_two_servers_in_a_ring_end_it(hub: LocalHub, tmp_path: Path) -> None:
    ports = closed_port(), closed_port()
    first = Origin(f"http://127.0.0.1:{ports[1]}", data_port=ports[0])
    second = Origin(f"http://127.0.0.1:{ports[0]}", data_port=ports[1])
    async with (
        open_house(hub, tmp_path / "a", origin=first) as one,
        open_house(hub, tmp_path / "b", origin=second) as other,
    ):
        for house in (one, other):
            for path in (f"/{NAME}/resolve/main/{LARGE}", "/api/models/demo/tiny"):
                async with asyncio.timeout(20):
                    answer = await Asker(house.hub_endpoint).get(path)
                assert answer.status == 508


async def test_a_server_behind_a_server_is_no_loop(hub: LocalHub, tmp_path: Path) -> None:
    async with (
        open_house(hub, tmp_path / "near") as near,
        open_house(hub, tmp_path / "far", origin=Origin(near.hub_endpoint)) as far,
    ):
        answer = await Asker(far.hub_endpoint).get(f"/{NAME}/resolve/main/{LARGE}")
        async with far.client(tmp_path / "mine") as client:
            pulled = await client.pull(NAME)
        assert answer.body == (pulled.path / LARGE).read_bytes() == FILES[LARGE]
    assert hub.log.bytes_by_file()[f"{NAME}/{LARGE}"] == len(FILES[LARGE])


@pytest.mark.parametrize(("count", "status"), [(8, 200), (9, 508)])
async def test_no_more_than_eight_servers_stand_in_a_row(house: House, count: int, status: int) -> None:
    ask = Asker(house.hub_endpoint, headers={"Via": ", ".join(f"1.1 proxy-{n}" for n in range(count))})
    for path in (f"/{NAME}/resolve/main/{LARGE}", "/api/models/demo/tiny"):
        answer = await ask.get(path)
        assert answer.status == status
        if status == 508:
            assert "9 servers" in answer.headers["x-error-message"]
            assert "asked by itself" not in answer.headers["x-error-message"]


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
async def test_who_comes_by_a_way_that_is_too_long_spoils_it_for_nobody_else(
    hub: LocalHub, tmp_path: Path, is_known: bool
) -> None:
    async with (
        open_house(hub, tmp_path / "near") as near,
        open_house(hub, tmp_path / "far", origin=Origin(near.hub_endpoint), origin__revalidate=60) as far,
    ):
        honest, path = Asker(far.hub_endpoint), f"/{NAME}/resolve/main/{LARGE}"
        lost = Asker(far.hub_endpoint, headers={"Via": ", ".join(["1.1 a"] * 8)})
        if is_known:  # so that the bytes alone are asked for
            assert (await honest.head(path)).status == 200
        asked = await asyncio.gather(*(ask.get(path) for ask in (lost, honest, honest)))

    assert [answer.body for answer in asked[1:]] == [FILES[LARGE]] * 2


async def test_who_reads_wrong_bytes_in_ranges_never_gets_the_last_one(tmp_path: Path) -> None:
    repository = Repository(NAME)
    repository.commit({LARGE: bytes(9_000_000), SMALL: FILES[SMALL]})
    async with LocalHub([repository]) as hub, open_house(hub, tmp_path / "wrong") as house:
        hub.faults.add(Fault("wrong_bytes", "body", path=LARGE, after=100, times=None))
        ask, path = Asker(house.hub_endpoint), f"/{NAME}/resolve/main/{LARGE}"
        ranges = ("bytes=0-4499999", "bytes=4500000-8999999")
        first, last = await asyncio.gather(*(ask.get(path, Range=span) for span in ranges))

    assert first.status in (200, 206, 502)
    assert last.is_cut or last.status == 502
