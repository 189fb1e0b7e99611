# SPDX-License-Identifier: Apache-2.0
"""Is a server as good as the public Hub? A real client asks both the same, and all answers are compared."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from scripts.processes import die_in_order, serving

PUBLIC_HUB = "https://huggingface.co"
ROOT = Path(__file__).parents[1]
PROGRAM = "tests.support.conformance"
PATIENCE_SECONDS = 1200.0
SAME, DIFFERENT, NOT_CHECKED = 0, 1, 2

# Small, public and read only; the renamed one is large, so that nothing but its smallest file is taken.
FACTS = {
    "model": "hf-internal-testing/tiny-random-gpt2",
    "lfs": "pytorch_model.bin",
    "small": "config.json",
    "missing": "hf-internal-testing/there-is-no-such-repository",
    "renamed": "gpt2",
    "renamed_file": "config.json",
    "gated": "meta-llama/Llama-3.2-1B",
    "guarded_file": "config.json",
    "dataset": "lhoestq/demo1",
    "dataset_file": "data/train.csv",
}
# They change while we look.
VOLATILE = {
    "downloads", "downloads_all_time", "downloadsAllTime", "likes", "trending_score", "trendingScore",
    "spaces", "last_modified", "lastModified",
}  # fmt: skip

out = Console(soft_wrap=True)


class NotChecked(Exception):
    """There was nothing to compare; the text says why."""


def main() -> int:
    """Compare and print; 0: all the same, 1: something differs, 2: it could not be checked."""
    parser = argparse.ArgumentParser(prog="make check-hub", description=__doc__)
    parser.add_argument("--origin", default=PUBLIC_HUB, help="another Hub that holds the same models")
    origin = parser.parse_args().origin.rstrip("/")
    die_in_order()
    try:
        with tempfile.TemporaryDirectory(prefix="modelexpress-check-hub-") as folder:
            return check(origin, Path(folder))
    except NotChecked as reason:
        out.print(f"[bold yellow]not checked:[/] {reason}")
        return NOT_CHECKED
    except KeyboardInterrupt:
        out.print("stopped")
        return 130


def check(origin: str, folder: Path) -> int:
    """Ask the Hub, then a server over it, and compare."""
    facts = json.dumps(known_facts(origin))
    out.print(f"asking {origin} with this environment's huggingface_hub ...")
    theirs = ask(origin, facts, folder / "origin", HF_HUB_DISABLE_XET="1")
    with serving(folder / "server", None if origin == PUBLIC_HUB else origin) as server:
        out.print(f"asking a server over it at {server.hub_endpoint} ...")
        ours = ask(server.hub_endpoint, facts, folder / "server-client")
    different = [name for name in theirs if not is_same(name, theirs[name], ours.get(name))]
    out.print(f"{len(theirs) - len(different)} of {len(theirs)} cases are the same")
    return DIFFERENT if different else SAME


def known_facts(origin: str) -> dict[str, str]:
    """What the cases may rely on. Raises NotChecked without a network."""
    url = f"{origin}/api/models/{FACTS['model']}"
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            commit = json.load(answer)["sha"]
    except urllib.error.HTTPError as error:
        raise NotChecked(f"{url} answers with {error.code}") from error
    except (OSError, ValueError) as error:
        raise NotChecked(f"no network: {origin} cannot be reached ({error}); nothing was compared") from error
    known = {**FACTS, "commit": commit}
    if curl := shutil.which("curl"):
        known["curl"] = curl
    if importlib.util.find_spec("transformers"):
        known["words"] = FACTS["model"]
    return known


def ask(endpoint: str, facts: str, folder: Path, **variables: str) -> dict[str, Any]:
    """The outcome of every case at `endpoint`, by a client with a home of its own."""
    folder.mkdir()
    passed_on = ("PATH", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")
    environment = {name: os.environ[name] for name in passed_on if name in os.environ} | variables
    environment |= {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    command = [sys.executable, "-m", PROGRAM, facts, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if done.returncode:
        raise NotChecked(f"the client failed:\n{done.stderr[-2000:]}")
    lines = (folder / "outcomes").read_text().splitlines()
    return dict(json.loads(line) for line in lines)


def is_same(name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any] | None) -> bool:
    """Compare one case, and say how it differs."""
    for part in ("value", "error", "tree"):
        left, right = steady(theirs.get(part)), steady((ours or {}).get(part))
        if left != right:
            said = (ours or {}).get("said", "")
            text = f"its {part} differs\n  origin: {left}\n  server: {right} {said}"
            out.print(f"[bold red]{name}[/]: {escape(text)}")
            return False
    return True


def steady(value: Any) -> Any:
    """A value without what changes from one moment to the next."""
    if isinstance(value, dict):
        return {key: steady(entry) for key, entry in value.items() if key not in VOLATILE}
    return [steady(entry) for entry in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
