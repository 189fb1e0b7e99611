# SPDX-License-Identifier: Apache-2.0
"""Our side of the file system: a named pool for blocking work, errors in our words, durable small writes."""

from __future__ import annotations

import asyncio
import errno
import functools
import glob
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from modelexpress.domain.errors import Cancelled, MxError, NoRoom, StorageFailed

P = ParamSpec("P")
T = TypeVar("T")

_BLOCK_BYTES = 512  # of st_blocks, on every Linux file system
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TAG = re.compile(r"\.([0-9a-f]{12})-([0-9]+)-([0-9]+)\.")
_HINTS = {
    errno.EROFS: "the file system is read-only; choose another cache directory or remount it",
    errno.EACCES: "no permission; give this user the directory or choose another",
    errno.EPERM: "no permission; give this user the directory or choose another",
    errno.ENOENT: "it has vanished; check that the volume is mounted",
    errno.EIO: "the disk reports an input/output error; check the disk",
    errno.ESTALE: "the network file system lost it; check the mount",
}


class DiskPool:
    """Threads for disk and hashing work. The event loop itself never touches a file."""

    def __init__(self, workers: int = 4) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="mx-disk")

    async def run(self, what: str, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one short blocking `job`; an OSError becomes NoRoom or StorageFailed naming `what`.

        Raises Cancelled when the pool is closed.
        """
        call = functools.partial(_guarded, what, job, *args, **kwargs)
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError as error:
            raise Cancelled(f"{what}: this process is stopping; ask again when it is back") from error
        return await running

    def close(self) -> None:
        """Let running jobs end and the threads go."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def _guarded(what: str, job: Callable[..., T], *args: object, **kwargs: object) -> T:
    with disk_errors(what):
        return job(*args, **kwargs)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an OSError in the body into NoRoom or StorageFailed; `what` says what was being done."""
    try:
        yield
    except OSError as error:
        raise translate(error, what) from error


def translate(error: OSError, what: str) -> MxError:
    """The domain error for an OSError met while doing `what`."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return NoRoom(
            f"{what}: no space left{where}; free some with 'modelexpress cache prune' or 'cache rm'"
        )
    hint = _HINTS.get(error.errno or 0, "check the cache directory")
    return StorageFailed(f"{what}: {error.strerror or error}{where}: {hint}")


@functools.cache
def _process_tag(pid: int) -> str:
    """This process in a file name: others on this machine can tell whether it is still alive."""
    return f"{_place()}-{pid}-{start_time(pid)}"


def has_writer(name: str) -> bool:
    """True when a file's name tells which process made it."""
    return _TAG.search(name) is not None


def is_writer_dead(name: str) -> bool:
    """True when a file's name tells that the process which made it was here, and is gone for good."""
    found = _TAG.search(name)
    return found is not None and found[1] == _place() and start_time(int(found[2])) != found[3]


def _place() -> str:
    """Within it process ids mean the same: a boot of a machine, and a namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return hashlib.sha256(f"{boot}{os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:12]
    except OSError:
        return secrets.token_hex(6)


def start_time(pid: int) -> str | None:
    """The kernel's start time of a process, which tells a reused pid from the old one; None: not alive."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # the number comes from a file that anybody may have written
        return None
    fields = line.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def unique_name(owner: str, suffix: str = "") -> str:
    """A file name that nobody else uses, beginning with the id of the session that writes it."""
    return f"{owner}.{_process_tag(os.getpid())}.{secrets.token_hex(8)}{suffix}"


def disk_bytes(status: os.stat_result) -> int:
    """Bytes of the disk that a file takes, which are fewer than its size where it has holes."""
    return status.st_blocks * _BLOCK_BYTES


def find_files(folder: Path, pattern: str) -> list[Path]:
    """What matches below `folder`, by name; folders that vanish meanwhile are passed over.

    `Path.glob` raises for those.
    """
    return [folder / name for name in sorted(glob.glob(pattern, root_dir=folder))]


def make_directory(path: Path) -> None:
    """Create `path` and its parents with the modes the umask gives; an existing one is fine."""
    path.mkdir(parents=True, exist_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(source: Path, target: Path) -> None:
    """Rename `source` over `target`; an empty directory that stands there by mistake gives way."""
    try:
        os.replace(source, target)
    except IsADirectoryError:
        with suppress(OSError):  # one that is not empty says so below
            target.rmdir()
        os.replace(source, target)


class Staged:
    """A small file that is durable under a temporary name, and waits to be put at `target` by one rename."""

    def __init__(self, staging: Path, owner: str, target: Path, content: bytes) -> None:
        self._temporary = staging / unique_name(owner)
        self._target = target
        self._is_there = True
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self.drop()
            raise

    def put(self) -> None:
        """Let it stand at its place, durably; after a crash there is the old file or the new one."""
        make_directory(self._target.parent)
        put_in_place(self._temporary, self._target)
        self._is_there = False
        sync_directory(self._target.parent)

    def drop(self) -> None:
        """Take it away, if it was not put."""
        if self._is_there:
            self._temporary.unlink(missing_ok=True)


def write_durably(staging: Path, owner: str, target: Path, content: bytes) -> None:
    """Put `content` at `target` by one rename: after a crash there is the old file or the new one."""
    staged = Staged(staging, owner, target, content)
    try:
        staged.put()
    finally:
        staged.drop()
