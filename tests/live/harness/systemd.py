"""systemd's end of sd_notify(3)."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tests.live.harness.waiting import eventually


class Manager:
    """Hears what services say, over a real NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.said: list[dict[str, str]] = []

    def hear(self) -> list[dict[str, str]]:
        """All datagrams so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                lines = self.socket.recv(65536).decode().split("\n")
                self.said.append(dict(line.split("=", 1) for line in lines))
        return self.said

    def wait(self, key: str, value: str = "", since: int = 0) -> int:
        """Wait for a datagram that says so; the number of it."""

        def found() -> list[int]:
            return [
                number
                for number, each in enumerate(self.hear()[since:], since)
                if value in each.get(key, "\0")
            ]

        eventually(lambda: bool(found()), 10, f"{key}={value} in {self.said}")
        return found()[0]
