"""Who plays in a simulation: endpoints that serve, fail and hang, and clients that ask and measure."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.task import Clock

from gatewayd.core.errors import BadResponse, GatewayError
from gatewayd.core.messages import CHUNKED, UNTIL_CLOSE
from gatewayd.http1.bodies import Body, Chunked, Length, UntilClose
from gatewayd.http1.requests import PathRules, read_request
from gatewayd.http1.responses import read_response

_NETWORK: Final = 0.0002  # seconds, one way
_RULES: Final = PathRules()


class Behaviour:
    """How an endpoint behaves from now on."""

    def __init__(
        self,
        *,
        latency: float = 0.02,
        spread: float = 0.2,
        errors: float = 0.0,
        capacity: int = 0,
        body: int = 64,
    ) -> None:
        """Args:
        latency: seconds to answer, the median.
        spread: of latencies, log-normal sigma; 0 = none.
        errors: share answered 503.
        capacity: requests served at once, the rest queue; 0 = any.
        body: bytes of an answer.
        """
        self.latency = latency
        self.spread = spread
        self.errors = errors
        self.capacity = capacity
        self.body = body


class SimEndpoint:
    """A server in memory; made by the simulator for each member."""

    network = _NETWORK

    def __init__(self, label: str, behaviour: Behaviour, clock: Clock, random: Random) -> None:
        """Args: label: host:port."""
        self.label = label
        self.behaviour = behaviour
        self.refuses = False  # crashed
        self.reachable = True  # False: a partition swallows what is sent
        self.hanging = False
        self.received = 0
        self._clock = clock
        self._random = random
        self._connections: set[_EndpointProtocol] = set()
        self._serving = 0
        self._queue: list[Callable[[], None]] = []
        self._lives = 0  # what a process before the crash was serving ends in no later one

    def __repr__(self) -> str:
        return f"<SimEndpoint {self.label} received={self.received}>"

    @property
    def well(self) -> bool:
        """Whether it serves."""
        return self.reachable and not self.refuses and not self.hanging

    def accept(self) -> Any:
        """A connection's server side."""
        protocol = _EndpointProtocol(self)
        self._connections.add(protocol)
        return protocol

    # --- faults

    def crash(self) -> None:
        """The process dies: connections reset, new ones are refused."""
        self.refuses = True
        self._lives += 1
        self._serving = 0
        self._queue.clear()
        for connection in list(self._connections):
            connection.transport.abortConnection()

    def hang(self) -> None:
        """The process stops: it accepts, and answers nothing."""
        self.hanging = True

    def partition(self) -> None:
        """The network swallows all that is sent to it."""
        self.reachable = False
        self.hanging = True

    def heal(self) -> None:
        """It is well again; what was sent meanwhile is lost."""
        self.refuses = self.hanging = False
        self.reachable = True

    # --- serving

    def serve(self, protocol: _EndpointProtocol, close: bool) -> None:
        """A request is complete."""
        self.received += 1
        if self.hanging:
            return

        life = self._lives

        def begin() -> None:
            self._serving += 1
            behaviour = self.behaviour
            seconds = behaviour.latency
            if behaviour.spread:
                seconds *= self._random.lognormvariate(0.0, behaviour.spread)
            failed = self._random.random() < behaviour.errors
            self._clock.callLater(seconds, finish, failed)

        def finish(failed: bool) -> None:
            if self._lives != life:
                return
            self._serving -= 1
            if self._queue:
                self._queue.pop(0)()
            if not self.hanging and protocol in self._connections:
                protocol.answer(503 if failed else 200, self.behaviour.body, close)

        if self.behaviour.capacity and self._serving >= self.behaviour.capacity:
            self._queue.append(begin)
        else:
            begin()

    def lost(self, protocol: _EndpointProtocol) -> None:
        """A connection is no more."""
        self._connections.discard(protocol)


class _EndpointProtocol:
    """Reads requests with our own strict reader, which proves what the gateway sends."""

    transport: Any = None

    def __init__(self, endpoint: SimEndpoint) -> None:
        self._endpoint = endpoint
        self._buffer = b""
        self._body: Body | None = None
        self._close = False

    def makeConnection(self, transport: Any) -> None:
        """Twisted: connected."""
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes of a request."""
        if not self._endpoint.reachable:
            return
        self._buffer += data
        while self._buffer or (self._body is not None and self._body.ended):
            if self._body is None:
                head = read_request(self._buffer, _RULES, 0)
                if head is None:
                    return
                self._buffer = self._buffer[head.size :]
                self._close = head.close
                self._body = Chunked(BadResponse) if head.length == CHUNKED else Length(head.length)
            _, rest = self._body.feed(self._buffer) if self._buffer else (b"", b"")
            self._buffer = rest
            if not self._body.ended:
                return
            self._body = None
            self._endpoint.serve(self, self._close)

    def answer(self, status: int, size: int, close: bool) -> None:
        """Send a response."""
        label = self._endpoint.label.encode()
        self.transport.write(
            b"HTTP/1.1 %d Said\r\nX-Endpoint: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (status, label, size, b"x" * size)
        )
        if close:
            self.transport.loseConnection()

    def connectionLost(self, reason: Any) -> None:
        """Twisted: the connection is no more."""
        self._endpoint.lost(self)


class SimClient:
    """A client's connection that asks one thing after another; made by the simulator."""

    transport: Any = None

    def __init__(self, clock: Clock, rested: Callable[[SimClient], None]) -> None:
        """Args: rested: told when it may be used again."""
        self._clock = clock
        self._rested = rested
        self._buffer = b""
        self._body: Body | None = None
        self._status = 0
        self._endpoint = ""
        self._close = False
        self._began = 0.0
        self._done: Callable[[int, float, str], None] | None = None
        self._method = b"GET"

    def makeConnection(self, transport: Any) -> None:
        """Twisted: connected."""
        self.transport = transport

    def ask(self, method: bytes, data: bytes, done: Callable[[int, float, str], None]) -> None:
        """Send a request.

        Args:
            method: of it.
            data: its bytes.
            done: told status (0 = cut), seconds, and the endpoint that served it.
        """
        self._method = method
        self._began = self._clock.seconds()
        self._done = done
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes of a response."""
        self._buffer += data
        if self._body is None:
            try:
                head = read_response(self._buffer, self._method)
            except GatewayError:
                self._finish(0)
                self.transport.abortConnection()
                return
            if head is None:
                return
            self._buffer = self._buffer[head.size :]
            self._status = head.status
            self._close = head.close
            self._endpoint = (head.get(b"x-endpoint") or b"").decode()
            if head.length == CHUNKED:
                self._body = Chunked(BadResponse)
            else:
                self._body = UntilClose() if head.length == UNTIL_CLOSE else Length(head.length)
        _, self._buffer = self._body.feed(self._buffer) if self._buffer else (b"", b"")
        if self._body.ended:
            self._body = None
            self._finish(self._status)
            if self._close:
                self.transport.loseConnection()
            else:
                self._rested(self)

    def connectionLost(self, reason: Any) -> None:
        """Twisted: the connection is no more; an answer that was not whole is none."""
        self._finish(0)

    def _finish(self, status: int) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(status, self._clock.seconds() - self._began, self._endpoint)
