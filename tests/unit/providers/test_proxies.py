# SPDX-License-Identifier: Apache-2.0
"""Which requests go through which proxy, by the usual variables."""

from __future__ import annotations

import pytest
from yarl import URL

from modelexpress.domain.errors import Invalid
from modelexpress.providers.proxies import find_proxy, find_proxy_places

HTTPS = URL("https://huggingface.co/api/models/a/b")
HTTP = URL("http://mirror.example/api/models/a/b")


def test_without_variables_there_is_no_proxy() -> None:
    assert find_proxy(HTTPS, {}) is None
    assert find_proxy(HTTPS, {"HTTPS_PROXY": " ", "https_proxy": ""}) is None
    assert find_proxy_places({}) == frozenset()


def test_each_scheme_has_its_own_proxy() -> None:
    env = {"HTTPS_PROXY": "http://secure:3128", "HTTP_PROXY": "http://plain:3128"}

    assert find_proxy(HTTPS, env) == URL("http://secure:3128")
    assert find_proxy(HTTP, env) == URL("http://plain:3128")
    assert find_proxy(HTTP, {"HTTPS_PROXY": "http://secure:3128"}) is None


def test_all_proxy_is_for_what_has_none_of_its_own() -> None:
    env = {"ALL_PROXY": "http://all:1", "HTTP_PROXY": "http://plain:2"}

    assert find_proxy(HTTPS, env) == URL("http://all:1")
    assert find_proxy(HTTP, env) == URL("http://plain:2")
    assert find_proxy_places(env) == {("all", 1), ("plain", 2)}


def test_the_lower_case_spelling_wins() -> None:
    env = {"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}

    assert find_proxy(HTTPS, env) == URL("http://lower:2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("https://proxy.example:443", "https://proxy.example:443"),
        ("http://user:secret@proxy.example:3128", "http://user:secret@proxy.example:3128"),
        (" http://proxy.example:3128\n", "http://proxy.example:3128"),
        ("http://[::1]:3128", "http://[::1]:3128"),
    ],
)
def test_a_proxy_may_be_written_in_several_ways(text: str, expected: str) -> None:
    assert find_proxy(HTTPS, {"HTTPS_PROXY": text}) == URL(expected)


@pytest.mark.parametrize(
    "text", ["socks5://user:secret@proxy:1080", "http://", "http://[::1", "file:///secret"]
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable_and_not_shown(name: str, text: str) -> None:
    for find in (lambda env: find_proxy(HTTPS, env), find_proxy_places):
        with pytest.raises(Invalid) as refusal:
            find({name: text})

        assert name.upper() in refusal.value.message
        assert "secret" not in refusal.value.message


@pytest.mark.parametrize(
    ("excluded", "is_direct"),
    [
        ("*", True),
        ("huggingface.co", True),
        (".co", True),
        ("co", True),
        ("example.org, huggingface.co", True),
        ("huggingface.co:443", True),
        ("huggingface.co:8443", False),
        ("ggingface.co", False),
        ("cdn.huggingface.co", False),
        ("example.org", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_names_what_is_asked_directly(name: str, excluded: str, is_direct: bool) -> None:
    env = {"HTTPS_PROXY": "http://proxy:3128", name: excluded}

    assert (find_proxy(HTTPS, env) is None) is is_direct


def test_no_proxy_holds_for_all_kinds_of_proxies_and_for_addresses() -> None:
    env = {"ALL_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.7,::1"}

    assert find_proxy(URL("http://10.0.0.7:8080/"), env) is None
    assert find_proxy(URL("http://[::1]:8080/"), env) is None
    assert find_proxy(URL("http://10.0.0.8:8080/"), env) == URL("http://proxy:3128")


def test_the_places_of_all_proxies_are_known() -> None:
    env = {"HTTPS_PROXY": "http://u:p@a.internal:3128", "http_proxy": "b.internal:8080", "ALL_PROXY": ""}

    assert find_proxy_places(env) == {("a.internal", 3128), ("b.internal", 8080)}
