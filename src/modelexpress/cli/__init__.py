# SPDX-License-Identifier: Apache-2.0
"""The command line: words in, calls out. Four programs, one set of commands."""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    """`modelexpress`."""
    return _run("modelexpress")


def main_cli() -> int:
    """`modelexpress-cli`, the established name of the same program."""
    return _run("modelexpress-cli")


def main_server() -> int:
    """`modelexpress-server`: what `modelexpress serve` does."""
    return _run("modelexpress-server")


def main_config_gen() -> int:
    """`config_gen`: what `modelexpress config generate` does."""
    return _run("config_gen")


def _run(program: str) -> int:
    status: int = importlib.import_module("modelexpress.cli.app").run(program, sys.argv[1:])
    return status
