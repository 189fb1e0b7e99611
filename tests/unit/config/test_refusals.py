# SPDX-License-Identifier: Apache-2.0
"""What stops a start: files that cannot be read, keys nobody knows, settings that would do nothing."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from tests.unit.config.desk import Desk

from modelexpress.config.document import MAX_FILE_BYTES


def test_every_problem_is_listed_at_once_with_file_line_and_key(desk: Desk) -> None:
    desk.write(
        "server:\n  prt: 1\n  metrics_port: many\ncache:\n  evicton: {}\n"
        "pull:\n  patterns:\n    - models: a\n      inclde: [x]\n    - models: b\n      weights: some\n"
    )
    lines = desk.refusal(
        "server", {"server.drain_seconds": "-5"}, {"MX_METADATA_BACKEND": "Redis"}
    ).splitlines()
    assert lines[0] == "7 problems with the settings:"
    assert sorted(lines[1:]) == sorted([
        "modelexpress.yaml:2: unknown key 'server.prt': did you mean 'server.port'?",
        "modelexpress.yaml:5: unknown key 'cache.evicton': did you mean 'cache.eviction'?",
        "modelexpress.yaml:3: server.metrics_port: input should be a valid integer, unable to parse string "
        "as an integer, not 'many'",
        "flag --drain-seconds: server.drain_seconds: duration '-5' is negative: give seconds (90), a span "
        "(2h30m) or ISO 8601 (PT2H30M)",
        "modelexpress.yaml:9: unknown key 'pull.patterns[0].inclde': did you mean 'include'?",
        "modelexpress.yaml:11: pull.patterns[1].weights: input should be 'all' or 'safetensors-first', "
        "not 'some'",
        "env MX_METADATA_BACKEND: registry.backend: 'redis' is not in this version: use sqlite",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot: 1\n", "1: unknown key 'prot': did you mean 'server.port'?"),
        ("sever:\n  port: 1\n", "1: unknown key 'sever': did you mean 'server'?"),
        ("server:\n  loging: x\n", "2: unknown key 'server.loging': did you mean 'logging'?"),
        ("qqqqqqqq: 1\n", "1: unknown key 'qqqqqqqq': see docs/configuration.md for the keys"),
        ("server: 8001\n", "1: 'server' is a section: put its keys below it"),
        ("server:\n  port: {a: 1}\n", "2: server.port: input should be a valid integer"),
        ("server:\n  port: [1]\n", "2: server.port: input should be a valid integer"),
        ("cache:\n  directory: [a]\n", "2: cache.directory: "),
        ("logging:\n  level: loud\n", "2: logging.level: input should be 'trace', 'debug'"),
        ("pull:\n  parallel_files: 65\n", "2: pull.parallel_files: input should be less than or equal to 64"),
        ("cache:\n  transfer_chunk_size: 4294967296\n", "2: cache.transfer_chunk_size: "),
        ("connection:\n  timeout_secs: 0\n", "2: connection.timeout_seconds: a duration of 0"),
        ("cache:\n  eviction:\n    enabled: false\n    check_interval: 0\n", "4: cache.eviction.check_inter"),
        ("connection:\n  endpoint: [a]\n", "2: connection.endpoint: expected http://host:port"),
        ("server:\n  port: 1\n  port: 2\n", "3: duplicate key 'port': it is on line 2 too"),
        ("server:\n\tport: 1\n", "2: invalid YAML: a tab where YAML allows only spaces"),
        ("server: {port: 1\n", "2: invalid YAML: "),
        ("server:\n  port: 1\n host: x\n", "3: invalid YAML: "),
        ("- a\n- b\n", "1: expected sections with keys"),
        ("just text\n", "1: expected sections with keys"),
        ("a: 1\n---\nb: 2\n", "2: invalid YAML: "),
        ("a: 1\nb: \x07\n", "2: a character that YAML does not allow"),
        ("server: !!python/object:os.system {}\n", "1: the tag "),
        ("server: &a {port: 1}\nlogging:\n  <<: *a\n", "3: merge keys"),
        ("? [a, b]\n: 1\n", "1: a key must be a plain word"),
        ("server: *nothing\n", "1: invalid YAML: found undefined alias 'nothing'"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_the_line(desk: Desk, text: str, expected: str) -> None:
    desk.write(text)
    assert f"modelexpress.yaml:{expected}" in desk.refusal()


def test_words_that_older_yaml_takes_for_booleans_stay_words(desk: Desk) -> None:
    desk.write("security:\n  mode: off\nserver:\n  host: no\nlogging:\n  structured: yes\n")
    settings = desk.load().settings
    assert (settings.security.mode, settings.server.host, settings.logging.structured) == ("off", "no", True)


def test_an_alias_repeats_a_value(desk: Desk) -> None:
    desk.write("cache:\n  directory: &d /models\n  local_path: *d\n")
    assert desk.load().settings.cache.directory == Path("/models")


def test_aliases_that_unfold_without_end_are_refused(desk: Desk) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    names = "abcdefghi"
    for before, name in itertools.pairwise(names):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    desk.write(bomb)
    assert "aliases that unfold to too much" in desk.refusal()
    desk.write("pull:\n  patterns: &p [*p]\n")
    assert "nested too deep" in desk.refusal()


def test_nesting_without_end_is_refused(desk: Desk) -> None:
    desk.write("a: " + "[" * 5000 + "]" * 5000)
    assert "nested too deep" in desk.refusal()
    path = desk.write("[" * 100_000, "deep.json")
    assert desk.refusal(config_file=path).startswith("deep.json")
    path = desk.write("a = " + "[" * 100_000, "deep.toml")
    assert desk.refusal(config_file=path).startswith("deep.toml")


def test_a_file_that_cannot_be_read_is_refused_and_never_skipped(desk: Desk) -> None:
    assert "nowhere.yaml: cannot be read (No such file" in desk.refusal(config_file=Path("nowhere.yaml"))
    (desk.cwd / "modelexpress.yaml").mkdir()
    assert "modelexpress.yaml: cannot be read (Is a directory)" in desk.refusal()


def test_a_dangling_link_is_refused_and_never_skipped(desk: Desk) -> None:
    (desk.cwd / "modelexpress.yaml").symlink_to("gone")
    assert "modelexpress.yaml: cannot be read (No such file" in desk.refusal()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_and_never_skipped(desk: Desk) -> None:
    desk.write("").chmod(0)
    assert "cannot be read (Permission denied)" in desk.refusal()


def test_a_file_that_is_no_text_or_too_large_is_refused(desk: Desk) -> None:
    (desk.cwd / "modelexpress.yaml").write_bytes(b"a: 1\nb: \xff\n")
    assert desk.refusal() == "modelexpress.yaml:2: not UTF-8 text: save the file as UTF-8"
    (desk.cwd / "modelexpress.yaml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert "larger than 1 MiB" in desk.refusal()


def test_other_formats_are_refused_with_the_one_to_use(desk: Desk) -> None:
    for name in ("a.ini", "a.ron", "a.json5"):
        assert "write it as YAML" in desk.refusal(config_file=desk.write("", name))
    assert "a.json:2: invalid JSON" in desk.refusal(config_file=desk.write("{\n", "a.json"))
    assert "a.toml: invalid TOML: " in desk.refusal(config_file=desk.write("a = \n", "a.toml"))
    message = desk.refusal(config_file=desk.write("[server]\nprt = 1\n", "b.toml"))
    assert message == "b.toml: unknown key 'server.prt': did you mean 'server.port'?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cache:\n  max_size_bytes: 0\n", "2: cache.max_size_bytes 0 lets nothing in: leave it out"),
        ("security:\n  mode: enforce\n", "2: security.mode: 'enforce' is not in this version"),
        ("security:\n  token_audiences: [x]\n", "2: security.token_audiences: this version cannot check"),
        ("security:\n  allowed_service_accounts:\n  - namespace: a\n    service_account: b\n",
         "2: security.allowed_service_accounts: this version cannot check"),
        ("security:\n  cache_ttl_secs: 61\n", "2: security.cache_ttl_secs: this version cannot check"),
        ("registry:\n  backend: kubernetes\n", "2: registry.backend: 'kubernetes' is not in this version"),
    ],
)  # fmt: skip
def test_a_setting_that_would_do_nothing_is_refused(desk: Desk, text: str, expected: str) -> None:
    desk.write(text)
    assert desk.refusal().startswith(f"modelexpress.yaml:{expected}")


def test_a_client_key_that_nothing_reads_is_refused(desk: Desk) -> None:
    desk.write("cache:\n  timeout_secs: 10\n")
    assert desk.refusal("client") == (
        "modelexpress.yaml:2: cache.timeout_secs: nothing reads it: use connection.timeout_secs"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL_EXPRESS_SECURITY_MODE", "Enforce"),
        ("MODEL_EXPRESS_SECURITY_TOKEN_AUDIENCES", "a,b"),
        ("MODEL_EXPRESS_SECURITY_ALLOWED_SERVICE_ACCOUNTS", "ns : sa"),
        ("MX_METADATA_BACKEND", "K8S"),
    ],
)
def test_variables_and_flags_that_would_do_nothing_are_refused_too(desk: Desk, name: str, value: str) -> None:
    message = desk.refusal(env={name: value})
    assert message.startswith(f"env {name}: ")
    assert "this version" in message


def test_an_eviction_section_that_is_switched_off_may_stay(desk: Desk) -> None:
    desk.write("cache: {eviction: {enabled: false, policy: {max_models: 3}, check_interval: 60}}\n")
    assert not desk.load().settings.cache.eviction.enabled
    assert desk.load(flags={"cache.eviction.enabled": "true"}).settings.cache.eviction.policy.max_models == 3


def test_eviction_may_be_switched_off_by_a_variable_above_the_file(desk: Desk) -> None:
    desk.write("cache: {eviction: {enabled: true, check_interval: 60}}\n")
    env = {"MODEL_EXPRESS_CACHE_EVICTION_ENABLED": "false"}
    assert not desk.load(env=env).settings.cache.eviction.enabled


@pytest.mark.parametrize("account", ["ns", ":sa", "ns:", " : "])
def test_what_is_no_service_account_is_refused(desk: Desk, account: str) -> None:
    message = desk.refusal(flags={"security.allowed_service_accounts": account})
    assert "is not a service account: give namespace:name" in message


def test_a_hostile_key_or_value_cannot_flood_or_break_the_message(desk: Desk) -> None:
    desk.write(f"'{'k' * 5000}': 1\nserver:\n  port: \"{'v' * 5000}\\e[31m\"\n")
    message = desk.refusal()
    assert len(message) < 1000
    assert "\x1b" not in message


def test_a_broken_init_file_is_a_problem_of_its_own(desk: Desk) -> None:
    desk.write_init("local_path: /m\nserver_endpont: x\n")
    message = desk.refusal("client")
    assert "server_endpoint is missing" in message
    assert "unknown key 'server_endpont'" in message
