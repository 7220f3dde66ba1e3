"""proxy.channel: what the sockets of tests/live cannot bring about at will."""

from __future__ import annotations

from random import Random
from typing import Any

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


class Ends(SynchronousTestCase):
    """Of answers that are not taken."""

    def test_the_last_chunk_pauses_nobody(self) -> None:
        """By then the source is in the pool: paused, it would keep another client waiting."""
        clock = Clock()
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
            limits=Limits(),
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
