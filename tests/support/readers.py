# SPDX-License-Identifier: Apache-2.0
"""Readers of a data plane in a process of their own: fast ones, a slow one, and many that ask nothing."""

import json
import socket
import sys
import threading
import time

SLOW_BYTES, SLOW_SECONDS = 1000, 0.1  # 10 KB/s


def connect(port: int, receive_bytes: int = 0) -> socket.socket:
    line = socket.socket()
    line.settimeout(30)
    if receive_bytes:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    line.connect(("127.0.0.1", port))
    return line


def ask(line: socket.socket, path: str) -> int:
    """Ask for a file; how many bytes of it came with the head."""
    line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += line.recv(4096)
    assert head.startswith(b"HTTP/1.1 200"), head
    return len(head.partition(b"\r\n\r\n")[2])


def read_fast(port: int, path: str, size: int, times: int, done: list[float]) -> None:
    buffer, began = bytearray(1024 * 1024), time.monotonic()
    with connect(port) as line:
        for _ in range(times):
            have = ask(line, path)
            while have < size:
                count = line.recv_into(buffer)
                assert count, "the answer ended short"
                have += count
    done.append(time.monotonic() - began)


def read_slowly(port: int, path: str, stopping: threading.Event, have: list[int]) -> None:
    with connect(port, receive_bytes=16 * 1024) as line:
        have.append(ask(line, path))
        while not stopping.wait(SLOW_SECONDS):
            have.append(len(line.recv(SLOW_BYTES)))


def main(port: int, path: str, size: int, fast: int, times: int, idle: int) -> None:
    done: list[float] = []
    slow: list[int] = []
    stopping = threading.Event()
    idlers = [connect(port) for _ in range(idle)]
    slow_one = threading.Thread(target=read_slowly, args=(port, path, stopping, slow))
    slow_one.start()
    threads = [threading.Thread(target=read_fast, args=(port, path, size, times, done)) for _ in range(fast)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stopping.set()
    slow_one.join()
    for line in idlers:
        line.close()
    print(json.dumps({"fast": len(done), "longest_seconds": max(done), "slow_bytes": sum(slow)}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
