# SPDX-License-Identifier: Apache-2.0
"""The file of `model init` says where models are and which server to ask."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
from tests.unit.config.desk import Desk

from modelexpress.config.initfile import find_init, init_path, write_init
from modelexpress.domain.errors import Invalid, StorageFailed


def test_without_a_file_there_is_nothing_to_read(desk: Desk) -> None:
    assert find_init(desk.env) is None


def test_the_home_is_home_then_userprofile() -> None:
    assert init_path({"HOME": "/a", "USERPROFILE": "/b"}) == Path("/a/.model-express/config.yaml")
    assert init_path({"USERPROFILE": "/b"}) == Path("/b/.model-express/config.yaml")


def test_what_was_written_is_read_back(desk: Desk) -> None:
    written = write_init(desk.env, "models", "server:9000", desk.cwd)
    assert (written.local_path, written.server_endpoint) == (str(desk.cwd / "models"), "server:9000")
    assert (desk.cwd / "models").is_dir()
    found = find_init(desk.env)
    assert found is not None
    assert (found.local_path, found.server_endpoint, found.warnings) == (
        written.local_path,
        written.server_endpoint,
        (),
    )
    assert found.lines == (1, 2)
    assert desk.load("client").settings.connection.endpoint == "http://server:9000"


def test_the_file_has_the_keys_that_other_versions_read(desk: Desk) -> None:
    write_init(desk.env)
    assert yaml.safe_load(init_path(desk.env).read_text()) == {
        "local_path": str(desk.home / ".model-express/cache"),
        "server_endpoint": "http://localhost:8001",
        "timeout_secs": None,
        "shared_storage": True,
        "transfer_chunk_size": 32768,
    }
    assert not (desk.home / ".model-express/cache").exists()


def test_the_endpoint_variable_counts_only_beside_a_storage_path(desk: Desk) -> None:
    env = {**desk.env, "MODEL_EXPRESS_SERVER_ENDPOINT": "http://variable:1"}
    assert write_init(env, cwd=desk.cwd).server_endpoint == "http://localhost:8001"
    assert write_init(env, "models", cwd=desk.cwd).server_endpoint == "http://variable:1"
    assert write_init(env, "models", "flag:2", desk.cwd).server_endpoint == "flag:2"


def test_writing_again_replaces_the_file_and_leaves_nothing_beside_it(desk: Desk) -> None:
    write_init(desk.env, server_endpoint="one:1")
    write_init(desk.env, server_endpoint="two:2")
    found = find_init(desk.env)
    assert found is not None
    assert found.server_endpoint == "two:2"
    assert [path.name for path in init_path(desk.env).parent.iterdir()] == ["config.yaml"]
    assert stat.S_IMODE(init_path(desk.env).stat().st_mode) & 0o600 == 0o600


def test_a_path_with_unusual_characters_survives(desk: Desk) -> None:
    write_init(desk.env, "a: b # c 'ü'", cwd=desk.cwd)
    found = find_init(desk.env)
    assert found is not None
    assert found.local_path == str(desk.cwd / "a: b # c 'ü'")


def test_values_that_are_not_read_from_here_are_a_warning_if_they_ask_for_something(desk: Desk) -> None:
    desk.write_init("local_path: /m\nserver_endpoint: x\nshared_storage: false\ntransfer_chunk_size: 65536\n")
    found = find_init(desk.env)
    assert found is not None
    assert [warning.partition(": ")[2][:14] for warning in found.warnings] == [
        "shared_storage",
        "transfer_chunk",
    ]


@pytest.mark.parametrize(
    "text", ["", "local_path: /m\n", "local_path: [a]\nserver_endpoint: x\n", "- a\n", "{"]
)
def test_a_file_that_lacks_a_key_or_is_none_is_refused(desk: Desk, text: str) -> None:
    desk.write_init(text)
    with pytest.raises(Invalid, match=r"config\.yaml"):
        find_init(desk.env)


def test_a_home_that_cannot_be_written_is_a_storage_failure(desk: Desk) -> None:
    (desk.home / ".model-express").write_text("in the way")
    with pytest.raises(StorageFailed, match="cannot be written"):
        write_init(desk.env)


@pytest.mark.parametrize("endpoint", ["https://x", "", " ", "x:99999", "a b:1", "http://x:1/path"])
def test_an_endpoint_that_no_command_could_use_leaves_everything_as_it_was(desk: Desk, endpoint: str) -> None:
    write_init(desk.env, server_endpoint="one:1")
    before = init_path(desk.env).read_text()
    with pytest.raises(Invalid, match=r"^--server-endpoint: "):
        write_init(desk.env, "models", endpoint, desk.cwd)
    assert init_path(desk.env).read_text() == before
    assert not (desk.cwd / "models").exists()


def test_a_variable_that_no_command_could_use_is_named(desk: Desk) -> None:
    with pytest.raises(Invalid, match=r"^env MODEL_EXPRESS_SERVER_ENDPOINT: server address 'https://x'"):
        write_init({**desk.env, "MODEL_EXPRESS_SERVER_ENDPOINT": "https://x"}, "models", cwd=desk.cwd)
    assert not init_path(desk.env).exists()
