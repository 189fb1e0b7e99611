# SPDX-License-Identifier: Apache-2.0
"""Holdings: which node has what, and when it was last used. Rebuilt from the disk whenever lost."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, replace

from modelexpress.domain.clock import Clock
from modelexpress.registry.port import MAX_VALUE_BYTES, Row, Table
from modelexpress.registry.rows import scan_all

FORMAT = 1
_PREFIX = "holding/"
_TOUCH_SECONDS = 60.0
_MOST_SELECTIONS = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holding:
    """One commit of a model on one node. Bytes count each blob once; `last_used_at` is epoch seconds.

    `uses`: how often it was asked for; `credit`: `Holdings.inflation` when it was last.
    """

    provider: str
    name: str
    commit: str
    selections: tuple[str, ...]
    files: int
    bytes: int
    bytes_ours: int
    last_used_at: float
    uses: int = 1
    credit: float = 0.0


class Holdings:
    """What this node (and others) hold, in the table."""

    inflation: float = 0.0
    """The credit that a use gets now (see `domain.eviction.Gdsf`)."""

    def __init__(self, table: Table, node: str, clock: Clock) -> None:
        self._table = table
        self._node = node
        self._clock = clock
        self._touched: dict[str, _Touched] = {}

    async def put(self, holding: Holding) -> None:
        """Say that this node holds it now, as described; how often it was used before still counts."""
        await self._write(self._key_of(holding), holding, 0)

    async def touch(self, holding: Holding) -> None:
        """Say that it was used now; written at most once a minute for each commit."""
        key, now = self._key_of(holding), self._clock.monotonic()
        touched = self._touched.setdefault(key, _Touched())
        touched.last_used_at = self._clock.wall()
        touched.unwritten += 1
        if now - touched.written_at < _TOUCH_SECONDS:
            return
        touched.written_at, uses, touched.unwritten = now, touched.unwritten, 0
        await self._write(key, replace(holding, last_used_at=touched.last_used_at), uses)

    async def remove(self, provider: str, name: str, commit: str) -> None:
        """Say that this node no longer holds it; saying so twice is fine."""
        key = _key(self._node, provider, name, commit)
        self._touched.pop(key, None)
        while (row := await self._table.get(key)) is not None:
            if await self._table.delete(key, row.version):
                return

    async def list(self, node: str) -> AsyncIterator[Holding]:
        """What `node` holds, in no particular order; rows that this version cannot read are passed over."""
        async for row in scan_all(self._table, _node_prefix(node)):
            holding = _read(row)
            if holding is not None:
                yield self._with_touches(row.key, holding)

    def _with_touches(self, key: str, holding: Holding) -> Holding:
        touched = self._touched.get(key)
        if touched is None or not touched.unwritten:
            return holding
        last = max(holding.last_used_at, touched.last_used_at)
        return replace(holding, last_used_at=last, uses=holding.uses + touched.unwritten)

    async def replace_all(self, holdings: Iterable[Holding]) -> None:
        """Make the table say of this node exactly `holdings`."""
        wanted = {_key(self._node, h.provider, h.name, h.commit): h for h in holdings}
        async for row in scan_all(self._table, _node_prefix(self._node)):
            if row.key not in wanted:
                await self._table.delete(row.key, row.version)
            elif _read(row) == wanted[row.key]:
                del wanted[row.key]
        for key, holding in wanted.items():
            await self._write(key, holding, 0)

    async def check(self) -> None:
        """Raise what the table raises when it does not answer."""
        await self._table.get(_node_prefix(self._node) + "check")

    def _key_of(self, holding: Holding) -> str:
        return _key(self._node, holding.provider, holding.name, holding.commit)

    async def _write(self, key: str, holding: Holding, new_uses: int) -> None:
        while True:
            # Two writers on one node say the same thing, so whoever loses the race tries again and agrees.
            row = await self._table.get(key)
            before = None if row is None else _read(row)
            value = _value(self._add_up(before, holding, new_uses))
            if await self._table.put(key, value, row.version if row else None) is not None:
                return

    def _add_up(self, before: Holding | None, holding: Holding, new_uses: int) -> Holding:
        if before is None:
            return replace(holding, credit=self.inflation)
        credit = self.inflation if new_uses else before.credit
        last = max(before.last_used_at, holding.last_used_at)
        return replace(holding, last_used_at=last, uses=before.uses + new_uses, credit=credit)


@dataclass
class _Touched:
    """Uses of a commit that the table does not know yet."""

    written_at: float = float("-inf")
    last_used_at: float = 0.0
    unwritten: int = 0


def _node_prefix(node: str) -> str:
    return f"{_PREFIX}{hashlib.sha256(node.encode()).hexdigest()[:16]}/"


def _key(node: str, provider: str, name: str, commit: str) -> str:
    model = hashlib.sha256(f"{provider}\0{name}".encode()).hexdigest()
    return f"{_node_prefix(node)}{model}/{commit}"


def _value(holding: Holding) -> bytes:
    # The list of selections is for people; what is complete is said by the record on disk.
    short = replace(holding, selections=holding.selections[:_MOST_SELECTIONS])
    value = json.dumps({"format": FORMAT, **asdict(short)}).encode()
    assert len(value) <= MAX_VALUE_BYTES
    return value


def _read(row: Row) -> Holding | None:
    try:
        content = json.loads(row.value)
        if content.pop("format") > FORMAT:
            return None
        return Holding(**{**content, "selections": tuple(content["selections"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("holding %s cannot be read (%s); it is rebuilt at the next start", row.key, error)
        return None
