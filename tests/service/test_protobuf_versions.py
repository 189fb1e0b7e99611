# SPDX-License-Identifier: Apache-2.0
"""The generated messages load and mean the same under every protobuf that we say we work with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.venvs import make_venv, run_in_venv

from modelexpress.wire import model_pb2, transfer_pb2

pytestmark = [pytest.mark.packages, pytest.mark.timeout(180)]

SOURCE = Path(__file__).parents[2] / "src"
MODULES = sorted(path.stem for path in (SOURCE / "modelexpress" / "wire").glob("*_pb2.py"))

LOAD = """
import importlib, json, sys
modules = {name: importlib.import_module("modelexpress.wire." + name) for name in sys.argv[1:]}
import google.protobuf
from google.protobuf import message_factory
messages = {}
for module in modules.values():
    for name, descriptor in module.DESCRIPTOR.message_types_by_name.items():
        kind = message_factory.GetMessageClass(descriptor)
        assert kind is getattr(module, name) and kind.FromString(kind().SerializeToString()) == kind()
        messages[descriptor.full_name] = sorted(descriptor.fields_by_name)
loaded = sorted(name for name in sys.modules if name.startswith("modelexpress"))
print(json.dumps([google.protobuf.__version__, messages, loaded]))
"""

ROUND_TRIP = """
import json, sys
from google.protobuf import json_format
from modelexpress.wire import model_pb2, transfer_pb2
kinds = {"chunk": model_pb2.FileChunk, "status": model_pb2.ModelStatusUpdate}
kinds["page"] = transfer_pb2.ManifestPage
told = {}
for name, text in zip(sys.argv[1::2], sys.argv[2::2]):
    message = kinds[name].FromString(bytes.fromhex(text))
    told[name] = [message.SerializeToString(deterministic=True).hex(), json_format.MessageToDict(message)]
print(json.dumps(told))
"""


@pytest.fixture(params=["5.29.*", "6.33.*", "7.36.*"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def python(version: str, tmp_path_factory: pytest.TempPathFactory, outer_environment: dict[str, str]) -> Path:
    folder = tmp_path_factory.getbasetemp() / "venvs"
    return make_venv(folder, f"protobuf=={version}", outer_environment)


def test_every_generated_module_loads_without_a_warning_and_has_the_same_messages(
    python: Path, version: str
) -> None:
    installed, messages, loaded = run_in_venv(python, LOAD, *MODULES, PYTHONPATH=str(SOURCE))

    assert installed.startswith(version.removesuffix("*"))
    assert len(MODULES) == 5
    assert loaded == sorted(
        ["modelexpress", "modelexpress.wire", *(f"modelexpress.wire.{name}" for name in MODULES)]
    )
    for module in (model_pb2, transfer_pb2):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            assert messages[descriptor.full_name] == sorted(descriptor.fields_by_name)


def test_messages_written_here_are_read_there_and_written_back_unchanged(python: Path) -> None:
    chunk = model_pb2.FileChunk(
        relative_path="onnx/ü.bin",
        data=bytes(range(256)),
        offset=2**63,
        total_size=2**64 - 1,
        is_last_chunk=True,
        commit_hash="c" * 40,
    )
    status = model_pb2.ModelStatusUpdate(
        model_name="demo/tiny", status=model_pb2.DOWNLOADED, provider=model_pb2.NGC, message=""
    )
    page = transfer_pb2.ManifestPage(
        commit="d" * 40,
        files=[
            transfer_pb2.ManifestFile(path=f"f{n}", size=n, digest="sha256:" + "0" * 64) for n in range(3)
        ],
        next="f2",
    )
    sent = {"chunk": chunk, "status": status, "page": page}
    arguments = [word for name, message in sent.items() for word in (name, message.SerializeToString().hex())]

    told = run_in_venv(python, ROUND_TRIP, *arguments, PYTHONPATH=str(SOURCE))

    for name, message in sent.items():
        assert type(message).FromString(bytes.fromhex(told[name][0])) == message
    assert told["chunk"][1]["totalSize"] == str(2**64 - 1)
    assert told["status"][1]["message"] == ""  # set, though empty
    assert "resolvedRevision" not in told["status"][1]
    assert [file["path"] for file in told["page"][1]["files"]] == ["f0", "f1", "f2"]
