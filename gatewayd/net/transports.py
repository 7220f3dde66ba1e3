"""Eager transports: stock ones whose near half is a wire (net.wire).

What the kernel does not take at once, and every error, goes the stock way, so that disconnections come
from the reactor and never from within a write.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.error import getConnectError

from gatewayd.net.loopback import unpace
from gatewayd.net.wire import Wire


class Eager:
    """Mixed in before a stock stream transport."""

    _shouldShutdown = False  # nobody has duplicates: closing says all that shutting down would
    moved = 0  # bytes that left by the slow way: progress of a slow reader
    drained: Callable[[], None] | None = None  # called once when nothing is unsent any more
    stuck: Callable[[], None] | None = None  # called when the kernel does not take all at once

    # Set by the stock classes.
    socket: Any
    connected: Any
    disconnecting: Any
    producer: Any
    reactor: Any
    stopReading: Callable[[], None]
    _aborting: Any
    streamingProducer: Any
    dataBuffer: bytes
    offset: int
    _tempDataBuffer: list[Any]
    _tempDataLen: int
    _writeDisconnected: Any
    bufferSize: int

    def __init__(self, *args: Any, **options: Any) -> None:
        """Twisted: connected, or about to be."""
        self.wire = Wire(self)
        super().__init__(*args, **options)
        # Without a socket it was given no reactor, and will soon be told to fail.
        self.wire.turn = getattr(getattr(self, "reactor", None), "turn", None)
        if self.connected:
            self._begin()

    def _begin(self) -> None:
        self.wire.socket = self.socket
        self.wire.direct = True

    @property
    def protocol(self) -> Any:
        """Twisted: who is told what comes."""
        return self.wire.protocol

    @protocol.setter
    def protocol(self, protocol: Any) -> None:
        self.wire.protocol = protocol

    @protocol.deleter
    def protocol(self) -> None:
        self.wire.protocol = None

    def write(self, data: bytes | memoryview) -> None:
        """Twisted: send."""
        self.wire.write(data)

    def writeSequence(self, iovec: Iterable[bytes | memoryview]) -> None:
        """Twisted: send several pieces."""
        self.wire.write_each(iovec)

    def queue(self, data: bytes) -> None:
        """Send when the reactor says that there is room."""
        super().write(data)  # type: ignore[misc]

    def stick(self, data: bytes) -> None:
        """The same with what the kernel did not take."""
        self.queue(data)
        if self.stuck is not None:
            self.stuck()

    def doRead(self) -> Any:
        """Twisted: there is something to be read."""
        return self.wire.read()

    def pauseProducing(self) -> None:
        """Twisted: whoever takes the bytes is slower than who sends them."""
        self.wire.slow_down()
        super().pauseProducing()  # type: ignore[misc]

    def writeSomeData(self, data: bytes) -> Any:
        """Count what a slow reader takes."""
        sent = super().writeSomeData(data)  # type: ignore[misc]
        if isinstance(sent, int) and sent > 0:
            self.moved += sent
        return sent

    def doWrite(self) -> Any:
        """Send what was queued."""
        self.wire.flush()
        result = super().doWrite()  # type: ignore[misc]
        is_empty = not self.unsent()
        self.wire.direct = is_empty and bool(self.connected) and not self._writeDisconnected
        if self.drained is not None and is_empty:
            drained = self.drained
            self.drained = None
            drained()
        return result

    def connectionLost(self, reason: Any) -> None:
        """Twisted: closed. What a turn wrote goes out before; nothing is kept for a peer that is gone."""
        self.stuck = self.drained = None
        self.wire.flush()
        self.wire.close()
        super().connectionLost(reason)  # type: ignore[misc]
        self._tempDataBuffer = []
        self._tempDataLen = self.offset = 0
        self.dataBuffer = b""

    def loseConnection(self) -> None:
        """Twisted: close when all is sent. Where nothing is queued that is when the turn ends."""
        wire = self.wire
        if wire.turn is None or not wire.direct or self.disconnecting or self.producer is not None:
            super().loseConnection()  # type: ignore[misc]
        else:
            self.disconnecting = True
            wire.end()

    def close(self) -> None:
        """The turn has ended: close, or read no more until the kernel has taken what is queued."""
        if self.wire.direct and not self._aborting:
            self.reactor.close(self)
        else:
            self.stopReading()

    def unsent(self) -> int:
        """Bytes that the kernel did not take; not those that wait for the turn's end."""
        return self._tempDataLen + len(self.dataBuffer) - self.offset

    def set_read_ahead(self, size: int) -> None:
        """From how many unsent bytes on a producer is paused."""
        self.bufferSize = size


class EagerServer(Eager, tcp.Server):
    """A client's connection to us."""

    client: Any
    server: Any  # the port

    def _begin(self) -> None:
        super()._begin()
        self.server.accepted(self.socket, self.client[0])


class EagerUnixServer(Eager, unix.Server):
    """A client's connection to us over a Unix socket."""


class EagerClient(Eager, tcp.Client):
    """Our connection to an endpoint.

    Connecting asks the kernel half as often as the stock way, which takes and gives back its events
    several times over: an endpoint that closes after each answer is dialled for each request.
    """

    _dialling = False

    addr: tuple[Any, ...]
    realAddress: tuple[Any, ...]
    failIfNotConnected: Callable[[Exception], None]
    stopWriting: Callable[[], None]

    def createInternetSocket(self) -> socket.socket:
        """Twisted: make the socket, before it connects."""
        created = socket.socket(self.addressFamily, self.socketType)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        unpace(created, self.addr[0])
        return created

    def resolveAddress(self) -> None:
        """Twisted: connect; the address of an endpoint is one already."""
        try:
            self._setRealAddress(self.addr)
        except Exception as error:
            self.failIfNotConnected(error)

    def doConnect(self) -> None:
        """Twisted: begin to connect."""
        if self.wire.turn is None:
            super().doConnect()
        elif hasattr(self, "connector"):  # not given up meanwhile
            code = self.socket.connect_ex(self.realAddress)
            self._dialling = code == errno.EINPROGRESS
            if self._dialling:
                self.reactor.add_both(self)
            else:
                self._dialled(code)

    def doRead(self) -> Any:
        """Twisted: there is something to be read, or it failed to connect."""
        return self._tried() if self._dialling else super().doRead()

    def doWrite(self) -> Any:
        """Twisted: there is room, or it has connected."""
        return self._tried() if self._dialling else super().doWrite()

    def _tried(self) -> None:
        if hasattr(self, "connector"):  # one event may tell of a failure by both calls
            self._dialled(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _dialled(self, code: int) -> None:
        if code:
            self.failIfNotConnected(getConnectError((code, os.strerror(code))))
        else:
            self._dialling = False
            self.stopWriting()
            self._connectDone()

    def _connectDone(self) -> None:
        self._begin()
        super()._connectDone()
