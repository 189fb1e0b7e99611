# SPDX-License-Identifier: Apache-2.0
"""A client process and nothing else: one pull, settings as JSON in, where the model is as JSON out."""

import asyncio
import json
import os
import sys

from tests.support.serve import strike_before

from modelexpress import compose
from modelexpress.client import Strategy
from modelexpress.compose.clients import make_async_client
from modelexpress.domain.errors import MxError


async def pull(name: str, flags: dict[str, object]) -> dict[str, object]:
    async with make_async_client(compose.load_settings("client", flags, os.environ), os.environ) as client:
        model = await client.pull(name, strategy=Strategy.SERVER_ONLY)
    return {"path": str(model.path), "bytes_fetched": model.bytes_fetched, "was_hit": model.was_hit}


def main() -> int:
    name, flags = json.loads(sys.argv[1])
    if len(sys.argv) > 2:
        strike_before(**json.loads(sys.argv[2]))
    try:
        print(json.dumps(asyncio.run(pull(name, flags))))
    except MxError as error:
        print(json.dumps({"code": error.code, "message": error.message}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
