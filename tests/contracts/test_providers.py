# SPDX-License-Identifier: Apache-2.0
"""Every provider against the provider contract, each with its real origin."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.house import QUICK, open_house

from modelexpress.client.server_calls import ServerCalls
from modelexpress.client.server_provider import ServerProvider
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.providers.huggingface import HubOptions, make_provider
from modelexpress.testing import hub as testing_hub
from modelexpress.testing.contracts import Origin, ProviderContract
from modelexpress.testing.hub import LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files

NAME = "demo/contract"


def publish() -> tuple[Repository, str, dict[str, bytes]]:
    files = {path: content for path, content in tiny_files().items() if isinstance(content, bytes)}
    files["large.bin"] = random.Random(1).randbytes(3_000_001)
    repository = Repository(NAME)
    return repository, repository.commit(dict(files)), files


class TestHuggingFace(ProviderContract):
    """The Hub as origin; large files come from its CDN."""

    has_cdn = True

    @pytest.fixture
    async def origin(self) -> AsyncIterator[Origin]:
        repository, commit, files = publish()
        options = testing_hub.HubOptions(has_cdn=self.has_cdn, page_size=3)
        async with LocalHub([repository], options) as hub:
            provider = make_provider(HubOptions(hub.endpoint, ("localhost", "127.0.0.1"), 5.0, QUICK), {})
            yield Origin(provider, ModelRef.parse(NAME), commit, files)
            await provider.close()


class TestMirror(TestHuggingFace):
    """A mirror that serves every file in place."""

    has_cdn = False


class TestServer(ProviderContract):
    """A ModelExpress server as origin of a client's cache."""

    can_resolve = False
    has_spans = False
    has_versions = False

    @pytest.fixture
    async def origin(self, tmp_path: Path) -> AsyncIterator[Origin]:
        repository, commit, files = publish()
        async with LocalHub([repository]) as hub, open_house(hub, tmp_path) as house:
            flight = await house.cache.begin(ModelRef.parse(NAME), None, ANONYMOUS)
            await flight.result()
            async with house.connection() as connection:
                provider = ServerProvider(ProviderKind.HUGGING_FACE, ServerCalls(connection, 65_536))
                yield Origin(provider, ModelRef.parse(NAME), commit, files)
