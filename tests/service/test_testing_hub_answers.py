# SPDX-License-Identifier: Apache-2.0
"""The local Hub's answers one by one: headers, redirects, ranges, and what it says to nonsense."""

from __future__ import annotations

import json
import logging
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp.http import HttpProcessingError
from huggingface_hub import snapshot_download
from tests.support.hub_client import Answer, address_of, ask

from modelexpress.testing.hub import HubOptions, LocalHub
from modelexpress.testing.hub.models import tiny_files, tiny_model

NAME = "demo/tiny"
WEIGHTS = "model.safetensors"
CONTENT = {path: text for path, text in tiny_files().items() if isinstance(text, bytes)}


@pytest.fixture(autouse=True)
def no_errors_are_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if is_error_of_the_hub(record)] == []


def is_error_of_the_hub(record: logging.LogRecord) -> bool:
    """Lines that are no HTTP never come to the hub: its HTTP library refuses them, and logs that."""
    cause = record.exc_info[1] if record.exc_info else None
    return record.levelno >= logging.ERROR and not isinstance(cause, HttpProcessingError)


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub([tiny_model(NAME)]).running_in_thread() as hub:
        yield hub


@pytest.fixture
def commit(hub: LocalHub) -> str:
    return hub._repositories[NAME].branches["main"]


def without_date(answer: Answer) -> dict[str, str]:
    # The length of a redirect's body is nobody's concern, and an address is another one every time.
    passing = ("date", "location", "content-length") if "location" in answer.headers else ("date",)
    return {name: value for name, value in answer.headers.items() if name not in passing}


def test_a_small_file_is_redirected_on_the_hub_itself(hub: LocalHub, commit: str) -> None:
    file = hub._repositories[NAME].files(commit)["config.json"]
    redirect = ask(hub, f"/{NAME}/resolve/main/config.json")
    target = redirect.headers["location"]
    answer = ask(hub, target)

    assert redirect.status == 307 and target.startswith(
        f"/api/resolve-cache/models/{NAME}/{commit}/config.json"
    )
    assert redirect.headers["x-repo-commit"] == answer.headers["x-repo-commit"] == commit
    assert redirect.headers["x-linked-etag"] == answer.headers["etag"] == f'"{file.blob_id}"'
    assert (answer.status, answer.body) == (200, CONTENT["config.json"])
    assert answer.headers["content-length"] == str(file.size)
    assert answer.headers["accept-ranges"] == "bytes"


def test_an_lfs_file_is_redirected_to_another_host_with_its_size_and_digest(
    hub: LocalHub, commit: str
) -> None:
    file = hub._repositories[NAME].files(commit)[WEIGHTS]
    redirect = ask(hub, f"/{NAME}/resolve/main/{WEIGHTS}")
    target = redirect.headers["location"]
    answer = ask(hub, target)

    assert redirect.status == 302 and urlsplit(target).hostname == "localhost"
    assert urlsplit(target).hostname != urlsplit(hub.endpoint).hostname
    assert redirect.headers["x-repo-commit"] == commit
    assert redirect.headers["x-linked-size"] == str(file.size)
    assert redirect.headers["x-linked-etag"] == f'"{file.sha256}"'
    assert (answer.status, answer.body) == (200, CONTENT[WEIGHTS])
    # The etag of a CDN is its own, and says nothing about the content.
    assert answer.headers["etag"].strip('"') not in (file.sha256, file.blob_id)
    assert "x-repo-commit" not in answer.headers
    assert address_of(hub, NAME, WEIGHTS) != target


def test_without_a_cdn_an_lfs_file_is_served_in_place() -> None:
    with LocalHub([tiny_model(NAME)], HubOptions(has_cdn=False)).running_in_thread() as hub:
        commit = hub._repositories[NAME].branches["main"]
        file = hub._repositories[NAME].files(commit)[WEIGHTS]
        answer = ask(hub, f"/{NAME}/resolve/main/{WEIGHTS}")
        part = ask(hub, f"/{NAME}/resolve/main/{WEIGHTS}", Range="bytes=10-19")

        assert (answer.status, answer.body) == (200, CONTENT[WEIGHTS])
        assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{file.sha256}"'
        assert answer.headers["content-length"] == answer.headers["x-linked-size"] == str(file.size)
        assert (part.status, part.body) == (206, CONTENT[WEIGHTS][10:20])
        assert hub.log.bytes_sent == file.size + 10
        assert [r.status for r in hub.log.of("resolve")] == [200, 200]
        assert [r.status for r in hub.log.of("body")] == [200, 206]


@pytest.mark.parametrize("has_cdn", [True, False])
def test_head_is_get_without_the_body(has_cdn: bool) -> None:
    with LocalHub([tiny_model(NAME)], HubOptions(has_cdn=has_cdn)).running_in_thread() as hub:
        for file in ("config.json", "empty.txt", WEIGHTS):
            paths = [f"/{NAME}/resolve/main/{file}", f"/api/models/{NAME}", f"/api/models/{NAME}/tree/main"]
            if "location" in ask(hub, paths[0]).headers:
                paths.append(address_of(hub, NAME, file))
            hub.log.clear()
            heads = [ask(hub, path, "HEAD") for path in paths]
            assert hub.log.bytes_sent == 0
            for head, get in zip(heads, [ask(hub, path) for path in paths], strict=True):
                assert head.body == b"" and head.status == get.status
                assert without_date(head) == without_date(get)
                assert "location" in get.headers or head.headers["content-length"] == str(len(get.body))


def test_the_token_is_for_the_hub_and_not_for_the_cdn(hub: LocalHub) -> None:
    hub.grant("hf_member")
    target = ask(hub, f"/{NAME}/resolve/main/{WEIGHTS}", token="hf_member").headers["location"]

    assert ask(hub, target, token="hf_member").status == 400
    assert ask(hub, target).status == 200
    assert [r.token for r in hub.log.of("resolve")] == ["hf_member"]


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-", 0, 100_000),
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=99999-", 99_999, 100_000),
        ("bytes=99990-200000", 99_990, 100_000),
        ("bytes=-10", 99_990, 100_000),
        ("bytes=-200000", 0, 100_000),
    ],
)
def test_a_range_is_answered_with_exactly_that(hub: LocalHub, wanted: str, start: int, end: int) -> None:
    hub._repositories[NAME].commit({"w.bin": bytes(n % 251 for n in range(100_000))})
    whole = bytes(n % 251 for n in range(100_000))
    answer = ask(hub, address_of(hub, NAME, "w.bin"), Range=wanted)

    assert (answer.status, answer.body) == (206, whole[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/100000"
    assert answer.headers["content-length"] == str(end - start)
    assert hub.log.bytes_sent == end - start and hub.log.of("body")[0].range == wanted


@pytest.mark.parametrize("wanted", ["bytes=11-", "bytes=11-20", "bytes=12-12", "bytes=-0"])
def test_a_range_beyond_the_end_is_not_satisfiable(hub: LocalHub, wanted: str) -> None:
    hub._repositories[NAME].commit({"f.txt": b"0123456789", "empty.txt": b""})
    for file, size in (("f.txt", 10), ("empty.txt", 0)):
        answer = ask(hub, address_of(hub, NAME, file), Range=wanted)
        assert (answer.status, answer.body) == (416, b"")
        assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    "wanted",
    ["", "bytes=", "bytes=-", "bytes=5-3", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=" + "9" * 5000],
)
@pytest.mark.parametrize("file", ["config.json", "empty.txt", WEIGHTS])
def test_a_range_that_means_nothing_gets_the_whole_file(hub: LocalHub, wanted: str, file: str) -> None:
    answer = ask(hub, address_of(hub, NAME, file), Range=wanted)

    assert (answer.status, answer.body) == (200, CONTENT[file])
    assert "content-range" not in answer.headers


def test_the_log_names_file_kind_and_caller(hub: LocalHub) -> None:
    hub.grant("hf_member")
    ask(hub, f"/api/models/{NAME}", token="hf_member", Via="1.1 me")
    ask(hub, f"/api/models/{NAME}/tree/main")
    ask(hub, address_of(hub, NAME, WEIGHTS), Range="bytes=0-9")
    ask(hub, "/demo/nothing/resolve/main/f", "HEAD")
    seen = [(r.kind, r.method, r.repository, r.file, r.status, r.bytes_sent) for r in hub.log.requests]

    assert seen == [
        ("api", "GET", NAME, "", 200, 0),
        ("tree", "GET", NAME, "", 200, 0),
        ("resolve", "GET", NAME, WEIGHTS, 302, 0),
        ("body", "GET", NAME, WEIGHTS, 206, 10),
        ("resolve", "HEAD", "demo/nothing", "f", 401, 0),
    ]
    assert (hub.log.requests[0].token, hub.log.requests[0].via) == ("hf_member", "1.1 me")
    assert json.loads(ask(hub, "/-/sent").body) == {"bytes_sent": 10}
    hub.log.clear()
    assert json.loads(ask(hub, "/-/sent").body) == {"bytes_sent": 0}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("//", 404),
        ("/nothing", 404),
        ("/-/", 404),
        ("/-/sent/more", 404),
        ("/cdn", 404),
        ("/cdn/", 403),
        ("/cdn/nothing", 403),
        ("/cdn/nothing/more", 404),
        ("/api", 404),
        ("/api/datasets/demo/tiny", 401),
        ("/api/spaces/demo/tiny", 401),
        ("/api/kernels/demo/tiny", 404),
        ("/api/models/", 401),
        ("/api/models/datasets/demo/tiny", 404),
        ("/api/models?limit=0", 400),
        ("/api/models?limit=x", 400),
        ("/api/models?cursor=x", 400),
        ("/api/models?cursor=9", 200),
        ("/api/models?expand=nothing", 400),
        ("/api/models?expand=citation", 400),
        ("/api/models/demo/tiny?expand=sha&expand[]=nothing", 400),
        ("/api/models/demo/tiny/commits", 200),
        ("/api/models/demo/tiny/commits/nothing", 404),
        ("/api/models/demo/tiny/commits/main?p=x", 400),
        ("/api/models/demo/tiny/commits/main?limit=-1", 400),
        ("/api/models/demo/tiny/commits/main?p=7", 200),
        ("/api/models/demo/tiny/xet-read-token/main", 404),
        ("/api/models/demo/tiny/xet-write-token/main", 404),
        ("/api/models/demo/tiny/revision/", 404),
        ("/api/models/demo/tiny/revision/a%0d%0aSet-Cookie:%20a=b", 404),
        ("/api/models/demo/tiny/revision/%C3%BC%FF%zz%", 404),
        ("/api/models/demo/tiny/tree", 200),
        ("/api/models/demo/tiny/tree/main?cursor=-1", 400),
        ("/api/models/demo/tiny/tree/main?cursor=%C2%B2", 400),
        ("/api/models/demo/tiny/tree/main?cursor=999999", 200),
        ("/api/models/demo/tiny/tree/main/nothing", 404),
        ("/api/models/..%2f..%2fetc%2fpasswd", 401),
        ("/api/whoami-v2", 401),
        ("/api/whoami-v2/more", 404),
        ("/api/resolve-cache", 404),
        ("/api/resolve-cache/models/demo/tiny", 404),
        ("/api/resolve-cache/models/demo/tiny/main/config.json", 404),
        ("/api/resolve-cache/models/demo/tiny/" + "0" * 40 + "/config.json", 404),
        ("/api/resolve-cache/datasets/demo/tiny/" + "0" * 40 + "/config.json", 401),
        ("/api/resolve-cache/buckets/demo/tiny/" + "0" * 40 + "/config.json", 404),
        ("/datasets/demo/tiny/resolve/main/config.json", 401),
        ("/datasets/resolve/main/config.json", 404),
        ("/models/demo/tiny/resolve/main/config.json", 404),
        ("/demo/tiny/raw/main", 404),
        ("/demo/tiny/raw/main/nothing", 404),
        ("/demo/tiny/raw/nothing/config.json", 404),
        ("/demo/tiny/blob/main/config.json", 404),
        ("/demo/tiny/resolve", 404),
        ("/demo/tiny/resolve/main", 404),
        ("/demo/tiny/resolve/main/", 404),
        ("/demo/tiny/resolve/main/../../../../etc/passwd", 404),
        ("/demo/tiny/resolve/main/..%2f..%2fetc%2fpasswd", 404),
        ("/demo/tiny/resolve/main//etc/passwd", 404),
        ("/demo/tiny/resolve/main/%zz%", 404),
        ("/demo/tiny/resolve/main/%00", 404),
        ("/demo/tiny/resolve/main/%0d%0aX-A:%20b", 404),
        ("/../demo/tiny/resolve/main/config.json", 404),
        ("/demo/./resolve/main/config.json", 401),
    ],
)
def test_a_page_that_does_not_exist_is_refused_in_order(hub: LocalHub, path: str, status: int) -> None:
    answer = ask(hub, path)

    assert answer.status == status
    assert "set-cookie" not in answer.headers and b"root:" not in answer.body


def test_nothing_is_ever_sent_from_outside_the_published_directory(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_bytes(b"secret")
    for start in ("/demo/tiny/resolve/main/", "/api/models/demo/tiny/tree/main/", "/cdn/", "/"):
        for up in ("../" * 12, "%2e%2e/" * 12, "..%2f" * 12, "/"):
            answer = ask(hub, f"{start}{up}{str(tmp_path).lstrip('/')}/secret.txt")
            assert answer.status in (400, 403, 404, 401) and b"secret" not in answer.body.replace(
                b"secret.txt", b""
            )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", f"/api/models/{NAME}", f"/{NAME}/resolve/main/config.json", "/cdn/x"])
def test_nothing_can_be_done_but_reading(hub: LocalHub, method: str, path: str) -> None:
    answer = ask(hub, path, method, body=b"x")

    assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD"
    assert hub.log.requests == []


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"paths=config.json&expand=False", "application/x-www-form-urlencoded", 200),
        (b'{"paths": ["config.json"], "expand": false}', "application/json", 200),
        (b'{"paths": "config.json"}', "application/json", 200),
        (b"", "application/x-www-form-urlencoded", 400),
        (b"path=config.json", "application/x-www-form-urlencoded", 400),
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"paths": null}', "application/json", 400),
        (b'{"paths": [[]]}', "application/json", 400),
        (b'{"paths": ["config.json"]}', "application/json; charset=nonsense", 400),
        (b"paths=config.json", "multipart/form-data", 400),
        (b"paths=config.json", "nonsense", 400),
        (b"paths=" + b"x" * 2**21, "application/x-www-form-urlencoded", 413),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_paths_info_understands_its_question_or_says_so(
    hub: LocalHub, body: bytes, kind: str, status: int
) -> None:
    answer = ask(hub, f"/api/models/{NAME}/paths-info/main", "POST", body, Content_Type=kind)

    assert answer.status == status
    assert status != 200 or [row["path"] for row in json.loads(answer.body)] == ["config.json"]
    assert ask(hub, f"/api/models/{NAME}/paths-info/main").status == 405


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /demo/tiny/resolve/main/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/models/demo/tiny/revision/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/models/old/name/revision/\xff%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/models/demo/tiny/tree/main HTTP/1.1\r\nHost: a b:c:d\r\n\r\n",
        b"GET /api/models/demo/tiny HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n\r\n",
        b"GET http://elsewhere/api/models/demo/tiny HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT demo:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  \r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_nonsense_on_the_wire_is_no_error_of_the_hub(hub: LocalHub, raw: bytes) -> None:
    hub.add(tiny_model("old/name"))
    hub.rename("old/name", "new/name")
    with socket.create_connection(("127.0.0.1", urlsplit(hub.endpoint).port or 0), timeout=20) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert not said or said.startswith((b"HTTP/1.0 ", b"HTTP/1.1 "))
    assert b" 500 " not in said[:20]
    assert ask(hub, f"/api/models/{NAME}").status == 200


@pytest.mark.prove
def test_whatever_is_asked_the_hub_answers_without_failing(
    hub: LocalHub, proof_count: Callable[[int], int]
) -> None:
    words = ["api", "models", "demo", "tiny", "resolve", "resolve-cache", "tree", "main", "cdn", "refs", "-"]
    words += [
        "revision",
        "paths-info",
        "auth-check",
        "whoami-v2",
        "datasets",
        "spaces",
        "raw",
        "commits",
        "xet-read-token",
        "config.json",
        "sent",
        "..",
        ".",
        "",
        "%",
        "%2f",
    ]
    words += [
        "%0a",
        "%ff",
        "%2e%2e",
        "x" * 3000,
        "0" * 40,
        "?cursor=1&cursor=x",
        "?expand=sha&expand=x&limit=1&p=9",
        "#",
        ";",
        "*",
        "~",
        "a%20b",
        WEIGHTS,
    ]
    for seed in range(proof_count(300)):
        chance = random.Random(seed)
        path = "/" + "/".join(chance.choices(words, k=chance.randrange(8)))
        method = chance.choice(["GET", "HEAD", "POST"])
        headers = {"Range": chance.choice(["bytes=0-1", "bytes=-", "x", "bytes=99999999999-"])}
        answer = ask(hub, path, method, b"paths=onnx" if method == "POST" else None, **headers)
        assert answer.status < 500, (seed, method, path)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    model = tmp_path / "published" / "demo" / "tiny"
    for path, content in CONTENT.items():
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_bytes(content)
    (tmp_path / "published" / "other").mkdir()
    (tmp_path / "published" / "other" / "linked").symlink_to(model, target_is_directory=True)
    return tmp_path / "published"


def serve(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "modelexpress.testing.hub", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Process(LocalHub):
    """A hub in another process, for `ask`."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    @property
    def endpoint(self) -> str:
        return self._endpoint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_a_process_it_serves_a_directory_until_a_signal(
    published: Path, tmp_path: Path, number: int
) -> None:
    with serve("--directory", published) as process:
        assert process.stdout is not None
        words, _, endpoint = process.stdout.readline().strip().rpartition(" ")
        hub = Process(endpoint)
        assert words == "listening on"
        for name in ("demo/tiny", "other/linked"):
            snapshot = Path(snapshot_download(name, cache_dir=tmp_path / "c", endpoint=endpoint, token=False))
            found = {
                path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()
            }
            assert {path: file.read_bytes() for path, file in found.items()} == CONTENT
        sent = json.loads(ask(hub, "/-/sent").body)
        process.send_signal(number)
        said, complaints = process.communicate(timeout=20)

    assert sent == {"bytes_sent": 2 * sum(map(len, CONTENT.values()))}
    assert (process.returncode, said, complaints) == (0, "", "")


@pytest.mark.parametrize("flag", ["--throttle", "--total-rate"])
def test_as_a_process_it_can_be_slow_and_stops_all_the_same(published: Path, flag: str) -> None:
    with serve("--directory", published, flag, "1000") as process:
        assert process.stdout is not None
        hub = Process(process.stdout.readline().strip().rpartition(" ")[2])
        address = urlsplit(address_of(hub, NAME, WEIGHTS))
        with socket.create_connection(("127.0.0.1", address.port or 0), timeout=20) as connection:
            connection.sendall(f"GET {address.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = connection.recv(4096)
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            sent = json.loads(ask(hub, "/-/sent").body)["bytes_sent"]
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=20)

    assert head.startswith(b"HTTP/1.1 200") and sent < len(CONTENT[WEIGHTS]) // 2
    assert (process.returncode, complaints) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--directory", "/nowhere"], ["--directory", "/", "--port", "x"]])
def test_as_a_process_it_refuses_what_it_cannot_serve(arguments: list[str]) -> None:
    with serve(*arguments) as process:
        said, complaints = process.communicate(timeout=20)

    assert process.returncode == 2 and said == ""
    assert "usage:" in complaints and "Traceback" not in complaints
