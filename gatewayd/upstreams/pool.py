"""Connections to endpoints, kept and lent again.

The ledger (core.pooling) decides, this pool opens and closes. It has two doors: `acquire`, by which
the data path gets an `UpstreamConnection` at once where one is idle, and `getConnection`, Twisted's own
seam, by which a stock Agent or treq gets a stock `HTTP11ClientProtocol`. One ledger counts both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import TimeoutError as DialTimeout
from twisted.python.failure import Failure

from gatewayd.core.deadlines import INFINITY, Wheel
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.errors import ConnectFailed, ConnectTimeout, GatewayError, QueueFull
from gatewayd.core.pooling import FAST, STOCK, Ledger
from gatewayd.core.tracing import SILENT, Trace
from gatewayd.net.dialer import Dialer
from gatewayd.upstreams.connection import Timeouts, UpstreamConnection
from gatewayd.upstreams.stock import StockFactory, StockProtocol

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
        max_pending: int = 1024,
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
            max_pending: calls of getConnection that may wait for one endpoint, 0 = none.
            max_header_bytes: of a response.
            read_ahead: bytes that each direction may hold for a slow reader.
            timeouts: of each try.
            wheel: that sweeps deadlines; without one nothing on the fast path times out.
            dialer: opens connections; a fake in tests.
            trace: debug output.
        """
        self._reactor = reactor
        self.ledger = Ledger(
            max_idle=max_idle,
            max_idle_per_endpoint=max_idle_per_endpoint,
            max_open=max_connections_per_endpoint,
        )
        self.persistent = bool(max_idle and max_idle_per_endpoint)  # Agent asks
        self._idle_timeout = idle_timeout
        self._max_pending = max_pending
        self._max_header_bytes = max_header_bytes
        self.read_ahead = read_ahead
        self._trace = trace
        self.timeouts = timeouts
        self._wheel = wheel if wheel is not None else Wheel(reactor.seconds())
        self._dialer = dialer if dialer is not None else Dialer(reactor)
        self._opening: dict[UpstreamConnection, Deferred[UpstreamConnection]] = {}
        self._live: set[UpstreamConnection] = set()
        self._outdated: set[UpstreamConnection] = set()  # of a former configuration
        self._stock_timers: dict[StockProtocol, Any] = {}
        self._stock_waiting: dict[Hashable, deque[Deferred[None]]] = {}
        self._closing: list[tuple[set[Any], Deferred[None]]] = []
        self._closed = False
        self.freed: Callable[[], None] | None = None  # told when a limited endpoint has room again

    def __repr__(self) -> str:
        return f"<HTTPConnectionPool {self.ledger!r}>"

    def become(self, planned: HTTPConnectionPool) -> None:
        """Work from now on as a pool that was made of a new configuration.

        Connections are kept, but where they bear what has changed: then idle ones close now, and busy
        ones when they are done.
        """
        mine, new = self.ledger, planned.ledger
        mine.max_idle, mine.max_idle_per_endpoint = new.max_idle, new.max_idle_per_endpoint
        mine.max_open = new.max_open
        self.persistent = planned.persistent
        self._idle_timeout = planned._idle_timeout
        self.read_ahead = planned.read_ahead
        changed = self.timeouts != planned.timeouts
        if changed or self._max_header_bytes != planned._max_header_bytes:
            self.timeouts = planned.timeouts
            self._max_header_bytes = planned._max_header_bytes
            self._outdated.update(self._live)
            self.closeCachedConnections()

    # --- the data path's door

    def acquire(
        self, endpoint: Endpoint, *, repeatable: bool = True, fresh: bool = False
    ) -> UpstreamConnection | Deferred[UpstreamConnection]:
        """Get a connection for one request.

        Args:
            endpoint: where to; its connections are all of this pool.
            repeatable: the request may be sent twice; if not, a connection long idle is not risked.
            fresh: take no idle one.

        Returns:
            A connection at once if one is idle, else a Deferred that fires with one, or fails with
            ConnectFailed or ConnectTimeout. Cancelling it gives the attempt up.
        """
        if not fresh:
            if not repeatable:
                newest = self.ledger.newest(endpoint)
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
        seconds = self._idle_timeout
        leaves = self._closed or (self._outdated and connection in self._outdated)
        if connection.promised:
            promised = max(0.0, connection.promised - _MARGIN)
            seconds = min(seconds, promised) if seconds else promised
            leaves = leaves or not promised
        if leaves:
            connection.close()
            return
        surplus: UpstreamConnection | None
        surplus = self.ledger.keep(connection.endpoint, FAST, connection)
        if surplus is not None:
            if self._trace.on:
                self._trace.write(
                    f"closes a connection to {connection.endpoint.label}: enough are idle"
                )
            surplus.close()
            if surplus is connection:
                return
        connection.rest(connection._wheel.now + seconds if seconds else INFINITY)
        if self._stock_waiting:
            self._room_for(connection.endpoint)
        elif self.freed is not None:
            self.freed()

    def discard(self, connection: UpstreamConnection) -> None:
        """An idle connection is about to close."""
        self.ledger.drop(connection.endpoint, FAST, connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection is no more."""
        self._live.discard(connection)
        self._outdated.discard(connection)
        self.ledger.closed(connection.endpoint)
        if self._closing:
            self._ended(connection)
        self._room_for(connection.endpoint)

    # --- Twisted's seam: IAgent's pool

    def getConnection(self, key: Hashable, endpoint: Any) -> Deferred[Any]:
        """Twisted's HTTPConnectionPool.getConnection: a stock protocol for a stock Agent.

        Args:
            key: names the endpoint for the ledger, as Agent gives it.
            endpoint: a Twisted client endpoint, asked only where nothing is idle.

        Returns:
            A Deferred that fires with an HTTP11ClientProtocol. At the limit of connections it waits
            in line for one, or fails with QueueFull.
        """
        connection = self._take_stock(key)
        if connection is not None:
            found: Deferred[Any] = Deferred()
            found.callback(connection)
            return found
        if not self.ledger.has_room(key):
            return self._wait_stock(key, endpoint)
        evicted = self.ledger.opening(key, STOCK)
        if evicted is not None:
            self._close_evicted(evicted)

        def quiescent(protocol: StockProtocol) -> None:
            surplus = protocol if self._closed else self.ledger.keep(key, STOCK, protocol)
            if surplus is not None:
                self._stop_timer(surplus)
                surplus.close()
            if surplus is protocol:
                return
            if self._idle_timeout:
                timer = self._reactor.callLater(self._idle_timeout, expired, protocol)
                self._stock_timers[protocol] = timer
            # Not at once: the protocol is not done with the old request yet.
            self._reactor.callLater(0, self._room_for, key)

        def expired(protocol: StockProtocol) -> None:
            del self._stock_timers[protocol]
            self.ledger.drop(key, STOCK, protocol)
            protocol.close()

        def lost(protocol: StockProtocol) -> None:
            self._stop_timer(protocol)
            self.ledger.drop(key, STOCK, protocol)
            self.ledger.closed(key)
            self._ended(protocol)
            self._room_for(key)

        def failed(reason: Failure) -> Failure:
            self.ledger.closed(key)
            self._room_for(key)
            return reason

        return maybeDeferred(endpoint.connect, StockFactory(quiescent, lost)).addErrback(failed)

    def _take_stock(self, key: Hashable) -> StockProtocol | None:
        """An idle stock connection that is not about to close."""
        while True:
            connection: StockProtocol | None = self.ledger.take(key, STOCK)
            if connection is None:
                return None
            self._stop_timer(connection)
            if connection.is_open:
                return connection

    def _wait_stock(self, key: Hashable, endpoint: Any) -> Deferred[Any]:
        waiting = self._stock_waiting.setdefault(key, deque())
        if len(waiting) >= self._max_pending:
            return fail(QueueFull(f"{key}: {len(waiting)} requests wait already"))
        waiter: Deferred[None] = Deferred(waiting.remove)
        waiting.append(waiter)
        return waiter.addCallback(lambda _: self.getConnection(key, endpoint))

    def _room_for(self, key: Hashable) -> None:
        """A connection has closed or is idle again: who waits may have it."""
        waiting = self._stock_waiting.get(key)
        while waiting and self.ledger.has_room(key):
            waiting.popleft().callback(None)
        if not waiting:
            self._stock_waiting.pop(key, None)
        if self.freed is not None:
            self.freed()

    def _stop_timer(self, protocol: StockProtocol) -> None:
        timer = self._stock_timers.pop(protocol, None)
        if timer is not None:
            timer.cancel()

    # --- ends

    def forget(self, endpoint: Endpoint) -> None:
        """An endpoint has left: its idle connections close, busy ones finish."""
        self._close_idle(endpoint)

    def _close_idle(self, key: Hashable) -> list[Any]:
        closing = []
        for kind, connection in self.ledger.forget(key):
            closing.append(connection)
            if kind == STOCK:
                self._stop_timer(connection)
            connection.close()
        return closing

    def closeCachedConnections(self) -> Deferred[None]:
        """Twisted's name: close all idle connections; what is busy closes when it is done.

        Returns:
            A Deferred that fires when those that were idle are closed.
        """
        closing = {each for key in list(self.ledger.slots) for each in self._close_idle(key)}
        done: Deferred[None] = Deferred()
        if closing:
            self._closing.append((closing, done))
        else:
            done.callback(None)
        return done

    def _ended(self, connection: Any) -> None:
        """A connection is no more: whoever asked for its end may be told."""
        for entry in list(self._closing):
            closing, done = entry
            closing.discard(connection)
            if not closing:
                self._closing.remove(entry)
                done.callback(None)

    def close(self) -> Deferred[None]:
        """The end: idle connections close, no other is kept, and nobody waits on.

        Returns:
            As closeCachedConnections.
        """
        self._closed = True
        for waiting in list(self._stock_waiting.values()):
            for waiter in list(waiting):
                waiter.cancel()
        return self.closeCachedConnections()

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
            self._stop_timer(connection)
            connection.forget()
            connection.close()


class _Forgotten:
    """Stands for the pool of an evicted connection."""

    def discard(self, connection: UpstreamConnection) -> None:
        """Nothing to do."""

    def closed(self, connection: UpstreamConnection) -> None:
        """Nothing to do."""


def _connect_error(reason: Failure, endpoint: Endpoint) -> GatewayError:
    if reason.check(DialTimeout) is not None:
        return ConnectTimeout(f"no connection to {endpoint.label} within timeouts.connect")
    return ConnectFailed(f"{endpoint.label}: {reason.getErrorMessage()}")
