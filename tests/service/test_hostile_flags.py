# SPDX-License-Identifier: Apache-2.0
"""What a hostile or tired person types: an error that names it, no traceback, and no file anywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.house import tree

from modelexpress.cli.app import run
from modelexpress.domain.errors import BY_CODE

LONG = "a" * 1_000_000
NAMES = [
    "../../etc/passwd", "/etc/passwd", "org/../..", "org/na\0me", "", " ", ".", "..", "org//name", "a/b/c",
    "org/name/", "org/na me", "-", "org/name@", "org/name@../x", "org/name@a\0b", "ü/ü",
    "org/name\n", "\u202eorg/name", "models--org--name", "org/x--y", LONG, f"org/{LONG}", f"org/x@{LONG}",
    "\udcff/x", "org/name@-rf", "https://huggingface.co/org/name", "org/name.git", "ngc://../x", "s3://",
]  # fmt: skip
FLAGS = [
    ["--revision", "../x"], ["--revision", "a\0b"], ["--revision", LONG], ["--revision", ""],
    ["--revision", "-x"], ["--include", "a\0b"], ["--include", ""], ["--include", LONG], ["--exclude", "a\0"],
    ["--weights", "everything"], ["--strategy", "clever"], ["--transfer-chunk-size", "0"],
    ["--transfer-chunk-size", "4294967296"], ["--transfer-chunk-size", "-1"], ["--transfer-chunk-size", "x"],
    ["--timeout", "0"],
    ["--timeout", "-1"], ["--timeout", "nan"], ["--timeout", "1e999"], ["--timeout", LONG],
    ["--endpoint", ""], ["--endpoint", "http://"], ["--endpoint", "a b:1"], ["--endpoint", "x:99999"],
    ["--endpoint", "https://x"], ["--endpoint", "file:///etc/passwd"], ["--endpoint", LONG],
    ["--endpoint", "user:secret@x:1/\0"], ["--cache-path", "a\0b"], ["--cache-path", LONG],
    ["--cache-path", ""], ["--config", "missing.yaml"], ["--config", "/"], ["--config", "a\0b"],
    ["--config", "/dev/null/x"], ["--log-level", "loud"], ["--log-format", "xml"], ["--format", "yaml"],
]  # fmt: skip
SERVER_FLAGS = [
    ["--port", "-1"], ["--port", "65536"], ["--port", "http"], ["--port", ""], ["--host", ""],
    ["--host", "a b"], ["--host", "x\0"], ["--host", LONG], ["--metrics-port", "1e3"],
    ["--drain-seconds", "-5"], ["--drain-seconds", "forever"], ["--cache-directory", "a\0b"],
    ["--database-path", "a\0b"], ["--security-mode", "enforce"], ["--security-mode", "none"],
    ["--security-token-audiences", "a,b"], ["--cache-max-size-bytes", "0"],
    ["--cache-max-size-bytes", "much"],
    ["--cache-eviction-enabled", "perhaps"], ["--log-level", "\0"], ["--config", LONG],
]  # fmt: skip


@pytest.fixture(autouse=True)
def logging_kept() -> Iterator[None]:
    """The command line sets up logging for its process, which here is the one of the tests."""
    root, ours = logging.getLogger(), logging.getLogger("modelexpress")
    kept = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:], (root.level, ours.level) = kept[0], kept[1:]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # Nobody listens there: whatever gets that far is turned away.
    return {"HOME": str(tmp_path / "home"), "MODEL_EXPRESS_ENDPOINT": "127.0.0.1:9"}


def check_refused(
    words: list[str], env: dict[str, str], capsys: pytest.CaptureFixture[str], program: str = "modelexpress"
) -> str:
    """Run it for a person and for a program; the error text."""
    before = tree(Path(env["HOME"]).parent)
    status = run(program, words, env)
    said = capsys.readouterr()
    assert status in (1, 2), (words, said)
    assert said.out == ""
    assert "Error" in said.err or "failed" in said.err
    assert "Traceback" not in said.err and len(said.err) < 4000
    assert "\0" not in said.err and "\u202e" not in said.err and "secret" not in said.err
    assert tree(Path(env["HOME"]).parent) == before
    if program == "modelexpress" and "--format" not in words:
        assert run(program, ["--format", "json", *words], env) == status
        document = json.loads(capsys.readouterr().out)
        assert document["success"] is False and document["code"] in {*BY_CODE, "Usage"}
        assert len(document["error"]) < 4000
    return said.err


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:24])
@pytest.mark.parametrize("command", [["pull"], ["cache", "rm", "-y"], ["cache", "verify"]], ids=" ".join)
def test_a_name_that_is_none_is_refused(
    name: str, command: list[str], env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    if not (command == ["cache", "verify"] and name == "-"):
        check_refused([*command, "--", name], env, capsys)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: ascii(flag)[:40])
def test_a_flag_value_that_cannot_be_is_refused(
    flag: list[str], env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(["pull", "org/name", "-s", "server-only", *flag], env, capsys)


@pytest.mark.parametrize("flag", SERVER_FLAGS, ids=lambda flag: ascii(flag)[:40])
def test_a_server_flag_that_cannot_be_is_refused_before_anything_starts(
    flag: list[str], env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(["--validate-config", *flag], env, capsys, "modelexpress-server")
    check_refused(flag, env, capsys, "modelexpress-server")
