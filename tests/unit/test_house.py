# SPDX-License-Identifier: Apache-2.0
"""The house rules that no linter knows, read from the tree itself."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from modelexpress.domain.errors import ALL_ERRORS, BY_CODE, MxError

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "modelexpress"
TESTS = ROOT / "tests"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PATCHES_PER_THOUSAND_LINES = 4

# Written in pieces, so that this file does not hold what it forbids.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|NotImplemented" + r"Error\(\)")
PATCHES = re.compile(r"\bmonkey" + r"patch\.\w|\bmock\." + r"patch|\bpatch\." + r"object|\bMagic" + r"Mock\(")
FORBIDDEN_MODULES = {"utils", "util", "common", "core", "helpers", "misc"}
FORBIDDEN_CLASS = re.compile(r".*(?:Manager|Helper|Impl)$|.*Utils?$")
FRAGMENT = re.compile(r"\d+\.(?:added|changed|fixed|removed|security)\.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPDX = "SPDX-License-Identifier: Apache-2.0"


def is_generated(path: Path) -> bool:
    return path.name.endswith(("_pb2.py", "_pb2.pyi"))


def sources(*folders: str, endings: tuple[str, ...] = (".py",)) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in endings]
    return sorted(path for path in found if not is_generated(path) and "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def offenders(paths: list[Path], offence: Callable[[Path], object]) -> dict[str, object]:
    """What is wrong with each file that has anything wrong with it, by name."""
    found = {name_of(path): offence(path) for path in paths}
    return {name: wrong for name, wrong in found.items() if wrong}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


OUR_CODE = sources("src", "scripts", "bench")
EVERY_SOURCE = sources(
    "src",
    "scripts",
    "bench",
    "tests",
    "proto",
    endings=(".py", ".pyi", ".sh", ".proto", ".html", ".css", ".js"),
)
PAGES = [*sorted(ROOT.glob("*.md")), *sources("docs", "proto", "changes", endings=(".md",))]


def test_the_tree_is_found() -> None:
    assert OUR_CODE and EVERY_SOURCE and PAGES, "the house test looks at the wrong place"


def test_no_file_is_too_long() -> None:
    def lines_too_many(path: Path) -> int:
        return max(len(text_of(path).splitlines()) - MAX_FILE_LINES, 0)

    assert offenders(OUR_CODE, lines_too_many) == {}, "split it by noun"


def test_no_function_is_too_long() -> None:
    def long_functions(path: Path) -> dict[str, int]:
        lengths = {
            function.name: (function.end_lineno or function.lineno) - function.lineno + 1
            for function in functions(tree_of(path))
        }
        return {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}

    assert offenders(OUR_CODE, long_functions) == {}


def test_every_source_file_names_its_licence_first() -> None:
    def first_without_licence(path: Path) -> str:
        lines = text_of(path).splitlines() or [""]
        first = lines[1] if lines[0].startswith("#!") else lines[0]
        return "" if SPDX in first else f"the first line is {first!r}"

    assert offenders(EVERY_SOURCE, first_without_licence) == {}


def test_every_module_says_what_it_is_for() -> None:
    modules = sources("src", "scripts", "bench", "tests")

    silent = offenders(modules, lambda path: not ast.get_docstring(tree_of(path)))
    assert silent == {}, "the first line after the licence says it"


def test_nothing_is_left_unfinished() -> None:
    written = sources("src", "scripts", "bench", "tests", endings=(".py", ".sh"))

    assert offenders(written, lambda path: UNFINISHED.findall(text_of(path))) == {}


def test_names_say_what_things_are() -> None:
    def names_that_say_nothing(path: Path) -> list[str]:
        classes = [node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
        modules = FORBIDDEN_MODULES.intersection(path.relative_to(SRC).with_suffix("").parts)
        return [*sorted(modules), *(name for name in classes if FORBIDDEN_CLASS.fullmatch(name))]

    assert offenders(sources("src"), names_that_say_nothing) == {}


def test_tests_do_not_live_on_patches() -> None:
    texts = [text_of(path) for path in sources("tests")]
    lines = sum(len(text.splitlines()) for text in texts)
    patches = sum(len(PATCHES.findall(text)) for text in texts)

    allowed = MAX_PATCHES_PER_THOUSAND_LINES * lines / 1000
    assert patches <= allowed, f"{patches} patches in {lines} lines: use a fake that keeps the contract"


def test_every_changelog_fragment_is_named_for_its_kind() -> None:
    names = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]

    assert [name for name in names if not FRAGMENT.fullmatch(name)] == []


def test_no_link_between_pages_is_broken() -> None:
    def broken_links(path: Path) -> list[str]:
        targets = [target.partition("#")[0] for target in LINK.findall(text_of(path))]
        local = [to for to in targets if to and "://" not in to and not to.startswith("mailto:")]
        return [target for target in local if not (path.parent / target).exists()]

    assert offenders(PAGES, broken_links) == {}


def test_every_error_is_listed_once_under_its_own_code() -> None:
    assert len(ALL_ERRORS) == len(set(ALL_ERRORS)) == len(BY_CODE)
    assert set(ALL_ERRORS) == set(all_subclasses(MxError)), "an error is missing, or hangs below another one"


def all_subclasses(kind: type[MxError]) -> Iterator[type[MxError]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("modelexpress."):
            yield child
            yield from all_subclasses(child)


def test_every_command_of_the_distribution_starts_in_the_command_line_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert all(target.startswith("modelexpress.cli:") for target in project["scripts"].values())


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("# TO" + "DO: later", UNFINISHED),
        ("raise NotImplemented" + "Error()", UNFINISHED),
        ("monkey" + "patch.setattr(x, 'y', 1)", PATCHES),
        ("ConnectionManager", FORBIDDEN_CLASS),
        ("12.added.md", FRAGMENT),
        ("[a](b.md)", LINK),
    ],
)
def test_the_patterns_of_this_file_find_what_they_look_for(text: str, pattern: re.Pattern[str]) -> None:
    assert pattern.search(text)
