"""Connections to endpoints, kept and lent again.

The ledger (core.pooling) decides, this pool opens and closes. It has two doors: `acquire`, by which
the data path gets an `UpstreamConnection` at once where one is idle, and `getConnection`, Twisted's own
seam, by which a stock Agent or treq gets a stock `HTTP11ClientProtocol`. One ledger counts both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import TimeoutError as DialTimeout
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol

from gatewayd.core.deadlines import INFINITY, Wheel
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.errors import ConnectFailed, ConnectTimeout, GatewayError
from gatewayd.core.pooling import FAST, STOCK, Ledger
from gatewayd.core.tracing import SILENT, Trace
from gatewayd.net.dialer import Dialer
from gatewayd.upstreams.connection import Timeouts, UpstreamConnection

FRESH_ENOUGH = 2.0  # seconds idle within which a request that cannot be sent twice takes the risk
_MARGIN = 1.0  # seconds before an endpoint's promised end at which we leave first
_DEFAULT_TIMEOUTS = Timeouts(connect=5.0, response_header=20.0, read=30.0, write=30.0)


class HTTPConnectionPool:
    """A pool of connections; made by the service for an upstream, or by anybody for an Agent."""

    def __init__(
        self,
        reactor: Any,
        *,
        max_idle: int = 512,
        max_idle_per_endpoint: int = 64,
        idle_timeout: float = 90.0,
        max_connections_per_endpoint: int = 0,
        max_header_bytes: int = 65536,
        read_ahead: int = 65536,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        wheel: Wheel | None = None,
        dialer: Any = None,
        trace: Trace = SILENT,
    ) -> None:
        """Make a pool.

        Args:
            reactor: Twisted's.
            max_idle: connections kept in all, 0 = no reuse.
            max_idle_per_endpoint: of these for one endpoint.
            idle_timeout: seconds that one is kept, 0 = for ever.
            max_connections_per_endpoint: open at once, busy or idle, 0 = any number.
            max_header_bytes: of a response.
            read_ahead: bytes that each direction may hold for a slow reader.
            timeouts: of each try.
            wheel: that sweeps deadlines; without one nothing on the fast path times out.
            dialer: opens connections; a fake in tests.
            trace: debug output.
        """
        self._reactor = reactor
        self.ledger: Ledger[Any] = Ledger(
            max_idle=max_idle,
            max_idle_per_endpoint=max_idle_per_endpoint,
            max_open=max_connections_per_endpoint,
        )
        self._idle_timeout = idle_timeout
        self._max_header_bytes = max_header_bytes
        self.read_ahead = read_ahead
        self._trace = trace
        self.timeouts = timeouts
        self._wheel = wheel if wheel is not None else Wheel(reactor.seconds())
        self._dialer = dialer if dialer is not None else Dialer(reactor)
        self._opening: dict[UpstreamConnection, Deferred[UpstreamConnection]] = {}
        self._live: set[UpstreamConnection] = set()
        self._stock_timers: dict[Any, Any] = {}
        self._closed = False
        self.freed: Callable[[], None] | None = None  # told when a limited endpoint has room again

    def __repr__(self) -> str:
        return f"<HTTPConnectionPool {self.ledger!r}>"

    # --- the data path's door

    def acquire(
        self, endpoint: Endpoint, *, repeatable: bool = True, fresh: bool = False
    ) -> UpstreamConnection | Deferred[UpstreamConnection]:
        """Get a connection for one request.

        Args:
            endpoint: where to.
            repeatable: the request may be sent twice; if not, a connection long idle is not risked.
            fresh: take no idle one.

        Returns:
            A connection at once if one is idle, else a Deferred that fires with one, or fails with
            ConnectFailed or ConnectTimeout. Cancelling it gives the attempt up.
        """
        if not fresh:
            if not repeatable:
                newest = self.ledger.newest(endpoint, FAST)
                if newest is None or self._wheel.now - newest.idle_since > FRESH_ENOUGH:
                    return self._open(endpoint)
            connection: UpstreamConnection | None = self.ledger.take(endpoint, FAST)
            if connection is not None:
                return connection
        return self._open(endpoint)

    def _open(self, endpoint: Endpoint) -> Deferred[UpstreamConnection]:
        evicted = self.ledger.opening(endpoint, FAST)
        if evicted is not None:
            self._close_evicted(evicted)
        if self._trace.on:
            self._trace.write(f"opens a connection to {endpoint.label}: {self.ledger!r}")
        connection = UpstreamConnection(
            self, endpoint, self.timeouts, self._wheel, self._max_header_bytes
        )

        def failed(reason: Failure) -> None:
            self._opening.pop(connection, None)
            self.closed(connection)
            waiter.errback(Failure(_connect_error(reason, endpoint)))

        waiter: Deferred[UpstreamConnection] = Deferred(lambda _: give_up())
        self._opening[connection] = waiter
        give_up = self._dialer.dial(
            endpoint.host, endpoint.port, connection, self.timeouts.connect, failed
        )
        return waiter

    def connected(self, connection: UpstreamConnection) -> None:
        """A connection is there; whoever waits for it has it."""
        self._live.add(connection)
        waiter = self._opening.pop(connection)
        if waiter.called:
            connection.give_up()
            return
        waiter.callback(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """A connection's response is complete and nothing came after it."""
        if self._closed or not self.ledger.keep(connection.endpoint, FAST, connection):
            if self._trace.on:
                self._trace.write(
                    f"keeps no connection to {connection.endpoint.label}: enough are idle"
                )
            connection.close()
            return
        seconds = self._idle_timeout
        if connection.promised:
            promised = max(0.0, connection.promised - _MARGIN)
            seconds = min(seconds, promised) if seconds else promised
            if not promised:
                self.discard(connection)
                connection.close()
                return
        connection.rest(connection._wheel.now + seconds if seconds else INFINITY)
        if self.freed is not None:
            self.freed()

    def discard(self, connection: UpstreamConnection) -> None:
        """An idle connection is about to close."""
        self.ledger.drop(connection.endpoint, FAST, connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection is no more."""
        self._live.discard(connection)
        self.ledger.closed(connection.endpoint)
        if self.freed is not None:
            self.freed()

    # --- Twisted's seam: IAgent's pool

    def getConnection(self, key: Hashable, endpoint: Any) -> Deferred[Any]:
        """Twisted's HTTPConnectionPool.getConnection: a stock protocol for a stock Agent.

        Args:
            key: names the endpoint for the ledger, as Agent gives it.
            endpoint: a Twisted client endpoint, asked only where nothing is idle.

        Returns:
            A Deferred that fires with an HTTP11ClientProtocol.
        """
        connection = self.ledger.take(key, STOCK)
        while connection is not None:
            timer = self._stock_timers.pop(connection, None)
            if timer is not None and timer.active():
                timer.cancel()
            if connection.state == "QUIESCENT":
                found: Deferred[Any] = Deferred()
                found.callback(connection)
                return found
            self.ledger.closed(key)
            connection = self.ledger.take(key, STOCK)
        evicted = self.ledger.opening(key, STOCK)
        if evicted is not None:
            self._close_evicted(evicted)

        def quiescent(protocol: Any) -> None:
            if self._closed or not self.ledger.keep(key, STOCK, protocol):
                protocol.transport.loseConnection()
            elif self._idle_timeout:
                timer = self._reactor.callLater(self._idle_timeout, expired, protocol)
                self._stock_timers[protocol] = timer

        def expired(protocol: Any) -> None:
            self._stock_timers.pop(protocol, None)
            self.ledger.drop(key, STOCK, protocol)
            protocol.transport.loseConnection()

        def lost(protocol: HTTP11ClientProtocol) -> None:
            timer = self._stock_timers.pop(protocol, None)
            if timer is not None and timer.active():
                timer.cancel()
            self.ledger.drop(key, STOCK, protocol)
            self.ledger.closed(key)

        def failed(reason: Failure) -> Failure:
            self.ledger.closed(key)
            return reason

        return maybeDeferred(endpoint.connect, _StockFactory(quiescent, lost)).addErrback(failed)

    # --- ends

    def forget(self, endpoint: Endpoint) -> None:
        """An endpoint has left: its idle connections close, busy ones finish."""
        for kind, connection in self.ledger.forget(endpoint):
            if kind == FAST:
                connection.close()
            else:
                connection.transport.loseConnection()

    def closeCachedConnections(self) -> Deferred[None]:
        """Twisted's name: close all idle connections; what is busy closes when it is done."""
        for key in list(self.ledger.slots):
            for kind, connection in self.ledger.forget(key):
                if kind == FAST:
                    connection.close()
                else:
                    connection.transport.loseConnection()
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def close(self) -> None:
        """The end: idle connections close, and no other is kept."""
        self._closed = True
        self.closeCachedConnections()

    def abort(self) -> None:
        """The drain's time is over."""
        self.close()
        for connection in list(self._live):
            connection.give_up()

    def _close_evicted(self, connection: Any) -> None:
        """`opening` has already forgotten it, so its end must not be counted twice."""
        if isinstance(connection, UpstreamConnection):
            self._live.discard(connection)
            connection.pool = _Forgotten()
            connection.close()
        else:
            self._stock_timers.pop(connection, None)
            connection.transport.loseConnection()


class _Forgotten:
    """Stands for the pool of an evicted connection."""

    def discard(self, connection: UpstreamConnection) -> None:
        """Nothing to do."""

    def closed(self, connection: UpstreamConnection) -> None:
        """Nothing to do."""


class _StockProtocol(HTTP11ClientProtocol):
    """Tells the ledger when it is no more."""

    def __init__(
        self,
        quiescent: Callable[[HTTP11ClientProtocol], None],
        lost: Callable[[HTTP11ClientProtocol], None],
    ) -> None:
        super().__init__(quiescent)
        self._lost = lost

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self._lost(self)


class _StockFactory(Factory):
    noisy = False

    def __init__(
        self,
        quiescent: Callable[[HTTP11ClientProtocol], None],
        lost: Callable[[HTTP11ClientProtocol], None],
    ) -> None:
        self._callbacks = (quiescent, lost)

    def buildProtocol(self, addr: Any) -> _StockProtocol:
        return _StockProtocol(*self._callbacks)


def _connect_error(reason: Failure, endpoint: Endpoint) -> GatewayError:
    if reason.check(DialTimeout) is not None:
        return ConnectTimeout(f"no connection to {endpoint.label} within timeouts.connect")
    return ConnectFailed(f"{endpoint.label}: {reason.getErrorMessage()}")
