# SPDX-License-Identifier: Apache-2.0
"""What a case of the conformance program is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Facts = Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """Where one case runs: the Hub it asks, a folder of its own, and what that Hub is known to hold."""

    endpoint: str
    folder: Path
    facts: Facts

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def local(self) -> Path:
        return self.folder / "local"

    def __getitem__(self, fact: str) -> str:
        return self.facts[fact]

    def token(self, fact: str) -> str | bool:
        """The token of that name; False where the caller is to have none."""
        return self.facts[fact] if fact else False

    @cached_property
    def api(self) -> Any:
        """The client's API object, without a token."""
        import huggingface_hub as hub

        return hub.HfApi(token=False)


@dataclass(frozen=True)
class Case:
    """One thing that a client does. `needs`: facts without which it is left out. `fails`: the status
    that a faithful Hub refuses it with. `only`: the client generations that can do it; empty: all.
    `ignores_xet`: what the client writes down about Xet is no part of the comparison. `is_passed_through`:
    the server answers it only with `hub.pass_through`.
    """

    run: Callable[[Place], Any]
    needs: frozenset[str] = frozenset()
    fails: int = 0
    only: tuple[str, ...] = ()
    ignores_xet: bool = False
    is_passed_through: bool = False

    def is_for(self, generation: str) -> bool:
        return not self.only or generation in self.only


CASES: dict[str, Case] = {}


def case(*needs: str, name: str = "", **more: Any) -> Callable[[Callable[[Place], Any]], Callable]:
    """Register a function as a case under its own name, or `name`."""

    def register(run: Callable[[Place], Any]) -> Callable[[Place], Any]:
        key = name or run.__name__
        assert key not in CASES, f"two cases are called {key}"
        CASES[key] = Case(run, frozenset(needs), **more)
        return run

    return register


def generation_of(version: str) -> str:
    """The generation of the client: those before 1 changed with every minor version."""
    major, minor = version.split(".")[:2]
    return f"0.{minor}" if major == "0" else major
