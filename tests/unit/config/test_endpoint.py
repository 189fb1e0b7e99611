# SPDX-License-Identifier: Apache-2.0
"""One resolver decides which server a client talks to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modelexpress.config.endpoint import ENDPOINT_ENV, resolve_endpoint
from modelexpress.config.table import get_setting
from modelexpress.domain.errors import Invalid


def test_sources_rank_flag_then_variables_then_file_then_init_file_then_localhost() -> None:
    env = {name: f"env{rank}:1" for rank, name in enumerate(ENDPOINT_ENV)}
    assert resolve_endpoint("flag:1", env, "file:1", "init:1").host == "flag"
    for rank, name in enumerate(ENDPOINT_ENV):
        found = resolve_endpoint(None, env, "file:1", "init:1")
        assert (found.host, found.source) == (f"env{rank}", f"env {name}")
        del env[name]
    assert resolve_endpoint(None, env, "file:1", "init:1").source == "file"
    assert resolve_endpoint(None, env, None, "init:1").source == "init file"
    assert resolve_endpoint(None, env).url == "http://localhost:8001"


def test_the_table_lists_the_variables_in_the_resolvers_order() -> None:
    assert get_setting("connection.endpoint").env == ENDPOINT_ENV


@pytest.mark.parametrize(
    ("text", "url", "host", "port"),
    [
        ("server:9000", "http://server:9000", "server", 9000),
        ("  http://server:9000  ", "http://server:9000", "server", 9000),
        ("http://server:9000/", "http://server:9000", "server", 9000),
        ("server", "http://server:8001", "server", 8001),
        ("HTTP://Server", "http://server:8001", "server", 8001),
        ("10.0.0.7:8001", "http://10.0.0.7:8001", "10.0.0.7", 8001),
        ("[::1]:9000", "http://[::1]:9000", "::1", 9000),
        ("http://[fd00::7]", "http://[fd00::7]:8001", "fd00::7", 8001),
        ("model_express.svc.cluster.local:1", "http://model_express.svc.cluster.local:1",
         "model_express.svc.cluster.local", 1),
    ],
)  # fmt: skip
def test_addresses_are_brought_into_one_form(text: str, url: str, host: str, port: int) -> None:
    found = resolve_endpoint(text, {})
    assert (found.url, found.host, found.port) == (url, host, port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("https://server:8001", "TLS"),
        ("grpc://server:8001", "scheme 'grpc'"),
        ("unix:///run/x", "scheme 'unix'"),
        ("http://", "no host"),
        (":8001", "no host"),
        ("server:0", "port"),
        ("server:", "port"),
        ("server:65536", "port"),
        ("server:abc", "port"),
        ("server:8001/models", "goes on after the port"),
        ("server:8001?x=1", "goes on after the port"),
        ("server:8001#", "goes on after the port"),
        ("user:secret@server:8001", "credentials"),
        ("http://secret@server", "credentials"),
        ("::1", "brackets"),
        ("fd00::7:8001", "brackets"),
        ("[::1", "brackets"),
        ("a b:8001", "blank"),
        ("ser\0ver", "control"),
        ("sérver:8001", "ASCII"),
        ("999.1.1.1:8001", "neither a host name nor an IP address"),
        ("-server:8001", "neither a host name nor an IP address"),
        ("a" * 300, "neither a host name nor an IP address"),
    ],
)
def test_what_is_no_address_is_refused_and_the_source_is_named(text: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as caught:
        resolve_endpoint(text, {})
    assert caught.value.message.startswith("flag --endpoint: ")
    assert "secret" not in caught.value.message


def test_a_variable_that_cannot_be_used_is_named() -> None:
    with pytest.raises(Invalid, match=r"^env MX_SERVER_ADDRESS: .*TLS"):
        resolve_endpoint(None, {"MX_SERVER_ADDRESS": "https://server"})


def test_variables_that_name_different_servers_are_a_warning_with_both_names_and_values() -> None:
    env = {"MODEL_EXPRESS_URL": "one:1", "MX_SERVER_ADDRESS": "http://u:secret@two:2"}
    found = resolve_endpoint(None, env)
    assert found.host == "one"
    (warning,) = found.warnings
    assert all(part in warning for part in ("MODEL_EXPRESS_URL", "MX_SERVER_ADDRESS", "one:1", "two:2"))
    assert "secret" not in warning


def test_variables_that_name_the_same_server_in_two_spellings_are_no_warning() -> None:
    env = {"MODEL_EXPRESS_ENDPOINT": "http://Server", "MX_SERVER_ADDRESS": " server:8001 "}
    assert resolve_endpoint(None, env).warnings == ()


def test_a_blank_variable_counts_as_unset() -> None:
    env = {"MODEL_EXPRESS_ENDPOINT": "  ", "MODEL_EXPRESS_URL": "", "MX_SERVER_ADDRESS": "server:1"}
    assert resolve_endpoint(None, env).source == "env MX_SERVER_ADDRESS"


def test_flags_and_addresses_are_known_without_loading_a_library() -> None:
    heavy = "{'pydantic', 'yaml', 'grpc', 'aiohttp', 'huggingface_hub'}"
    code = (
        "import sys, modelexpress.config.table, modelexpress.config.endpoint, modelexpress.config.durations\n"
        f"sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
