# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a clean environment, hypothesis profiles, and how often to repeat a proof."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable

import pytest
from hypothesis import settings

# Whoever runs the tests may have a token, a proxy or a cache of their own: none of it may be seen.
_PERSONAL = re.compile(
    r"(HF|HUGGING_?FACE|MODEL_EXPRESS|MX|XDG|NGC|AWS|REDIS)_\w+"
    r"|((HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|NO_COLOR|FORCE_COLOR|COLUMNS)",
    re.IGNORECASE,
)
_KEPT = "OUTER_"


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before any test module (and with it huggingface_hub) is imported."""
    _hide_personal_environment()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Begun in the background by a shell: what is started by the tests would be deaf to Ctrl-C too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("sample", max_examples=40, deadline=None, derandomize=True)
    count = os.environ.get("PROOF_COUNT")
    settings.register_profile("prove", max_examples=int(count or 1), deadline=None, print_blob=True)
    settings.load_profile("prove" if count else "sample")


@pytest.fixture
def proof_count() -> Callable[[int], int]:
    """How often to repeat a proof: the sample that is given, or PROOF_COUNT where that is more."""
    count = int(os.environ.get("PROOF_COUNT") or 0)
    return lambda sample: max(sample, count)


@pytest.fixture
def outer_environment() -> dict[str, str]:
    """The environment before it was cleaned, for the tests that install from a package index."""
    kept = {name.removeprefix(_KEPT): value for name, value in os.environ.items() if name.startswith(_KEPT)}
    return {name: value for name, value in os.environ.items() if not name.startswith(_KEPT)} | kept


def _hide_personal_environment() -> None:
    # Worker processes inherit the cleaned environment; there is nothing left to do in them.
    if _KEPT + "HOME" in os.environ:
        return
    os.environ.setdefault("HOME", "/")
    for name in [name for name in os.environ if name == "HOME" or _PERSONAL.fullmatch(name)]:
        os.environ[_KEPT + name] = os.environ.pop(name)
    home = tempfile.mkdtemp(prefix="modelexpress-tests-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["HOME"] = home
