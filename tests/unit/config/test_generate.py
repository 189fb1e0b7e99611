# SPDX-License-Identifier: Apache-2.0
"""Generated and migrated files can be loaded, and lose nothing that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.config.desk import Desk

from modelexpress.config.generate import (
    check_format,
    check_target,
    generate_default,
    migrate,
    show_diff,
    write_text,
    written_message,
)
from modelexpress.config.table import SETTINGS
from modelexpress.domain.errors import Invalid, StorageFailed

ESTABLISHED = """\
server:
  host: 10.0.0.1
  port: 8101
  metrics_port: 9999
cache:
  directory: ./cache
  max_size_bytes: 1000
  eviction:
    enabled: true
    policy:
      type: lru
      unused_threshold: 7d
      max_models: 5
      min_free_space_bytes: null
    check_interval: 1h
logging:
  level: Debug
  format: Json
  file: null
  structured: false
security:
  mode: enforce
  token_audiences: [models]
  allowed_service_accounts:
    - namespace: serving
      service_account: worker
  cache_ttl_secs: 30
"""


def test_the_default_file_sets_what_holds_anyway(desk: Desk) -> None:
    before = desk.load("client").settings
    desk.write(generate_default())
    loaded = desk.load("client")
    assert loaded.settings == before
    assert desk.load("server").settings == before
    assert loaded.warnings == ()


def test_the_default_file_names_every_setting_that_has_an_effect() -> None:
    text = generate_default()
    for setting in SETTINGS:
        name = setting.key.rpartition(".")[2]
        assert (f" {name}:" in text) is (setting.not_yet is None), setting.key


def test_the_default_file_does_not_outrank_the_variables_below_a_file(desk: Desk) -> None:
    desk.write(generate_default())
    desk.write_init("local_path: /m\nserver_endpoint: init:1\n")
    settings = desk.load("client", env={"HF_ENDPOINT": "http://mirror"}).settings
    assert (settings.origin.endpoint, settings.connection.endpoint) == ("http://mirror", "http://init:1")
    assert settings.cache.directory == Path("/m")


def test_migration_keeps_every_value_of_another_versions_file(desk: Desk) -> None:
    migrated = migrate(ESTABLISHED)
    for line in (
        "  host: 10.0.0.1",
        "  port: 8101",
        "  metrics_port: 9999",
        "  directory: ./cache",
        "  max_size_bytes: 1000",
        "    enabled: true",
        "      unused_threshold: 604800",
        "      max_models: 5",
        "    check_interval: 3600",
        "  level: debug",
        "  format: json",
        "  mode: enforce",
        "  token_audiences: [models]",
        "  allowed_service_accounts: [{namespace: serving, service_account: worker}]",
        "  cache_ttl_secs: 30",
    ):
        assert line in migrated.text.splitlines(), line
    assert [warning.partition(" is")[0] for warning in migrated.warnings] == ["security"]


def test_migration_never_opens_what_was_protected(desk: Desk) -> None:
    desk.write(migrate(ESTABLISHED).text)
    assert "'enforce' is not in this version" in desk.refusal()


def test_a_migrated_file_without_protection_starts(desk: Desk) -> None:
    desk.write(migrate(ESTABLISHED.partition("security:")[0]).text)
    settings = desk.load().settings
    assert (settings.server.metrics_port, settings.cache.directory) == (9999, desk.cwd / "cache")
    assert (settings.logging.level, settings.logging.format) == ("debug", "json")


def test_migrating_twice_changes_nothing_more() -> None:
    once = migrate(ESTABLISHED).text
    assert migrate(once).text == once
    assert migrate(generate_default()).text == generate_default()
    assert migrate(generate_default()).warnings == ()


def test_migration_brings_older_and_client_keys_under_todays_names(desk: Desk) -> None:
    migrated = migrate(
        "database: {path: ./models.db}\n"
        "cache: {local_path: ~/models, server_endpoint: 'models:8001', timeout_secs: null}\n"
        "connection: {timeout_secs: 5}\n"
    )
    assert migrated.warnings == ()
    for line in (
        "  path: ./models.db", "  directory: ~/models", "  endpoint: models:8001", "  timeout_seconds: 5",
    ):  # fmt: skip
        assert line in migrated.text.splitlines(), line
    desk.write(migrated.text)
    assert desk.load("client").settings.cache.directory == desk.home / "models"


def test_what_cannot_be_taken_over_is_a_warning_with_its_line() -> None:
    migrated = migrate(
        "server:\n  port: many\n  prt: 1\nconnection:\n  endpoint: https://x\n"
        "cache:\n  server_endpoint: two:2\n  timeout_secs: 9\n",
        "old.yaml",
    )
    assert [warning.split(": ")[0] for warning in migrated.warnings] == [
        "old.yaml:3",
        "old.yaml:7",
        "old.yaml:5",
        "old.yaml:2",
        "cache.timeout_secs is kept as a comment",
    ]
    assert "  port: 8001" in migrated.text.splitlines()


def test_structured_logs_become_json(desk: Desk) -> None:
    migrated = migrate("logging: {structured: true, format: Pretty}\n")
    assert migrated.warnings == ("logging.format is set to json: logging.structured says so",)
    desk.write(migrated.text)
    assert desk.load().settings.logging.format == "json"


def test_patterns_survive_migration(desk: Desk) -> None:
    text = "pull: {patterns: [{models: 'a/*', include: ['*.json', 'off'], weights: safetensors-first}]}\n"
    desk.write(text)
    before = desk.load().settings.pull.patterns
    desk.write(migrate(text).text)
    assert desk.load().settings.pull.patterns == before


def test_what_is_no_settings_file_is_not_migrated() -> None:
    for text in ("{", "- a\n", "text"):
        with pytest.raises(Invalid, match=r"^old\.yaml:"):
            migrate(text, "old.yaml")


def test_a_difference_is_shown_line_by_line() -> None:
    assert show_diff("a\nb\n", "a\nc\n").splitlines()[-2:] == ["-b", "+c"]
    assert show_diff("a\n", "a\n") == ""


def test_only_yaml_is_written_and_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    check_format("yaml")
    check_format("yml")
    with pytest.raises(Invalid, match="'toml'"):
        check_format("toml")
    target = tmp_path / "deep" / "er" / "model-express.yaml"
    check_target(target, is_overwrite=False)
    write_text(target, "a\n")
    assert target.read_text() == "a\n"
    with pytest.raises(Invalid, match="--overwrite"):
        check_target(target, is_overwrite=False)
    check_target(target, is_overwrite=True)
    assert written_message(target).startswith(f"Configuration file generated: {target}\n")


def test_a_target_that_cannot_be_written_is_a_storage_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be written"):
        write_text(tmp_path / "file" / "x.yaml", "a\n")
