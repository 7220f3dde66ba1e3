"""Eager transports: what can be sent is sent at once.

Stock transports buffer each write, ask the reactor for a writable event and send then: an epoll_ctl,
an epoll_wait and three Python calls for every small answer. Here `write` calls `send` when nothing is
buffered. What the kernel does not take, and every error, goes the stock way, so that disconnections
come from the reactor and never from within a write (docs/performance.md has the figures).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet import main, tcp, unix

_READ: Final = 65536


class Eager:
    """Mixed in before a stock stream transport."""

    moved = 0  # bytes that left by the slow way: progress of a slow reader
    drained: Callable[[], None] | None = None  # called once when nothing is unsent any more

    # Set by the stock classes.
    socket: Any
    protocol: Any
    connected: Any
    disconnecting: Any
    producer: Any
    streamingProducer: Any
    dataBuffer: bytes
    offset: int
    _tempDataLen: int
    _writeDisconnecting: Any
    _writeDisconnected: Any
    bufferSize: int

    def __init__(self, *args: Any, **options: Any) -> None:
        """Twisted: connected, or about to be.

        What every write looks at stands in the instance: there the interpreter finds it faster than
        in the stock classes.
        """
        super().__init__(*args, **options)
        self.dataBuffer = b""
        self.disconnecting = 0
        self._writeDisconnecting = False
        self._writeDisconnected = False

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes; buffer the rest."""
        if (
            self._tempDataLen
            or self.dataBuffer
            or not self.connected
            or self.disconnecting
            or self._writeDisconnecting
            or self._writeDisconnected
        ):
            super().write(data)  # type: ignore[misc]
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0  # the stock write meets the same error in the reactor's own time
        if sent != len(data):
            super().write(data[sent:] if sent else data)  # type: ignore[misc]

    def doRead(self) -> Any:
        """Read once and hand it on; the reactor comes again if there is more."""
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        return self.protocol.dataReceived(data)

    def writeSomeData(self, data: bytes) -> Any:
        """Count what a slow reader takes."""
        sent = super().writeSomeData(data)  # type: ignore[misc]
        if isinstance(sent, int) and sent > 0:
            self.moved += sent
        return sent

    def doWrite(self) -> Any:
        """Send what was buffered."""
        result = super().doWrite()  # type: ignore[misc]
        if self.drained is not None and not self.unsent():
            drained = self.drained
            self.drained = None
            drained()
        return result

    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._tempDataLen + len(self.dataBuffer) - self.offset

    def set_read_ahead(self, size: int) -> None:
        """From how many unsent bytes on a producer is paused."""
        self.bufferSize = size

    def no_delay(self) -> None:
        """Send small segments at once; for TCP."""
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class EagerServer(Eager, tcp.Server):
    """A client's connection to us."""


class EagerUnixServer(Eager, unix.Server):
    """A client's connection to us over a Unix socket."""


class EagerClient(Eager, tcp.Client):
    """Our connection to an endpoint."""
