"""An origin server for what nginx does not do by itself: `python -m benchmarks.sink --port N`.

It reads a request's body to its end and then answers; answers `GET /stream?events=N&ms=M` with N
events, each the time of its sending; and after an Upgrade sends as many bytes as the path says
(`/tunnel/N`). A blocking thread for each connection, because nothing moves large bodies more cheaply.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import threading
import time
from typing import Final

BLOCK: Final = 256 * 1024
_ZEROS: Final = bytes(BLOCK)
_TIME: Final = re.compile(rb"events=(\d+)&ms=(\d+)").search


class Reader:
    """Reads HTTP/1.1 messages from a blocking socket, bodies into the void."""

    def __init__(self, connection: socket.socket) -> None:
        """Args: connection: to read from."""
        self.connection = connection
        self._block = bytearray(BLOCK)
        self._view = memoryview(self._block)
        self._rest = b""

    def head(self) -> bytes:
        """The next head, or nothing at the connection's end."""
        while b"\r\n\r\n" not in self._rest:
            piece = self.connection.recv(BLOCK)
            if not piece:
                return b""
            self._rest += piece
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head

    def body(self, head: bytes) -> int:
        """Read the body that a head announces; returns its bytes."""
        low = head.lower()
        if b"\r\ntransfer-encoding: chunked" in low:
            return self._chunks()
        found = re.search(rb"\r\ncontent-length: *(\d+)", low)
        return self.take(int(found.group(1))) if found else 0

    def take(self, size: int) -> int:
        """Read so many bytes."""
        left = size - len(self._rest)
        if left < 0:
            self._rest = self._rest[size:]
            return size
        self._rest = b""
        while left:
            count = self.connection.recv_into(self._view[: min(left, BLOCK)])
            if not count:
                raise ConnectionError(f"{left} bytes of a body are missing")
            left -= count
        return size

    def line(self) -> bytes:
        """The next line of a chunked body."""
        while b"\r\n" not in self._rest:
            piece = self.connection.recv(BLOCK)
            if not piece:
                raise ConnectionError("a chunked body without its end")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    def _chunks(self) -> int:
        total = 0
        while size := int(self.line(), 16):
            self.take(size + 2)
            total += size
        while self.line():
            pass
        return total


def serve(connection: socket.socket) -> None:
    """Answer one connection's requests."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = Reader(connection)
    with contextlib.suppress(OSError), connection:
        while head := reader.head():
            target = head.split(b" ", 2)[1]
            if b"/tunnel/" in target:
                _tunnel(connection, int(target.rpartition(b"/")[2]))
                return
            reader.body(head)
            wanted = _TIME(target)
            if wanted is not None:
                _stream(connection, int(wanted.group(1)), int(wanted.group(2)) / 1000)
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def _stream(connection: socket.socket, events: int, pause: float) -> None:
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(events):
        if number:
            time.sleep(pause)
        event = b"data: %d\n\n" % time.monotonic_ns()
        connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
    connection.sendall(b"0\r\n\r\n")


def _tunnel(connection: socket.socket, size: int) -> None:
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    sent = 0
    while sent < size:
        block = _ZEROS if size - sent >= BLOCK else _ZEROS[: size - sent]
        connection.sendall(block)
        sent += len(block)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(BLOCK):
        pass


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sink")
    parser.add_argument("--port", type=int, required=True)
    listener = socket.create_server(
        ("0.0.0.0", parser.parse_args().port), backlog=1024, reuse_port=False
    )
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
