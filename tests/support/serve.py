# SPDX-License-Identifier: Apache-2.0
"""A server process and nothing else: settings as JSON in, an exit status out; struck where a test says."""

import itertools
import json
import os
import sys

from modelexpress import compose
from modelexpress.domain.errors import MxError

_CHANGES = frozenset({"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.link"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main() -> int:
    if len(sys.argv) > 2:
        strike_before(**json.loads(sys.argv[2]))
    try:
        return compose.serve(compose.load_settings("server", json.loads(sys.argv[1]), os.environ), os.environ)
    except MxError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1


def strike_before(step: int, folder: str, number: int) -> None:
    """Send signal `number` to this process right before its `step`-th change of a name below `folder`."""
    steps = itertools.count(1)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            is_change = isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        else:
            is_change = event in _CHANGES
        if (
            is_change
            and any(_is_below(folder, argument) for argument in arguments[:2])
            and next(steps) == step
        ):
            os.kill(os.getpid(), number)

    sys.addaudithook(look)


def _is_below(folder: str, argument: object) -> bool:
    return isinstance(argument, str | os.PathLike) and str(os.fspath(argument)).startswith(folder)


if __name__ == "__main__":
    sys.exit(main())
