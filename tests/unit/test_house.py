# SPDX-License-Identifier: Apache-2.0
"""The house rules that no linter knows, read from the tree itself."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
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


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


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


@each(OUR_CODE)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES, "split it by noun"


@each(OUR_CODE)
def test_no_function_is_too_long(path: Path) -> None:
    for function in functions(ast.parse(path.read_text())):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{function.name} has {length} lines"


@each(EVERY_SOURCE)
def test_every_source_file_names_its_licence_first(path: Path) -> None:
    lines = path.read_text().splitlines() or [""]
    first = lines[1] if lines[0].startswith("#!") else lines[0]

    assert SPDX in first


@each(sources("src", "scripts", "bench", "tests"))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "the first line after the licence says it"


@each(sources("src", "scripts", "bench", "tests", endings=(".py", ".sh")))
def test_nothing_is_left_unfinished(path: Path) -> None:
    assert UNFINISHED.findall(path.read_text()) == []


@each(sources("src"))
def test_names_say_what_things_are(path: Path) -> None:
    classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]

    assert not FORBIDDEN_MODULES.intersection(path.relative_to(SRC).with_suffix("").parts)
    assert [name for name in classes if FORBIDDEN_CLASS.fullmatch(name)] == []


def test_tests_do_not_live_on_patches() -> None:
    texts = [path.read_text() for path in sources("tests")]
    lines = sum(len(text.splitlines()) for text in texts)
    patches = sum(len(PATCHES.findall(text)) for text in texts)

    allowed = MAX_PATCHES_PER_THOUSAND_LINES * lines / 1000
    assert patches <= allowed, f"{patches} patches in {lines} lines: use a fake that keeps the contract"


def test_every_changelog_fragment_is_named_for_its_kind() -> None:
    names = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]

    assert [name for name in names if not FRAGMENT.fullmatch(name)] == []


@each(PAGES)
def test_no_link_between_pages_is_broken(path: Path) -> None:
    targets = [target.partition("#")[0] for target in LINK.findall(path.read_text())]
    local = [
        target for target in targets if target and "://" not in target and not target.startswith("mailto:")
    ]

    assert [target for target in local if not (path.parent / target).exists()] == []


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
