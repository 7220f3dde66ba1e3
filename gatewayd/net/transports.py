"""Eager transports: what a turn of the reactor wrote goes out at its end, in one call, without waiting.

Stock transports buffer each write, ask the reactor for a writable event and send then: an epoll_ctl,
an epoll_wait and three Python calls for every small answer. Here `write` only notes the bytes, and when
the reactor has read all that was to be read (net.reactor), `flush` sends what each transport has. Sent
one after the other, the first answer wakes the peer and the others find it awake; sent from within
`write`, with a request's work in between, each one had to wake it again. On another reactor `write`
sends at once. What the kernel does not take, and every error, goes the stock way, so that disconnections
come from the reactor and never from within a write (docs/performance.md has the figures).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet import main, tcp, unix

from gatewayd.net.loopback import unpace

_READ: Final = 65536
_MOST_READ: Final = 131_072  # of bulk: fewer and longer sends wake their reader less often
_HELD: Final = 65536  # bytes that may wait for the turn's end
_PIECES: Final = 1024  # that one call takes (Linux's UIO_MAXIOV)


class Eager:
    """Mixed in before a stock stream transport."""

    # What every read and write looks at lies together, and nearer than in the dictionary: among
    # thousands of connections memory is cold.
    __slots__ = (
        "__dict__",
        "_held",
        "_most_held",
        "_reading",
        "_tempDataBuffer",
        "_tempDataLen",
        "_turn",
        "_writeDisconnected",
        "connected",
        "dataBuffer",
        "protocol",
        "socket",
    )

    bulk = False  # set while a body comes: the more there is, the more is read at once
    moved = 0  # bytes that left by the slow way: progress of a slow reader
    drained: Callable[[], None] | None = None  # called once when nothing is unsent any more
    stuck: Callable[[], None] | None = None  # called when the kernel does not take all at once

    # Set by the stock classes.
    reactor: Any
    socket: Any
    protocol: Any
    connected: Any
    disconnecting: Any
    producer: Any
    streamingProducer: Any
    dataBuffer: bytes
    offset: int
    _tempDataBuffer: list[Any]
    _tempDataLen: int
    _writeDisconnected: Any
    _aborting: Any
    bufferSize: int

    def __init__(self, *args: Any, **options: Any) -> None:
        """Twisted: connected, or about to be."""
        # Slots hide the stock classes' defaults of the same name.
        self.connected = 0
        self.dataBuffer = b""
        self._writeDisconnected = False
        super().__init__(*args, **options)
        self._reading = _READ
        self._held = False  # whether what is written waits for the turn's end, not for the kernel
        # Without a socket it was given no reactor, and will soon be told to fail.
        turn: list[Eager] | None = getattr(getattr(self, "reactor", None), "turn", None)
        self._turn = turn if turn is not None else deque(maxlen=0)  # keeps none
        self._most_held = _HELD if turn is not None else 0

    def write(self, data: bytes | memoryview) -> None:
        """Send when the turn ends; buffer what the kernel does not take then."""
        if not self._held:
            if (
                self._tempDataLen
                or self.dataBuffer
                or not self.connected
                or self._writeDisconnected
            ):
                super().write(bytes(data))  # type: ignore[misc]
                return
            self._held = True
            self._turn.append(self)
        self._tempDataBuffer.append(data)
        self._tempDataLen += len(data)
        if self._tempDataLen > self._most_held:
            self.flush()

    def writeSequence(self, iovec: Iterable[bytes | memoryview]) -> None:
        """Twisted: the same with several pieces, which need not be joined."""
        for piece in iovec:
            self.write(piece)

    def flush(self) -> None:
        """Send what waits for the turn's end; nothing if none does."""
        if not self._held:
            return
        self._held = False
        pieces = self._tempDataBuffer
        if not pieces or self.dataBuffer or not self.connected:
            return  # the reactor has sent it meanwhile, or sends on what is queued; or nobody is there
        try:
            if len(pieces) == 1:
                sent = self.socket.send(pieces[0])
            elif len(pieces) <= _PIECES:
                sent = self.socket.sendmsg(pieces)
            else:
                sent = self.socket.send(b"".join(pieces))
        except OSError:
            sent = 0  # the stock write meets the same error in the reactor's own time
        if sent == self._tempDataLen:
            pieces.clear()
            self._tempDataLen = 0
            return
        self._tempDataBuffer = []
        self._tempDataLen = 0
        super().write(b"".join(pieces)[sent:])  # type: ignore[misc]
        if self.stuck is not None:
            self.stuck()

    def doRead(self) -> Any:
        """Read once and hand it on; the reactor comes again if there is more."""
        size = self._reading if self.bulk else _READ
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        if self.bulk:
            if len(data) == size:
                self._reading = min(2 * size, _MOST_READ)
            elif len(data) < size // 2:
                self._reading = _READ
        return self.protocol.dataReceived(data)

    def pauseProducing(self) -> None:
        """Twisted: whoever takes the bytes is slower than who sends them."""
        self._reading = _READ
        super().pauseProducing()  # type: ignore[misc]

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

    def connectionLost(self, reason: Any) -> None:
        """Twisted: closed. What a turn wrote goes out before; nothing is kept for a peer that is gone."""
        self.stuck = self.drained = None
        if not self._aborting:
            self.flush()
        super().connectionLost(reason)  # type: ignore[misc]
        self._held = False
        self._tempDataBuffer = []
        self._tempDataLen = self.offset = 0
        self.dataBuffer = b""

    def unsent(self) -> int:
        """Bytes that the kernel did not take; not those that wait for the turn's end."""
        return (0 if self._held else self._tempDataLen) + len(self.dataBuffer) - self.offset

    def set_read_ahead(self, size: int) -> None:
        """From how many unsent bytes on a producer is paused."""
        self.bufferSize = size

    def no_delay(self) -> None:
        """Send small segments at once; for TCP."""
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class EagerServer(Eager, tcp.Server):
    """A client's connection to us."""

    client: Any

    def no_delay(self) -> None:
        """Send small segments at once, and bulk unpaced to whoever is on this machine."""
        super().no_delay()
        unpace(self.socket, self.client[0])


class EagerUnixServer(Eager, unix.Server):
    """A client's connection to us over a Unix socket."""


class EagerClient(Eager, tcp.Client):
    """Our connection to an endpoint."""

    addr: tuple[Any, ...]

    def createInternetSocket(self) -> socket.socket:
        """Twisted: make the socket, before it connects."""
        created: socket.socket = super().createInternetSocket()
        unpace(created, self.addr[0])
        return created
