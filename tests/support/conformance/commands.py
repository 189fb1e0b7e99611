# SPDX-License-Identifier: Apache-2.0
"""The client's command line, and curl."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from tests.support.conformance.registry import Place, case


def hf(at: Place, *words: str, program: str = "hf", fails: bool = False) -> str:
    """What the client's own command prints, when it succeeds or fails as it is to."""
    command = [Path(sys.executable).with_name(program), "download", *words, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=25)
    assert bool(done.returncode) == fails, done.stderr[-1000:]
    # Each generation words it in its own way, but not without the name of the trouble.
    is_missing = "repository not found" in done.stderr.lower().replace(
        "repositorynotfound", "repository not found"
    )
    return f"repository not found: {is_missing}" if fails else done.stdout.strip()


@case("model")
def command_whole(at: Place) -> object:
    return hf(at, at["model"], "--cache-dir", str(at.cache))


@case("model", only=("0.36",))
def command_by_its_old_name(at: Place) -> object:
    return hf(at, at["model"], "--cache-dir", str(at.cache), program="huggingface-cli")


@case("model", "tag")
def command_with_patterns_and_revision(at: Place) -> object:
    chosen = ("--include", "*.json", "--exclude", "token*", "--revision", at["tag"])
    return hf(at, at["model"], *chosen, "--cache-dir", str(at.cache))


@case("model", "lfs", "odd")
def command_with_files_into_a_local_folder(at: Place) -> object:
    return hf(at, at["model"], at["lfs"], at["odd"], "--local-dir", str(at.local))


@case("private", "guarded_file", "member")
def command_with_a_token(at: Place) -> object:
    chosen = (at["private"], at["guarded_file"], "--token", at["member"])
    return hf(at, *chosen, "--cache-dir", str(at.cache))


@case("missing")
def command_for_a_missing_repository(at: Place) -> object:
    return hf(at, at["missing"], "--cache-dir", str(at.cache), fails=True)


@case("dataset")
def command_for_a_dataset(at: Place) -> object:
    return hf(at, at["dataset"], "--repo-type", "dataset", "--cache-dir", str(at.cache))


def curl(at: Place, path: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run curl on a path of the Hub."""
    command = [at["curl"], "-s", *words, f"{at.endpoint}/{quote(path)}"]
    return subprocess.run(command, capture_output=True, timeout=25)


def file_path(at: Place, file: str) -> str:
    return f"{at['model']}/resolve/main/{at[file]}"


@case("curl", "model", "lfs", "small")
def curl_follows_to_whole_files(at: Place) -> object:
    return [curl(at, file_path(at, file), "-L").stdout for file in ("lfs", "small")]


@case("curl", "model", "lfs", "small")
def curl_follows_to_ranges(at: Place) -> object:
    answer = ("-L", "-w", "\n%{http_code} %{size_download}", "-r")
    # Beyond the end everybody has words of his own.
    asked = {"lfs": ("10-99", "0-0", "-50", "100000-"), "small": ("10-99", "0-0", "-50")}
    return [
        curl(at, file_path(at, file), *answer, span).stdout for file, spans in asked.items() for span in spans
    ]


@case("curl", "model", "lfs")
def curl_is_refused_a_range_beyond_the_end(at: Place) -> object:
    answer = ("-L", "-o", "/dev/null", "-w", "%{http_code}", "-r", "999999999-")
    return curl(at, file_path(at, "lfs"), *answer).stdout.decode()


@case("curl", "model", "lfs", "small", "odd")
def curl_heads(at: Place) -> object:
    return [vouched_for(at, file) for file in ("lfs", "small", "odd")]


def vouched_for(at: Place, file: str) -> dict[str, str]:
    """What the headers say of a file, read as every client reads them: a redirect's own come first."""
    text = curl(at, file_path(at, file), "-I", "-L").stdout.decode().lower()
    lines = [line.partition(":") for line in text.splitlines() if ":" in line]
    found: dict[str, str] = {}
    for name, _, value in lines:
        found.setdefault(name, value.strip())
    last = {name: value.strip() for name, _, value in lines}
    return {
        "commit": found.get("x-repo-commit", ""),
        "etag": found.get("x-linked-etag", found.get("etag", "")),
        "size": found.get("x-linked-size", last.get("content-length", "")),
        "ranges": last.get("accept-ranges", ""),
    }


@case("curl", "model", "missing")
def curl_is_told_what_is_missing(at: Place) -> object:
    paths = (
        f"{at['model']}/resolve/main/nothing.bin",
        f"{at['model']}/resolve/nowhere/config.json",
        f"{at['missing']}/resolve/main/config.json",
        f"api/models/{at['missing']}",
        f"api/models/{at['model']}/tree/main/nothing",
        "api/whoami-v2",
    )
    return [refusal(at, path) for path in paths]


def refusal(at: Place, path: str) -> list[str]:
    lines = curl(at, path, "-i", "-L").stdout.decode().lower().splitlines()
    said = [line for line in lines if line.startswith(("x-error-code:", "x-repo-commit:"))]
    return [lines[0].split()[1] if lines else "", *sorted(said)]
