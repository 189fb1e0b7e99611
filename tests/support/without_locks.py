# SPDX-License-Identifier: Apache-2.0
"""Runs a script with `fcntl.flock` and `fcntl.lockf` that lock nothing, as some network file systems do."""

import fcntl
import runpy
import sys


def lock_nothing(*_: object) -> None:
    pass


if __name__ == "__main__":
    fcntl.flock = fcntl.lockf = lock_nothing
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
