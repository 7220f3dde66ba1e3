"""upstreams.upstream with core.health: who is picked while endpoints fail, recover, start and drain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.balancers import balancer_named
from gatewayd.core.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerRules
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.endpoints import (
    DRAINING,
    EJECTED,
    HEALTHY,
    LEAVING,
    SLOW_START,
    UNCHECKED,
    UNHEALTHY,
    Endpoint,
)
from gatewayd.core.errors import BreakerOpen, NoEndpoint
from gatewayd.core.health import ActiveRules, Health, PassiveRules
from gatewayd.core.limits import AdaptiveLimit
from gatewayd.upstreams.upstream import Upstream
from tests.unit.upstream_fakes import World, member

BREAKER = BreakerRules(error_rate=0.5, window=10.0, min_requests=4, open_for=5.0)


class HealthTestCase(SynchronousTestCase):
    """Makes upstreams on a clock, and plays requests."""

    def make(
        self,
        count: int = 3,
        *,
        balancer: str = "round_robin",
        limit: int = 0,
        max_ejected: float = 0.5,
        passive: bool = True,
        active: ActiveRules | None = None,
        endpoint_breaker: BreakerRules | None = None,
        slow_start: float = 0.0,
        panic_threshold: float = 0.0,
        **options: Any,
    ) -> Upstream:
        """One with members a:1, b:1 and so on; two failures eject for 10 s."""
        self.world = world = World(max_connections_per_endpoint=limit)
        world.advance(1.0)
        self.messages: list[str] = []
        turns: list[Callable[[], None]] = []
        self.upstream = Upstream(
            "u",
            balancer=balancer_named(balancer),
            pool=world.pool,
            counters=UpstreamCounters(),
            random=Random(1),
            clock=world.clock.seconds,
            wheel=world.wheel,
            later=turns.append,
            health=Health(
                passive=(
                    PassiveRules(consecutive_failures=2, eject_for=10.0, max_ejected=max_ejected)
                    if passive
                    else None
                ),
                active=active,
                breaker=endpoint_breaker,
                slow_start=slow_start,
                panic_threshold=panic_threshold,
            ),
            notice=self.messages.append,
            **options,
        )
        self.members("abcdefghij"[:count])
        return self.upstream

    def members(self, names: str, **weights: int) -> None:
        """The membership is this now."""
        self.upstream.set_members([member(f"{n}:1", weights.get(n, 1)) for n in names])

    def end(self, name: str) -> Endpoint:
        """The endpoint of that name."""
        return next(each for each in self.upstream.endpoints if each.label == f"{name}:1")

    def told(self, name: str, *failed: bool) -> None:
        """Requests that went to it are over."""
        endpoint = self.end(name)
        for each in failed:
            endpoint.in_flight += 1
            self.upstream.in_flight += 1
            self.upstream.released(endpoint, 0.01, each)

    def eject(self, names: str) -> None:
        """They fail twice each."""
        for name in names:
            self.told(name, True, True)

    def states(self) -> dict[str, str]:
        """By name."""
        return {each.label[:-2]: each.state for each in self.upstream.endpoints}

    def picked(self, count: int = 60) -> Counter[str]:
        """Who gets so many requests that are over at once, without a verdict."""
        found: Counter[str] = Counter()
        for _ in range(count):
            endpoint = self.upstream.pick(None)
            assert isinstance(endpoint, Endpoint)
            found[endpoint.label[:-2]] += 1
            self.upstream.released(endpoint, 0.01, False, told=False)
        return found


class Ejection(HealthTestCase):
    """Requests that fail take an endpoint out."""

    def test_out_and_back(self) -> None:
        """Gets nothing for eject_for, then its share; both is told."""
        self.make()
        self.eject("a")
        self.assertEqual({"b": 30, "c": 30}, self.picked())
        self.world.advance(9.8)
        self.assertEqual({"b": 30, "c": 30}, self.picked())
        self.world.advance(0.4)
        self.assertEqual({"a": 20, "b": 20, "c": 20}, self.picked())
        self.assertEqual(
            ["upstream u: a:1 is ejected", "upstream u: a:1 is healthy"], self.messages
        )

    def test_longer_each_time(self) -> None:
        """10 s, 20 s, 30 s."""
        self.make()
        spans = []
        for _ in range(3):
            self.eject("a")
            began = self.world.clock.seconds()
            while self.end("a").state == EJECTED:
                self.world.advance(0.1)
            spans.append(round(self.world.clock.seconds() - began))
        self.assertEqual([10, 20, 30], spans)

    def test_max_ejected(self) -> None:
        """Rounds up; the last usable one stays though it fails."""
        for count, share, expected in (
            (3, 0.5, 2),
            (5, 0.5, 3),
            (4, 1.0, 3),
            (2, 1.0, 1),
            (1, 1.0, 0),
        ):
            self.make(count, max_ejected=share)
            self.eject("abcdefghij"[:count])
            out = [name for name, state in self.states().items() if state == EJECTED]
            self.assertEqual(expected, len(out))
            self.assertEqual(count - expected, len(self.picked()))

    def test_with_every_balancer(self) -> None:
        """An ejected endpoint is picked by none."""
        for name in (
            "round_robin",
            "weighted_round_robin",
            "random",
            "consistent_hash",
            "least_connections",
            "power_of_two",
            "peak_ewma",
        ):
            upstream = self.make(balancer=name)
            self.eject("b")
            found = set()
            for number in range(60):
                endpoint = upstream.pick(b"%d" % number)
                assert isinstance(endpoint, Endpoint)
                found.add(endpoint.label)
                upstream.released(endpoint, 0.01, False, told=False)
            self.assertEqual({"a:1", "c:1"}, found, name)


class SlowStarts(HealthTestCase):
    """Back, or new: a growing share."""

    def test_share_grows(self) -> None:
        """A tenth of its turn at first, then in proportion, then all."""
        self.make(4, slow_start=10.0)
        self.eject("a")
        self.world.advance(10.2)
        self.assertEqual(SLOW_START, self.end("a").state)
        shares = []
        for _ in range(6):
            shares.append(self.picked(4000)["a"] / 1000)
            self.world.advance(2.0)
        for expected, share in zip((0.1, 0.2, 0.4, 0.6, 0.8, 1.0), shares, strict=True):
            self.assertLess(abs(expected - share), 0.08, shares)
        self.assertEqual(HEALTHY, self.end("a").state)
        self.assertFalse(self.upstream._guarded)

    def test_a_new_member(self) -> None:
        """Starts slowly; those of the first membership at once."""
        self.make(2, slow_start=10.0)
        self.assertEqual({"a": UNCHECKED, "b": UNCHECKED}, self.states())
        self.members("abc")
        self.assertEqual(SLOW_START, self.states()["c"])
        self.assertLess(self.picked(600)["c"], 60)

    def test_alone(self) -> None:
        """Where there is nobody else it gets everything."""
        self.make(1, slow_start=10.0)
        self.members("b")
        self.assertEqual({"b": 60}, self.picked())

    def test_all_of_them(self) -> None:
        """Share what there is."""
        self.make(1, slow_start=10.0)
        self.members("bcd")
        found = self.picked(900)
        self.assertEqual(900, found.total())
        self.assertGreater(min(found[name] for name in "bcd"), 200)


class Panic(HealthTestCase):
    """Too few are left."""

    def test_all_are_used(self) -> None:
        """Those who refused last come last in no balancer's way; it is said, and said when it is over."""
        self.make(5, active=ActiveRules(healthy=1, unhealthy=1), panic_threshold=0.5)
        for name in "abc":
            self.upstream.checked(self.end(name), False)
        self.assertTrue(self.upstream.health.panic)
        self.assertEqual(dict.fromkeys("abcde", 12), self.picked())
        self.upstream.checked(self.end("a"), True)
        self.assertFalse(self.upstream.health.panic)
        self.assertEqual({"a", "d", "e"}, set(self.picked()))
        self.assertEqual(
            [
                "upstream u: a:1 is unhealthy",
                "upstream u: b:1 is unhealthy",
                "upstream u: c:1 is unhealthy",
                "upstream u is in panic: too few members are usable, all are used",
                "upstream u: a:1 is healthy",
                "upstream u is calm",
            ],
            self.messages,
        )
        self.assertEqual({"good": 1, "bad": 3}, self.upstream.counters.checks)

    def test_never_the_drained_and_weightless(self) -> None:
        """An operator's word counts in panic too."""
        self.make(4, active=ActiveRules(healthy=1, unhealthy=1), panic_threshold=0.9)
        self.members("abcd", d=0)
        self.upstream.drain("a:1", True)
        self.upstream.checked(self.end("b"), False)
        self.assertTrue(self.upstream.health.panic)
        self.assertEqual({"b": 30, "c": 30}, self.picked())

    def test_off(self) -> None:
        """With 0% a request is refused at once when nobody is left."""
        self.make(2, active=ActiveRules(healthy=1, unhealthy=1))
        for name in "ab":
            self.upstream.checked(self.end(name), False)
        self.assertRaises(NoEndpoint, self.upstream.pick, None)
        self.assertFalse(self.upstream.is_usable)


class Breakers(HealthTestCase):
    """Circuits of the upstream and of its endpoints."""

    def test_of_the_upstream(self) -> None:
        """Open: refused at once with the seconds that are left; then one probe at a time."""
        upstream = self.make(passive=False, breaker=Breaker(BREAKER))
        self.told("a", True, True, False)
        self.assertEqual(20, self.picked()["a"])
        self.told("b", True)
        assert upstream.breaker is not None
        self.assertEqual(OPEN, upstream.breaker.state)
        error = self.assertRaises(BreakerOpen, upstream.pick, None)
        self.assertEqual((503, 5), (error.answer_status, error.retry_after))
        self.assertEqual(0, upstream.in_flight)
        self.assertIsNone(upstream.pick_other(()))  # nor is anything tried again there
        self.world.advance(5.1)
        probe = upstream.pick(None)
        assert isinstance(probe, Endpoint)
        self.assertRaises(BreakerOpen, upstream.pick, None)
        upstream.released(probe, 0.01, False)
        self.assertEqual(CLOSED, upstream.breaker.state)
        self.assertEqual(60, self.picked().total())
        self.assertEqual(
            [f"the circuit breaker of upstream u is {each}" for each in (OPEN, CLOSED)],
            self.messages,
        )

    def test_a_failed_probe(self) -> None:
        """Opens it again."""
        upstream = self.make(passive=False, breaker=Breaker(BREAKER))
        self.told("a", *[True] * 4)
        self.world.advance(5.1)
        probe = upstream.pick(None)
        assert isinstance(probe, Endpoint)
        upstream.released(probe, 0.01, True)
        self.assertRaises(BreakerOpen, upstream.pick, None)

    def test_of_an_endpoint(self) -> None:
        """It is out; then one request at a time is its probe, and the others go elsewhere."""
        upstream = self.make(3, passive=False, endpoint_breaker=BREAKER)
        self.told("a", *[True] * 4)
        one = self.end("a")
        assert one.breaker is not None
        self.assertEqual((EJECTED, {"b", "c"}), (one.state, set(self.picked())))
        self.world.advance(5.2)
        for outcome in (True, False):
            picked: list[Any] = [upstream.pick(None) for _ in range(30)]
            self.assertEqual(HALF_OPEN, one.breaker.state)
            found = Counter(each.label for each in picked)
            self.assertEqual(1, found["a:1"])
            for each in picked:
                if each is not one:
                    upstream.released(each, 0.01, False)
            upstream.released(one, 0.01, outcome)
            self.world.advance(5.2)
        self.assertEqual((HEALTHY, CLOSED), (one.state, one.breaker.state))
        self.assertFalse(upstream._guarded)
        self.assertEqual({"a": 20, "b": 20, "c": 20}, self.picked())

    def test_of_an_endpoint_with_slow_start(self) -> None:
        """The probe is not lost to a pick that is passed over: it is sent within a few picks."""
        upstream = self.make(2, passive=False, endpoint_breaker=BREAKER, slow_start=10.0)
        self.told("a", *[True] * 4)
        self.world.advance(5.2)
        self.assertEqual(SLOW_START, self.end("a").state)
        picked: list[Any] = [upstream.pick(None) for _ in range(100)]
        self.assertEqual(1, sum(each.label == "a:1" for each in picked))


class Drains(HealthTestCase):
    """An operator takes endpoints out."""

    def test_out_and_back(self) -> None:
        """No new picks; what is in flight goes on; it survives a new registration."""
        upstream = self.make()
        self.told("a", False)
        flying: list[Any] = [upstream.pick(None) for _ in range(3)]
        upstream.drain("a:1", True)
        self.assertEqual({"b": 30, "c": 30}, self.picked())
        self.assertEqual([1, 1, 1], [each.in_flight for each in upstream.endpoints])
        for each in flying:
            upstream.released(each, 0.01, False)
        self.members("bc")
        self.assertEqual({"b": HEALTHY, "c": HEALTHY}, self.states())
        self.members("abc")
        self.assertEqual(DRAINING, self.end("a").state)
        upstream.drain("a:1", False)
        self.assertEqual({"a": 20, "b": 20, "c": 20}, self.picked())

    def test_twice(self) -> None:
        """Says nothing new."""
        upstream = self.make()
        for drained in (True, True, False, False):
            upstream.drain("a:1", drained)
        self.assertEqual(
            ["upstream u: a:1 is draining", "upstream u: a:1 is unchecked"], self.messages
        )

    def test_all(self) -> None:
        """Nobody is left, and nobody who waits waits on."""
        upstream = self.make(1, limit=1)
        flying = upstream.pick(None)
        assert isinstance(flying, Endpoint)
        connecting = self.world.pool.acquire(flying)
        assert isinstance(connecting, Deferred)
        waiting = upstream.pick(None)
        assert isinstance(waiting, Deferred)
        upstream.drain("a:1", True)
        self.failureResultOf(waiting, NoEndpoint)
        self.assertRaises(NoEndpoint, upstream.pick, None)

    def test_an_unknown_one(self) -> None:
        """Is an error that names it."""
        error = self.assertRaises(LookupError, self.make().drain, "x:9", True)
        self.assertEqual("upstream u has no endpoint x:9", str(error))


class Precedence(HealthTestCase):
    """Marks of several kinds at once."""

    def test_what_shows(self) -> None:
        """Draining over unhealthy over ejected; each comes to light when the one before goes."""
        upstream = self.make(active=ActiveRules(healthy=1, unhealthy=1))
        self.eject("a")
        found = [self.states()["a"]]
        upstream.checked(self.end("a"), False)
        found.append(self.states()["a"])
        upstream.drain("a:1", True)
        found.append(self.states()["a"])
        upstream.drain("a:1", False)
        found.append(self.states()["a"])
        upstream.checked(self.end("a"), True)
        found.append(self.states()["a"])
        self.world.advance(10.2)
        found.append(self.states()["a"])
        self.assertEqual([EJECTED, UNHEALTHY, DRAINING, UNHEALTHY, EJECTED, HEALTHY], found)

    def test_who_has_left(self) -> None:
        """Stays so, whatever its last requests say."""
        upstream = self.make()
        gone = self.end("a")
        upstream.pick(None)
        gone.in_flight += 2
        upstream.in_flight += 2
        self.members("bc")
        for failed in (True, True):
            upstream.released(gone, 0.01, failed)
        self.assertEqual(LEAVING, gone.state)
        self.assertEqual({"b", "c"}, set(self.picked()))


class Others(HealthTestCase):
    """pick_other: where a request that failed is tried again."""

    def test_another_one(self) -> None:
        """None of those tried as long as there is another; else one of them; each is counted."""
        upstream = self.make(3)
        one, two, three = upstream.endpoints
        self.assertEqual({three}, {upstream.pick_other((one, two)) for _ in range(20)})
        self.assertEqual({two, three}, {upstream.pick_other((one,)) for _ in range(40)})
        self.assertEqual(
            {one, two, three}, {upstream.pick_other((one, two, three)) for _ in range(60)}
        )
        self.assertEqual(120, upstream.in_flight)
        self.assertEqual(120, sum(each.picks for each in upstream.endpoints))

    def test_only_usable_ones(self) -> None:
        """Neither an ejected nor a drained one."""
        upstream = self.make(4)
        self.eject("a")
        upstream.drain("b:1", True)
        tried = (self.end("c"),)
        self.assertEqual({self.end("d")}, {upstream.pick_other(tried) for _ in range(20)})

    def test_nobody(self) -> None:
        """Where there is none, or no slot, or the adaptive limit is reached."""
        upstream = self.make(1)
        upstream.drain("a:1", True)
        self.assertIsNone(upstream.pick_other(()))
        upstream = self.make(2, limit=1)
        for each in upstream.endpoints:
            self.world.pool.acquire(each)
        self.assertIsNone(upstream.pick_other(()))
        upstream = self.make(2, adaptive=AdaptiveLimit(least=2, most=2))
        self.assertEqual(2, len([upstream.pick(None) for _ in range(2)]))
        self.assertIsNone(upstream.pick_other(()))


class AdaptiveLimits(HealthTestCase):
    """adaptive_limit: requests wait at the limit, and go on as others end."""

    def test_waits(self) -> None:
        """First in, first out; a client that left makes room as well."""
        upstream = self.make(2, adaptive=AdaptiveLimit(least=2, most=2))
        flying: list[Any] = [upstream.pick(None) for _ in range(2)]
        waiting: list[Any] = [upstream.pick(None) for _ in range(2)]
        for each in waiting:
            self.assertNoResult(each)
        upstream.released(flying[0], 0.01, False)
        self.successResultOf(waiting[0])
        self.assertNoResult(waiting[1])
        upstream.released(flying[1], 0.01, False, told=False)
        self.successResultOf(waiting[1])
        self.assertEqual((2, 0), (upstream.in_flight, upstream.counters.pending))
