# SPDX-License-Identifier: Apache-2.0
"""`explain` is right: what it names as the next ten goes next, in that order, whatever happened before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from bench.traces import Asked, Trace, make_traces
from tests.support.memory_origin import MemoryOrigin

from modelexpress.cache import CacheOptions, EvictionOptions, Limits, ModelCache, Surroundings, open_cache
from modelexpress.domain.caller import ANONYMOUS
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.errors import NoRoom
from modelexpress.domain.eviction import EvictionOrder, Gdsf, Lru
from modelexpress.domain.meter import NO_METER
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.registry.memory import MemoryTable

NEXT = 10
BUDGET = 2_500_000
TRACES = make_traces(models=40, requests=100, seed=3)


def files(asked: Asked) -> dict[str, bytes]:
    """The blobs of a request, 20 KB for each GB, with the content that their names give them."""
    return {
        f"{blob.split()[-1]}.bin": hashlib.shake_128(blob.encode()).digest(1000 + size // 50_000)
        for blob, size in asked.blobs.items()
    }


async def replay(cache: ModelCache, origin: MemoryOrigin, trace: Trace) -> None:
    for asked in trace.requests:
        origin.release(asked.model, files(asked))
        try:
            flight = await cache.begin(ModelRef.parse(asked.model), None, ANONYMOUS)
            await flight.result()
        except NoRoom:
            assert asked.bytes > 150_000_000_000, "only the largest are too large for this cache"


@pytest.mark.parametrize("trace", TRACES, ids=[trace.name.replace(" ", "-") for trace in TRACES])
@pytest.mark.parametrize("order", [Lru(), Gdsf()], ids=["lru", "gdsf"])
async def test_the_next_ten_that_go_are_those_that_explain_names(
    tmp_path: Path, trace: Trace, order: EvictionOrder
) -> None:
    origin = MemoryOrigin({})
    options = CacheOptions(
        tmp_path / "cache",
        "here",
        is_owner=True,
        limits=Limits(BUDGET),
        eviction=EvictionOptions(True, order, grace_seconds=0.0),
    )
    around = Surroundings({ProviderKind.HUGGING_FACE: origin}, MemoryTable(), SYSTEM_CLOCK, NO_METER)
    async with open_cache(options, around) as cache:
        await replay(cache, origin, trace)
        held = [(one.name, one.commit) for one in await cache.list_held()]
        assert len(held) < len({(one.model, one.revision) for one in trace.requests}), "nothing had to go"
        ranks = {}
        for name, commit in held:
            [explained] = await cache.explain(ModelRef.parse(f"{name}@{commit}"))
            ranks[explained.rank] = (name, commit)
        assert sorted(filter(None, ranks)) == list(range(1, len(held) + 1)) and len(held) >= NEXT
        went = []
        for _ in range(NEXT):
            room = (await cache.plan()).use.room
            plan = await cache.evict([], room + 1, is_dry_run=False)
            went += [(one.name, one.commit) for one in plan.removal.removals]
    assert went == [ranks[place] for place in range(1, NEXT + 1)]
