"""upstreams.checker: who is asked when, and what is made of the answers."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from gatewayd.core.balancers import RoundRobin
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.endpoints import HEALTHY, UNCHECKED, UNHEALTHY, Endpoint
from gatewayd.core.health import ActiveRules, Health, PassiveRules
from gatewayd.core.tracing import Trace
from gatewayd.upstreams.checker import HealthChecker, HttpCheck
from gatewayd.upstreams.upstream import Upstream
from tests.unit.upstream_fakes import World, member


class Checks:
    """Stands for HttpCheck: remembers who was asked when, answers as told or not at all."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.answers: dict[str, Any] = {}  # by label: bool, exception, or None = never
        self.asked: list[tuple[float, str]] = []
        self.open: Counter[str] = Counter()
        self.most = 0  # at once, of one endpoint
        self.given_up: list[str] = []

    def __call__(self, endpoint: Endpoint) -> Deferred[bool]:
        """A Check."""
        label = endpoint.label
        self.asked.append((self.clock.seconds(), label))
        answer = self.answers.get(label, True)
        if isinstance(answer, ZeroDivisionError):
            raise answer
        if isinstance(answer, Exception):
            return fail(answer)
        if answer is not None:
            return succeed(answer)
        self.open[label] += 1
        self.most = max(self.most, self.open[label])

        def give_up(_: Any) -> None:
            self.open[label] -= 1
            self.given_up.append(label)

        return Deferred(give_up)

    def times(self, label: str) -> list[float]:
        """When it was asked."""
        return [when for when, each in self.asked if each == label]


class CheckerTestCase(SynchronousTestCase):
    """A checker of an upstream with checks: healthy 2, unhealthy 3, every 5 s, 2 s each."""

    def make(self, *members: str, seed: int = 1, running: bool = True) -> Upstream:
        """An upstream with these members, and its checker."""
        self.world = world = World()
        self.checks = Checks(world.clock)
        self.lines: list[str] = []
        trace = Trace("health", self.lines.append)
        trace.on = True
        self.upstream = Upstream(
            "u",
            balancer=RoundRobin,
            pool=world.pool,
            counters=UpstreamCounters(),
            random=Random(seed),
            clock=world.clock.seconds,
            wheel=world.wheel,
            later=lambda call: world.clock.callLater(0, call),
            health=Health(passive=PassiveRules(), active=ActiveRules()),
        )
        self.upstream.set_members([member(each) for each in members])
        self.checker = HealthChecker(
            self.upstream,
            self.checks,
            world.clock,
            Random(seed),
            interval=5.0,
            timeout=2.0,
            trace=trace,
        )
        if running:
            self.checker.startService()
        return self.upstream

    def states(self) -> list[str]:
        """Of all members."""
        return [each.state for each in self.upstream.endpoints]


class Timing(CheckerTestCase):
    """When endpoints are asked."""

    def test_soon_then_at_intervals(self) -> None:
        """A jittered interval after the end of the check before."""
        self.make("a:1", "b:1")
        self.world.advance(60.0)
        for label in ("a:1", "b:1"):
            times = self.checks.times(label)
            self.assertLess(times[0], 0.2)
            gaps = [after - before for before, after in pairwise(times)]
            self.assertTrue(all(4.4 <= gap <= 5.6 for gap in gaps), gaps)
            self.assertGreater(len({round(gap, 2) for gap in gaps}), 3)
        self.assertEqual("<HealthChecker u endpoints=2>", repr(self.checker))

    def test_a_fleet_does_not_march_in_step(self) -> None:
        """Two gateways with the same configuration drift apart."""
        found = []
        for seed in (1, 2):
            self.make("a:1", seed=seed)
            self.world.advance(100.0)
            found.append(self.checks.times("a:1"))
        off = [abs(one - other) for one, other in zip(*found, strict=False)]
        self.assertGreater(max(off), 0.5)

    def test_one_at_a_time(self) -> None:
        """One that hangs is given up at its timeout, and only then asked again."""
        self.make("a:1", "b:1")
        self.checks.answers["a:1"] = None
        self.world.advance(60.0)
        self.assertEqual(1, self.checks.most)
        times = self.checks.times("a:1")
        gaps = [after - before for before, after in pairwise(times)]
        self.assertTrue(all(6.4 <= gap <= 7.7 for gap in gaps), gaps)
        self.assertEqual([UNHEALTHY, HEALTHY], self.states())

    def test_new_members(self) -> None:
        """Are asked soon, those that have left no more, those that stay go on as before."""
        upstream = self.make("a:1", "b:1")
        self.world.advance(1.0)
        upstream.set_members([member("b:1"), member("c:1")])
        self.assertEqual([UNCHECKED, UNCHECKED], self.states())
        self.assertFalse(upstream.endpoints[1].usable)
        self.world.advance(0.2)
        self.assertTrue(upstream.endpoints[1].usable)
        self.world.advance(20.0)
        self.assertEqual(
            [1, 5, 5], [len(self.checks.times(each)) for each in ("a:1", "b:1", "c:1")]
        )

    def test_who_leaves_while_it_is_asked(self) -> None:
        """Is not asked again, and what it said counts no more."""
        upstream = self.make("a:1", "b:1")
        self.checks.answers["a:1"] = None
        self.world.advance(0.5)
        upstream.set_members([member("b:1")])
        self.world.advance(20.0)
        self.assertEqual(1, len(self.checks.times("a:1")))
        self.assertEqual(0, upstream.counters.checks["bad"])

    def test_who_comes_back_while_it_is_still_asked(self) -> None:
        """Is not asked twice at once."""
        upstream = self.make("a:1", "b:1")
        self.checks.answers["a:1"] = None
        self.world.advance(0.5)
        upstream.set_members([member("b:1")])
        upstream.set_members([member("a:1"), member("b:1")])
        self.world.advance(20.0)
        self.assertEqual(1, self.checks.most)
        self.assertGreater(len(self.checks.times("a:1")), 2)

    def test_stopped(self) -> None:
        """Asks nobody any more, gives up what hangs, and takes no answer."""
        upstream = self.make("a:1", "b:1")
        self.checks.answers["a:1"] = None
        self.world.advance(0.5)
        self.checker.stopService()
        self.assertEqual(["a:1"], self.checks.given_up)
        upstream.set_members([member("a:1"), member("b:1"), member("c:1")])
        self.world.advance(20.0)
        self.assertEqual((2, 1), (len(self.checks.asked), upstream.counters.checks["good"]))
        self.assertEqual([], self.world.clock.getDelayedCalls())


class Answers(CheckerTestCase):
    """What is made of them."""

    def test_down_and_up(self) -> None:
        """Three bad ones in a row take it out, two good ones bring it back."""
        upstream = self.make("a:1", "b:1")
        self.checks.answers["a:1"] = False
        self.world.advance(8.0)
        self.assertEqual([UNCHECKED, HEALTHY], self.states())
        self.world.advance(5.0)
        self.assertEqual([UNHEALTHY, HEALTHY], self.states())
        picked: list[Any] = [upstream.pick(None) for _ in range(4)]
        self.assertEqual({"b:1"}, {each.label for each in picked})
        self.checks.answers["a:1"] = True
        self.world.advance(12.0)
        self.assertEqual([HEALTHY, HEALTHY], self.states())
        self.assertEqual({"good": 7, "bad": 3}, upstream.counters.checks)

    def test_failures(self) -> None:
        """Errors are bad answers, also those of the check itself; they are traced."""
        self.make("a:1", "b:1", "c:1")
        self.checks.answers["a:1"] = ConnectionLost("gone")
        self.checks.answers["b:1"] = ZeroDivisionError("a bug")
        self.world.advance(20.0)
        self.assertEqual([UNHEALTHY, UNHEALTHY, HEALTHY], self.states())
        told = "\n".join(self.lines)
        for line in ("u: a:1 good=False ", "u: b:1 good=False a bug", "u: c:1 good=True "):
            self.assertIn(line, told)
        self.assertEqual(5, len(self.checks.times("b:1")))


class Response:
    """Stands for treq's."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.protocol: Any = None
        self.left = False

    def deliverBody(self, protocol: Any) -> None:
        """Twisted: the body goes there."""
        self.protocol = protocol
        protocol.makeConnection(self)

    def loseConnection(self) -> None:
        """Twisted: nobody wants the rest."""
        self.left = True

    def end(self, kind: type[Exception] = ResponseDone) -> None:
        """The body is whole, or cut."""
        self.protocol.connectionLost(Failure(kind()))


class Judging(SynchronousTestCase):
    """HttpCheck's verdict on an answer; its connections are tested live."""

    def judged(self, code: int, *pieces: bytes, body: str = "") -> tuple[Response, Deferred[bool]]:
        """A response and what is said of it."""
        check = HttpCheck(Clock(), path="/", expect=[range(200, 300), range(418, 419)], body=body)
        response = Response(code)
        verdict = check._judge(response)
        for piece in pieces:
            response.protocol.dataReceived(piece)
        return response, verdict

    def test_statuses(self) -> None:
        """Those expected are good; the body is not waited for, and its connection left."""
        for code, expected in ((200, True), (299, True), (300, False), (418, True), (503, False)):
            response, verdict = self.judged(code)
            self.assertEqual(expected, self.successResultOf(verdict))
            self.assertTrue(response.left)
            response.protocol.dataReceived(b"x" * 100_000)
            response.end(ConnectionLost)

    def test_body(self) -> None:
        """The text must occur, in one piece or several, before the end or 64 KiB."""
        for pieces, expected in (
            ((b"all is ", b"well"), True),
            ((b"all is lost",), False),
            ((), False),
        ):
            response, verdict = self.judged(200, *pieces, body="is well")
            self.assertNoResult(verdict)
            response.end()
            self.assertEqual(expected, self.successResultOf(verdict))

    def test_an_endless_body(self) -> None:
        """Is read up to 64 KiB and no further."""
        response, verdict = self.judged(200, b"x" * 65_000, b"y" * 600, b"is well", body="is well")
        self.assertFalse(self.successResultOf(verdict))
        self.assertTrue(response.left)
        for _ in range(10):
            response.protocol.dataReceived(b"z" * 65_536)
        self.assertLess(len(response.protocol._data), 70_000)
        response.end(ConnectionLost)

    def test_a_body_that_is_cut(self) -> None:
        """Says nothing good."""
        response, verdict = self.judged(200, b"all is well", body="is well")
        response.end(ConnectionLost)
        self.failureResultOf(verdict, ConnectionLost)
