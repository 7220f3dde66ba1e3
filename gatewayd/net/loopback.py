"""Connections that stay on this machine, where there is no network to share fairly."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

_PLAIN: Final = b"reno"  # in every kernel, and unless an administrator took it away, for everybody


def unpace(sock: socket.socket, host: str) -> bool:
    """Take away the pacing of what is sent over loopback, whatever the system's choice is.

    Where that is BBR, a timer parts a body's segments: over loopback that is half of what sending
    them costs, for nothing (docs/performance.md). Best called before a socket connects or accepts:
    what began with BBR stays paced a little; what is accepted is as its listener.

    Args:
        sock: a TCP socket.
        host: the IP address that it listens on, or of its peer.

    Returns:
        Whether that was done.
    """
    if host.startswith(("127.", "::ffff:127.")) or host == "::1":
        with suppress(OSError, AttributeError):  # no such choice here: it stays as it is
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _PLAIN)
            return True
    return False
