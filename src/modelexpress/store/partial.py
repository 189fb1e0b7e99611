# SPDX-License-Identifier: Apache-2.0
"""A file that is arriving: chunks in any order, each hashed, written in place and journalled. Blocking."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from modelexpress.domain.chunks import CHUNK_BYTES
from modelexpress.domain.errors import Corrupt
from modelexpress.store.disk import disk_bytes, disk_errors
from modelexpress.store.journal import Journal, Piece
from modelexpress.transfer import Arrivals

_CANNOT_ALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS)
_LIBC = ctypes.CDLL(None, use_errno=True)


class Partial(Arrivals):
    """One file under a name that nobody else uses; a `transfer.Sink`. For several threads at once."""

    def __init__(self, path: Path, size: int, journal: Journal, on_arrival: Callable[[int], None]) -> None:
        super().__init__(size, on_arrival)
        self.path = path
        self.continues: str | None = None
        """The name of the file that it goes on with, if it has all that anybody can have read of that."""
        self.is_taken_over = False
        """Whether it goes on with what another pull began."""
        self._journal = journal
        self._etags: dict[str, str] = {}
        self._etags_to_save: list[tuple[str, str]] = []
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        try:
            before = disk_bytes(os.fstat(self._descriptor))
            self.is_allocated = _allocate(self._descriptor, size)
            taken = disk_bytes(os.fstat(self._descriptor)) - before
            self.bytes_allocated = min(max(taken, 0), size)
        except OSError:
            os.close(self._descriptor)
            raise

    # -- what has arrived

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that have arrived."""
        return os.pread(self._descriptor, length, offset)

    def open_reader(self) -> int:
        """A descriptor of the file for a reader of its own, who closes it; good after a rename too."""
        return os.dup(self._descriptor)

    # -- the sink

    def view(self, index: int, most: int) -> memoryview | None:
        """None: bytes are received elsewhere and written by `put`."""
        return None

    def _write(self, index: int, offset: int, data: memoryview) -> None:
        with disk_errors(f"writing {self.path.name}"):
            _write_all(self._descriptor, data, index * CHUNK_BYTES + offset)

    def _record(self, index: int, length: int, digest: bytes) -> None:
        # Before readers have the bytes: whoever goes on at another process of ours, after a crash, goes on
        # with the same ones, right or wrong, and hears of it when they were wrong.
        with disk_errors(f"writing {self.path.name}"):
            self._save_etags()
            self._journal.piece(index, length, digest)

    # -- validators

    def check_version(self, host: str, etag: str) -> None:
        """Remember how `host` names the file's version; never blocks. Raises Corrupt for another one."""
        with self._lock:
            known = self._etags.get(host)
            if known is None:
                self._etags[host] = etag
                self._etags_to_save.append((host, etag))  # with the next chunk: this may be an event loop
        if known not in (None, etag):
            raise Corrupt(f"the file changed at {host} while it was read ({known} became {etag})")

    # -- the end

    def sync(self) -> int:
        """Make the bytes durable; the file's time then, which tells whether it was touched since."""
        os.fsync(self._descriptor)
        return os.fstat(self._descriptor).st_mtime_ns

    def leave(self) -> None:
        """Say that whoever comes next may go on with the file."""
        with suppress(OSError):  # a full disk: it is resumed when this process is gone
            self._journal.leave()

    def close(self) -> None:
        """Let go of the file and its journal, which stay."""
        os.close(self._descriptor)
        self._journal.close()

    def delete(self) -> None:
        """Take file and journal away; the file may have been renamed, or be gone."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        with suppress(FileNotFoundError):
            self._journal.path.unlink()

    # -- resuming

    def resume(self, source: int, pieces: Mapping[int, Piece], etags: Mapping[str, str]) -> int:
        """Take over what a journal names of the file open at `source`, each piece hashed again; bytes taken.

        `source` may be this very file; of another one the pieces are copied.
        """
        taken = 0
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for index, piece in sorted(pieces.items()):
            data = buffer[: piece.length]
            if not _can_read(source, data, index * CHUNK_BYTES):
                continue
            hasher = blake3(data)
            if hasher.digest() != piece.digest:
                continue
            if not os.path.sameopenfile(source, self._descriptor):
                self._write(index, 0, data)
            self._keep(index, piece.length, hasher)
            taken += piece.length
        for host, etag in etags.items():
            self.check_version(host, etag)
        return taken

    def _save_etags(self) -> None:
        with self._lock:
            unsaved, self._etags_to_save = self._etags_to_save, []
        for host, etag in unsaved:
            self._journal.etag(host, etag)

    def __repr__(self) -> str:
        return f"<Partial {self.path.name} {self._chunks!r}>"


def _can_read(descriptor: int, into: memoryview, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [into], offset) == len(into)
    except OSError:  # a bad place on the disk costs the chunk that is there
        return False


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _allocate(descriptor: int, size: int) -> bool:
    """Set the file's size and take its blocks now; False where the file system only takes them later.

    Not `posix_fallocate`: where the file system cannot, it writes every block, over a network too.
    """
    if os.fstat(descriptor).st_size > size:
        os.ftruncate(descriptor, size)
    if size == 0:
        return True
    number = errno.EINTR
    while number == errno.EINTR:
        if _LIBC.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
            return True
        number = ctypes.get_errno()
    if number not in _CANNOT_ALLOCATE:
        raise OSError(number, os.strerror(number))
    os.ftruncate(descriptor, size)
    return False
