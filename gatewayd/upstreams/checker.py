"""Active health checks: asks each endpoint from time to time whether it is well.

One check at a time for each endpoint, at jittered intervals so that a fleet of gateways does not march in
step. What a result means is core.health's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

import treq
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone

from gatewayd.core.endpoints import Endpoint
from gatewayd.core.tracing import SILENT, Trace
from gatewayd.upstreams.pool import HTTPConnectionPool
from gatewayd.upstreams.upstream import Upstream

_JITTER: Final = 0.1  # of an interval, either way
_MAX_BODY: Final = 65536  # bytes of an answer that are looked at

Check = Callable[[Endpoint], "Deferred[bool]"]
"""Asks an endpoint; fires with whether it is well, fails where it is not."""


class HealthChecker(Service):
    """Checks the endpoints of one upstream; made by the service where checks are configured."""

    def __init__(
        self,
        upstream: Upstream,
        check: Check,
        clock: Any,
        random: Random,
        *,
        interval: float,
        timeout: float,
        trace: Trace = SILENT,
    ) -> None:
        """Args:
        upstream: told what came out.
        check: HttpCheck or TcpCheck.
        clock: Twisted's IReactorTime.
        random: for the jitter.
        interval, timeout: seconds; a timeout of 0 never fires.
        trace: debug output.
        """
        self._upstream = upstream
        self._check = check
        self._clock = clock
        self._random = random
        self._interval = interval
        self._timeout = timeout
        self._trace = trace
        self._timers: dict[Endpoint, Any] = {}
        self._running: dict[Endpoint, Deferred[bool]] = {}
        self._members: frozenset[Endpoint] = frozenset()

    def __repr__(self) -> str:
        return f"<HealthChecker {self._upstream.name} endpoints={len(self._timers)}>"

    def startService(self) -> None:
        """Twisted: begin."""
        super().startService()
        self._upstream.watch_members(lambda joined: self._members_changed())
        self._members_changed()

    def stopService(self) -> None:
        """Twisted: end."""
        super().stopService()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for running in list(self._running.values()):
            running.cancel()

    def _members_changed(self) -> None:
        """Begin to check who is new, soon; stop with who has left."""
        if not self.running:
            return
        self._members = frozenset(self._upstream.endpoints)
        for endpoint in set(self._timers) - self._members:
            self._timers.pop(endpoint).cancel()
        for endpoint in self._upstream.endpoints:
            if endpoint in self._timers or endpoint in self._running:
                continue
            soon = self._random.random() * min(self._interval, 1.0) * _JITTER
            self._timers[endpoint] = self._clock.callLater(soon, self._begin, endpoint)

    def _begin(self, endpoint: Endpoint) -> None:
        del self._timers[endpoint]
        asked = maybeDeferred(self._check, endpoint)
        if self._timeout:
            asked.addTimeout(self._timeout, self._clock)
        self._running[endpoint] = asked
        asked.addCallbacks(
            lambda good: self._done(endpoint, good, ""),
            lambda failure: self._done(endpoint, False, failure.getErrorMessage()),
        )

    def _done(self, endpoint: Endpoint, good: bool, why: str) -> None:
        del self._running[endpoint]
        if not self.running:
            return
        if self._trace.on:
            self._trace.write(f"{self._upstream.name}: {endpoint.label} good={good} {why}")
        if endpoint in self._members:
            jitter = 1.0 + _JITTER * (2 * self._random.random() - 1)
            self._timers[endpoint] = self._clock.callLater(
                self._interval * jitter, self._begin, endpoint
            )
            self._upstream.checked(endpoint, good)


class TcpCheck:
    """Well is who can be connected to."""

    def __init__(self, reactor: Any, port: int = 0) -> None:
        """Args: port: instead of the endpoint's own; 0 = that."""
        self._reactor = reactor
        self._port = port

    def __call__(self, endpoint: Endpoint) -> Deferred[bool]:
        """Connect and leave."""
        dialer = HostnameEndpoint(self._reactor, endpoint.host, self._port or endpoint.port)
        connected: Deferred[Any] = connectProtocol(dialer, Protocol())
        return connected.addCallback(_leave)


def _leave(protocol: Any) -> bool:
    protocol.transport.loseConnection()
    return True


class HttpCheck:
    """Well is who answers a GET with an expected status, and perhaps with an expected text."""

    def __init__(
        self,
        reactor: Any,
        *,
        path: str,
        expect: Sequence[range],
        body: str = "",
        host: str = "",
        headers: Mapping[str, str] | None = None,
        port: int = 0,
        timeout: float = 2.0,
    ) -> None:
        """Args:
        path: asked for.
        expect: statuses.
        body: text that must occur in the first 64 KiB of the answer.
        host: of the Host field; the endpoint's own if empty.
        headers: further fields.
        port: instead of the endpoint's own; 0 = that.
        timeout: seconds to connect.
        """
        # A connection for each check: whether one can be had is part of the question.
        pool: Any = HTTPConnectionPool(reactor, max_idle=0)
        self._agent: Any = Agent(reactor, connectTimeout=timeout, pool=pool)
        self._path = path
        self._expect = expect
        self._body = body.encode()
        self._headers: dict[str, str] = {"User-Agent": "gatewayd-health-check", **(headers or {})}
        self._host = host
        self._port = port

    def __call__(self, endpoint: Endpoint) -> Deferred[bool]:
        """Ask."""
        address = endpoint.address._replace(port=self._port or endpoint.port)
        headers: Any = {**self._headers, "Host": self._host or endpoint.authority.decode()}
        asked: Deferred[Any] = treq.get(
            f"http://{address}{self._path}",
            headers=headers,
            agent=self._agent,
            allow_redirects=False,
            unbuffered=True,
        )
        return asked.addCallback(self._judge)

    def _judge(self, response: Any) -> Deferred[bool]:
        if not any(response.code in statuses for statuses in self._expect):
            response.deliverBody(_Text(0))
            return succeed(False)
        text = _Text(_MAX_BODY if self._body else 0)
        response.deliverBody(text)
        return text.whole.addCallback(lambda data: self._body in data)


class _Text(Protocol):
    """Takes the beginning of an answer's body and leaves."""

    def __init__(self, most: int) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._most = most
        self._data = b""
        if not most:
            self.whole.callback(b"")

    def connectionMade(self) -> None:
        """Twisted: the body begins."""
        if not self._most:
            self._leave()

    def dataReceived(self, data: bytes) -> None:
        """Twisted: a piece of it."""
        if self.whole.called:
            return  # the connection is closing
        self._data += data
        if len(self._data) >= self._most:
            self._leave()
            self.whole.callback(self._data[: self._most])

    def _leave(self) -> None:
        # A body's transport knows no abort; without this an endless one is read for ever.
        transport: Any = self.transport
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: it ends, whole or not."""
        if not self.whole.called:
            if reason.check(ResponseDone):
                self.whole.callback(self._data)
            else:
                self.whole.errback(reason)
