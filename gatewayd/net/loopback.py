"""Connections that stay on this machine, where there is no network to share fairly."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

# In every kernel, and open to everybody (net.ipv4.tcp_allowed_congestion_control).
_PLAIN: Final = b"reno"


def unpace(sock: socket.socket, host: str) -> None:
    """Take away the pacing of what is sent over loopback.

    Where the system's congestion control is BBR, a timer parts a body's segments: over loopback that
    is half of what passing them on costs, for nothing (docs/performance.md). To be called before a
    socket connects or accepts: what began with BBR stays paced, and what is accepted is as its
    listener.

    Args:
        sock: a TCP socket.
        host: the IP address that it listens on, or is to connect to.
    """
    if host.startswith("127.") or host == "::1":
        with suppress(OSError):  # a kernel without the choice: it goes as the system has it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _PLAIN)
