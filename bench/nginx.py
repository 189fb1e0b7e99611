# SPDX-License-Identifier: Apache-2.0
"""The raw limit's server: nginx with sendfile in one process, or, where there is none, a bare sendfile loop.

With `hub` it answers as a Hub does, so that huggingface_hub can read the same files from it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.processes import clean_environment, free_port, running, wait_until_open

_SENDFILE_STEP = 2**30
_RANGE = re.compile(rb"\r\nrange: bytes=([0-9]+)-([0-9]+)\r\n", re.IGNORECASE)
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class HubPages:
    """What a Hub says about one repository: its two listings, and the etag of each file."""

    name: str
    commit: str
    revision: bytes
    tree: bytes
    etags: dict[str, str]


@dataclass(frozen=True, slots=True)
class RawServer:
    """A running one: its kind, its port and its process."""

    kind: str
    port: int
    process: int


@contextmanager
def raw_server(folder: Path, root: Path, hub: HubPages | None = None) -> Iterator[RawServer]:
    """Serve the files below `root`; settings and logs go into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    nginx, port = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"), free_port()
    if nginx is None:
        command = [sys.executable, "-m", "bench.nginx", str(root), str(port)]
    else:
        settings = folder / "nginx.conf"
        settings.write_text(_settings(folder, root, port, hub))
        command = [nginx, "-p", str(folder), "-c", str(settings)]
    log = folder / "raw.log"
    with running(command, log, clean_environment()) as process:
        wait_until_open(port, process, log)
        yield RawServer("nginx" if nginx else "bare sendfile (no nginx here)", port, process.pid)


def _settings(folder: Path, root: Path, port: int, hub: HubPages | None) -> str:
    temporary = "\n".join(f"  {name}_temp_path {folder}/{name};" for name in _TEMPORARY)
    locations = "" if hub is None else _hub_locations(folder, root, hub)
    return f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000000; default_type application/octet-stream;
{temporary}
  server {{
    listen 127.0.0.1:{port}; root {root};
{locations}
  }}
}}
"""


def _hub_locations(folder: Path, root: Path, hub: HubPages) -> str:
    (folder / "revision.json").write_bytes(hub.revision)
    (folder / "tree.json").write_bytes(hub.tree)
    json = "default_type application/json;"
    commit = f"add_header X-Repo-Commit {hub.commit};"
    api = f"/api/models/{hub.name}"
    lines = [
        f'location = "{api}/revision/main" {{ {json} alias {folder}/revision.json; }}',
        f'location = "{api}/tree/{hub.commit}" {{ {json} alias {folder}/tree.json; }}',
    ]
    for path, etag in hub.etags.items():
        quoted = f"etag off; add_header ETag '\"{etag}\"'; {commit}"
        where = f"/{hub.name}/resolve/{hub.commit}/{path}"
        lines.append(f'location = "{where}" {{ alias "{root / path}"; {quoted} }}')
    return "\n".join(f"    {line}" for line in lines)


def main() -> None:
    """Serve as nginx would: ranged GETs over kept connections, each in a thread of its own."""
    root, port = Path(sys.argv[1]), int(sys.argv[2])
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            line, _ = listener.accept()
            threading.Thread(target=_answer_all, args=(line, root), daemon=True).start()


def _answer_all(line: socket.socket, root: Path) -> None:
    with line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while head := _read_head(line):
            _answer(line, root, head)


def _read_head(line: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        some = line.recv(65536)
        if not some:
            return b""
        head += some
    return head


def _answer(line: socket.socket, root: Path, head: bytes) -> None:
    path = head.split(b" ", 2)[1].decode().lstrip("/")
    with (root / path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        found = _RANGE.search(head)
        first, last = (int(found[1]), int(found[2])) if found else (0, size - 1)
        status = f"206 Partial\r\nContent-Range: bytes {first}-{last}/{size}" if found else "200 OK"
        line.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {last - first + 1}\r\n\r\n".encode())
        while first <= last:
            count = min(last - first + 1, _SENDFILE_STEP)
            first += os.sendfile(line.fileno(), file.fileno(), first, count)


if __name__ == "__main__":
    main()
