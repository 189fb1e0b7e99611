# SPDX-License-Identifier: Apache-2.0
"""What a hostile caller may send to each method: the documented status, and nothing on disk."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2 as standard_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tests.support.calls import (
    ADOPT,
    CHECK,
    DELETE,
    ENSURE,
    GET_HEALTH,
    LIST,
    MANIFEST,
    METHODS,
    PULL,
    REFLECT,
    REMOVE,
    SEND,
    STREAM,
    VERIFY,
    Answer,
    ask,
    connected,
)  # fmt: skip
from tests.support.house import House, open_house, tree_at_rest

from modelexpress.domain.errors import BY_CODE
from modelexpress.domain.refs import shown
from modelexpress.server.status import STATUS
from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.models import tiny_files, tiny_model
from modelexpress.wire import api_pb2, cache_pb2, health_pb2, model_pb2, transfer_pb2

NAME = "demo/tiny"
Code = grpc.StatusCode
REFUSED = (Code.INVALID_ARGUMENT, "Invalid")


@dataclass(frozen=True)
class Target:
    """A server that holds one model, and a way to attack it."""

    house: House
    channel: grpc.aio.Channel

    async def send(self, path: str, payload: bytes | Message, token: str | None = None) -> Answer:
        return await ask(self.channel, path, payload, token)


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    hub = LocalHub([tiny_model(NAME), tiny_model("demo/other", seed=7)])
    async with hub, open_house(hub, tmp_path) as house, connected(house.port) as channel:
        answer = await ask(channel, ENSURE, model_pb2.ModelDownloadRequest(model_name=NAME))
        assert answer.read(model_pb2.ModelStatusUpdate)[-1].status == model_pb2.DOWNLOADED
        yield Target(house, channel)


@asynccontextmanager
async def unharmed(target: Target, tmp_path: Path) -> AsyncIterator[None]:
    """The body leaves no trace on disk and a server that goes on serving."""
    before = tree_at_rest(tmp_path)
    yield
    assert tree_at_rest(tmp_path) == before
    assert len(target.house.cache._flights) == 0
    said = await target.send(GET_HEALTH, b"")
    assert said.read(health_pb2.HealthResponse)[0].status == "ok"
    listed = await target.send(LIST, model_pb2.ModelFilesRequest(model_name=NAME))
    assert len(listed.read(model_pb2.ModelFileList)[0].files) == len(tiny_files())


def is_documented(answer: Answer) -> bool:
    """A status of the one table, named by the error that stands beside it, and no defect of ours."""
    if answer.code is Code.OK:
        return True
    if answer.error is None or answer.error == "Internal":
        return False
    return STATUS[BY_CODE[answer.error]] is answer.code and answer.details != ""


def no_messages(method: MethodDescriptor) -> Iterator[bytes]:
    """Bytes that are no request: cut off, a group without an end, bad UTF-8."""
    yield from (b"\x0a", b"\x0a\x7f", b"\x0a\xff\xff\xff\xff\x0f", b"\x08", b"\x0b", b"\xff" * 11)
    for field in method.input_type.fields:
        if field.type == field.TYPE_STRING:
            yield bytes([field.number << 3 | 2, 2, 0xFF, 0xFE])
            yield bytes([field.number << 3 | 2, 3, 0xED, 0xA0, 0x80])  # half of a surrogate pair
        if field.type == field.TYPE_MESSAGE:
            inner = next(f for f in field.message_type.fields if f.type == f.TYPE_STRING)
            # An overlong NUL, one level deeper.
            yield bytes([field.number << 3 | 2, 4, inner.number << 3 | 2, 2, 0xC0, 0x80])


async def test_bytes_that_are_no_request_are_the_callers_error_at_every_method(
    target: Target, tmp_path: Path
) -> None:
    async with unharmed(target, tmp_path):
        for path, method in METHODS.items():
            for payload in no_messages(method):
                answer = await target.send(path, payload)
                assert (answer.code, answer.error) == REFUSED, (path, payload)
                assert method.name in answer.details and not answer.messages


@pytest.mark.prove
async def test_random_bytes_at_every_method_never_meet_a_defect(
    target: Target, tmp_path: Path, proof_count: Callable[[int], int]
) -> None:
    harmless = {path: m for path, m in METHODS.items() if m.name != "Watch"}
    async with unharmed(target, tmp_path):
        for seed in range(proof_count(40)):
            chance = random.Random(seed)
            for path, method in harmless.items():
                payload = mutated(chance, GetMessageClass(method.input_type))
                answer = await target.send(path, payload)
                assert is_documented(answer), (seed, path, payload, answer)


def mutated(chance: random.Random, kind: type[Message]) -> bytes:
    """Noise, or a filled request with a few bytes changed."""
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(1, 60))
    content = bytearray(filled(chance, kind).SerializeToString() or b"\0")
    for _ in range(chance.randrange(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def filled(chance: random.Random, kind: type[Message]) -> Message:
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        value: Any = {
            field.CPPTYPE_STRING: "demo/nothing",
            field.CPPTYPE_ENUM: 0,
            field.CPPTYPE_UINT32: chance.randrange(2**32),
            field.CPPTYPE_UINT64: chance.randrange(2**64),
            field.CPPTYPE_INT64: chance.randrange(-(2**63), 2**63),
            field.CPPTYPE_DOUBLE: chance.choice([0.0, -1.0, 1e300, float("inf"), float("nan")]),
            field.CPPTYPE_BOOL: True,
        }.get(field.cpp_type)
        if field.type == field.TYPE_BYTES:
            value = b"\0\xff"
        if field.type == field.TYPE_MESSAGE:
            part = filled(chance, GetMessageClass(field.message_type))
            held = getattr(message, field.name)
            (held.append if hasattr(held, "append") else held.CopyFrom)(part)
        elif hasattr(getattr(message, field.name), "append"):
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


# -- names and revisions


def naming(name: str, revision: str | None = None, provider: int = 0) -> Iterator[tuple[str, Message]]:
    """Every method that takes a model, asked for this one."""
    wire: Any = provider
    yield ENSURE, model_pb2.ModelDownloadRequest(model_name=name, revision=revision, provider=wire)
    yield STREAM, model_pb2.ModelFilesRequest(model_name=name, revision=revision, provider=wire)
    yield LIST, model_pb2.ModelFilesRequest(model_name=name, revision=revision, provider=wire)
    if revision is None:
        yield DELETE, model_pb2.DeleteModelRequest(model_name=name, provider=wire)
    called = ("hugging-face", "ngc", "gcs", "s3")[provider] if 0 <= provider < 4 else "?"
    model = transfer_pb2.Model(provider=called, name=name, revision=revision)
    yield PULL, transfer_pb2.PullRequest(model=model)
    yield MANIFEST, transfer_pb2.ManifestRequest(model=model)
    yield REMOVE, cache_pb2.RemoveRequest(models=[model])
    yield VERIFY, cache_pb2.VerifyRequest(model=model)
    yield ADOPT, cache_pb2.AdoptRequest(model=model)


NO_NAMES = [
    "", " ", ".", "..", "../..", "../../etc/passwd", "demo/..", "demo/../tiny", "/etc", "/etc/passwd", "/",
    "//", "demo/", "demo//tiny", "demo/tiny/", "demo/tiny/..", "demo/ti\0ny", "demo\\tiny", "demo/tiny\n",
    "models--demo--tiny", "demo/tiny.git", "-demo/tiny", "demo/.tiny", ".mx/records", "demo/tiny@main", "~/x",
    "C:/x", "demo/ti ny", "demo/ti%2Fny", "demo/\u202etiny", "\ud7ff/x", "demo/" + "x" * 97, "a/" * 500_000,
    "demo/" + "x" * 1_000_000, "../" * 1000 + "etc/passwd", "\U0001f600" * 1000,
]  # fmt: skip
NO_REVISIONS = [
    "", " ", ".", "..", "../..", "/etc", "/", "../../../../etc", "refs/../../..", "a//b", "a/", "main\0",
    "ma in", "-main", "main\n", "a\\b", "~", "\u00fc", "x" * 256, "x" * 1_000_000, "a/" * 500_000,
    "\U0001f600" * 1000,
]  # fmt: skip
# By the provider's number: names that nobody's grammar allows, and some of them under another scheme.
NO_OTHER_NAMES: dict[int, list[str]] = {
    1: ["", "..", "a/../b", "/etc/passwd", "../../etc://x", "a//b", "a\0b", "a\\b", "ngc://", "x" * 1025,
        "x/" * 500_000, "\U0001f600" * 257],
    2: ["", "gs://", "gs:///etc", "gs://a/../b", "gs://a//b", "gs://a\nb", "/gs://a", "gs://" + "x" * 5000],
    3: ["", "s3://", "s3:///etc", "s3://a/./b", "s3://a/\0", "../s3://a", "s3://" + "x" * 5000],
}  # fmt: skip


async def check_refused(target: Target, requests: Iterable[tuple[str, Message]], quoted: str) -> None:
    for path, request in requests:
        answer = await target.send(path, request)
        assert (answer.code, answer.error) == REFUSED, (path, quoted, answer)
        assert quoted in answer.details and len(answer.details) < 2000 and not answer.messages


def established(requests: Iterable[tuple[str, Message]]) -> list[tuple[str, Message]]:
    """Those of the established service, which knows providers by number and buckets by scheme."""
    return [request for request in requests if request[0].startswith("/model_express.model.")]


async def test_a_name_that_is_none_is_refused_by_every_method_and_quoted(
    target: Target, tmp_path: Path
) -> None:
    async with unharmed(target, tmp_path):
        for name in NO_NAMES:
            await check_refused(target, naming(name), shown(name))


async def test_a_revision_that_is_none_is_refused_by_every_method_and_quoted(
    target: Target, tmp_path: Path
) -> None:
    async with unharmed(target, tmp_path):
        for revision in NO_REVISIONS:
            await check_refused(target, naming(NAME, revision), shown(revision))


async def test_a_revision_of_another_repository_is_not_found_and_named(
    target: Target, tmp_path: Path
) -> None:
    foreign = tiny_model("demo/other", seed=7).branches["main"]
    async with unharmed(target, tmp_path):
        for revision in (foreign, "0" * 40, foreign[:12], "refs/pr/9", "v9"):
            for path, request in naming(NAME, revision):
                answer = await target.send(path, request)
                said = answer.details
                if path == ENSURE and answer.code is Code.OK:  # a commit is pinned already: the pull fails
                    last = answer.read(model_pb2.ModelStatusUpdate)[-1]
                    assert last.status == model_pb2.ERROR
                    said = last.message
                else:
                    assert answer.code is Code.NOT_FOUND, (path, revision)
                assert answer.error == "NotFound" and NAME in said and revision in said, (path, revision)


async def test_names_of_other_providers_are_as_strictly_refused(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for provider, names in NO_OTHER_NAMES.items():
            for name in names:
                await check_refused(target, naming(name, provider=provider), ascii(name[:40])[1:-1])
        for provider, name in ((2, NAME), (2, "s3://a/b"), (3, NAME), (3, "gs://a/b")):
            await check_refused(target, established(naming(name, provider=provider)), repr(name))


async def test_names_that_other_providers_might_have_are_not_here(target: Target, tmp_path: Path) -> None:
    bodies = ("a/b", "demo/tiny", "x" * 1000, "x/" * 500 + "y", "\U0001f600" * 250, "%" * 1000)
    wanted = {ENSURE: Code.FAILED_PRECONDITION, PULL: Code.FAILED_PRECONDITION, DELETE: Code.OK}
    async with unharmed(target, tmp_path):
        for body, (provider, scheme) in itertools.product(bodies, ((1, ""), (2, "gs://"), (3, "s3://"))):
            for path, request in naming(scheme + body, provider=provider):
                answer = await target.send(path, request)
                assert answer.code is wanted.get(path, Code.NOT_FOUND), (path, answer)
                assert is_documented(answer), (path, answer)


async def test_a_revision_where_there_are_none_is_refused(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for provider, name in ((1, "org/x"), (2, "gs://a/b"), (3, "s3://a/b")):
            await check_refused(target, naming(name, "main", provider), "does not support pinned revisions")


async def test_an_unknown_provider_is_refused_and_named(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for number in (4, 99, 2**31 - 1, -1, -(2**31)):
            requests = established(naming(NAME, provider=number))
            await check_refused(target, requests, f"Invalid provider value: {number};")


async def test_an_unknown_provider_name_or_weights_choice_is_refused_and_named(
    target: Target, tmp_path: Path
) -> None:
    good = transfer_pb2.Model(name=NAME)
    async with unharmed(target, tmp_path):
        for word in ("HUGGING_FACE", "hugging-face\0", "x" * 1_000_000, "../s3"):
            model = transfer_pb2.Model(provider=word, name=NAME)
            chosen = transfer_pb2.Selection(weights=word)
            requests: list[tuple[str, Message]] = [
                (PULL, transfer_pb2.PullRequest(model=model)),
                (PULL, transfer_pb2.PullRequest(model=good, selection=chosen)),
                (MANIFEST, transfer_pb2.ManifestRequest(model=model)),
                (MANIFEST, transfer_pb2.ManifestRequest(model=good, selection=chosen)),
                (REMOVE, cache_pb2.RemoveRequest(models=[model])),
                (VERIFY, cache_pb2.VerifyRequest(model=model)),
                (ADOPT, cache_pb2.AdoptRequest(model=model)),
            ]
            await check_refused(target, requests, shown(word))


# -- sizes, lists and selectors


async def test_a_huge_or_negative_chunk_size_is_brought_down_to_what_clients_accept(
    target: Target, tmp_path: Path
) -> None:
    named = model_pb2.ModelFilesRequest(model_name=NAME).SerializeToString()
    sizes = [model_pb2.ModelFilesRequest(chunk_size=size) for size in (2**32 - 1, 2**31, 2**21 + 1)]
    minus_one = b"\x18" + b"\xff" * 9 + b"\x01"
    async with unharmed(target, tmp_path):
        for size in (*(request.SerializeToString() for request in sizes), minus_one):
            answer = await target.send(STREAM, named + size)
            chunks = answer.read(model_pb2.FileChunk)
            assert answer.code is Code.OK and max(map(len, answer.messages)) < 4 * 1024 * 1024
            assert {chunk.relative_path: chunk.data for chunk in chunks} == tiny_files()


async def test_selected_paths_that_are_not_listed_are_not_found_and_quoted(
    target: Target, tmp_path: Path
) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    hostile = [
        "", ".", "..", "../x", "../../refs/main", str(outside), "./config.json", "config.json/", "onnx",
        "//config.json", "onnx/../config.json", "con\0fig.json", ".mx/volume", "CONFIG.JSON", "a/" * 500_000,
        "x" * 1_000_000,
    ]  # fmt: skip
    async with unharmed(target, tmp_path):
        for path in hostile:
            selector = model_pb2.ModelFileSelector(paths=["config.json", path])
            request = model_pb2.ModelFilesRequest(model_name=NAME, file_selector=selector)
            for method in (STREAM, LIST):
                answer = await target.send(method, request)
                assert (answer.code, answer.error) == (Code.NOT_FOUND, "NotFound"), path[:50]
                assert shown(path) in answer.details and not answer.messages


async def test_a_selector_with_a_million_paths_is_answered(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        many = model_pb2.ModelFileSelector(paths=["config.json"] * 200_000)
        answer = await target.send(STREAM, model_pb2.ModelFilesRequest(model_name=NAME, file_selector=many))
        assert answer.code is Code.OK and len(answer.messages) == 1
        empty = model_pb2.ModelFileSelector(paths=[""] * 1_000_000)
        answer = await target.send(STREAM, model_pb2.ModelFilesRequest(model_name=NAME, file_selector=empty))
        assert answer.code is Code.NOT_FOUND


async def test_too_many_or_too_long_patterns_are_refused(target: Target, tmp_path: Path) -> None:
    many = [[f"{number}*" for number in range(257)], [str(number) for number in range(200_000)]]
    model = transfer_pb2.Model(name=NAME)
    async with unharmed(target, tmp_path):
        for patterns in (*many, ["x" * 1025], ["x" * 1_000_000], [""], ["a\0b"]):
            for side in ("include", "exclude"):
                selection = transfer_pb2.Selection(**{side: patterns})  # type: ignore[arg-type]
                requests: list[tuple[str, Message]] = [
                    (PULL, transfer_pb2.PullRequest(model=model, selection=selection)),
                    (MANIFEST, transfer_pb2.ManifestRequest(model=model, selection=selection)),
                ]
                await check_refused(target, requests, f"{side} pattern")


async def test_the_worst_patterns_that_are_allowed_select_nothing_and_hold_nobody_up(
    target: Target, tmp_path: Path
) -> None:
    worst = [("*a" * 500)[: 1000 - number] + "[" for number in range(120)]
    deep = ["a/" * 500 + str(number) for number in range(120)] + ["[!" * 300, "**/" * 300, "?" * 1024]
    request = transfer_pb2.PullRequest(
        model=transfer_pb2.Model(name=NAME), selection=transfer_pb2.Selection(include=worst + deep)
    )
    async with unharmed(target, tmp_path):
        answer = await target.send(PULL, request)
        assert (answer.code, answer.error) == (Code.NOT_FOUND, "NotFound")
        assert NAME in answer.details


async def test_a_removal_of_very_many_models_names_the_first_that_is_not_here(
    target: Target, tmp_path: Path
) -> None:
    models = [transfer_pb2.Model(name=f"demo/m{number}") for number in range(5_000)]
    async with unharmed(target, tmp_path):
        answer = await target.send(REMOVE, cache_pb2.RemoveRequest(models=models))
        assert (answer.code, answer.error) == (Code.NOT_FOUND, "NotFound") and "demo/m0" in answer.details


async def test_a_removal_that_cannot_be_carried_out_whole_removes_nothing(
    target: Target, tmp_path: Path
) -> None:
    async with unharmed(target, tmp_path):
        for other, code in (("../x", Code.INVALID_ARGUMENT), ("demo/absent", Code.NOT_FOUND)):
            models = [transfer_pb2.Model(name=name) for name in (NAME, other)]
            answer = await target.send(REMOVE, cache_pb2.RemoveRequest(models=models))
            assert answer.code is code and other in answer.details


async def test_a_manifest_page_behind_any_path_is_answered(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for after in ("../../x", "\0", "x" * 1_000_000, "\U0010ffff"):
            request = transfer_pb2.ManifestRequest(model=transfer_pb2.Model(name=NAME), after=after)
            answer = await target.send(MANIFEST, request)
            page = answer.read(transfer_pb2.ManifestPage)[0]
            assert [file.path for file in page.files] == [p for p in sorted(tiny_files()) if p > after]


# -- the small services, messages that are too long, metadata


PAYLOADS = [
    b"", b"null", b"3", b'"ping"', b"{", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000, b"\0" * 3_000_000,
    json.dumps({"message": ["wrong", {"type": -1}]}).encode(),
]  # fmt: skip
ACTIONS = ["", "Ping", "ping ", "ping\0", "../ping", "x" * 1_000_000, "\U0001f600" * 201]


async def test_any_payload_of_an_action_is_ignored(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for payload in PAYLOADS:
            answer = await target.send(SEND, api_pb2.ApiRequest(id="\0", action="ping", payload=payload))
            [pong] = answer.read(api_pb2.ApiResponse)
            assert pong.success and json.loads(pong.data) == {"message": "pong"}
            assert not pong.HasField("error")


async def test_an_unknown_action_is_named_in_a_short_answer(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for action in ACTIONS:
            answer = await target.send(SEND, api_pb2.ApiRequest(action=action, payload=b"\0"))
            [said] = answer.read(api_pb2.ApiResponse)
            assert answer.code is Code.OK and not said.success and not said.HasField("data")
            assert said.error in (f"Unknown action: {action}", f"Unknown action: {shown(action)}")
            assert len(said.error) < 1000


async def test_a_message_over_four_mebibytes_is_refused_by_every_service(
    target: Target, tmp_path: Path
) -> None:
    async with unharmed(target, tmp_path):
        for path in (GET_HEALTH, SEND, ENSURE, MANIFEST, VERIFY, CHECK, REFLECT):
            answer = await target.send(path, b"\x7a" + b"\x80\x80\x80\x02" + b"\0" * 4 * 1024 * 1024)
            assert answer.code is Code.RESOURCE_EXHAUSTED, path


async def test_names_that_the_standard_services_do_not_know_are_not_found(
    target: Target, tmp_path: Path
) -> None:
    async with unharmed(target, tmp_path):
        for name in ("../x", "\0", "x" * 1_000_000, "model_express.model.ModelService.DeleteModel"):
            answer = await target.send(CHECK, standard_pb2.HealthCheckRequest(service=name))
            assert (answer.code, answer.error) == (Code.NOT_FOUND, "NotFound")
            assert shown(name) in answer.details
            request = reflection_pb2.ServerReflectionRequest(file_by_filename=name)
            answer = await target.send(REFLECT, request)
            said = answer.read(reflection_pb2.ServerReflectionResponse)[0]
            assert said.error_response.error_code == Code.NOT_FOUND.value[0]


async def test_reflection_survives_bytes_that_are_no_request(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for payload in (b"\x0a", b"\x0a\x02\xff\xfe", b"\xff" * 11):
            answer = await target.send(REFLECT, payload)
            # Read by the library itself, which has only this for them.
            assert answer.code is Code.UNKNOWN and not answer.messages


async def test_methods_that_nobody_has_are_unimplemented(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for path in ("/x", "/model_express.model.ModelService/Ensure", "/../../etc/passwd", "/" + "x" * 5000):
            assert (await target.send(path, b"")).code is Code.UNIMPLEMENTED, path


async def test_a_token_that_can_be_none_is_refused_and_not_repeated(target: Target, tmp_path: Path) -> None:
    async with unharmed(target, tmp_path):
        for token in ("hf two", "hf_" + "x" * 1100, "a b" * 100):
            for path, request in naming(NAME):
                answer = await target.send(path, request, token)
                assert (answer.code, answer.error) == REFUSED
                assert "x-hf-token" in answer.details and token[:4] not in answer.details
