# SPDX-License-Identifier: Apache-2.0
"""What tests of whole transfers share: processes at both ends that can be killed, and what each has."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.data_relay import DataRelay
from tests.support.house import House, tree
from tests.support.house import server_settings as settings_of_server
from tests.support.proxy import closed_port
from tests.support.served import SERVE, Place, Served, Strike

from modelexpress.cache import Surroundings, open_cache
from modelexpress.compose.parts import cache_options, open_table
from modelexpress.domain.chunks import chunk_span, count_chunks
from modelexpress.domain.clock import SYSTEM_CLOCK
from modelexpress.domain.refs import ProviderKind
from modelexpress.observability.metrics import Metrics
from modelexpress.providers.huggingface import HubOptions, make_provider
from modelexpress.providers.retry import RetryPolicy
from modelexpress.server.app import ServerOptions, open_server
from modelexpress.server.data import DataOptions
from modelexpress.store.journal import Journalled, read_journal
from modelexpress.testing.hub import LocalHub
from modelexpress.testing.hub.content import HubFile

PULL = Path(__file__).with_name("pull_process.py")
WITHOUT_LOCKS = Path(__file__).with_name("without_locks.py")
_CHECKOUT = Path(__file__).parents[2]
_PATIENCE_SECONDS = 30.0
# Waits that a test can afford.
_QUICK = RetryPolicy(max_attempts=30, base_seconds=0.001, cap_seconds=0.01, patience_seconds=5.0)

Files = Mapping[str, HubFile]


class Chunks(dict[tuple[str, int], int]):
    """How many bytes from the front of each chunk, by path and number, are somewhere."""

    @property
    def bytes(self) -> int:
        """All of them."""
        return sum(self.values())

    def is_in(self, other: Chunks) -> bool:
        """Whether another place has all of it too."""
        return all(length <= other.get(chunk, 0) for chunk, length in self.items())


# -- what is where


def model_tree(root: Path, name: str) -> dict[str, bytes | str]:
    """One model as every tool sees it; huggingface_hub's own listings are its own."""
    found = tree(root / ("models--" + name.replace("/", "--")))
    return {p: content for p, content in found.items() if p.split("/")[0] in ("blobs", "snapshots", "refs")}


def held_chunks(root: Path, name: str, files: Files) -> Chunks:
    """What a cache directory keeps of a model whatever happens: published files, and what journals name."""
    blobs = root / ("models--" + name.replace("/", "--")) / "blobs"
    said: dict[str, Journalled] = {}
    for path in root.glob(".mx/partials/*.journal"):
        found = read_journal(path) if path.with_suffix(".part").exists() else None
        if found is not None:
            etag = found.header.digest.rpartition(":")[2]
            said[etag] = max(said.get(etag, found), found, key=lambda one: one.arrived_bytes)
    whole, held = all_chunks(files), Chunks()
    for (path, number), length in whole.items():
        etag = files[path].etag
        if (blobs / etag).exists():
            held[path, number] = length
        elif etag in said and number in said[etag].pieces:
            held[path, number] = said[etag].pieces[number].length
    return held


def all_chunks(files: Files) -> Chunks:
    """Every chunk of a model."""
    sizes = {path: file.size for path, file in files.items()}
    return Chunks(
        {(p, n): chunk_span(n, size).length for p, size in sizes.items() for n in range(count_chunks(size))}
    )


def coordination_rows(place: Place) -> list[str]:
    """Sessions and claims in the registry of a server that has ended."""
    with closing(sqlite3.connect(place.registry)) as database:
        rows = database.execute("SELECT key FROM rows WHERE key LIKE 'session/%' OR key LIKE 'claim/%'")
        return [str(key) for (key,) in rows]


# -- processes


def _command(script: Path, is_without_locks: bool, *arguments: str) -> list[str]:
    return [sys.executable, *([str(WITHOUT_LOCKS)] if is_without_locks else []), str(script), *arguments]


async def start_server(place: Place, is_without_locks: bool, **settings: object) -> Served:
    """A server process that answers; the caller ends it."""
    log = place.root / f"server-{len(list(place.root.glob('server-*.log')))}.log"
    command = _command(SERVE, is_without_locks, json.dumps(place.flags(**settings)))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=place.environment,
            cwd=place.root,
        )  # fmt: skip
    served = Served(process, log, place.environment)
    try:
        assert await served.has_come_up(), f"the server ended:\n{served.said}"
    except BaseException:
        process.kill()
        process.wait()
        raise
    return served


@dataclass
class Pulling:
    """A client process that pulls into a directory of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    async def wait(self) -> dict[str, str]:
        """What it said at its end; empty when it was killed."""
        status = await asyncio.to_thread(self.process.wait, _PATIENCE_SECONDS)
        said = self.log.read_text(errors="replace")
        if status == -signal.SIGKILL:
            return {}
        assert status in (0, 1) and "Traceback" not in said, said
        answer: dict[str, str] = json.loads(said.splitlines()[-1])
        return answer

    def kill(self) -> None:
        """SIGKILL, and nothing of it is left."""
        self.process.kill()
        self.process.wait()


def start_pull(
    served: Served, name: str, root: Path, is_without_locks: bool = False, strike: Strike | None = None
) -> Pulling:
    """Pull `name` from a server into `root` in a process of its own, which may strike itself."""
    folder = root.parent
    log = folder / f"client-{len(list(folder.glob('client-*.log')))}.log"
    flags = {
        "connection.endpoint": f"http://127.0.0.1:{served.port}",
        "cache.directory": str(root),
        "cache.shared_storage": False,
    }
    arguments = [json.dumps([name, flags])]
    if strike is not None:
        arguments.append(json.dumps({"folder": str(root), **asdict(strike)}))
    environment = {**served.environment, "PYTHONPATH": str(_CHECKOUT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(PULL, is_without_locks, *arguments), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, env=environment, cwd=folder,
        )  # fmt: skip
    return Pulling(process, log)


# -- in one process


@asynccontextmanager
async def open_relayed_house(
    hub: LocalHub, relay: DataRelay, tmp_path: Path, **settings: object
) -> AsyncIterator[House]:
    """A server over `hub` whose clients are sent to `relay` for data."""
    loaded, env = settings_of_server(hub, tmp_path, **settings)
    metrics = Metrics("test", "sqlite", "")
    options = HubOptions(hub.endpoint, ("localhost", "127.0.0.1"), 5.0, _QUICK)
    providers = {ProviderKind.HUGGING_FACE: make_provider(options, env)}
    async with open_table(loaded.settings) as table:
        around = Surroundings(providers, table, SYSTEM_CLOCK, metrics)
        async with open_cache(cache_options(loaded.settings, env, is_owner=True), around) as cache:
            relay.target_port = closed_port()
            data = DataOptions("127.0.0.1", relay.target_port, drain_seconds=1.0)
            serving = ServerOptions("127.0.0.1", 0, 1.0, "1.0.0", data, advertised=("127.0.0.1", relay.port))
            async with open_server(cache, serving, metrics, SYSTEM_CLOCK) as listening:
                root = loaded.settings.cache.directory
                yield House(hub, cache, root, listening.port, listening.data_port, metrics, loaded, env)


def damage_file(path: Path, offset: int, how: str, length: int = 64, is_time_kept: bool = True) -> None:
    """Damage a file in place: flip, zero, swap (with what follows) or truncate."""
    before = path.stat()
    descriptor = os.open(path, os.O_RDWR)
    try:
        if how == "truncate":
            os.ftruncate(descriptor, offset)
        else:
            old = os.pread(descriptor, 2 * length, offset)
            first, second = old[:length], old[length:]
            new = {
                "flip": bytes([old[0] ^ 1]) + old[1:],
                "zero": bytes(length) + second,
                "swap": second + first,
            }[how]
            assert new != old, f"{how} would change nothing at {offset} of {path}"
            os.pwrite(descriptor, new, offset)
    finally:
        os.close(descriptor)
    if is_time_kept:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
