# SPDX-License-Identifier: Apache-2.0
"""What is in effect can be shown, with where it came from."""

from __future__ import annotations

from tests.unit.config.desk import Desk

from modelexpress.config.show import show
from modelexpress.config.table import settings_for


def test_every_setting_in_effect_has_a_row_with_its_value_and_origin(desk: Desk) -> None:
    desk.write("server: {port: 1}\norigin: {redirect_hosts: [a, b]}\n")
    rows = {row.key: row for row in show(desk.load(env={"HF_HUB_OFFLINE": "1"}), with_origin=True)}
    assert rows.keys() == {s.key for s in settings_for("server") if s.not_yet is None}
    assert (rows["server.port"].value, rows["server.port"].origin) == (1, "file modelexpress.yaml:1")
    assert (rows["origin.offline"].text, rows["origin.offline"].origin) == ("true", "env HF_HUB_OFFLINE")
    assert (rows["origin.redirect_hosts"].text, rows["logging.file"].text) == ("a, b", "none")
    assert rows["cache.directory"].value == str(desk.home / ".cache/huggingface/hub")


def test_a_client_sees_what_a_client_reads(desk: Desk) -> None:
    keys = {row.key for row in show(desk.load("client"), with_origin=False)}
    assert "connection.endpoint" in keys
    assert "server.port" not in keys


def test_origins_are_shown_only_if_asked_for(desk: Desk) -> None:
    assert all(row.origin is None for row in show(desk.load(), with_origin=False))


def test_settings_without_effect_appear_where_somebody_set_them(desk: Desk) -> None:
    desk.write("security: {cache_ttl_secs: 60}\n")
    keys = [row.key for row in show(desk.load(), with_origin=True) if row.key.startswith("security")]
    assert "security.cache_ttl_secs" in keys and "security.token_audiences" not in keys


def test_patterns_are_shown_as_data_and_for_people(desk: Desk) -> None:
    desk.write("pull: {patterns: [{models: 'a/*', include: [x, y]}]}\n")
    row = next(row for row in show(desk.load(), with_origin=True) if row.key == "pull.patterns")
    assert row.value == [{"models": "a/*", "include": ["x", "y"], "exclude": []}]
    assert row.text == "{models: a/*; include: x, y; exclude: none}"
