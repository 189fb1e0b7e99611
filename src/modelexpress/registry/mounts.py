# SPDX-License-Identifier: Apache-2.0
"""What kind of file system a path is on."""

from __future__ import annotations

import re
from pathlib import Path

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.s3fs",
     "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "wekafs"}
)  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def find_network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of the network file system that `path` (existing or not) is on; None for a local one."""
    try:
        listed = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None  # not Linux: nothing to look it up in
    kind = file_system_type(listed, path.absolute().resolve())
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def file_system_type(mountinfo: str, path: Path) -> str | None:
    """The type of the innermost mount above `path` in a text like /proc/self/mountinfo."""
    best: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        # Of two mounts on one point the later covers the earlier.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), after.split(" ", 1)[0])
    return None if best is None else best[1]
