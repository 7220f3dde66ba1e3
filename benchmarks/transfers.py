"""Moves large bodies through a proxy: `python -m benchmarks.transfers --port N --kind K …`.

Blocking sockets and a thread for each connection; prints one line of figures.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from typing import Final

from benchmarks.sink import BLOCK, Reader

_ZEROS: Final = memoryview(bytes(BLOCK))
_HEAD: Final = (
    b"%b %b HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n%b\r\n"
)
_UPGRADE: Final = (  # HAProxy looks at the key and its answer (RFC 6455 §1.3)
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_CHUNK: Final = 64 * 1024  # of a chunked upload
_PATIENCE: Final = 15.0  # seconds without a byte
KINDS: Final = ("down", "chunked", "up", "up-chunked", "tunnel")


def ask(connection: socket.socket, kind: str, path: bytes, size: int) -> None:
    """Send one request, its body with it."""
    if kind in ("down", "chunked"):
        connection.sendall(_HEAD % (b"GET", path, b""))
    elif kind == "tunnel":
        connection.sendall(_HEAD % (b"GET", path, _UPGRADE))
    elif kind == "up":
        connection.sendall(_HEAD % (b"PUT", path, b"Content-Length: %d\r\n" % size))
        left = size
        while left:
            left -= connection.send(_ZEROS[: min(left, BLOCK)])
    else:
        connection.sendall(_HEAD % (b"PUT", path, b"Transfer-Encoding: chunked\r\n"))
        whole = b"%x\r\n%b\r\n" % (_CHUNK, bytes(_CHUNK))
        for _ in range(size // _CHUNK):
            connection.sendall(whole)
        connection.sendall(b"0\r\n\r\n")


def take(connection: socket.socket, reader: Reader, kind: str, size: int) -> None:
    """Read the answer and see that it is what was asked for."""
    head = reader.head()
    status = head[9:12]
    if status != (b"101" if kind == "tunnel" else b"200"):
        raise ConnectionError(f"answered {head[:60]!r}")
    received = reader.take(size) if kind == "tunnel" else reader.body(head)
    if kind in ("down", "chunked") and received != size:
        raise ConnectionError(f"{received} bytes instead of {size}")
    if kind == "tunnel":
        connection.close()


def transfer(port: int, kind: str, path: bytes, size: int, count: int, failures: list[str]) -> None:
    """One connection's share."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = Reader(connection)
    try:
        for _ in range(count):
            ask(connection, kind, path, size)
            take(connection, reader, kind, size)
    except OSError as error:
        failures.append(f"{kind} {path.decode()}: {error}")
    finally:
        connection.close()


def main() -> None:
    """Do it and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfers")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--size", type=int, required=True, help="of each body, in bytes")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--count", type=int, default=1, help="bodies on each connection")
    options = parser.parse_args()
    failures: list[str] = []
    arguments = (options.port, options.kind, options.path.encode(), options.size, options.count)
    threads = [
        threading.Thread(target=transfer, args=(*arguments, failures))
        for _ in range(options.connections)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = {
        "seconds": time.monotonic() - began,
        "bytes": options.size * options.count * options.connections,
        "failures": len(failures),
    }
    print("\n".join(sorted(set(failures))))
    print("result", json.dumps(result))


if __name__ == "__main__":
    main()
