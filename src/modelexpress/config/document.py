# SPDX-License-Identifier: Apache-2.0
"""A settings file as a tree that knows its lines; everything that is wrong with it is found at once."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import shown

MAX_FILE_BYTES = 1 << 20
_MAX_DEPTH = 32
_MAX_NODES = 100_000
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_CORE + name for name in ("str", "int", "float", "bool", "null"))
_UNREADABLE = {".ini": "INI", ".ron": "RON", ".json5": "JSON5"}


@dataclass(frozen=True, slots=True)
class Located:
    """A value of a file and the line it is on (None: the format does not tell).

    `value` is None, a scalar (always a text in YAML and JSON), a list of Located, or a dict of them.
    """

    value: object
    line: int | None = None

    def plain(self) -> object:
        """The value without lines."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def line_at(self, path: tuple[int | str, ...]) -> int | None:
        """The line of what `path` leads to, or of the last step on the way that exists."""
        here = self
        for step in path:
            inner = here.value
            if isinstance(inner, list):
                inner = dict(enumerate(inner))
            here = inner.get(step, here) if isinstance(inner, dict) else here
        return here.line


@dataclass(slots=True)
class Document:
    """A file that was read: its tree, and what is wrong with its form."""

    name: str
    root: Located
    problems: list[str] = field(default_factory=list)


def read_document(path: Path, name: str) -> Document:
    """Read a YAML, JSON or TOML file; `name` is how messages call it. Invalid when it is none."""
    if path.suffix.lower() in _UNREADABLE:
        raise Invalid(f"{name}: {_UNREADABLE[path.suffix.lower()]} files are not read: write it as YAML")
    text = _decode(read_limited(path, name), name)
    if path.suffix.lower() == ".toml":
        return _parse_toml(text, name)
    if path.suffix.lower() == ".json":
        # A tab in valid JSON stands between tokens only, where YAML does not allow one.
        text = _checked_json(text, name).replace("\t", " ")
    return parse_yaml(text, name)


def read_limited(path: Path, name: str) -> bytes:
    """The file's bytes; Invalid when it cannot be read or is too large to be a settings file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL, which the system is never asked for.
        reason = getattr(error, "strerror", None) or "unreadable"
        raise Invalid(f"{name}: cannot be read ({reason}): correct the path or its permissions") from None
    if len(content) > MAX_FILE_BYTES:
        raise Invalid(f"{name}: larger than 1 MiB: this is no settings file")
    return content


def parse_yaml(text: str, name: str) -> Document:
    """The tree of a YAML text. Invalid when it is no YAML, or no mapping."""
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        raise Invalid(_yaml_problem(error, name)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Invalid(f"{name}:{line}: a character that YAML does not allow") from None
    except RecursionError:
        raise Invalid(f"{name}: nested too deep") from None
    if node is None:
        return Document(name, Located({}))
    reader = _TreeReader(name)
    root = reader.read(node, node.start_mark.line + 1, 0)
    if root.value is None:
        return Document(name, Located({}))
    if isinstance(root.value, dict):
        return Document(name, root, reader.problems)
    raise Invalid(f"{name}:{root.line}: expected sections with keys, as 'server:' and below it 'port: 8001'")


class _TreeReader:
    """Turns composed nodes into `Located`, within limits on depth and on the size that aliases unfold to."""

    def __init__(self, name: str) -> None:
        self.problems: list[str] = []
        self._name = name
        self._nodes_left = _MAX_NODES

    def read(self, node: yaml.Node, line: int, depth: int) -> Located:
        self._nodes_left -= 1
        if depth > _MAX_DEPTH or self._nodes_left < 0:
            raise Invalid(f"{self._name}:{line}: nested too deep, or aliases that unfold to too much")
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, frozenset({_CORE + "map"}))
            return Located(self._mapping(node, depth), line)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, frozenset({_CORE + "seq"}))
            return Located([self.read(n, n.start_mark.line + 1, depth + 1) for n in node.value], line)
        self._check_tag(node, _SCALAR_TAGS)
        assert isinstance(node, yaml.ScalarNode)
        is_null = node.style is None and node.value in _NULLS
        return Located(None if is_null else node.value, line)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Located]:
        found: dict[str, Located] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{self._name}:{line}: a key must be a plain word")
            elif key_node.value == "<<":
                self.problems.append(f"{self._name}:{line}: merge keys ('<<') are not read: write them out")
            elif key_node.value in found:
                first = found[key_node.value].line
                key = shown(key_node.value)
                self.problems.append(f"{self._name}:{line}: duplicate key {key}: it is on line {first} too")
            else:
                found[key_node.value] = self.read(value_node, line, depth + 1)
        return found

    def _check_tag(self, node: yaml.Node, allowed: frozenset[str]) -> None:
        if node.tag not in allowed:
            line = node.start_mark.line + 1
            self.problems.append(f"{self._name}:{line}: the tag {shown(node.tag)} is not read: leave it out")


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Invalid(f"{name}:{line}: not UTF-8 text: save the file as UTF-8") from None


def _yaml_problem(error: yaml.MarkedYAMLError, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = name if mark is None else f"{name}:{mark.line + 1}"
    problem = error.problem or error.context or "unreadable"
    if r"'\t'" in problem:
        problem = "a tab where YAML allows only spaces"
    return f"{where}: invalid YAML: {problem}"


def _checked_json(text: str, name: str) -> str:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise Invalid(f"{name}:{error.lineno}: invalid JSON: {error.msg}") from None
    except (RecursionError, ValueError):
        raise Invalid(f"{name}: invalid JSON: nested too deep, or a number too long") from None
    return text


def _parse_toml(text: str, name: str) -> Document:
    try:
        return Document(name, _unlocated(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{name}: invalid TOML: {error}") from None
    except (RecursionError, ValueError):
        raise Invalid(f"{name}: invalid TOML: nested too deep, or a number too long") from None


def _unlocated(value: object) -> Located:
    if isinstance(value, dict):
        return Located({key: _unlocated(item) for key, item in value.items()})
    if isinstance(value, list):
        return Located([_unlocated(item) for item in value])
    return Located(value)
