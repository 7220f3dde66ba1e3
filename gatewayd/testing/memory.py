"""A network in memory: transports that look like the eager ones, on a Clock.

A byte takes `latency` seconds to the other side and waits there while that side is paused. A window's worth
may be on the way; what is written beyond it is unsent, and a producer is told to pause, as over TCP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gatewayd.net.wire import Wire

_WINDOW: Final = 262_144
_PAUSE_AT: Final = 65_536


class MemoryTransport:
    """One end of a connection; made in pairs by `connect`."""

    connected = True
    disconnecting = False
    drained: Callable[[], None] | None = None
    moved = 0
    producer: Any = None
    protocol: Any = None
    peer: MemoryTransport

    def __init__(self, clock: Clock, latency: float, address: IPv4Address) -> None:
        """Args: latency: seconds, one way. address: of the other side."""
        self._clock = clock
        self._latency = latency
        self._address = address
        self._on_the_way = 0  # bytes written that the other side has not taken
        self._inbox: list[bytes] = []
        self._ending: Failure | None = None  # what follows the inbox
        self._reading = True
        self._producer_paused = False
        self._write_closed = False
        self._pause_at = _PAUSE_AT
        self.wire = Wire(self)

    def __repr__(self) -> str:
        return f"<MemoryTransport to {self._address.host} unsent={self.unsent()}>"

    # --- what protocols call

    def queue(self, data: bytes) -> None:
        """Send bytes."""
        if not self.connected or self.disconnecting or self._write_closed or not data:
            return
        self._on_the_way += len(data)
        self._clock.callLater(self._latency, self.peer.arrive, data)
        flows = self.producer is not None and not self._producer_paused
        if flows and self.unsent() > self._pause_at:
            self._producer_paused = True
            self.producer.pauseProducing()

    write = queue

    def unsent(self) -> int:
        """Bytes beyond the window."""
        return max(0, self._on_the_way - _WINDOW)

    def unread(self) -> bool:
        """What comes is read at once."""
        return False

    def loseConnection(self) -> None:
        """Close after what was written."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(self._latency, self.peer.end, Failure(ConnectionDone()))
            self._clock.callLater(0, self.connectionLost, Failure(ConnectionDone()))

    def loseWriteConnection(self) -> None:
        """Close our half."""
        if self.connected and not self._write_closed:
            self._write_closed = True
            self._clock.callLater(self._latency, self.peer.end, Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        """Reset."""
        if self.connected:
            self._clock.callLater(self._latency, self.peer.end, Failure(ConnectionLost()))
            self._clock.callLater(0, self.connectionLost, Failure(ConnectionAborted()))
            self.disconnecting = True

    def connectionLost(self, reason: Failure) -> None:
        """It is over on this side."""
        if self.connected:
            self.connected = False
            if not self.disconnecting:
                self._clock.callLater(self._latency, self.peer.end, Failure(ConnectionDone()))
            self.producer = None
            self.protocol.connectionLost(reason)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Twisted: whom to tell about back-pressure."""
        self.producer = producer
        self._producer_paused = False

    def unregisterProducer(self) -> None:
        """Twisted: nobody."""
        self.producer = None
        self._producer_paused = False

    def pauseProducing(self) -> None:
        """Read no more."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Read on."""
        if not self._reading:
            self._reading = True
            self._clock.callLater(0, self._deliver)

    def set_read_ahead(self, size: int) -> None:
        """From how many unsent bytes on a producer is paused."""
        self._pause_at = size

    def getPeer(self) -> IPv4Address:
        """Twisted: the other side."""
        return self._address

    # --- what the other end calls

    def arrive(self, data: bytes) -> None:
        """Bytes have come."""
        if self.connected:
            self._inbox.append(data)
            self._deliver()

    def end(self, reason: Failure) -> None:
        """The other side has closed, or reset."""
        if not self.connected:
            return
        if reason.check(ConnectionLost):
            self.disconnecting = True
            self.connectionLost(reason)
            return
        self._ending = reason
        self._deliver()

    def _deliver(self) -> None:
        while self._reading and self._inbox and self.connected:
            data = self._inbox.pop(0)
            self.peer.taken(len(data))
            self.protocol.dataReceived(data)
        if self._ending is not None and self._reading and not self._inbox and self.connected:
            reason, self._ending = self._ending, None
            half: Any = IHalfCloseableProtocol(self.protocol, None)
            if half is not None:
                half.readConnectionLost()
            else:
                self.connectionLost(reason)

    def taken(self, size: int) -> None:
        """The other side has taken bytes."""
        self._on_the_way -= size
        self.moved += size
        if self.unsent():
            return
        if self.drained is not None:
            drained, self.drained = self.drained, None
            drained()
        if self.producer is not None and self._producer_paused:
            self._producer_paused = False
            self.producer.resumeProducing()


def connect(
    clock: Clock, latency: float, near: Any, far: Any, *, near_host: str, far_host: str
) -> tuple[MemoryTransport, MemoryTransport]:
    """Join two protocols.

    Args:
        clock: virtual time.
        latency: seconds, one way.
        near, far: get makeConnection, far first.
        near_host, far_host: their addresses.
    """
    ends = (
        MemoryTransport(clock, latency, IPv4Address("TCP", far_host, 80)),
        MemoryTransport(clock, latency, IPv4Address("TCP", near_host, 40000)),
    )
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    ends[0].protocol, ends[1].protocol = near, far
    far.makeConnection(ends[1])
    near.makeConnection(ends[0])
    return ends


class MemoryDialer:
    """Stands in for net.dialer: connects to endpoints that live in memory."""

    def __init__(self, clock: Clock, answers: Callable[[str, int], Any]) -> None:
        """Args: answers: host and port -> something with `reachable`, `latency` and `accept()`."""
        self._clock = clock
        self._answers = answers

    def dial(
        self,
        host: str,
        port: int,
        protocol: Any,
        timeout: float,
        failed: Callable[[Failure], None],
    ) -> Callable[[], None]:
        """As net.dialer.Dialer.dial."""
        endpoint = self._answers(host, port)
        done = False

        def finish(error: Exception | None) -> None:
            nonlocal done
            if done:
                return
            done = True
            for call in calls:
                if call.active():
                    call.cancel()
            if error is not None:
                failed(Failure(error))
            else:
                connect(
                    self._clock,
                    endpoint.network,
                    protocol,
                    endpoint.accept(),
                    near_host="127.0.0.1",
                    far_host=host,
                )

        calls: list[Any] = []
        if endpoint is None or endpoint.refuses:
            calls.append(self._clock.callLater(0.0005, finish, ConnectionRefusedError()))
        elif endpoint.reachable:
            calls.append(self._clock.callLater(endpoint.network, finish, None))
        if timeout:
            calls.append(self._clock.callLater(timeout, finish, TimeoutError()))
        return lambda: finish(ConnectionAborted())
