# SPDX-License-Identifier: Apache-2.0
"""What addresses of a Hub mean, and that the origin is asked for nothing else than what was checked."""

from __future__ import annotations

import json
import time
from urllib.parse import unquote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelexpress.server.hub_paths import Refused, read_api_address, read_other_question, read_question

COMMIT = "a" * 40
WORDS = ["api", "models", "datasets", "demo", "tiny", "tree", "refs", "revision", "paths-info", "commits"]
ODD = ["main", "write", "..", ".", "", "%2e%2e", "..%2f..", "%2F", "..;", "a%5Cb", "x y", "%00"]
SEGMENTS = st.sampled_from([*WORDS, "auth-check", *ODD])


@pytest.mark.parametrize(
    ("asked", "origin"),
    [
        ("/api/models/demo/tiny", "api/models/demo/tiny"),
        ("/api/models/tiny", "api/models/tiny"),
        ("/api/datasets/demo/rows/refs", "api/datasets/demo/rows/refs"),
        ("/api/models/demo/tiny/revision/dev%2Fx", "api/models/demo/tiny/revision/dev%2Fx"),
        ("/api/models/demo/tiny/revision/refs/pr/1", "api/models/demo/tiny/revision/refs%2Fpr%2F1"),
        ("/api/models/demo/tiny/tree/main/a%20b/c", "api/models/demo/tiny/tree/main/a%20b%2Fc"),
        ("/api/models/demo/tiny/tree/main/", "api/models/demo/tiny/tree/main"),
        ("/api/models/demo/tiny/auth-check/write", "api/models/demo/tiny/auth-check/write"),
        ("/api/models/demo%2Ftiny/%63ommits/main", "api/models/demo/tiny/commits/main"),
        (f"/api/models/demo/tiny/paths-info/{COMMIT}", f"api/models/demo/tiny/paths-info/{COMMIT}"),
    ],
)
def test_the_address_at_the_origin_is_made_of_what_was_understood(asked: str, origin: str) -> None:
    address = read_api_address(asked)

    assert address is not None and address.path == origin


@pytest.mark.parametrize(
    "asked",
    [
        "/api/models/demo/tiny/refs/x",
        "/api/models/demo/tiny/auth-check/read",
        "/api/models/demo/tiny/commits/main/x",
        "/api/models/demo/tiny/revision/dev/x",
        f"/api/models/demo/tiny/paths-info/{COMMIT}/x",
        "/api/models/demo/tiny/refs/",
        "/api/models/demo/tiny/discussions",
    ],
)
def test_what_no_word_has_behind_it_is_no_question(asked: str) -> None:
    assert read_api_address(asked) is None


@given(st.lists(SEGMENTS, max_size=10), st.booleans())
def test_no_address_leads_elsewhere(segments: list[str], passes_through: bool) -> None:
    raw_path = "/" + "/".join(["api", *segments])
    try:
        address = read_api_address(raw_path)
        if address is not None:
            question = read_question(address, "", b'{"paths": []}', "application/json")
        else:
            found = read_other_question(raw_path, "", passes_through)
            if found is None:
                return
            question = found
    except Refused:
        return
    parts = unquote(question.request.path).split("/")
    assert not {"", ".", ".."} & set(parts) and "\\" not in question.request.path
    if question.ref is not None:
        kinds = ("datasets", "spaces")
        named = question.ref.name if question.ref.name.startswith(kinds) else f"models/{question.ref.name}"
        assert question.request.path.startswith(f"api/{named}")


@pytest.mark.parametrize("asked", ["/api/models/../../etc", "/api/%2e%2e/x", "/api/a/..%2f..%2fx", "/api//x"])
def test_what_is_passed_on_stays_below_the_api(asked: str) -> None:
    with pytest.raises(Refused):
        read_other_question(asked, "", passes_through=True)


PATHS_INFO = "/api/models/demo/tiny/paths-info/main"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FORM, b"a&" * 520_000),
        (FORM, b"a=1&" * 260_000),
        (FORM, b"paths=a&" * 130_000),
        (FORM, b"paths=" + b"%41" * 340_000),
        (JSON, b'{"paths":[' + b'"",' * 340_000 + b'""]}'),
        (JSON, b'{"paths":[' + b"[]," * 340_000 + b"[]]}"),
        (JSON, b'{"paths":[' + b",".join([b"9" * 4300] * 240) + b"]}"),
        (JSON, b'{"paths":["a"],"x":{' + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}}"),
    ],
)
def test_what_is_too_much_is_refused_before_it_is_read(kind: str, body: bytes) -> None:
    address = read_api_address(PATHS_INFO)
    assert address is not None
    began = time.thread_time()

    with pytest.raises(Refused) as refused:
        read_question(address, "", body, kind)

    assert refused.value.document.status == 400 and time.thread_time() - began < 0.05


@pytest.mark.parametrize("kind", [FORM, JSON])
def test_as_many_paths_as_may_be_asked_for_are_read(kind: str) -> None:
    address, paths = read_api_address(PATHS_INFO), tuple(f"a,b/{n}" for n in range(10_000))
    assert address is not None
    body = json.dumps({"paths": paths}) if kind == JSON else urlencode({"paths": paths}, doseq=True)

    assert read_question(address, "", body.encode(), kind).paths == paths


@pytest.mark.parametrize("said", ["5", "[5]", "[[]]", '[{"a": "b"}]', "[null]"])
def test_what_is_no_path_is_refused(said: str) -> None:
    address = read_api_address(PATHS_INFO)
    assert address is not None
    with pytest.raises(Refused):
        read_question(address, "", b'{"paths": %s}' % said.encode(), JSON)
