# SPDX-License-Identifier: Apache-2.0
"""`python -m modelexpress.testing.hub --directory DIR`: serve DIR/ORG/NAME/** as a Hub.

DIR/datasets/ORG/NAME and DIR/spaces/ORG/NAME are datasets and spaces.
`GET /-/sent` tells how many bytes of files it has sent, as `{"bytes_sent": N}`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

from modelexpress.testing.hub import Fault, HubOptions, LocalHub
from modelexpress.testing.hub.content import split_name
from modelexpress.testing.hub.models import from_directory


def main() -> None:
    """Serve until a signal; the first line on standard output says where."""
    parser = argparse.ArgumentParser(prog="python -m modelexpress.testing.hub", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--throttle", type=int, default=0, help="bytes a second for each file")
    parser.add_argument("--total-rate", type=int, default=0, help="bytes a second for all files together")
    arguments = parser.parse_args()
    if not arguments.directory.is_dir():
        parser.error(f"{arguments.directory} is not a directory")
    asyncio.run(_serve(arguments))


def _find_folders(directory: Path) -> Iterator[tuple[str, Path]]:
    for pattern in ("*/*", "datasets/*/*", "spaces/*/*"):
        for path in sorted(directory.glob(pattern)):
            name = path.relative_to(directory).as_posix()
            # A folder right below `datasets` is an organization, not a repository.
            if path.is_dir() and split_name(name)[1].count("/") == 1:
                yield name, path


async def _serve(arguments: argparse.Namespace) -> None:
    repositories = [from_directory(name, path) for name, path in _find_folders(arguments.directory)]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    options = HubOptions(port=arguments.port, total_rate=arguments.total_rate)
    async with LocalHub(repositories, options) as hub:
        if arguments.throttle:
            hub.faults.add(Fault("throttle", "body", times=None, rate=arguments.throttle))
        print(f"listening on {hub.endpoint}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
