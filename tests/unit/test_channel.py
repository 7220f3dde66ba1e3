"""proxy.channel: what the sockets of tests/live cannot bring about at will."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Address, Networks
from gatewayd.core.balancers import RoundRobin
from gatewayd.core.counters import ListenerCounters
from gatewayd.core.deadlines import Wheel
from gatewayd.core.exchange import Origin
from gatewayd.core.messages import CHUNKED, ResponseHead
from gatewayd.core.routes import Match, Route, Table
from gatewayd.http1.requests import PathRules
from gatewayd.proxy.channel import ServerChannel
from gatewayd.proxy.context import Context
from gatewayd.proxy.forward import Forwarding, ReverseProxyResource
from gatewayd.proxy.listener import Listener
from gatewayd.proxy.resource import Root
from gatewayd.proxy.terms import ClientTimeouts, Limits, Terms
from gatewayd.upstreams.pool import HTTPConnectionPool
from gatewayd.upstreams.upstream import Upstream
from tests.unit.upstream_fakes import FakeTransport


class Source:
    """A pooled connection that a response comes from."""

    def __init__(self) -> None:
        self.pool = self
        self.read_ahead = 65536
        self.paused = 0

    def pause(self) -> None:
        """Nobody takes its bytes."""
        self.paused += 1

    def resume(self) -> None:
        """They are taken again."""


class Full(FakeTransport):
    """The kernel takes nothing: whoever produces is paused at each write."""

    def write(self, data: bytes) -> None:
        """Buffer it."""
        super().write(data)
        if self.producer is not None:
            self.producer.pauseProducing()

    def loseWriteConnection(self) -> None:
        """Twisted: our half closes."""
        self.closing = "half"


def connected(clock: Clock | None = None) -> tuple[Any, Full]:
    """A client's channel on a listener whose upstream has no members yet, and its transport."""
    clock = clock or Clock()
    context = Context.standalone(clock.seconds, Wheel(0.0))
    wheel = context.wheel
    awaited = Upstream(
        "main",
        balancer=RoundRobin,
        pool=HTTPConnectionPool(clock, wheel=wheel),
        counters=context.counters.upstream("main"),
        random=Random(1),
        clock=clock.seconds,
        wheel=wheel,
        later=lambda call: clock.callLater(0, call),
    )
    leaf = ReverseProxyResource(awaited, route=Forwarding(context))
    table = Table([Route("all", Match(), leaf=leaf)])
    terms = Terms(
        Root(context, table, Networks()),
        limits=Limits(max_header_bytes=0),
        timeouts=ClientTimeouts(),
        path_rules=PathRules(),
    )
    listener = Listener(
        "web",
        Address("tcp", "127.0.0.1", 80),
        terms=terms,
        context=context,
        counters=ListenerCounters(),
        reactor=clock,
        inherited={},
        trusted=Networks(),
    )
    origin = Origin(listener="web", peer="10.0.0.1", scheme="http", port=80, trusted=False)
    channel: Any = ServerChannel(listener, origin)
    transport = Full(channel)
    channel.makeConnection(transport)
    return channel, transport


class Ends(SynchronousTestCase):
    """Of answers that are not taken."""

    def test_the_last_chunk_pauses_nobody(self) -> None:
        """By then the source is in the pool: paused, it would keep another client waiting."""
        channel, transport = connected()
        channel.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        exchange = channel.exchange  # waits for a first membership
        exchange.connection = source = Source()
        head = ResponseHead([b"A: b"])
        head.length = CHUNKED
        channel.respond(exchange, head, b"first", False)
        channel.respond_body(b"second")
        paused = source.paused
        self.assertGreater(paused, 0)
        channel.respond_end([])
        self.assertTrue(transport.value().endswith(b"\r\n0\r\n\r\n"))
        self.assertEqual(source.paused, paused)


class Leaving(SynchronousTestCase):
    """Of clients that rest, and of those that only seem to."""

    def test_a_young_connection(self) -> None:
        """Counts from its own moment, however long ago the wheel was swept."""
        clock = Clock()
        clock.advance(5.0)
        channel, transport = connected(clock)
        channel._listener.drain()
        clock.advance(0.9)
        self.assertEqual(transport.closing, "")
        clock.advance(0.3)
        self.assertEqual(transport.closing, "close")

    def test_unread(self) -> None:
        """A request that has come is served, though nobody has read it yet."""
        clock = Clock()
        channel, transport = connected(clock)
        clock.advance(2.0)
        with patch.object(transport, "unread", return_value=True):
            channel._listener.drain()
            channel.expired(clock.seconds())
        self.assertEqual(transport.closing, "")
        clock.advance(0.2)
        self.assertEqual(transport.closing, "close")

    def test_abort(self) -> None:
        """Who rests is closed, and who does not is cut."""
        resting, its_end = connected()
        self.assertEqual((resting._listener.abort(), its_end.closing), (0, "close"))
        busy, its_end = connected()
        busy.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual((busy._listener.abort(), its_end.closing), (1, "abort"))


class Heads(SynchronousTestCase):
    """That come in pieces."""

    def test_longest_line(self) -> None:
        """A request line of 64 KiB is taken, and one byte more is not, wherever it is cut."""
        rest = b"Host: a\r\n\r\n"
        for size, is_over in ((65536, False), (65537, True)):
            line = b"GET /" + b"a" * (size - 14) + b" HTTP/1.1\r\n"
            whole = line + rest
            for cut in (0, 70, len(line) - 1, len(line), len(line) + 5, len(whole) - 1):
                channel, transport = connected()
                for piece in (whole[:cut], whole[cut:]):
                    if piece and not transport.closing:
                        channel.dataReceived(piece)
                refused = transport.value().startswith(b"HTTP/1.1 414 ")
                self.assertEqual((cut, refused, channel.exchange is None), (cut, is_over, is_over))
