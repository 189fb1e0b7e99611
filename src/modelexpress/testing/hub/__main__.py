# SPDX-License-Identifier: Apache-2.0
"""`python -m modelexpress.testing.hub --directory DIR`: serve DIR/ORG/NAME/** as a Hub.

`GET /-/sent` tells how many bytes of files it has sent, as `{"bytes_sent": N}`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from modelexpress.testing.hub import Fault, HubOptions, LocalHub
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


async def _serve(arguments: argparse.Namespace) -> None:
    folders = [path for path in sorted(arguments.directory.glob("*/*")) if path.is_dir()]
    repositories = [from_directory(f"{path.parent.name}/{path.name}", path) for path in folders]
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
