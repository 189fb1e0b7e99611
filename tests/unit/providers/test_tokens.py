# SPDX-License-Identifier: Apache-2.0
"""Where this process's own Hub token is looked for; `huggingface_hub` is the judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelexpress.domain.errors import Invalid
from modelexpress.providers.tokens import check_token, find_hub_token

# Reads environments, one a line; answers with what the library would send with a request, one a line.
JUDGE = """
import importlib, json, os, sys
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers
for line in sys.stdin:
    os.environ.clear()
    os.environ.update(json.loads(line))
    importlib.reload(constants)
    header = build_hf_headers().get("authorization", "")
    print(json.dumps(header.removeprefix("Bearer ") or None))
"""


def environments(root: Path) -> dict[str, dict[str, str]]:
    """Environments by what they are about, with the files they need."""
    for folder, token in (
        ("home/.cache/huggingface", "hf_login"),
        ("hf", "hf_home\n"),
        ("xdg/huggingface", "hf_xdg"),
        ("elsewhere", "\r\n hf_elsewhere \r\n"),
        ("blank", " \n"),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / "token").write_text(token)
    home = {"HOME": str(root / "home")}
    off = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    return {
        "nothing": {"HOME": str(root / "nobody")},
        "login": home,
        "variable": {**home, "HF_TOKEN": "hf_variable"},
        "variable with a line end": {**home, "HF_TOKEN": "\thf_variable \r\n"},
        "empty variable": {**home, "HF_TOKEN": ""},
        "blank variable": {**home, "HF_TOKEN": " \n"},
        "old variable": {**home, "HUGGING_FACE_HUB_TOKEN": "hf_old"},
        "both variables": {**home, "HUGGING_FACE_HUB_TOKEN": "hf_old", "HF_TOKEN": "hf_variable"},
        "token path": {**home, "HF_TOKEN_PATH": str(root / "elsewhere/token")},
        "token path in the home": {**home, "HF_TOKEN_PATH": "~/.cache/huggingface/token"},
        "token path to nothing": {**home, "HF_TOKEN_PATH": str(root / "missing")},
        "blank file": {**home, "HF_TOKEN_PATH": str(root / "blank/token")},
        "token path and variable": {
            **home,
            "HF_TOKEN_PATH": str(root / "elsewhere/token"),
            "HF_TOKEN": "hf_v",
        },
        "hf home": {**home, "HF_HOME": str(root / "hf")},
        "hf home in the home": {**home, "HF_HOME": "~/.cache/huggingface"},
        "hf home by a variable": {**home, "BASE": str(root), "HF_HOME": "${BASE}/hf"},
        "token path by a variable": {**home, "BASE": str(root), "HF_TOKEN_PATH": "$BASE/elsewhere/token"},
        "unknown variable": {**home, "HF_HOME": "$NOBODY_SET_THIS/hf"},
        "xdg by a variable": {**home, "BASE": str(root), "XDG_CACHE_HOME": "$BASE/xdg"},
        "hf home and token path": {
            **home,
            "HF_HOME": str(root / "hf"),
            "HF_TOKEN_PATH": str(root / "elsewhere/token"),
        },
        "xdg": {**home, "XDG_CACHE_HOME": str(root / "xdg")},
        "xdg and hf home": {**home, "XDG_CACHE_HOME": str(root / "xdg"), "HF_HOME": str(root / "hf")},
        "not implicit": {**home, **off},
        "not implicit, said in words": {**home, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "True"},
        "implicit after all": {**home, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"},
        "not implicit, path": {**home, **off, "HF_TOKEN_PATH": str(root / "elsewhere/token")},
    }


def judged(cases: Mapping[str, Mapping[str, str]]) -> dict[str, str | None]:
    """What the library finds in each environment."""
    lines = "".join(json.dumps(env) + "\n" for env in cases.values())
    done = subprocess.run(
        [sys.executable, "-c", JUDGE], input=lines, env=os.environ, capture_output=True, text=True, check=True
    )
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))


def test_the_token_is_the_one_that_huggingface_hub_finds(tmp_path: Path) -> None:
    cases = environments(tmp_path)
    found = {name: find_hub_token(env) for name, env in cases.items()}

    assert found == judged(cases)
    assert set(found.values()) == {
        None,
        "hf_login",
        "hf_home",
        "hf_xdg",
        "hf_elsewhere",
        "hf_variable",
        "hf_old",
        "hf_v",
    }


def test_a_variable_is_a_decision_that_the_implicit_switch_does_not_undo(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "HF_TOKEN": "hf_variable", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}

    assert find_hub_token(env) == "hf_variable"


def test_the_file_is_read_anew_at_each_use(tmp_path: Path) -> None:
    path = tmp_path / "token"
    env = {"HF_TOKEN_PATH": str(path)}
    assert find_hub_token(env) is None
    path.write_text("hf_first")
    assert find_hub_token(env) == "hf_first"
    path.write_text("hf_second")
    assert find_hub_token(env) == "hf_second"


def test_a_login_file_that_cannot_be_read_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    assert find_hub_token({"HF_TOKEN_PATH": str(tmp_path / "binary")}) is None
    assert find_hub_token({"HF_TOKEN_PATH": str(tmp_path)}) is None
    assert find_hub_token({"HF_TOKEN_PATH": str(tmp_path / "binary" / "below")}) is None


@pytest.mark.parametrize("token", ["hf_a b", "hf_ä", "hf_\x00", "hf_\x1b[0m", "hf_\x7f", "hf_\tb"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token)
    for env, source in (({"HF_TOKEN": token}, "HF_TOKEN"), ({"HF_TOKEN_PATH": str(path)}, str(path))):
        with pytest.raises(Invalid) as refusal:
            find_hub_token(env)

        assert source in refusal.value.message
        assert token not in refusal.value.message and "hf_" not in refusal.value.message


def test_a_line_break_inside_a_token_cannot_begin_another_header() -> None:
    assert find_hub_token({"HF_TOKEN": "hf_a\r\nX-Evil:1"}) == "hf_aX-Evil:1"
    with pytest.raises(Invalid):
        check_token("hf_a\r\nX-Evil: 1", "x-hf-token")
