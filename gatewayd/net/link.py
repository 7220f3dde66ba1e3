"""A private stream between a supervisor and its worker, over which descriptors can go as well."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import unix


def pair() -> tuple[int, int]:
    """Two ends of a stream, as descriptors that the caller closes: ours, and a child's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours.detach(), theirs.detach()


def attach(fd: int, protocol: Any, reactor: Any) -> None:
    """Let a protocol speak over one end; the descriptor is duplicated."""

    class Factory:
        """Gives the one protocol."""

        def buildProtocol(self, address: Any) -> Any:
            """Twisted: it is connected."""
            return protocol

    unix.Server._fromConnectedSocket(fd, Factory(), reactor)
