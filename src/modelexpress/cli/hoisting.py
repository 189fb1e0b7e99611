# SPDX-License-Identifier: Apache-2.0
"""Global flags may stand anywhere in a command line: they are moved to its front before it is read.

A flag that the command itself has is the command's own: after `api send`, `-f` is the payload file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

# A node of the command tree: a click command, which typer ships under its own name in some versions.
Command = Any


def hoist(root: Command, arguments: list[str]) -> list[str]:
    """`arguments` with the flags of `root` in front, in their order, and the rest after them."""
    front, rest = split(root, arguments)
    return front + rest


def split(root: Command, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The flags of `root` with their values, wherever they stand, and everything else."""
    own = _Flags(root)
    front: list[str] = []
    rest: list[str] = []
    here, flags = root, own
    left = iter(arguments)
    for word in left:
        if word == "--":
            rest += [word, *left]
        elif word.startswith("-") and word != "-":
            for is_own, piece in _split(word, left, flags, own):
                (front if is_own else rest).append(piece)
        else:
            rest.append(word)
            here = _commands(here).get(word, here)
            flags = own if here is root else _Flags(here)
    return front, rest


def find_given(root: Command, arguments: list[str]) -> Iterator[tuple[str, str]]:
    """The flags of `root` in a command line, each with its value, or an empty text."""
    own = _Flags(root)
    words = iter(split(root, arguments)[0])
    for word in words:
        name, is_joined, value = word.partition("=")
        if not is_joined and own.takes_value.get(name, False):
            value = next(words, "")
        yield name, value


def share_flags(root: Command) -> None:
    """Give every command of the tree the flags of `root` that it does not have, for a shell that completes.

    Typer completes what a command itself has; in a line that is run, `hoist` does the same.
    """
    for command in _walk(root):
        own = _Flags(command).takes_value
        for option in (option for option in root.params if option.param_type_name == "option"):
            names = [name for name in option.opts if name not in own]
            if names:
                shared = copy.copy(option)
                shared.opts, shared.secondary_opts = names, []
                command.params.append(shared)


def _walk(command: Command) -> Iterator[Command]:
    for child in _commands(command).values():
        yield child
        yield from _walk(child)


class _Flags:
    """The flags of one command, and which of them take a value."""

    def __init__(self, command: Command) -> None:
        options = [option for option in command.params if option.param_type_name == "option"]
        self.takes_value = {
            name: not (option.is_flag or option.count)
            for option in options
            for name in (*option.opts, *option.secondary_opts)
        }
        self.takes_value |= {"--help": False, "-h": False}


def _split(word: str, left: Iterator[str], here: _Flags, own: _Flags) -> Iterator[tuple[bool, str]]:
    """The pieces that belong to `word`, each with whether it goes to the front."""
    name, has_value, _ = word.partition("=")
    if word.startswith("--"):
        known = _find(name, here, own)
        is_own = known is own and name != "--help"
        yield is_own, word
        if known is not None and known.takes_value[name] and not has_value:
            yield from ((is_own, value) for value in _next(left))
        return
    yield from _split_letters(word, left, here, own)


def _split_letters(word: str, left: Iterator[str], here: _Flags, own: _Flags) -> Iterator[tuple[bool, str]]:
    """The same for letters in one word, as `-qvf json`."""
    for at, letter in enumerate(word[1:], start=1):
        name = f"-{letter}"
        known = _find(name, here, own)
        is_own = known is own and name != "-h"
        if known is None:
            yield False, f"-{word[at:]}"
            return
        if not known.takes_value[name]:
            yield is_own, name
            continue
        yield is_own, name
        value = word[at + 1 :]
        yield from ((is_own, text) for text in ([value] if value else _next(left)))
        return


def _next(left: Iterator[str]) -> list[str]:
    value = next(left, None)
    return [] if value is None else [value]


def _find(name: str, here: _Flags, own: _Flags) -> _Flags | None:
    return next((flags for flags in (here, own) if name in flags.takes_value), None)


def _commands(command: Command) -> Mapping[str, Command]:
    found: Mapping[str, Command] = getattr(command, "commands", {})
    return found
