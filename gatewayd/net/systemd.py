"""What systemd is told of the service: sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from time import monotonic_ns


class Manager:
    """The service manager, where there is one; made by the gateway's service."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Args: environ: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked at."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if meant else 0.0
        self._status = ""
        self.muted = False  # while another process, the version before or after, is the service

    def ready(self) -> None:
        """The service serves; it is this process now, should systemd think of another."""
        self._tell("READY=1", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """The watchdog need not bark."""
        if self.watchdog:
            self._tell("WATCHDOG=1")

    def status(self, line: str) -> None:
        """What `systemctl status` shows; said only when it is new."""
        if line != self._status and not self.muted:
            self._status = line
            self._tell(f"STATUS={line}")

    def _tell(self, *lines: str) -> None:
        if self.muted or not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return  # systemd is being replaced itself; nothing that serves depends on it
