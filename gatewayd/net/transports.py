"""Eager transports: stock ones whose near half is a wire (net.wire).

What the kernel does not take at once, and every error, goes the stock way, so that disconnections come
from the reactor and never from within a write.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet import main, tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv6Address
from twisted.internet.error import ConnectionLost, TimeoutError, UserError, getConnectError
from twisted.python import log
from twisted.python.failure import Failure

from gatewayd.net.loopback import unpace
from gatewayd.net.wire import Wire, read_nothing


class Eager:
    """Mixed in before a stock stream transport."""

    _shouldShutdown = False  # nobody has duplicates: closing says all that shutting down would
    dialling = False  # not connected yet, and may fail to
    moved = 0  # bytes that left by the slow way: progress of a slow reader
    drained: Callable[[], None] | None = None  # called once when nothing is unsent any more
    stuck: Callable[[], None] | None = None  # called when the kernel does not take all at once

    wire: Wire  # made first of all, for the stock classes set the protocol

    # Set by the stock classes.
    socket: Any
    fileno: Any
    connected: Any
    disconnected: Any
    disconnecting: Any
    producer: Any
    reactor: Any
    startReading: Callable[[], None]
    startWriting: Callable[[], None]
    stopReading: Callable[[], None]
    stopWriting: Callable[[], None]
    abortConnection: Callable[[], None]
    _closeSocket: Callable[[bool], None]
    _aborting: Any
    streamingProducer: Any
    dataBuffer: bytes
    offset: int
    _tempDataBuffer: list[Any]
    _tempDataLen: int
    _writeDisconnected: Any
    bufferSize: int

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
        if self.disconnected:
            return
        if reason.check(ConnectionLost) is None:
            self.wire.flush()
        protocol = self.protocol
        self._let_go()
        protocol.connectionLost(reason)

    def _let_go(self) -> None:
        """Be no more to the reactor and the kernel.

        The stock way looks six times whether it is a reader or a writer, and what the reason was.
        """
        self.stuck = self.drained = None
        self.disconnected = True
        self.connected = False
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        if "socket" in self.__dict__:  # else it was given up before it was dialled
            if self.wire.turn is None:
                self.stopReading()
                self.stopWriting()
            else:
                self.reactor.forget(self)
            self._closeSocket(not self._aborting)
            del self.socket, self.fileno
        self.wire.close()
        del self.protocol
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
            wire.reader = read_nothing
            wire.after_turn(self._close)

    def _close(self) -> None:
        """Close, or read no more until the kernel has taken what is queued."""
        if self.wire.direct and not self._aborting:
            self.connectionLost(_DONE)
        else:
            self.stopReading()

    def unsent(self) -> int:
        """Bytes that the kernel did not take; not those that wait for the turn's end."""
        return self._tempDataLen + len(self.dataBuffer) - self.offset

    def unread(self) -> bool:
        """Whether bytes have come that nobody has read; timed calls of a turn run before its reads."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def set_read_ahead(self, size: int) -> None:
        """From how many unsent bytes on a producer is paused."""
        self.bufferSize = size


class EagerServer(Eager, tcp.Server):
    """A client's connection to us."""

    logstr = "client"

    def __init__(
        self,
        accepted: socket.socket,
        protocol: Any,
        client: tuple[Any, ...],
        port: Any,
        number: int,
        reactor: Any,
    ) -> None:
        """Twisted: accepted. The stock way writes down what nobody reads, and asks for a reader in steps."""
        self.wire = Wire(self)
        tcp.Connection.__init__(self, accepted, protocol, reactor)
        self.server = port
        self.client = client
        if len(client) != 2:
            self._addressType = IPv6Address
        self.connected = True
        self.wire.turn = getattr(reactor, "turn", None)
        if self.wire.turn is None:
            self.startReading()
        else:
            reactor.add(self)
        self._begin()
        port.accepted(accepted, client[0])

    def __repr__(self) -> str:
        return f"<EagerServer of {self.client}>"


class EagerUnixServer(Eager, unix.Server):
    """A client's connection to us over a Unix socket."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Twisted: accepted."""
        self.wire = Wire(self)
        super().__init__(*args, **options)
        self.wire.turn = getattr(self.reactor, "turn", None)
        self._begin()


class EagerClient(Eager, tcp.Connection):
    """Our connection to an endpoint.

    The stock one has a connector, a factory and two timed calls, and asks the kernel twice as often: an
    endpoint that closes after each answer is dialled for each request. What a turn dials it dials when
    it ends, one after the other, for the same reason as it sends then (net.wire). On this machine most
    have connected by the time that all were dialled, and need not be waited for.
    """

    logstr = "upstream"

    def __init__(
        self,
        host: str,
        port: int,
        protocol: Any,
        failed: Callable[[Failure], None],
        timeout: float,
        reactor: Any,
    ) -> None:
        """Connect soon, but not before this has returned.

        Args:
            host: an IP address.
            port: 1 to 65535.
            protocol: its makeConnection is called when it is connected.
            failed: called instead, with the reason.
            timeout: seconds, 0 = no limit.
            reactor: Twisted's.
        """
        self.wire = Wire(self)
        self.wire.turn = getattr(reactor, "turn", None)
        self.wire.reader = self.tried
        FileDescriptor.__init__(self, reactor)
        self.protocol = protocol
        self.dialling = True
        self._host = host
        self._port = port
        self._failed = failed
        self._timeout = timeout
        self._timer: Any = None
        if self.wire.turn is None:
            self._timer = reactor.callLater(0, self._dial)
        else:
            self.wire.after_turn(self._dial)

    def doWrite(self) -> Any:
        """Twisted: there is room, or it has connected, or failed to and `doRead` was told so."""
        if self.dialling:
            self.tried()
            return None
        return None if self.disconnected else super().doWrite()

    def _dial(self) -> None:
        try:
            created, self._address, is_near = _socket_to(self._host, self._port)
            self.socket = created
            self.fileno = created.fileno
            code = created.connect_ex(self._address)
            if code == errno.EINPROGRESS and is_near and self.wire.turn is not None:
                self.wire.after_turn(self._look)
            else:
                self._await(code)
        except Exception as error:
            self.fail(error)

    def _look(self) -> None:
        try:
            code = self.socket.connect_ex(self._address)
            if code == 0:
                self.reactor.add(self)
            else:
                self._await(code)
        except Exception as error:
            self.fail(error)
        else:
            if code == 0:
                self._connected()

    def _await(self, code: int) -> None:
        if code not in (0, errno.EINPROGRESS, errno.EALREADY):
            raise getConnectError((code, os.strerror(code)))
        if self.wire.turn is None:
            self.startReading()
            self.startWriting()
        else:
            self.reactor.add(self, writes=True)
        if self._timeout:
            self._timer = self.reactor.callLater(self._timeout, self.fail, TimeoutError())

    def tried(self) -> None:
        """The kernel has connected, or has not."""
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.fail(getConnectError((code, os.strerror(code))))
        else:
            self.stopWriting()
            self._connected()

    def _connected(self) -> None:
        self._decide()
        self.connected = True
        self._begin()
        try:
            self.protocol.makeConnection(self)
        except Exception:
            log.err()
            self.abortConnection()

    def give_up(self) -> None:
        """Connect no more; nothing where it has connected or failed."""
        self.fail(UserError())

    def fail(self, error: Exception) -> None:
        """It does not connect; nothing where it has, or that is known."""
        if self.dialling:
            failed = self._decide()
            self._let_go()
            failed(Failure(error))

    def _decide(self) -> Callable[[Failure], None]:
        self.dialling = False
        self.wire.reader = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        failed = self._failed
        del self._timer, self._failed
        return failed

    def readConnectionLost(self, reason: Any) -> None:
        """Twisted: the peer sends no more, or it failed to connect."""
        if self.dialling:
            self.fail(reason.value)
        else:
            super().readConnectionLost(reason)

    def connectionLost(self, reason: Any) -> None:
        """Twisted: closed, or it failed to connect."""
        if self.dialling:
            self.fail(reason.value)
        else:
            super().connectionLost(reason)


def _socket_to(host: str, port: int) -> tuple[Any, tuple[Any, ...], bool]:
    """A socket that does not block, what to connect it to, and whether that is on this machine."""
    family = socket.AF_INET
    address: tuple[Any, ...] = (host, port)
    if ":" in host:
        family = socket.AF_INET6
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)[0][4]
    created: Any = socket.SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return created, address, unpace(created, host)


_DONE: Final = Failure(main.CONNECTION_DONE)
