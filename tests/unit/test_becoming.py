"""Upstreams, pools, members and memberships after a reload, and what other processes tell of them."""

from __future__ import annotations

from typing import Any

from gatewayd.core.addresses import Networks, parse_host_port
from gatewayd.core.breaker import OPEN, Breaker, BreakerRules
from gatewayd.core.endpoints import DRAINING, EJECTED, HELD, LAST_RESORT, UNCHECKED, UNHEALTHY
from gatewayd.core.health import Health, PassiveRules
from gatewayd.core.limits import AdaptiveLimit
from gatewayd.core.membership import Rules
from gatewayd.discovery.service import Source
from gatewayd.upstreams.connection import Timeouts
from gatewayd.upstreams.members import StaticMember
from gatewayd.upstreams.pool import HTTPConnectionPool
from tests.unit.discovering import PATH, DiscoveryTestCase, Gateway, label, labels
from tests.unit.test_members import MembersTestCase, found
from tests.unit.test_names import NamesTestCase
from tests.unit.test_pool import PoolTestCase
from tests.unit.test_upstream import UpstreamTestCase
from tests.unit.upstream_fakes import endpoint, member

RULES = BreakerRules(error_rate=0.5, window=10.0, min_requests=4, open_for=5.0)
OTHER = Timeouts(connect=1.0, response_header=2.0, read=3.0, write=4.0)


class Pools(PoolTestCase):
    """Connections are kept, but where they bear what has changed."""

    def planned(self, **options: Any) -> HTTPConnectionPool:
        """A pool of another configuration."""
        return HTTPConnectionPool(self.world.clock, wheel=self.world.wheel, **options)

    def test_kept(self) -> None:
        """Limits and ages are the pool's own affair."""
        self.make()
        a = endpoint()
        connection = self.idle(a)
        self.pool.become(
            self.planned(max_idle=3, max_idle_per_endpoint=2, max_connections_per_endpoint=9)
        )
        ledger = self.pool.ledger
        self.assertEqual(
            (3, 2, 9), (ledger.max_idle, ledger.max_idle_per_endpoint, ledger.max_open)
        )
        self.assertIs(connection, self.again(a))

    def test_outdated(self) -> None:
        """Idle ones close now, busy ones when they are done; new ones are as they should be."""
        for options in ({"timeouts": OTHER}, {"max_header_bytes": 1000}):
            self.make()
            a = endpoint()
            busy = self.open(a)
            idle = self.idle(a)
            way = self.send(busy)
            self.pool.become(self.planned(**options))
            self.assertEqual(("close", ""), (self.closing(idle), self.closing(busy)))
            idle.transport.lost()
            busy.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            self.assertEqual([(200, b"ok", True)], way.events)
            self.assertEqual("close", self.closing(busy))
            busy.transport.lost()
            self.assertEqual((0, 0), self.ledger())
            new = self.idle(a)
            self.assertEqual("", self.closing(new))
            self.assertIs(new, self.again(a))

    def test_the_same_again(self) -> None:
        """Equal values in another object are no change."""
        self.make()
        a = endpoint()
        connection = self.idle(a)
        self.pool.become(self.planned())
        self.assertIs(connection, self.again(a))

    def test_dialled_with_the_former(self) -> None:
        """One that is not there yet serves, and is of the former timeouts: it is not kept for ever."""
        self.make()
        waiting: Any = self.pool.acquire(endpoint())
        self.pool.become(self.planned(timeouts=OTHER))
        self.world.dialer.dials[0].succeed()
        self.successResultOf(waiting)
        self.open(endpoint())
        self.assertEqual([5.0, 1.0], [each.timeout for each in self.world.dialer.dials])

    def test_no_reuse(self) -> None:
        """A pool that keeps none any more says so."""
        self.make()
        self.pool.become(self.planned(max_idle=0))
        connection = self.idle(endpoint())
        self.assertEqual((False, "close"), (self.pool.persistent, self.closing(connection)))


class Upstreams(UpstreamTestCase):
    """Members, health and who waits stay."""

    def test_all_else(self) -> None:
        """Goes by the new configuration."""
        upstream = self.make("a:1", "b:1")
        before, world, turns = upstream.endpoints, self.world, self.turns
        planned = self.make(
            balancer="least_connections",
            base_path="/v2",
            via="none",
            breaker=Breaker(RULES),
            adaptive=AdaptiveLimit(least=1, most=1),
        )
        self.world, self.turns = world, turns
        upstream.become(planned)
        self.assertEqual(before, upstream.endpoints)
        self.assertEqual(
            ("least_connections", b"/v2", False, False),
            (upstream.policy, upstream.base_path, upstream.via_out, upstream.via_back),
        )
        self.assertEqual("LeastConnections", type(upstream.balancer).__name__)
        assert upstream.breaker is not None
        self.assertEqual((RULES, 1), (upstream.breaker.rules, upstream.concurrency_limit))

    def test_circuit(self) -> None:
        """One whose rules are the same stays open; another is new; none is none."""
        upstream = self.make("a:1", breaker=Breaker(RULES), adaptive=AdaptiveLimit(least=1, most=9))
        breaker, adaptive = upstream.breaker, upstream.adaptive
        upstream.open_circuit(5.0)
        upstream.become(self.make(breaker=Breaker(RULES), adaptive=AdaptiveLimit(least=1, most=9)))
        self.assertIs(breaker, upstream.breaker)
        self.assertIs(adaptive, upstream.adaptive)
        other = RULES._replace(open_for=9.0)
        upstream.become(self.make(breaker=Breaker(other), adaptive=AdaptiveLimit(least=2, most=9)))
        assert upstream.breaker is not None
        self.assertEqual(("closed", other), (upstream.breaker.state, upstream.breaker.rules))
        self.assertIsNot(adaptive, upstream.adaptive)
        upstream.become(self.make())
        self.assertEqual((None, None), (upstream.breaker, upstream.adaptive))

    def test_who_waits(self) -> None:
        """Is served at once where there is room now."""
        upstream = self.make("a:1", limit=1)
        upstream.pick(None)
        upstream.pool.acquire(upstream.endpoints[0])
        (waiter,) = self.waiting(upstream)
        upstream.become(self.make(limit=2))
        self.assertEqual("a:1", self.label(self.successResultOf(waiter)))

    def test_limit(self) -> None:
        """A worker's part becomes larger: who waits may come."""
        upstream = self.make("a:1", limit=1)
        upstream.pick(None)
        upstream.pool.acquire(upstream.endpoints[0])
        (waiter,) = self.waiting(upstream)
        upstream.limit(1)
        self.assertNoResult(waiter)
        upstream.limit(0)
        self.assertEqual("a:1", self.label(self.successResultOf(waiter)))
        self.assertEqual(0, upstream.concurrency_limit)

    def test_ejection_without_passive_health(self) -> None:
        """Nobody would lift it any more: it is lifted."""
        upstream = self.make("a:1", "b:1")
        upstream.eject("a:1", 100.0)
        self.assertEqual(["b:1"] * 2, self.labels(upstream, 2))
        upstream.become(self.make(health=Health(passive=None)))
        self.assertEqual({"a:1", "b:1"}, set(self.labels(upstream, 4)))


class Told(UpstreamTestCase):
    """What other processes found out, and what they are told."""

    def states(self, upstream: Any) -> list[str]:
        """Of all members."""
        return [each.state for each in upstream.endpoints]

    def test_ejected(self) -> None:
        """Until then, however often it is said; a shorter time, or one who is not there, is no news."""
        upstream = self.make("a:1", "b:1")
        changes: list[int] = []
        upstream.on_change(lambda: changes.append(1))
        upstream.eject("a:1", 10.0)
        upstream.eject("a:1", 5.0)
        upstream.eject("c:1", 50.0)
        self.assertEqual([EJECTED, UNCHECKED], self.states(upstream))
        self.assertEqual(1, len(changes))
        self.world.advance(9.5)
        self.assertEqual(EJECTED, upstream.endpoints[0].state)
        self.world.advance(0.7)
        self.assertNotEqual(EJECTED, upstream.endpoints[0].state)
        self.assertEqual(2, len(changes))

    def test_marks(self) -> None:
        """Who is drained, down or awaited is not picked; nothing is compiled where nothing changed."""
        upstream = self.make("a:1", "b:1", "c:1", "d:1")
        a, b, c, d = upstream.endpoints
        upstream.mark(
            {
                a: a.marks._replace(drained=True),
                b: b.marks._replace(down=True),
                c: c.marks._replace(awaits_check=True),
            }
        )
        self.assertEqual([DRAINING, UNHEALTHY], self.states(upstream)[:2])
        self.assertEqual((d,), tuple(upstream.balancer.endpoints))
        balancer = upstream.balancer
        upstream.mark({each: each.marks for each in upstream.endpoints})
        self.assertIs(balancer, upstream.balancer)

    def test_verdicts(self) -> None:
        """An ejection and an open circuit are told, with their ends; a closed one is not."""
        upstream = self.make(
            "a:1",
            "b:1",
            breaker=Breaker(RULES),
            health=Health(passive=PassiveRules(consecutive_failures=2, eject_for=10.0)),
        )
        verdicts: list[tuple[str, float]] = []
        upstream.on_verdict(lambda label, until: verdicts.append((label, until)))
        for _ in range(8):
            if upstream.breaker is not None and upstream.breaker.state == OPEN:
                break
            picked: Any = upstream.pick(None)
            upstream.released(picked, 0.1, True)
        (label, until), (everybody, opened) = verdicts
        self.assertIn(label, ("a:1", "b:1"))
        self.assertEqual((10.0, "", 5.0), (until, everybody, opened))

    def test_circuit(self) -> None:
        """It opens until the later of two moments; what is past opens nothing."""
        upstream = self.make("a:1", breaker=Breaker(RULES))
        self.world.clock.advance(100.0)
        changes: list[int] = []
        upstream.on_change(lambda: changes.append(1))
        breaker: Any = upstream.breaker
        for until, expected in ((99.0, 0.0), (105.0, 105.0), (103.0, 105.0), (107.0, 107.0)):
            upstream.open_circuit(until)
            self.assertEqual(expected, breaker.until)
        self.assertEqual((OPEN, 2), (breaker.state, len(changes)))
        self.make("a:1").open_circuit(9.0)  # has no circuit

    def test_failed_elsewhere(self) -> None:
        """Of a member that its source does not list any more; of others it says nothing."""
        upstream = self.make("a:1")
        doubts: list[str] = []
        upstream.on_trouble(lambda each: doubts.append(each.label))
        upstream.set_members(
            [
                member("a:1"),
                member("b:1")._replace(standing=HELD),
                member("c:1")._replace(standing=LAST_RESORT),
            ]
        )
        for each in ("a:1", "b:1", "c:1", "d:1"):
            upstream.fail(each)
        self.assertEqual(["b:1", "c:1"], doubts)
        self.assertEqual([0, 1, 1], [each.connect_failures for each in upstream.endpoints])


class MembersOfAReload(MembersTestCase):
    """Static members and rules change; what a registry said stays."""

    def become(self, members: Any, *static: str, allowed: tuple[str, ...] = ()) -> None:
        """Another configuration."""
        members.become(
            [StaticMember(parse_host_port(text)) for text in static],
            refresh=9.0,
            timeout=3.0,
            allowed=Networks(allowed) if allowed else None,
        )

    def test_static(self) -> None:
        """One comes, one goes, one stays as it is; discovered ones stay."""
        members = self.make(("10.0.0.1:80", 1), ("10.0.0.2:80", 1))
        members.set_discovered([found("10.0.0.9:80")])
        stays = self.endpoint("10.0.0.2:80")
        self.become(members, "10.0.0.2:80", "10.0.0.3:80")
        self.assertEqual(["10.0.0.2:80", "10.0.0.3:80", "10.0.0.9:80"], self.labels())
        self.assertIs(stays, self.endpoint("10.0.0.2:80"))

    def test_none_left(self) -> None:
        """A configuration without static members has none."""
        members = self.make(("10.0.0.1:80", 1))
        self.become(members)
        self.assertEqual([], self.labels())

    def test_allowed(self) -> None:
        """Who is refused now leaves, and is told of again."""
        members = self.make(("10.0.0.1:80", 1))
        members.set_discovered([found("192.0.2.9:80")])
        self.assertEqual(["10.0.0.1:80", "192.0.2.9:80"], self.labels())
        for times in (1, 2):
            self.become(members, "10.0.0.1:80", allowed=("10.0.0.0/8",))
            self.assertEqual(["10.0.0.1:80"], self.labels())
            self.assertEqual(times, len(self.warnings))
        self.become(members, "10.0.0.1:80")
        self.assertEqual(["10.0.0.1:80", "192.0.2.9:80"], self.labels())

    def test_names(self) -> None:
        """A new one is looked up at once; until then who is there stays."""
        members = self.make(("10.0.0.1:80", 1))
        self.become(members, "new.internal:80")
        self.assertEqual(["10.0.0.1:80"], self.labels())
        self.resolver.answer(new=["10.0.0.5"])
        self.assertEqual(["10.0.0.5:80"], self.labels())
        self.clock.advance(8.9)
        self.assertEqual([], list(self.resolver.asked))
        self.clock.advance(0.2)
        self.assertEqual(["new.internal"], list(self.resolver.asked))


class Pace(NamesTestCase):
    """How often names are looked up."""

    def test_from_the_next_round_on(self) -> None:
        """The timer that runs goes on."""
        names = self.make("a", refresh=30.0)
        self.resolver.answer(["10.0.0.1"])
        names.pace(5.0, 1.0)
        self.clock.advance(29.9)
        self.assertEqual([], self.resolver.names())
        self.clock.advance(0.2)
        self.assertEqual(["a"], self.resolver.names())
        self.clock.advance(1.1)
        self.assertIn("was not answered within dns.timeout", self.warnings[0])
        self.clock.advance(5.1)
        self.assertEqual(2, len(self.resolver.names()))


class Memberships(DiscoveryTestCase):
    """Who follows ZooKeeper, where, and for how long."""

    def source(self, path: str = PATH, shrink: float = 0.5) -> Source:
        """Where members are registered."""
        rules = Rules(removal_grace=15.0, max_shrink=shrink, hold_for=3600.0)
        return Source(path, "plain", "", rules)

    def test_other_rules(self) -> None:
        """The same membership goes on; nothing is read."""
        gateway = self.steady(1, 2, 3, 4)
        before = gateway.discovery
        gateway.service.follow("users", self.source(shrink=1.0), gateway.members)
        self.assertIs(before, gateway.discovery)
        self.assertEqual([], gateway.reads())
        self.vanish(1, 2, 3)
        self.clock.advance(16)
        self.assertEqual(0, gateway.discovery.membership.held)

    def test_another_path(self) -> None:
        """What it has stays until the first answer, and then is another."""
        gateway = self.steady(1, 2)
        self.register(3, 4, path="/services/others")
        gateway.client.suspend()
        gateway.service.follow("users", self.source("/services/others"), gateway.members)
        self.assertEqual({label(1), label(2)}, gateway.picked())
        gateway.client.connect()
        self.clock.advance(1)
        self.assertEqual({label(3), label(4)}, gateway.picked())
        self.register(5)
        self.clock.advance(20)
        self.assertEqual({label(3), label(4)}, gateway.picked())

    def test_one_that_begins(self) -> None:
        """An upstream that comes with a reload reads at once."""
        gateway = self.steady(1, 2)
        gateway.service.unfollow("users")
        gateway.reads()
        gateway.service.follow("users", self.source(), gateway.members)
        self.clock.advance(1)
        self.assertEqual({label(1), label(2)}, gateway.picked())
        self.assertIn(PATH, gateway.reads())

    def test_one_that_ends(self) -> None:
        """It names nobody any more, and hears nothing; static members stay."""
        gateway = self.steady(1, 2, static=[("10.0.0.9:80", 1)])
        gateway.service.unfollow("users")
        self.assertEqual({"10.0.0.9:80": 1}, gateway.endpoints())
        self.register(3)
        self.clock.advance(100)
        self.assertEqual({"10.0.0.9:80": 1}, gateway.endpoints())
        self.assertIsNone(gateway.members.doubts)
        self.assertEqual({}, gateway.service.discoveries)

    def another(self, gateway: Gateway, path: str = PATH) -> Gateway:
        """A session that replaces the gateway's, over the same members."""
        successor = self.gateway(path=path)
        successor.service.discoveries.clear()
        successor.service.follow("users", self.source(path), gateway.members)
        successor.service.take_over(gateway.service)
        gateway.service.stopService()
        return successor

    def test_another_session(self) -> None:
        """It begins with what the former one knew, holds as that did, and goes on from there."""
        gateway = self.steady(1, 2, 3, 4)
        self.vanish(1, 2, 3)
        self.clock.advance(20)
        held = gateway.standings()
        self.assertEqual(3, gateway.discovery.membership.held)
        successor = self.another(gateway)
        successor.service.startService()
        self.assertEqual(held, successor.standings())
        self.assertEqual(4, len(gateway.endpoints()))
        successor.client.connect()
        self.clock.advance(1)
        self.assertEqual(4, len(gateway.endpoints()))
        self.register(1, 2, 3)
        self.clock.advance(1)
        self.assertEqual(labels(1, 2, 3, 4), dict(sorted(successor.standings().items())))

    def test_another_session_elsewhere(self) -> None:
        """Of another path nothing is known; members stay until its first answer."""
        gateway = self.steady(1, 2)
        self.register(7, path="/services/others")
        successor = self.another(gateway, "/services/others")
        successor.service.startService()
        self.assertEqual({}, successor.standings())
        self.assertEqual({label(1), label(2)}, gateway.picked())
        successor.client.connect()
        self.clock.advance(1)
        self.assertEqual({label(7)}, gateway.picked())
