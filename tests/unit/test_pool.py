"""upstreams.pool: connections are lent again where that is safe, and every one of them is counted."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.error import TimeoutError as DialTimeout
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from gatewayd.core.endpoints import Endpoint
from gatewayd.core.errors import ConnectFailed, ConnectTimeout, QueueFull
from gatewayd.core.exchange import Exchange, Origin
from gatewayd.core.messages import RequestHead
from gatewayd.core.pooling import FAST, STOCK
from gatewayd.net.wire import Wire, flush_each
from gatewayd.upstreams.connection import Timeouts, UpstreamConnection
from gatewayd.upstreams.pool import FRESH_ENOUGH
from gatewayd.upstreams.stock import StockProtocol
from tests.unit.upstream_fakes import FakeTransport, World, endpoint

ORIGIN = Origin(listener="web", peer="192.0.2.1", scheme="http", port=80, trusted=False)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Recorder:
    """A way that notes what it is told, and a client that takes everything."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def response(self, exchange: Exchange, head: Any, body: bytes, ended: bool) -> None:
        """A head."""
        self.events.append((head.status, body, ended))

    def response_body(self, exchange: Exchange, piece: bytes) -> None:
        """A piece."""
        self.events.append(piece)

    def response_ended(self, exchange: Exchange, trailers: list[bytes]) -> None:
        """The end."""
        self.events.append("ended")

    def failed(self, exchange: Exchange, connection: Any, error: Any) -> None:
        """A failure."""
        self.events.append(error.reason)

    def splice_sink(self) -> None:
        """No plain socket."""


class PoolTestCase(SynchronousTestCase):
    """A pool with a fake dialer on a clock."""

    def make(self, **options: Any) -> World:
        """A world; `self.pool` is its pool."""
        self.world = world = World(**options)
        self.pool = world.pool
        return world

    def ledger(self) -> tuple[int, int]:
        """Open, idle."""
        return self.pool.ledger.open, self.pool.ledger.idle

    def open(self, to: Endpoint, **how: Any) -> UpstreamConnection:
        """A new connection; an idle one would be wrong."""
        waiting = self.pool.acquire(to, **how)
        self.assertIsInstance(waiting, Deferred)
        assert isinstance(waiting, Deferred)
        connection = self.world.dialer.dials[-1].succeed()
        self.assertIs(connection, self.successResultOf(waiting))
        return connection  # type: ignore[no-any-return]

    def again(self, to: Endpoint, **how: Any) -> UpstreamConnection:
        """A connection that was idle."""
        connection = self.pool.acquire(to, **how)
        assert isinstance(connection, UpstreamConnection), connection
        return connection

    def send(self, connection: UpstreamConnection, *, ended: bool = True) -> Recorder:
        """A request on its way."""
        way = Recorder()
        exchange = Exchange(RequestHead([]), way, ORIGIN, self.world.clock.seconds())
        exchange.way = way
        connection.send(exchange, b"GET / HTTP/1.1\r\n\r\n", chunked=False, ended=ended, read=30.0)
        return way

    def serve(self, connection: UpstreamConnection, answer: bytes = OK) -> Recorder:
        """A request and its answer."""
        way = self.send(connection)
        connection.dataReceived(answer)
        return way

    def idle(self, to: Endpoint, answer: bytes = OK) -> UpstreamConnection:
        """A connection that has served and is idle."""
        connection = self.open(to, fresh=True)
        self.serve(connection, answer)
        return connection

    def closing(self, connection: UpstreamConnection) -> str:
        """How its transport was told to end: close, abort, or empty."""
        transport: FakeTransport = connection.transport
        return transport.closing


class Opening(PoolTestCase):
    """A connection that is not there yet."""

    def test_connected(self) -> None:
        """By the dialer, with timeouts.connect."""
        self.make(timeouts=Timeouts(connect=3.0, response_header=1, read=1, write=1))
        a = endpoint("10.0.0.1:80")
        connection = self.open(a)
        (dial,) = self.world.dialer.dials
        self.assertEqual(("10.0.0.1:80", 3.0), (dial.address, dial.timeout))
        self.assertIs(a, connection.endpoint)
        self.assertEqual("<UpstreamConnection 10.0.0.1:80 idle>", repr(connection))
        self.assertEqual(
            "<HTTPConnectionPool <Ledger open=1 idle=0 hits=0 misses=1>>", repr(self.pool)
        )

    def test_refused(self) -> None:
        """A word of the endpoint, and nothing is open."""
        self.make()
        waiting: Any = self.pool.acquire(endpoint("10.0.0.1:80"))
        self.assertEqual((1, 0), self.ledger())
        self.world.dialer.dials[0].fail(ConnectionRefusedError())
        error = self.failureResultOf(waiting, ConnectFailed).value
        self.assertEqual("10.0.0.1:80: Connection was refused by other side.", error.detail)
        self.assertEqual((0, 0), self.ledger())

    def test_too_slow(self) -> None:
        """Its own reason."""
        self.make()
        waiting: Any = self.pool.acquire(endpoint("10.0.0.1:80"))
        self.world.dialer.dials[0].fail(DialTimeout())
        error = self.failureResultOf(waiting, ConnectTimeout).value
        self.assertEqual("no connection to 10.0.0.1:80 within timeouts.connect", error.detail)
        self.assertEqual((0, 0), self.ledger())

    def test_given_up(self) -> None:
        """The attempt ends, and nothing is open."""
        self.make()
        waiting: Any = self.pool.acquire(endpoint())
        waiting.cancel()
        self.failureResultOf(waiting, ConnectFailed)
        self.assertTrue(self.world.dialer.dials[0].over)
        self.assertEqual((0, 0), self.ledger())

    def test_connected_after_it_was_given_up(self) -> None:
        """Nobody gets it; it is counted until it is gone."""
        self.make()
        waiting: Any = self.pool.acquire(endpoint())
        (dial,) = self.world.dialer.dials
        self.patch(dial, "over", True)  # the kernel was faster
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        waiting.cancel()
        connection = dial.succeed()
        self.assertEqual("abort", self.closing(connection))
        self.assertEqual((1, 0), self.ledger())
        dial.transport.lost(ConnectionLost)
        self.assertEqual((0, 0), self.ledger())


class Reuse(PoolTestCase):
    """A connection whose answer is whole."""

    def test_at_once(self) -> None:
        """No Deferred, no dial; hits and misses are counted."""
        self.make()
        a = endpoint()
        connection = self.open(a)
        self.assertFalse(connection.reused)
        way = self.serve(connection)
        self.assertEqual([(200, b"ok", True)], way.events)
        self.assertEqual((1, 1), self.ledger())
        self.assertIs(connection, self.again(a))
        self.assertTrue(connection.reused)
        self.assertEqual((1, 0), self.ledger())
        self.assertEqual((1, 1), (self.pool.ledger.hits, self.pool.ledger.misses))
        self.assertEqual(1, len(self.world.dialer.dials))

    def test_it_is_idle_before_its_answer_is_told(self) -> None:
        """Whoever is told may have it for the next request."""
        self.make()
        a = endpoint()
        connection = self.open(a)
        way = self.send(connection)
        taken: list[Any] = []
        self.patch(way, "response", lambda *told: taken.append(self.pool.acquire(a)))
        connection.dataReceived(OK)
        self.assertEqual([connection], taken)

    def test_the_last_one_first(self) -> None:
        """LIFO: the others grow old and close."""
        self.make()
        a = endpoint()
        first, second, third = (self.open(a) for _ in range(3))
        for connection in (first, third, second):
            self.serve(connection)
        self.assertEqual([second, third, first], [self.again(a) for _ in range(3)])

    def test_endpoints_apart(self) -> None:
        """Nobody gets another's."""
        self.make()
        a, b = endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80")
        self.idle(a)
        self.open(b)

    def test_what_ends_with_its_answer(self) -> None:
        """By the endpoint's word, or by its version."""
        self.make()
        for answer in (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ):
            connection = self.idle(endpoint(), answer)
            self.assertEqual("close", self.closing(connection))
            self.assertEqual((1, 0), self.ledger())
            connection.transport.lost()
            self.assertEqual((0, 0), self.ledger())

    def test_stray_bytes_while_idle(self) -> None:
        """Nobody asked: whatever they are, they are not the next answer."""
        self.make()
        a = endpoint()
        connection = self.idle(a)
        connection.dataReceived(b"HTTP/1.1 200 OK\r\n")
        self.assertEqual(("abort", (1, 0)), (self.closing(connection), self.ledger()))
        self.assertIsNot(connection, self.open(a))
        connection.transport.lost()
        self.assertEqual((1, 0), self.ledger())

    def test_stray_bytes_behind_an_answer(self) -> None:
        """The answer is whole, the connection is not used again."""
        self.make()
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for answer in (OK + b"x", chunked + b"2\r\nok\r\n0\r\n\r\nx"):
            connection = self.open(endpoint())
            way = self.serve(connection, answer)
            self.assertEqual([(200, b"ok", True)], way.events)
            self.assertEqual(("close", 0), (self.closing(connection), self.pool.ledger.idle))
            connection.transport.lost()

    def test_stray_bytes_behind_a_body_in_pieces(self) -> None:
        """The same."""
        self.make()
        connection = self.open(endpoint())
        way = self.serve(connection, OK[:-1])
        connection.dataReceived(b"kx")
        self.assertEqual([(200, b"o", False), b"k", "ended"], way.events)
        self.assertEqual(("close", (1, 0)), (self.closing(connection), self.ledger()))

    def test_a_half_read_body(self) -> None:
        """Given up, it cannot be told from the next answer."""
        self.make()
        a = endpoint()
        connection = self.open(a)
        self.serve(connection, OK[:-1])
        connection.give_up()
        self.assertEqual(("abort", (1, 0)), (self.closing(connection), self.ledger()))
        connection.dataReceived(b"k")
        self.assertEqual(0, self.pool.ledger.idle)
        self.open(a)

    def test_a_half_sent_request(self) -> None:
        """An early answer is relayed; the rest of the request has nowhere to go."""
        self.make()
        connection = self.open(endpoint())
        way = self.send(connection, ended=False)
        connection.dataReceived(OK)
        self.assertEqual([(200, b"ok", True)], way.events)
        self.assertEqual(("abort", (1, 0)), (self.closing(connection), self.ledger()))

    def test_paused(self) -> None:
        """It reads again before anybody has it."""
        self.make()
        a = endpoint()
        connection = self.open(a)
        self.serve(connection, OK[:-1])
        connection.pause()
        self.assertEqual("paused", connection.transport.producerState)
        connection.dataReceived(b"k")  # was in the socket already
        self.assertEqual("producing", connection.transport.producerState)
        self.assertIs(connection, self.again(a))

    def test_closed_by_the_endpoint_while_idle(self) -> None:
        """It is forgotten, and counted no more."""
        self.make()
        a = endpoint()
        connection = self.idle(a)
        connection.transport.lost()
        self.assertEqual((0, 0), self.ledger())
        self.open(a)

    def test_half_closed_by_the_endpoint_while_idle(self) -> None:
        """Its FIN is the end."""
        self.make()
        connection = self.idle(endpoint())
        connection.readConnectionLost()
        self.assertEqual("close", self.closing(connection))


class Unsent(PoolTestCase):
    """A request on a kept connection that fails in the turn in which it was taken."""

    def setUp(self) -> None:
        self.make()
        self.connection = self.idle(endpoint("10.0.0.1:80"))
        self.turn: list[Wire] = []
        self.taken: list[bytes] = []
        wire = self.connection.transport.wire
        wire.direct, wire.turn = True, self.turn
        wire.socket = SimpleNamespace(send=lambda data: self.taken.append(data) or len(data))

    def test_stray_bytes(self) -> None:
        """Are no answer, and the request stays here; what comes after it went out is one."""
        way = self.send(self.connection)
        self.connection.dataReceived(OK)
        self.assertEqual((["reset"], "abort"), (way.events, self.closing(self.connection)))
        self.assertTrue(self.connection.unsent and self.connection.untouched)
        flush_each(self.turn)
        self.assertEqual([], self.taken)

    def test_sent(self) -> None:
        """Then it is an answer, and a failure is one of a request that went out."""
        way = self.send(self.connection)
        flush_each(self.turn)
        self.assertEqual(1, len(self.taken))
        self.assertFalse(self.connection.unsent)
        self.connection.dataReceived(OK)
        self.assertEqual([(200, b"ok", True)], way.events)

    def test_the_endpoint_ends(self) -> None:
        """It would still act on what it gets, so it gets nothing."""
        way = self.send(self.connection)
        self.connection.readConnectionLost()
        flush_each(self.turn)
        self.connection.transport.lost(ConnectionAborted)
        self.assertEqual((["reset"], []), (way.events, self.taken))
        self.assertTrue(self.connection.unsent)


class Age(PoolTestCase):
    """How long an idle connection is kept."""

    def kept(self, answer: bytes = OK, **options: Any) -> float:
        """Seconds until it closes, a tick or two more; 0 if it is not kept at all."""
        self.make(**options)
        connection = self.idle(endpoint(), answer)
        for tenths in range(2_000):
            if self.closing(connection):
                self.assertEqual("close", self.closing(connection))
                self.assertEqual(0, self.pool.ledger.idle)
                return tenths / 10
            self.world.advance(0.1)
        return float("inf")

    def close_to(self, expected: float, seconds: float) -> None:
        """Not early, and two ticks late at most."""
        self.assertTrue(expected - 0.05 < seconds < expected + 0.25, seconds)

    def promise(self, seconds: int) -> bytes:
        """An answer whose endpoint says how long it waits."""
        return b"HTTP/1.1 204 OK\r\nKeep-Alive: max=9, timeout=%d\r\n\r\n" % seconds

    def test_idle_timeout(self) -> None:
        """As configured; 0 is for ever."""
        self.close_to(90, self.kept())
        self.close_to(5, self.kept(idle_timeout=5.0))
        self.assertEqual(float("inf"), self.kept(idle_timeout=0.0))

    def test_the_endpoints_promise(self) -> None:
        """A second less than it; never more than idle_timeout."""
        self.close_to(4, self.kept(self.promise(5)))
        self.close_to(4, self.kept(self.promise(5), idle_timeout=0.0))
        self.close_to(3, self.kept(self.promise(60), idle_timeout=3.0))

    def test_a_promise_too_short(self) -> None:
        """Not kept at all."""
        self.assertEqual(0, self.kept(self.promise(1)))

    def test_use_makes_young(self) -> None:
        """The time begins anew with each answer."""
        self.make(idle_timeout=5.0)
        a = endpoint()
        connection = self.idle(a)
        for _ in range(4):
            self.world.advance(4)
            self.assertIs(connection, self.again(a))
            self.serve(connection)
        self.world.advance(4.5)
        self.assertEqual("", self.closing(connection))
        self.world.advance(1)
        self.assertEqual("close", self.closing(connection))
        connection.transport.lost()
        self.assertEqual((0, 0), self.ledger())

    def test_busy_ones_do_not_age(self) -> None:
        """An exchange has timeouts of its own."""
        self.make(idle_timeout=5.0)
        a = endpoint()
        connection = self.idle(a)
        self.world.advance(4.8)
        self.send(self.again(a))
        self.world.advance(5)
        self.assertEqual("", self.closing(connection))

    def test_requests_that_cannot_be_sent_twice(self) -> None:
        """They take one that was idle for 2 s at most, else a new one; the old stays for others."""
        self.make()
        a = endpoint()
        connection = self.idle(a)
        self.world.advance(1.9)
        self.assertIs(connection, self.again(a, repeatable=False))
        self.serve(connection)
        self.world.advance(2.1)
        other = self.open(a, repeatable=False)
        self.assertIsNot(connection, other)
        self.assertIs(connection, self.again(a))

    def test_fresh(self) -> None:
        """What is repeated takes no idle one."""
        self.make()
        a = endpoint()
        connection = self.idle(a)
        self.assertIsNot(connection, self.open(a, fresh=True))
        self.assertEqual((2, 1), self.ledger())


class Limits(PoolTestCase):
    """How many are kept, and how many there are."""

    def test_for_one_endpoint(self) -> None:
        """What is too much closes: the longest idle."""
        self.make(max_idle_per_endpoint=2)
        a = endpoint()
        connections = [self.open(a) for _ in range(4)]
        for connection in connections:
            self.serve(connection)
        self.assertEqual(["close", "close", "", ""], [*map(self.closing, connections)])
        self.assertEqual((4, 2), self.ledger())
        for connection in connections[:2]:
            connection.transport.lost()
        self.assertEqual((2, 2), self.ledger())

    def test_after_a_burst(self) -> None:
        """What a burst has left keeps no young connection out: each request not sent twice would dial."""
        self.make(max_idle_per_endpoint=2)
        a = endpoint()
        for connection in [self.open(a) for _ in range(2)]:
            self.serve(connection)
        self.world.advance(FRESH_ENOUGH + 1)
        young = self.open(a, repeatable=False)
        self.serve(young)
        self.assertIs(young, self.again(a, repeatable=False))

    def test_in_all(self) -> None:
        """Over all endpoints."""
        self.make(max_idle=3)
        connections = [self.idle(endpoint(f"10.0.0.{n}:80")) for n in range(1, 6)]
        self.assertEqual(["", "", "", "close", "close"], [*map(self.closing, connections)])
        self.assertEqual(3, self.pool.ledger.idle)

    def test_no_reuse(self) -> None:
        """0 is none, by either; Agent is told to say so."""
        for options in ({"max_idle": 0}, {"max_idle_per_endpoint": 0}):
            self.make(**options)
            self.assertFalse(self.pool.persistent)
            self.assertEqual("close", self.closing(self.idle(endpoint())))
        self.assertTrue(self.make().pool.persistent)

    def test_who_waits_is_told(self) -> None:
        """Whenever a limited endpoint has room again."""
        self.make(max_connections_per_endpoint=1)
        told: list[tuple[int, int]] = []
        self.pool.freed = lambda: told.append(self.ledger())
        a = endpoint()
        connection = self.open(a)
        self.serve(connection)
        self.again(a)
        connection.transport.lost()
        self.assertEqual([(1, 1), (0, 0)], told)


class Ends(PoolTestCase):
    """A pool that is no longer needed, or an endpoint."""

    def test_an_endpoint_has_left(self) -> None:
        """Its idle connections close, its busy ones finish."""
        self.make()
        a, b = endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80")
        idle, busy, other = self.idle(a), self.open(a, fresh=True), self.idle(b)
        way = self.send(busy)
        self.pool.forget(a)
        self.assertEqual(["close", "", ""], [*map(self.closing, (idle, busy, other))])
        busy.dataReceived(OK)
        self.assertEqual([(200, b"ok", True)], way.events)

    def test_closed(self) -> None:
        """No other is kept."""
        self.make()
        a = endpoint()
        idle, busy = self.idle(a), self.open(a, fresh=True)
        self.send(busy)
        closed = self.pool.close()
        self.assertEqual(["close", ""], [*map(self.closing, (idle, busy))])
        self.assertNoResult(closed)
        idle.transport.lost()
        self.successResultOf(closed)
        busy.dataReceived(OK)
        self.assertEqual("close", self.closing(busy))
        busy.transport.lost()
        self.assertEqual((0, 0), self.ledger())
        self.successResultOf(self.pool.close())

    def test_aborted(self) -> None:
        """The drain's time is over: whoever is busy is cut."""
        self.make()
        a = endpoint()
        idle, busy = self.idle(a), self.open(a, fresh=True)
        self.send(busy)
        self.pool.abort()
        self.assertEqual(["close", "abort"], [*map(self.closing, (idle, busy))])

    def test_cached_connections_closed(self) -> None:
        """Twisted's name and promise: told when they are gone, and the pool goes on."""
        self.make()
        a = endpoint()
        first, second = self.open(a), self.open(a)
        self.serve(first)
        self.serve(second)
        closed = self.pool.closeCachedConnections()
        first.transport.lost()
        self.assertNoResult(closed)
        second.transport.lost()
        self.successResultOf(closed)
        self.idle(a)
        self.assertEqual((1, 1), self.ledger())


class Body(Protocol):
    """A response's body."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def dataReceived(self, data: bytes) -> None:
        """Twisted: a piece."""
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        """Twisted: the end."""
        self.ended = True


def body_of(response: Any) -> bytes:
    """The body of a response that is whole."""
    body = Body()
    response.deliverBody(body)
    assert body.ended
    return body.data


@implementer(IAgentEndpointFactory)
class StockEndpoint:
    """A Twisted client endpoint, and the factory of it, that connects to fake transports."""

    def __init__(self) -> None:
        self.protocols: list[Any] = []
        self.waiting: list[Deferred[Any]] | None = None  # those that connect when the test says so

    def endpointForURI(self, uri: Any) -> StockEndpoint:
        """Twisted: where to."""
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        """Twisted: connect."""
        protocol = factory.buildProtocol(None)
        if self.waiting is not None:
            connecting: Deferred[Any] = Deferred()
            self.waiting.append(connecting)
            return connecting
        protocol.makeConnection(FakeTransport(protocol))
        self.protocols.append(protocol)
        return succeed(protocol)


class Stock(PoolTestCase):
    """The door for a stock Agent."""

    def make(self, **options: Any) -> World:
        """A world with an Agent in it."""
        world = super().make(**options)
        self.endpoint = StockEndpoint()
        agent: Any = Agent
        self.agent = agent.usingEndpointFactory(world.clock, self.endpoint, pool=self.pool)
        return world

    def request(self, url: str = "http://a.example/") -> Deferred[Any]:
        """A GET by the Agent."""
        asked: Deferred[Any] = self.agent.request(b"GET", url.encode())
        return asked

    def answer(self, number: int = -1, answer: bytes = OK) -> Any:
        """A connection's endpoint answers; the protocol."""
        protocol = self.endpoint.protocols[number]
        protocol.dataReceived(answer)
        return protocol

    def served(self, url: str = "http://a.example/") -> Any:
        """A request whose answer was read to its end; its connection."""
        asked = self.request(url)
        protocol = self.answer()
        self.assertEqual(b"ok", body_of(self.successResultOf(asked)))
        self.world.clock.advance(0)
        return protocol

    def test_reused(self) -> None:
        """By scheme, host and port; counted as the others are."""
        self.make()
        first = self.served()
        self.assertEqual((1, 1), self.ledger())
        self.assertIs(first, self.served())
        self.assertEqual((1, 1), (self.pool.ledger.hits, self.pool.ledger.misses))
        other = self.served("http://b.example/")
        self.assertIsNot(first, other)
        self.assertIsNot(other, self.served("http://b.example:8080/"))
        self.assertEqual((3, 3), self.ledger())
        self.assertEqual("<StockProtocol quiescent>", repr(first))

    def test_persistence(self) -> None:
        """Agent says close where nothing is kept."""
        self.make(max_idle=0)
        protocol = self.served()
        self.assertIn(b"Connection: close\r\n", protocol.transport.value())
        self.assertEqual("close", protocol.transport.closing)

    def test_a_body_that_is_not_read(self) -> None:
        """Busy until it is."""
        self.make()
        asked = self.request()
        self.answer(answer=OK[:-1])
        response = self.successResultOf(asked)
        self.assertEqual((1, 0), self.ledger())
        body = Body()
        response.deliverBody(body)
        self.assertEqual((1, 0), self.ledger())
        self.answer(answer=b"k")
        self.assertEqual((b"ok", True), (body.data, body.ended))
        self.assertEqual((1, 1), self.ledger())

    def test_idle_timeout(self) -> None:
        """Closed after it, and not before; a new one then."""
        self.make(idle_timeout=5.0)
        protocol = self.served()
        self.world.clock.advance(4.9)
        self.assertEqual("", protocol.transport.closing)
        self.world.clock.advance(0.2)
        self.assertEqual(("close", (1, 0)), (protocol.transport.closing, self.ledger()))
        protocol.transport.lost()
        self.assertEqual((0, 0), self.ledger())
        self.assertIsNot(protocol, self.served())

    def test_use_makes_young(self) -> None:
        """No timer runs while it is busy."""
        self.make(idle_timeout=5.0)
        protocol = self.served()
        self.world.clock.advance(4)
        self.request()
        self.assertEqual([], self.world.clock.getDelayedCalls())
        self.answer()
        self.world.clock.advance(4)
        self.assertEqual("", protocol.transport.closing)

    def test_closed_by_the_endpoint(self) -> None:
        """Forgotten, with its timer."""
        self.make()
        self.served().transport.lost()
        self.assertEqual(((0, 0), []), (self.ledger(), self.world.clock.getDelayedCalls()))

    def test_stray_bytes_while_idle(self) -> None:
        """Not used again, though it is not closed yet."""
        self.make()
        protocol = self.served()
        protocol.dataReceived(b"x")
        self.assertEqual("close", protocol.transport.closing)
        self.assertIsNot(protocol, self.served())
        protocol.transport.lost()
        self.assertEqual((1, 1), self.ledger())

    def test_stray_bytes_behind_an_answer(self) -> None:
        """Not used again."""
        self.make()
        self.request()
        protocol = self.answer(answer=b"HTTP/1.1 204 OK\r\n\r\nx")
        self.assertEqual(("close", (1, 0)), (protocol.transport.closing, self.ledger()))
        protocol.transport.lost()
        self.assertEqual((0, 0), self.ledger())

    def test_no_connection(self) -> None:
        """The endpoint's failure is the request's, and nothing is open."""
        self.make()
        self.endpoint.waiting = []
        asked = self.request()
        self.assertEqual((1, 0), self.ledger())
        self.endpoint.waiting[0].errback(ConnectionRefusedError())
        self.failureResultOf(asked, ConnectionRefusedError)
        self.assertEqual((0, 0), self.ledger())

    def test_given_up_while_connecting(self) -> None:
        """Nothing is open."""
        self.make()
        self.endpoint.waiting = []
        asked = self.request()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual((0, 0), self.ledger())

    def test_at_the_limit_requests_wait(self) -> None:
        """In order; an idle connection goes to who waits, without a new one being opened."""
        self.make(max_connections_per_endpoint=1)
        first, second, third = (self.request() for _ in range(3))
        self.assertEqual(((1, 0), 1), (self.ledger(), len(self.endpoint.protocols)))
        for asked in (first, second, third):
            self.answer(0)
            self.assertEqual(b"ok", body_of(self.successResultOf(asked)))
            self.world.clock.advance(0)
        self.assertEqual(((1, 1), 1), (self.ledger(), len(self.endpoint.protocols)))

    def test_a_lost_connection_makes_room(self) -> None:
        """A new one is opened for who waits."""
        self.make(max_connections_per_endpoint=1)
        self.request().addErrback(lambda _: None)
        second = self.request()
        self.endpoint.protocols[0].transport.lost(ConnectionLost)
        self.assertEqual(2, len(self.endpoint.protocols))
        self.answer()
        self.successResultOf(second)

    def test_a_failed_one_makes_room(self) -> None:
        """The next may try."""
        self.make(max_connections_per_endpoint=1)
        self.endpoint.waiting = []
        first, second = self.request(), self.request()
        self.assertEqual(1, len(self.endpoint.waiting))
        self.endpoint.waiting[0].errback(ConnectionRefusedError())
        self.failureResultOf(first, ConnectionRefusedError)
        self.assertEqual(2, len(self.endpoint.waiting))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual((0, 0), self.ledger())

    def test_who_waits_may_leave(self) -> None:
        """The next is served."""
        self.make(max_connections_per_endpoint=1)
        first, second, third = (self.request() for _ in range(3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.answer()
        body_of(self.successResultOf(first))
        self.world.clock.advance(0)
        self.answer()
        self.successResultOf(third)

    def test_the_line_is_bounded(self) -> None:
        """max_pending for each endpoint."""
        self.make(max_connections_per_endpoint=1, max_pending=1)
        self.request()
        self.request()
        error = self.failureResultOf(self.request(), QueueFull).value
        self.assertTrue(error.detail.endswith(": 1 requests wait already"), error.detail)
        self.request("http://b.example/")
        self.assertNoResult(self.request("http://b.example/"))

    def test_the_end(self) -> None:
        """Idle ones close, who waits is told, timers are gone."""
        self.make(max_connections_per_endpoint=1)
        idle = self.served("http://b.example/")
        self.request().addErrback(lambda _: None)
        waiting = self.request()
        closed = self.pool.close()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual("close", idle.transport.closing)
        self.assertEqual([], self.world.clock.getDelayedCalls())
        self.assertNoResult(closed)
        idle.transport.lost()
        self.successResultOf(closed)
        self.answer()
        self.assertEqual("close", self.endpoint.protocols[-1].transport.closing)


class TwoKinds(PoolTestCase):
    """Fast and stock connections of one endpoint: one ledger, never mixed."""

    def make(self, **options: Any) -> World:
        """A world with an endpoint that both kinds go to."""
        world = super().make(**options)
        self.one = endpoint()
        self.stock_endpoint = StockEndpoint()
        return world

    def stock(self) -> Any:
        """A stock connection by getConnection, busy."""
        return self.successResultOf(self.pool.getConnection(self.one, self.stock_endpoint))

    def rest(self, protocol: Any) -> None:
        """A stock connection's answer is read."""
        protocol._quiescentCallback(protocol)
        self.world.clock.advance(0)

    def test_apart(self) -> None:
        """An idle one of the other kind is no use."""
        self.make()
        self.idle(self.one)
        protocol = self.stock()
        self.assertEqual((2, 1), self.ledger())
        self.rest(protocol)
        self.assertEqual((2, 2), self.ledger())
        self.assertIsInstance(self.again(self.one), UpstreamConnection)
        self.open(self.one)
        self.assertIs(protocol, self.stock())

    def test_limits_count_both(self) -> None:
        """On idle ones."""
        self.make(max_idle_per_endpoint=1)
        self.idle(self.one)
        protocol = self.stock()
        self.rest(protocol)
        self.assertEqual("close", protocol.transport.closing)

    def test_the_longest_idle_stock_one_makes_place(self) -> None:
        """As among ours; its timer goes with it."""
        self.make(max_idle_per_endpoint=1)
        old, young = self.stock(), self.stock()
        self.rest(old)
        self.rest(young)
        self.assertEqual(("close", False), (old.transport.closing, bool(young.transport.closing)))
        self.assertEqual(1, len(self.world.clock.getDelayedCalls()))

    def test_a_stock_one_gives_way(self) -> None:
        """At the limit an idle one of the other kind closes, and is counted once."""
        self.make(max_connections_per_endpoint=1)
        protocol = self.stock()
        self.rest(protocol)
        connection = self.open(self.one)
        self.assertEqual(("close", (1, 0)), (protocol.transport.closing, self.ledger()))
        self.assertEqual([], self.world.clock.getDelayedCalls())
        protocol.transport.lost()
        self.assertEqual((1, 0), self.ledger())
        connection.transport.lost()
        self.assertEqual((0, 0), self.ledger())

    def test_a_fast_one_gives_way(self) -> None:
        """The same the other way."""
        self.make(max_connections_per_endpoint=1)
        connection = self.idle(self.one)
        protocol = self.stock()
        self.assertEqual(("close", (1, 0)), (self.closing(connection), self.ledger()))
        connection.transport.lost()
        self.assertEqual((1, 0), self.ledger())
        protocol.transport.lost()
        self.assertEqual((0, 0), self.ledger())

    def test_an_old_one_gives_way_to_a_fresh_one(self) -> None:
        """Of its own kind too."""
        self.make(max_connections_per_endpoint=1)
        connection = self.idle(self.one)
        self.open(self.one, fresh=True)
        self.assertEqual(("close", (1, 0)), (self.closing(connection), self.ledger()))
        connection.transport.lost()
        self.assertEqual((1, 0), self.ledger())

    def test_a_stock_one_tells_who_waits_for_a_fast_one(self) -> None:
        """Room is room."""
        self.make(max_connections_per_endpoint=1)
        told: list[tuple[int, int]] = []
        protocol = self.stock()
        self.pool.freed = lambda: told.append(self.ledger())
        self.rest(protocol)
        protocol.transport.lost()
        self.assertEqual([(1, 1), (0, 0)], told)

    def test_a_fast_one_makes_room_for_who_waits_for_a_stock_one(self) -> None:
        """Idle, it gives way."""
        self.make(max_connections_per_endpoint=1)
        connection = self.open(self.one)
        waiting = self.pool.getConnection(self.one, self.stock_endpoint)
        self.assertNoResult(waiting)
        self.serve(connection)
        self.successResultOf(waiting)
        self.assertEqual(("close", (1, 0)), (self.closing(connection), self.ledger()))

    def test_an_endpoint_that_has_left(self) -> None:
        """Both kinds close."""
        self.make()
        connection = self.idle(self.one)
        protocol = self.stock()
        self.rest(protocol)
        self.pool.forget(self.one)
        self.assertEqual(["close", "close"], [self.closing(connection), protocol.transport.closing])
        self.assertEqual((2, 0), self.ledger())

    def test_the_count_is_true_whatever_happens(self) -> None:
        """Ten thousand random events on three endpoints: as many are open as there are, never less."""
        for seed in range(20):
            self.play(Random(seed), limit=seed % 3)

    def play(self, random: Random, limit: int) -> None:
        """One run of them."""
        self.make(
            max_connections_per_endpoint=limit,
            max_idle=4,
            max_idle_per_endpoint=2,
            idle_timeout=3.0,
        )
        endpoints = [endpoint(f"10.0.0.{n}:80") for n in range(3)]
        waiting: list[Any] = []

        def swallow(result: Any) -> None:
            """Nobody minds."""

        def dialling() -> list[Any]:
            return [dial for dial in self.world.dialer.dials if not dial.over]

        def lives() -> list[Any]:
            made = [dial.protocol for dial in self.world.dialer.dials if dial.protocol.transport]
            made += self.stock_endpoint.protocols
            return [each for each in made if each not in gone]

        gone: set[Any] = set()
        for _ in range(500):
            to = random.choice(endpoints)
            event = random.randrange(10)
            alive = lives()
            connection = random.choice(alive) if alive else None
            fast = isinstance(connection, UpstreamConnection)
            if event == 0:
                found = self.pool.acquire(to, fresh=random.random() < 0.2)
                if isinstance(found, Deferred):
                    found.addErrback(swallow)
                    waiting.append(found)
                else:
                    self.send(found)
            elif event == 1:
                self.pool.getConnection(to, self.stock_endpoint).addErrback(swallow)
            elif event == 2 and dialling():
                self.send(random.choice(dialling()).succeed())
            elif event == 3 and dialling():
                random.choice(dialling()).fail(ConnectionRefusedError())
            elif event == 4 and waiting:
                random.choice(waiting).cancel()
            elif event == 5 and fast and connection.exchange is not None:
                connection.dataReceived(OK)
            elif event == 6 and connection is not None and not fast and connection.is_open:
                if not any(connection in slot.stock for slot in self.pool.ledger.slots.values()):
                    self.rest(connection)
            elif event == 7 and connection is not None:
                gone.add(connection)
                connection.transport.lost(random.choice([ConnectionDone, ConnectionLost]))
            elif event == 8:
                self.world.advance(random.random() * 2)
            elif random.random() < 0.1:
                self.pool.forget(to)
            self.check(len(dialling()), lives(), limit)
        for dial in dialling():
            dial.fail(ConnectionRefusedError())
        self.pool.close()
        while lives():
            each = lives()[0]
            gone.add(each)
            each.transport.lost()
        self.assertEqual((0, 0), self.ledger())
        self.assertEqual({}, self.pool.ledger.slots)

    def check(self, dialling: int, lives: list[Any], limit: int) -> None:
        """The ledger's figures and what there is."""
        ledger = self.pool.ledger
        slots = ledger.slots.values()
        idle = [each for slot in slots for kind in (FAST, STOCK) for each in slot.idle_of(kind)]
        self.assertEqual(ledger.idle, len(idle))
        self.assertEqual(ledger.open, sum(slot.open for slot in slots))
        self.assertLessEqual(len(set(idle) - set(lives)), 0)
        evicted = [
            each
            for each in lives
            if (isinstance(each, StockProtocol) and each.forgotten)
            or (isinstance(each, UpstreamConnection) and each.pool is not self.pool)
        ]
        self.assertEqual(dialling + len(lives) - len(evicted), ledger.open)
        self.assertTrue(all(slot.idle <= slot.open for slot in slots))
