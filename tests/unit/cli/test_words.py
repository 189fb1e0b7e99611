# SPDX-License-Identifier: Apache-2.0
"""Exit statuses, output forms, and options made from settings."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from modelexpress.cli.app import build, run
from modelexpress.cli.exits import EXITS, STATUSES
from modelexpress.cli.output import Form, Output, columns
from modelexpress.cli.setting_flags import find_foreign, read_flags
from modelexpress.config.table import SETTINGS, settings_for
from modelexpress.domain.errors import ALL_ERRORS

HEAVY = (
    "grpc",
    "aiohttp",
    "huggingface_hub",
    "pydantic",
    "yaml",
    "google",
    "prometheus_client",
    "rich",
    "torch",
)


def test_every_error_has_an_exit_status() -> None:
    assert set(EXITS) == set(ALL_ERRORS)
    assert set(EXITS.values()) <= set(STATUSES)


LISTS_HELP = """
import contextlib, io, json, sys
from modelexpress.cli import app
from modelexpress.cli.documentation import walk
HEAVY = set(json.loads(sys.argv[1]))
said = {}
for program in ("modelexpress", "modelexpress-cli", "modelexpress-server", "config_gen"):
    lines = [words.split()[1:] for words, _ in walk(program)]
    lines += [line[:1] for line in lines if len(line) > 1] + [[]]
    for line in lines:
        for flag in ("--help", "-h"):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                status = app.run(program, [*line, flag])
            typed = " ".join([program, *line, flag])
            said[typed] = [status, sorted(HEAVY & set(sys.modules)), out.getvalue().splitlines()[0]]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_the_help_of_no_command_needs_anything_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTS_HELP, json.dumps(HEAVY)], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)

    assert {"modelexpress --help", "modelexpress pull --help", "modelexpress health -h"} <= said.keys()
    assert {
        "modelexpress cache --help",
        "modelexpress-cli cache ls --help",
        "config_gen --help",
    } <= said.keys()
    for line, (status, loaded, usage) in said.items():
        assert (status, loaded) == (0, []), line
        assert usage.startswith(f"Usage: {line.rpartition(' ')[0]} "), line


@pytest.mark.parametrize("role", ["server", "client"])
def test_every_setting_with_a_flag_is_an_option(role: str) -> None:
    command = build("modelexpress")
    options = command if role == "client" else command.commands["serve"]
    known = {name for option in options.params for name in (*option.opts, *option.secondary_opts)}

    for setting in settings_for("server" if role == "server" else "client"):
        assert set(setting.flags) <= known, setting.key


def test_the_established_server_flags_are_options_of_both_servers() -> None:
    command = build("modelexpress-server")
    known = {name for option in command.params for name in option.opts}

    assert known >= {"--host", "--port", "-p", "--metrics-port", "--cache-directory", "--log-level", "-l"}
    assert known >= {"--config", "-c", "--validate-config", "--version", "-V", "--security-mode"}


def test_only_what_was_given_counts_as_a_flag() -> None:
    given = {"cache_directory": "/x", "cache_shared_storage": True, "logging_quiet": False}

    assert read_flags("client", given) == {"cache.directory": "/x", "cache.shared_storage": False}


def test_a_flag_of_the_other_side_is_found() -> None:
    foreign = find_foreign("server", ["cache.directory", "connection.endpoint"])

    assert foreign is not None and foreign.flag == "--endpoint"
    assert find_foreign("server", ["cache.directory"]) is None


def test_no_two_settings_of_one_side_share_a_flag() -> None:
    for role in ("server", "client"):
        flags = [flag for setting in SETTINGS if role in setting.roles for flag in setting.flags]
        assert len(flags) == len(set(flags))


def test_an_error_after_the_result_is_no_second_document(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(Form.JSON)
    output.result({"success": True}, list)
    output.fail("Internal", "too late")
    said = capsys.readouterr()

    assert json.loads(said.out) == {"success": True}
    assert "too late" in said.err


def test_an_error_names_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(Form.JSON_PRETTY)
    output.details = {"model_name": "a/b"}
    output.fail("NotFound", "no ü")
    said = capsys.readouterr().out

    assert json.loads(said) == {"model_name": "a/b", "success": False, "error": "no ü", "code": "NotFound"}
    assert [line.split('"')[1] for line in said.splitlines()[1:-1]] == [
        "code",
        "error",
        "model_name",
        "success",
    ]


def test_quiet_keeps_error_texts_off_standard_error_and_results_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(Form.HUMAN, is_quiet=True)
    output.note("a")
    output.warn("b")
    output.fail("Internal", "c")
    output.result({}, lambda: ["d"])

    assert capsys.readouterr() == ("d\n", "")


def test_columns_are_aligned() -> None:
    assert list(columns(("a", "b"), [("long", "x"), ("y", "")])) == ["a     b", "long  x", "y"]


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["pull"], ["--format", "xml", "health"], ["cache", "rm"]]
)
def test_a_line_that_cannot_be_understood_is_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("modelexpress", arguments, {}) == 2
    assert "Error" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["pull", "../x", "-f", "json"], ["-f", "json", "nonsense"], ["health", "--no", "--format=json"]],
)
def test_a_line_that_cannot_be_understood_is_one_document_too(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("modelexpress", arguments, {}) == 2
    said = json.loads(capsys.readouterr().out)

    assert (said["success"], said["code"]) == (False, "Usage") and said["error"]


@pytest.mark.parametrize("flag", ["-V", "--version"])
@pytest.mark.parametrize("program", ["modelexpress", "modelexpress-cli", "modelexpress-server"])
def test_the_version_names_the_program(program: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, [flag], {}) == 0
    assert capsys.readouterr().out == f"{program} 1.0.0\n"


def test_help_of_a_command_is_shown_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("modelexpress", ["help", "model", "list"], {}) == 0
    by_word = capsys.readouterr().out
    assert run("modelexpress", ["model", "list", "--help"], {}) == 0

    assert capsys.readouterr().out == by_word
    assert run("modelexpress", ["help", "nothing"], {}) == 2


def test_help_beside_other_words_is_that_of_the_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("modelexpress", ["pull", "-h"], {}) == 0
    alone = capsys.readouterr().out
    for words in (["pull", "org/x", "--help"], ["-q", "pull", "--help"], ["pull", "--help", "org/x"]):
        assert run("modelexpress", words, {}) == 0
        assert capsys.readouterr().out == alone
    assert run("modelexpress", ["nothing", "--help"], {}) == 2


@pytest.mark.parametrize(
    "arguments",
    [["-q", "nosuch"], ["pull", "--nosuch", "--quiet"], ["-vq", "pull"], ["cache", "-q", "rm", "../x"]],
)
def test_quiet_keeps_the_words_about_a_wrong_line_off_too(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("modelexpress", arguments, {}) == 2
    assert capsys.readouterr() == ("", "")
    assert run("modelexpress", [*arguments, "--format", "json"], {}) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "Usage"


def test_a_value_that_looks_like_quiet_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("modelexpress", ["--endpoint", "-q", "nosuch"], {}) == 2
    assert "nosuch" in capsys.readouterr().err
