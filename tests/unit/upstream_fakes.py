"""A dialer and transports that open and close when their test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost, UserError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from gatewayd.core.addresses import parse_host_port
from gatewayd.core.deadlines import Wheel
from gatewayd.core.endpoints import Endpoint, Member
from gatewayd.net.wire import Wire
from gatewayd.upstreams.pool import HTTPConnectionPool


class FakeTransport(StringTransport):
    """An eager transport without a socket."""

    moved = 0

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.closing = ""  # how: close or abort
        self.wire = Wire(self)

    def queue(self, data: bytes) -> None:
        """Take it."""
        self.write(data)

    def unsent(self) -> int:
        """All is taken."""
        return 0

    def unread(self) -> bool:
        """Nothing lies in a kernel."""
        return False

    def set_read_ahead(self, size: int) -> None:
        """Nothing to do."""

    def loseConnection(self) -> None:
        """Twisted: close, when the test goes on."""
        super().loseConnection()
        self.closing = self.closing or "close"

    def abortConnection(self) -> None:
        """Twisted: cut it, when the test goes on."""
        super().abortConnection()
        self.closing = "abort"

    def lost(self, kind: type[Exception] = ConnectionDone) -> None:
        """The connection ends now."""
        self.protocol.connectionLost(Failure(kind()))


class Dial:
    """One attempt to connect."""

    def __init__(self, address: str, protocol: Any, timeout: float, failed: Any) -> None:
        self.address = address
        self.protocol = protocol
        self.timeout = timeout
        self._failed = failed
        self.over = False
        self.transport = FakeTransport(protocol)

    def succeed(self) -> Any:
        """Connected; the protocol."""
        self.over = True
        self.protocol.makeConnection(self.transport)
        return self.protocol

    def fail(self, error: Exception) -> None:
        """Not connected."""
        self.over = True
        self._failed(Failure(error))

    def give_up(self) -> None:
        """Nobody wants it any more."""
        if not self.over:
            self.fail(UserError())


class FakeDialer:
    """Remembers who was dialled."""

    def __init__(self) -> None:
        self.dials: list[Dial] = []

    def dial(
        self,
        host: str,
        port: int,
        protocol: Any,
        timeout: float,
        failed: Callable[[Failure], None],
    ) -> Callable[[], None]:
        """As net.dialer.Dialer."""
        made = Dial(f"{host}:{port}", protocol, timeout, failed)
        self.dials.append(made)
        return made.give_up


class World:
    """A clock with a wheel on it, a dialer, and a pool of both."""

    def __init__(self, **pool_options: Any) -> None:
        self.clock = Clock()
        self.wheel = Wheel(0.0)
        self.dialer = FakeDialer()
        self.pool = HTTPConnectionPool(
            self.clock, wheel=self.wheel, dialer=self.dialer, **pool_options
        )

    def advance(self, seconds: float) -> None:
        """Time passes, a tick at a time."""
        for _ in range(round(seconds / self.wheel.tick)):
            self.clock.advance(self.wheel.tick)
            self.wheel.sweep(self.clock.seconds())


def member(text: str, weight: int = 1) -> Member:
    """A static member."""
    return Member(parse_host_port(text), weight)


def endpoint(text: str = "10.0.0.1:80") -> Endpoint:
    """An endpoint of no upstream."""
    return Endpoint(member(text))


__all__ = ["ConnectionDone", "ConnectionLost", "FakeDialer", "World", "endpoint", "member"]
