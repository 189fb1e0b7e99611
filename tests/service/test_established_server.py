# SPDX-License-Identifier: Apache-2.0
"""Our client with a server of the established kind, which knows nothing of our own services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.caches import requested_files
from tests.support.established import Established, running

from modelexpress import compose
from modelexpress.client import AsyncClient, Strategy, Transfer
from modelexpress.compose.clients import make_async_client
from modelexpress.domain.errors import Corrupt, Internal, MxError, NotFound, Unsupported
from modelexpress.domain.selection import Selection, Weights
from modelexpress.testing.hub.models import tiny_files
from modelexpress.wire.model_pb2 import FileChunk

NAME = "demo/tiny"
COMMIT = "c0ffee" * 6 + "1234"
FILES = {path: content for path, content in tiny_files().items() if isinstance(content, bytes)}


def client_of(port: int, root: Path) -> AsyncClient:
    flags = {
        "connection.endpoint": f"127.0.0.1:{port}",
        "cache.directory": str(root),
        "cache.shared_storage": False,
    }
    env = {"HOME": str(root.parent)}
    return make_async_client(compose.load_settings("client", flags, env), env)


async def test_a_model_is_pulled_though_the_end_is_told_twice_and_the_stream_stays_open(
    tmp_path: Path,
) -> None:
    established = Established(NAME, COMMIT, FILES)
    async with running(established) as port, client_of(port, tmp_path / "mine") as client:
        model = await client.pull(NAME, strategy=Strategy.SERVER_ONLY)
        again = await client.pull(NAME, strategy=Strategy.SERVER_ONLY)

    found = {
        p.relative_to(model.path).as_posix(): p.read_bytes() for p in model.path.rglob("*") if p.is_file()
    }
    assert found == FILES
    assert (model.commit, model.transfer) == (COMMIT, Transfer.STREAMED)
    assert again.was_hit and len(established.chunk_sizes) == len(requested_files())
    assert (tmp_path / "mine/models--demo--tiny/refs/main").read_text() == COMMIT


async def test_without_weights_only_the_rest_is_asked_for(tmp_path: Path) -> None:
    async with running(Established(NAME, COMMIT, FILES)) as port, client_of(port, tmp_path / "m") as client:
        model = await client.pull(NAME, Selection(Weights.NONE))

    assert not list(model.path.rglob("*.safetensors")) and (model.path / "config.json").exists()


async def test_the_other_calls_are_understood(tmp_path: Path) -> None:
    established = Established(NAME, COMMIT, FILES)
    async with running(established) as port, client_of(port, tmp_path / "mine") as client:
        assert (await client.health()).version == "0.5.0"
        assert "1 record" in await client.delete(NAME)
        with pytest.raises(Unsupported):
            await client.list_held()

    assert established.deleted == [NAME]


@pytest.mark.parametrize(
    ("ending", "kind", "words"),
    [("error", NotFound, "no space left"), ("silent", Internal, "without a result")],
)
async def test_a_failure_is_told_with_its_cause(
    tmp_path: Path, ending: str, kind: type[MxError], words: str
) -> None:
    established = Established(NAME, COMMIT, FILES, ending=ending)
    async with running(established) as port, client_of(port, tmp_path / "mine") as client:
        with pytest.raises(kind, match=words):
            await client.pull(NAME)
        with pytest.raises(NotFound, match="demo/other"):
            await client.pull("demo/other")


def changed(**fields: object) -> object:
    def bend(chunks: Iterator[FileChunk]) -> Iterator[FileChunk]:
        for chunk in chunks:
            if chunk.relative_path == "model.safetensors" and chunk.offset == 32 * 1024:
                for name, value in fields.items():
                    setattr(chunk, name, value)
            yield chunk

    return bend


def cut(chunks: Iterator[FileChunk]) -> Iterator[FileChunk]:
    return (chunk for chunk in chunks if not chunk.is_last_chunk)


def repeated(chunks: Iterator[FileChunk]) -> Iterator[FileChunk]:
    return (chunk for each in chunks for chunk in (each, each))


def of_another_commit(chunks: Iterator[FileChunk]) -> Iterator[FileChunk]:
    for chunk in chunks:
        chunk.commit_hash = "0" * 40
        yield chunk


@pytest.mark.parametrize(
    "bend",
    [
        changed(offset=0),
        changed(total_size=1),
        changed(is_last_chunk=True),
        changed(data=b""),
        changed(data=b"x" * 300_000),
        changed(relative_path="../../../etc/passwd"),
        cut,
        repeated,
        of_another_commit,
        lambda chunks: iter(()),
    ],
)
async def test_a_stream_that_breaks_the_rules_leaves_no_model(tmp_path: Path, bend: object) -> None:
    established = Established(NAME, COMMIT, FILES, bend=bend)  # type: ignore[arg-type]
    async with running(established) as port, client_of(port, tmp_path / "mine") as client:
        with pytest.raises((Corrupt, Unsupported)):
            await client.pull(NAME)

    assert not list((tmp_path / "mine").glob("models--*/snapshots/*"))
    assert not list((tmp_path / "mine").glob(".mx/partials/*"))
    assert {path.name for path in tmp_path.iterdir()} <= {"mine"}
