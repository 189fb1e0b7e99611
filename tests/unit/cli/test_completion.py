# SPDX-License-Identifier: Apache-2.0
"""What a shell is offered while a line is typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelexpress.cli.app import run

Offer = Callable[..., list[str]]


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offer:
    """What bash is offered for the last word of a line, typed in `tmp_path`."""
    for folder, name in (("home/.cache/huggingface/hub", "usual"), ("mine", "mine"), ("varied", "varied")):
        (tmp_path / folder / f"models--org--{name}").mkdir(parents=True)
    (tmp_path / "my.yaml").write_text("cache:\n  directory: varied\n")
    monkeypatch.chdir(tmp_path)

    def ask(line: str, **env: str) -> list[str]:
        words = line.split(" ")
        typed = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
        around = {"HOME": str(tmp_path / "home"), "_MODELEXPRESS_COMPLETE": "complete_bash", **typed, **env}
        for name, value in around.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            run("modelexpress", [])
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        return said.out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("modelexpress --endp", ["--endpoint"]),
        ("modelexpress pull --endp", ["--endpoint"]),
        ("modelexpress cache ls --qu", ["--quiet"]),
        ("modelexpress model --quie", ["--quiet"]),
        ("modelexpress pull --re", ["--revision"]),
        ("modelexpress --format js", ["json", "json-pretty"]),
        ("modelexpress pull --format js", ["json", "json-pretty"]),
        ("modelexpress model list -f h", ["human"]),
        ("modelexpress pull --weights no", ["none"]),
        ("modelexpress pull org/x --format json --stra", ["--strategy"]),
        ("modelexpress cache --format json ver", ["verify"]),
        ("modelexpress config generate --form", ["--format"]),
        # After `api send`, -f is --payload-file: the names of files are the shell's own business.
        ("modelexpress api send ping -f js", []),
        ("modelexpress api send ping --format js", ["json", "json-pretty"]),
    ],
)
def test_global_flags_and_their_values_are_offered_anywhere(
    offered: Offer, line: str, expected: list[str]
) -> None:
    assert offered(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("modelexpress pull ", ["org/usual"]),
        ("modelexpress pull org/u", ["org/usual"]),
        ("modelexpress pull org/v", []),
        ("modelexpress --cache-path mine pull ", ["org/mine"]),
        ("modelexpress pull --cache-path mine org", ["org/mine"]),
        ("modelexpress cache rm -y --cache-directory mine ", ["org/mine"]),
        ("modelexpress model validate -c my.yaml ", ["org/varied"]),
        ("modelexpress -c my.yaml cache verify --cache-path mine ", ["org/mine"]),
        ("modelexpress pull --cache-path nowhere ", []),
        ("modelexpress pull -c nowhere.yaml ", []),
    ],
)
def test_models_are_those_of_the_cache_that_the_line_names(
    offered: Offer, line: str, expected: list[str]
) -> None:
    assert offered(line) == expected


@pytest.mark.parametrize("name", ["MODEL_EXPRESS_CACHE_DIRECTORY", "HF_HUB_CACHE"])
def test_models_are_those_of_the_cache_that_the_environment_names(offered: Offer, name: str) -> None:
    env = {name: "mine"}
    assert offered("modelexpress pull ", **env) == ["org/mine"]
    assert offered("modelexpress pull --cache-path varied ", **env) == ["org/varied"]
