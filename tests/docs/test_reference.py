# SPDX-License-Identifier: Apache-2.0
"""The reference pages say what the code does: nothing is undocumented, and nothing documented is gone."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TypeGuard

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.support.house import open_house

import modelexpress
from modelexpress.client import AsyncClient, LocalModel, Strategy, SyncClient, rpc
from modelexpress.compose import clients
from modelexpress.config.documentation import with_tables
from modelexpress.config.load import load
from modelexpress.config.table import OTHER_ENVIRONMENT, SETTINGS, Role, Setting, known_environment
from modelexpress.domain.errors import ALL_ERRORS, Invalid, MxError
from modelexpress.domain.selection import Weights
from modelexpress.observability.metrics import _SECONDS, FAMILIES, Metrics
from modelexpress.server import app, door, grpc_transfer, status, streaming
from modelexpress.testing.hub import LocalHub
from modelexpress.wire import api_pb2, cache_pb2, health_pb2, model_pb2, transfer_pb2

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "modelexpress"
DOCS = ROOT / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()
PYTHON = (DOCS / "python.md").read_text()
WIRE = (DOCS / "wire.md").read_text()

MESSAGES = (api_pb2, cache_pb2, health_pb2, model_pb2, transfer_pb2)
VARIABLE = re.compile(
    r"(?:MODEL_EXPRESS|MX|HF|HUGGING_?FACE|XDG|POD|SSL|CURL|REQUESTS|HTTPS?|ALL|NO)_[A-Z0-9_]+"
)
LOOKED_UP = re.compile(r"\benv(?:iron)?(?:\.get\(|\[|\.pop\()\s*[\"'](\w+)[\"']")
YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
QUOTED = re.compile(r"`([^`]+)`")


def tables(page: str, heading: str) -> list[list[list[str]]]:
    """The tables of a section (its text up to the next heading of the same depth), as cells."""
    section = re.split(r"^## ", page, flags=re.MULTILINE)
    [text] = [part for part in section if part.partition("\n")[0] == heading]
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table[2:] for table in found if table]


def table(page: str, heading: str) -> list[list[str]]:
    """The first table of a section, without its head."""
    return tables(page, heading)[0]


def names(text: str) -> list[str]:
    """What stands between backticks."""
    return QUOTED.findall(text)


# Settings


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    assert with_tables(CONFIGURATION) == CONFIGURATION, (
        "run: python -m modelexpress.config.documentation docs/configuration.md"
    )


def test_a_table_that_is_out_of_date_is_noticed() -> None:
    stale = CONFIGURATION.replace("`server.port`", "`server.door`")
    assert stale != CONFIGURATION
    assert with_tables(stale) != stale
    with pytest.raises(Invalid, match="markers"):
        with_tables("no markers here")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_is_documented_with_its_flags_and_variables(setting: Setting) -> None:
    [row] = [cells for cells in table(CONFIGURATION, "All settings") if names(cells[0])[0] == setting.key]
    assert names(row[0]) == [setting.key, *setting.aliases]
    assert names(row[3]) == list(setting.flags)
    assert names(row[4]) == [*setting.env, *setting.fallback_env]
    assert row[1] and row[2] and setting.meaning in row[6]
    assert all(role in row[5] for role in setting.roles)
    assert ("**Refused:**" in row[6]) == (setting.not_yet is not None)


def test_every_other_variable_is_documented() -> None:
    documented = [names(row[0])[0] for row in table(CONFIGURATION, "Other variables")]
    assert documented == [other.name for other in OTHER_ENVIRONMENT]


def is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def variables_read() -> Iterator[tuple[str, str]]:
    """Every name that is looked up in an environment or is named like our variables, and its place."""
    for path in sorted(SRC.rglob("*.py")):
        if "testing" in path.parts or path.name.endswith("_pb2.py"):
            continue
        place, text = path.relative_to(ROOT).as_posix(), path.read_text()
        yield from ((name, place) for name in LOOKED_UP.findall(text))
        for node in ast.walk(ast.parse(text)):
            if is_text(node) and VARIABLE.fullmatch(node.value):
                yield node.value, f"{place}:{node.lineno}"


def test_every_variable_that_the_code_reads_is_documented() -> None:
    read = list(variables_read())
    assert {"MX_AUTH_TOKEN_PATH", "HF_HUB_CACHE", "POD_NAME", "HOME"} <= {name for name, _ in read}
    known = known_environment()
    assert [f"{place}: {name}" for name, place in read if name not in known] == []


@pytest.mark.parametrize("role", ["server", "client"])
def test_the_settings_files_on_the_page_are_accepted(role: Role, tmp_path: Path) -> None:
    examples = YAML.findall(CONFIGURATION)
    assert examples
    for text in examples:
        (tmp_path / "modelexpress.yaml").write_text(text)
        loaded = load(role, {}, {"HOME": str(tmp_path)}, cwd=tmp_path, system_directory=tmp_path / "none")
        assert loaded.file is not None
        assert loaded.warnings == ()


# Metrics


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    documented = {names(row[0])[0]: (row[1], tuple(names(row[2]))) for row in METRIC_ROWS}
    expected = {family.name: (family.kind, family.labels) for family in FAMILIES}
    assert documented == {**expected, "mx_build_info": ("gauge", BUILD_LABELS)}


def test_what_the_registry_collects_is_what_is_documented() -> None:
    documented = {names(row[0])[0].removesuffix("_total") for row in METRIC_ROWS}
    assert {metric.name for metric in Metrics("1", "sqlite", "").registry.collect()} == documented


def test_every_metric_has_a_meaning_and_no_query_asks_for_one_that_is_not_there() -> None:
    assert all(row[4] for row in METRIC_ROWS)
    known = {names(row[0])[0] for row in METRIC_ROWS}
    assert set(re.findall(r"\bmx_[a-z_]+", METRICS)) == known


def test_the_bounds_of_the_histogram_are_documented() -> None:
    bounds = [f"{bound:g}" for bound in _SECONDS]
    assert f"{', '.join(bounds[:-1])} and {bounds[-1]} seconds" in METRICS


def test_every_label_is_explained() -> None:
    explained = {names(row[0])[0] for row in table(METRICS, "Labels")}
    assert explained == {label for family in FAMILIES for label in family.labels}


METRIC_ROWS = next(
    [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()[2:]]
    for block in METRICS.split("\n\n")
    if block.startswith("| metric |")
)
BUILD_LABELS = ("component", "version", "backend", "scheme")


# The wire


def services() -> list[ServiceDescriptor]:
    return [found for module in MESSAGES for found in module.DESCRIPTOR.services_by_name.values()]


def test_every_call_is_documented_and_no_other() -> None:
    documented = {(names(row[0])[0], names(row[1])[0], row[2]) for row in table(WIRE, "Calls")}
    expected = {
        (service.full_name, method.name, "stream" if method.server_streaming else "unary")
        for service in services()
        for method in service.methods
    }
    assert documented == expected


async def test_every_service_that_a_server_has_is_on_the_page(tmp_path: Path) -> None:
    async with (
        LocalHub([]) as hub,
        open_house(hub, tmp_path) as house,
        grpc.aio.insecure_channel(f"127.0.0.1:{house.port}") as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = [answer async for answer in stub.ServerReflectionInfo(asked)]
    served = {service.name for answer in answers for service in answer.list_services_response.service}
    assert {service.full_name for service in services()} < served
    assert [name for name in served if f"`{name}`" not in WIRE] == []


def test_every_error_code_is_documented_with_its_status() -> None:
    documented = {names(row[0])[0]: names(row[1])[0] for row in table(WIRE, "Errors")}
    assert documented == {kind.code: status.STATUS[kind].name for kind in ALL_ERRORS}
    assert all(when and advice for _, _, when, advice in table(WIRE, "Errors"))


def test_the_table_of_statuses_forgets_no_error() -> None:
    assert set(status.STATUS) == set(ALL_ERRORS) == set(MxError.__subclasses__())


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    served, asked = dict(app._OPTIONS), dict(rpc._options())
    limits = {
        "largest request the server takes": served["grpc.max_receive_message_length"],
        "chunk where `chunk_size` is 0": streaming.DEFAULT_CHUNK_BYTES,
        "largest chunk": streaming.MOST_CHUNK_BYTES,
        "calls at once on one connection": served["grpc.max_concurrent_streams"],
        "shortest time between two pings of an idle connection": served[
            "grpc.http2.min_recv_ping_interval_without_data_ms"
        ],
        "files on a page of `GetManifest`": grpc_transfer._PAGE_FILES,
        "longest error text in a status, as it is sent": len(status.detail_of(Invalid("x" * 9999))) - 1,
        "largest message our client takes": asked["grpc.max_receive_message_length"],
        "our client pings every": asked["grpc.keepalive_time_ms"],
        "our client waits for the answer to a ping": asked["grpc.keepalive_timeout_ms"],
    }
    assert {row[0]: int(row[1]) for row in table(WIRE, "Limits")} == limits
    assert asked["grpc.max_send_message_length"] == limits["largest message our client takes"]


def test_every_metadata_key_is_documented() -> None:
    documented = {names(row[0])[0] for row in table(WIRE, "Metadata")}
    assert documented == {door._TOKEN_KEY, status.CODE_KEY, "authorization"}


# Python


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_every_call_of_a_client_is_documented_with_its_arguments() -> None:
    documented = {}
    for row in table(PYTHON, "Calls"):
        name, _, arguments = names(row[0])[0].partition("(")
        documented[name] = [argument for argument in arguments.rstrip(")").split(", ") if argument]
    assert public(AsyncClient) == public(SyncClient) == set(documented)
    for kind in (AsyncClient, SyncClient):
        for name, arguments in documented.items():
            assert list(inspect.signature(getattr(kind, name)).parameters) == ["self", *arguments]


@pytest.mark.parametrize("kind", [clients.Client, clients.AsyncClient])
def test_every_argument_of_a_client_is_documented(kind: type) -> None:
    documented = [names(row[0])[0] for row in table(PYTHON, "Clients")]
    assert documented == list(inspect.signature(kind).parameters)


def test_every_field_of_a_pull_is_documented() -> None:
    documented = [names(row[0])[0] for row in table(PYTHON, "What a pull returns")]
    assert documented == [field.name for field in fields(LocalModel)]


def test_every_choice_of_weights_and_strategy_is_documented() -> None:
    weights = [names(row[0])[0] for row in table(PYTHON, "Which files")]
    strategies = [names(row[0])[0] for row in table(PYTHON, "Where it comes from")]
    assert weights == [choice.name for choice in Weights]
    assert strategies == [choice.name for choice in Strategy]


def test_every_public_name_of_the_package_is_on_the_page() -> None:
    shown = {name for name in modelexpress.__all__ if not name.startswith("_")}
    assert [name for name in shown if not re.search(rf"\b{name}\b", PYTHON)] == []


# Pages


def test_the_tree_of_the_architecture_is_the_one_there_is() -> None:
    page = (DOCS / "ARCHITECTURE.md").read_text()
    tree = page.partition("```\n")[2].partition("```")[0]
    packages = {path.parent.name for path in SRC.glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == packages


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [path.relative_to(ROOT).as_posix() for path in sorted(DOCS.glob("*.md"))]
    assert pages
    assert [page for page in pages if f"]({page})" not in readme] == []
