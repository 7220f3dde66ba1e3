"""upstreams.members: static and discovered members together, names looked up, and who may not be one."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Address, Networks, parse_host_port
from gatewayd.core.balancers import RoundRobin
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.health import ActiveRules, Health, PassiveRules
from gatewayd.core.membership import HELD, LAST_RESORT, LISTED
from gatewayd.upstreams.members import Discovered, Members, StaticMember
from gatewayd.upstreams.upstream import Upstream
from tests.unit.upstream_fakes import World

OWN = parse_host_port("10.0.0.99:80")


class FakeResolver:
    """Holds questions back until the test answers them."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def resolve(self, name: str, answered: Any) -> None:
        """As Resolver."""
        self.asked[name] = answered

    def answer(self, **found: list[str]) -> None:
        """Answer by the name's first word."""
        for name in list(self.asked):
            self.asked.pop(name)(found.get(name.partition(".")[0], []))


class MembersTestCase(SynchronousTestCase):
    """An upstream's members on a clock."""

    def make(self, *static: tuple[str, int], allowed: tuple[str, ...] = ()) -> Members:
        """The service, started."""
        world = World()
        self.clock: Clock = world.clock
        self.resolver: Any = FakeResolver()
        self.warnings: list[str] = []
        self.doubts: list[tuple[str, bool]] = []
        self.upstream = Upstream(
            "u",
            balancer=RoundRobin,
            pool=world.pool,
            counters=UpstreamCounters(),
            random=Random(1),
            clock=self.clock.seconds,
            wheel=world.wheel,
            later=lambda call: self.clock.callLater(0, call),
            health=Health(passive=PassiveRules(), active=ActiveRules(healthy=1, unhealthy=1)),
        )
        members = Members(
            self.upstream,
            [StaticMember(parse_host_port(text), weight) for text, weight in static],
            self.resolver,
            self.clock,
            refresh=30.0,
            timeout=2.0,
            warn=self.warnings.append,
            allowed=Networks(allowed) if allowed else None,
            is_own=lambda address: address == OWN,
        )
        members.doubts = lambda address, last: self.doubts.append((str(address), last))
        members.startService()
        self.addCleanup(members.stopService)
        return members

    def shown(self) -> list[tuple[str, int, str]]:
        """Endpoints: address, weight, source."""
        return [(each.label, each.weight, each.source) for each in self.upstream.endpoints]

    def labels(self) -> list[str]:
        """Endpoints' addresses."""
        return [each.label for each in self.upstream.endpoints]

    def endpoint(self, label: str) -> Endpoint:
        """One of them."""
        return next(each for each in self.upstream.endpoints if each.label == label)


def found(text: str, weight: int = 1, standing: str = LISTED) -> Discovered:
    """A discovered member."""
    return Discovered(parse_host_port(text), weight, standing)


class Together(MembersTestCase):
    """The same address counts once, and the configuration wins."""

    def test_beside_each_other(self) -> None:
        """Static ones first, in their order."""
        members = self.make(("10.0.0.2:80", 1), ("10.0.0.1:80", 4))
        self.assertEqual(["10.0.0.2:80", "10.0.0.1:80"], self.labels())
        members.set_discovered([found("10.0.0.3:80", 7), found("10.0.0.1:80", 9)])
        self.assertEqual(
            [
                ("10.0.0.2:80", 1, "static"),
                ("10.0.0.1:80", 4, "static"),
                ("10.0.0.3:80", 7, "zookeeper"),
            ],
            self.shown(),
        )

    def test_static_wins(self) -> None:
        """On weight and standing; whatever a registry says, it stays."""
        members = self.make(("10.0.0.1:80", 4))
        for entry in (found("10.0.0.1:80", 0), found("10.0.0.1:80", 9, LAST_RESORT)):
            members.set_discovered([entry])
            self.assertEqual([("10.0.0.1:80", 4, "static")], self.shown())
            self.assertEqual("", self.upstream.endpoints[0].standing)
        members.set_discovered([])
        self.assertEqual([("10.0.0.1:80", 4, "static")], self.shown())

    def test_same_objects(self) -> None:
        """Weights and standings change on the endpoint that is there, with what is in flight."""
        members = self.make()
        members.set_discovered([found("10.0.0.1:80"), found("10.0.0.2:80")])
        first, second = self.upstream.endpoints
        members.set_discovered(
            [found("10.0.0.1:80", 5), found("10.0.0.2:80", 1, HELD), found("10.0.0.3:80")]
        )
        self.assertIs(first, self.upstream.endpoints[0])
        self.assertEqual((5, HELD, "held"), (first.weight, second.standing, second.state))
        members.set_discovered([found("10.0.0.1:80"), found("10.0.0.2:80", 1, LAST_RESORT)])
        self.assertEqual((LAST_RESORT, "leaving"), (second.standing, second.state))
        self.assertEqual([first], list(self.upstream.balancer.endpoints))

    def test_a_last_resort_that_is_listed_again(self) -> None:
        """It is picked like any other."""
        members = self.make()
        for standing in (LISTED, LAST_RESORT, LISTED):
            members.set_discovered([found("10.0.0.1:80", 1, standing), found("10.0.0.2:80")])
        self.assertEqual("unchecked", self.endpoint("10.0.0.1:80").state)
        self.assertEqual(2, len(self.upstream.balancer.endpoints))

    def test_none_at_all(self) -> None:
        """No membership until there is one; then an empty one is."""
        members = self.make()
        self.assertFalse(self.upstream.known)
        members.set_discovered([found("10.0.0.1:80")])
        members.set_discovered([])
        self.assertEqual((True, []), (self.upstream.known, self.labels()))

    def test_before_the_start(self) -> None:
        """What the journal knows waits for the service."""
        members = self.make()
        members.stopService()
        members.set_discovered([found("10.0.0.1:80")])
        self.assertEqual([], self.labels())
        members.startService()
        self.assertEqual(["10.0.0.1:80"], self.labels())
        self.assertEqual("<Members u static=0 found=1>", repr(members))


class Named(MembersTestCase):
    """Discovered members that are names."""

    def test_looked_up(self) -> None:
        """All addresses of it, under the name that stands for them."""
        members = self.make()
        members.set_discovered([found("a.example:80", 3)])
        self.assertFalse(self.upstream.known)
        self.resolver.answer(a=["10.0.0.1", "fd00::1"])
        self.assertEqual(
            [("10.0.0.1:80", 3, "zookeeper"), ("[fd00::1]:80", 3, "zookeeper")], self.shown()
        )
        self.assertEqual({"a.example:80"}, {each.name for each in self.upstream.endpoints})

    def test_changes_of_names_alone(self) -> None:
        """Weight, standing and a removal count at once, not with the next look-up."""
        members = self.make()
        members.set_discovered([found("a.example:80"), found("b.example:80")])
        self.resolver.answer(a=["10.0.0.1"], b=["10.0.0.2"])
        members.set_discovered([found("a.example:80", 0), found("b.example:80", 1, HELD)])
        self.assertEqual([("10.0.0.1:80", 0), ("10.0.0.2:80", 1)], [e[:2] for e in self.shown()])
        self.assertEqual(HELD, self.endpoint("10.0.0.2:80").standing)
        members.set_discovered([found("b.example:80")])
        self.assertEqual(["10.0.0.2:80"], self.labels())

    def test_replaced_by_unknown_names(self) -> None:
        """Whom nobody has looked up yet takes nobody's place."""
        members = self.make()
        members.set_discovered([found("10.0.0.1:80")])
        members.set_discovered([found("b.example:80")])
        self.assertEqual(["10.0.0.1:80"], self.labels())
        self.resolver.answer(b=["10.0.0.2"])
        self.assertEqual(["10.0.0.2:80"], self.labels())

    def test_two_names_of_one_address(self) -> None:
        """It counts once, as the first says."""
        members = self.make()
        members.set_discovered([found("a.example:80", 2), found("b.example:80", 5)])
        self.resolver.answer(a=["10.0.0.1"], b=["10.0.0.1", "10.0.0.2"])
        self.assertEqual(
            [("10.0.0.1:80", 2, "zookeeper"), ("10.0.0.2:80", 5, "zookeeper")], self.shown()
        )

    def test_a_static_name_of_the_same_address(self) -> None:
        """The configuration wins there, too."""
        members = self.make(("s.example:80", 2))
        members.set_discovered([found("10.0.0.1:80", 9)])
        self.assertEqual([("10.0.0.1:80", 9, "zookeeper")], self.shown())
        self.resolver.answer(s=["10.0.0.1"])
        self.assertEqual([("10.0.0.1:80", 2, "static")], self.shown())


class Refused(MembersTestCase):
    """A registry must not make the gateway a way into a network, or into itself."""

    def test_networks(self) -> None:
        """Only those of members_allow; static ones are the operator's own word."""
        members = self.make(("192.0.2.7:80", 1), allowed=("10.0.0.0/8", "fd00::/8"))
        entries = ["10.0.0.1:80", "192.0.2.1:80", "[fd00::1]:80", "[2001:db8::1]:80"]
        for _ in range(2):
            members.set_discovered([found(text) for text in entries])
        self.assertEqual(["192.0.2.7:80", "10.0.0.1:80", "[fd00::1]:80"], self.labels())
        self.assertEqual(
            [
                "upstream u: 192.0.2.1:80 is no member: it is not in members_allow",
                "upstream u: [2001:db8::1]:80 is no member: it is not in members_allow",
            ],
            self.warnings,
        )

    def test_networks_of_names(self) -> None:
        """Of a name's addresses each by itself: a good one brings no bad one in."""
        members = self.make(allowed=("10.0.0.0/8",))
        members.set_discovered([found("a.example:80")])
        self.resolver.answer(a=["10.0.0.1", "127.0.0.1", "169.254.169.254"])
        self.assertEqual(["10.0.0.1:80"], self.labels())
        self.assertEqual(2, len(self.warnings))

    def test_mapped(self) -> None:
        """An IPv4-mapped address is the IPv4 one, for networks and for the gateway's own."""
        members = self.make(allowed=("10.0.0.0/8",))
        members.set_discovered([found("[::ffff:127.0.0.1]:80"), found(f"[::ffff:{OWN.host}]:80")])
        self.assertEqual([], self.labels())
        self.assertEqual(
            ["it is not in members_allow", "it is the gateway's own address"],
            [text.rpartition(": ")[2] for text in self.warnings],
        )

    def test_own(self) -> None:
        """By address or by a name that stands for it; another port of it is another server."""
        members = self.make()
        members.set_discovered([found(str(OWN)), found("10.0.0.99:81"), found("me.example:80")])
        self.resolver.answer(me=[OWN.host])
        self.assertEqual(["10.0.0.99:81"], self.labels())
        self.assertEqual(
            [f"upstream u: {OWN} is no member: it is the gateway's own address"], self.warnings
        )

    def test_all_refused(self) -> None:
        """Those that are there stay none; requests do not wait for them."""
        members = self.make(allowed=("10.0.0.0/8",))
        members.set_discovered([found("10.0.0.1:80")])
        members.set_discovered([found("192.0.2.1:80")])
        self.assertEqual((True, []), (self.upstream.known, self.labels()))

    def test_a_flood(self) -> None:
        """Ten thousand are named; more are refused in silence."""
        members = self.make(allowed=("10.0.0.0/8",))
        members.set_discovered(
            [Discovered(Address("tcp", f"192.0.{n >> 8}.{n & 255}", 80), 1) for n in range(10_050)]
        )
        self.assertEqual(10_000, len(self.warnings))


class Usable(MembersTestCase):
    """What the membership asks of its members' endpoints."""

    def test_table(self) -> None:
        """Usable: it could be picked if need be; serving: it is picked."""
        members = self.make()
        members.set_discovered([found("10.0.0.1:80"), found("b.example:80")])
        one = parse_host_port("10.0.0.1:80")
        self.assertEqual((True, True), (members.is_usable(one), members.is_serving(one)))
        name = parse_host_port("b.example:80")
        self.assertEqual((False, False), (members.is_usable(name), members.is_serving(name)))
        self.resolver.answer(b=["10.0.0.2", "10.0.0.3"])
        self.assertEqual((True, False), (members.is_usable(name), members.is_serving(name)))
        for label in ("10.0.0.2:80", "10.0.0.3:80"):
            self.upstream.checked(self.endpoint(label), False)
        self.assertFalse(members.is_usable(name))
        self.upstream.checked(self.endpoint("10.0.0.3:80"), True)
        self.assertEqual((True, True), (members.is_usable(name), members.is_serving(name)))
        self.upstream.drain("10.0.0.3:80", True)
        self.assertFalse(members.is_usable(name))
        members.set_discovered([found("10.0.0.1:80", 0)])
        self.assertEqual((False, False), (members.is_usable(one), members.is_serving(one)))
        members.set_discovered([found("10.0.0.1:80", 1, LAST_RESORT)])
        self.assertEqual((True, False), (members.is_usable(one), members.is_serving(one)))


class Trouble(MembersTestCase):
    """Failures of members that are no longer listed."""

    def start(self, *entries: Discovered, static: tuple[tuple[str, int], ...] = ()) -> Members:
        """Members whose standing comes later than they did."""
        members = self.make(*static)
        members.set_discovered([entry._replace(standing=LISTED) for entry in entries])
        members.set_discovered(entries)
        return members

    def fail(self, label: str, times: int = 1) -> list[tuple[str, bool]]:
        """Fail to connect; the doubts that it raises: (member, whether it is the last usable)."""
        for _ in range(times):
            self.upstream.failed_connect(self.endpoint(label))
        doubts, self.doubts = self.doubts, []
        return doubts

    def test_last_resort(self) -> None:
        """At the first failure."""
        self.start(found("10.0.0.1:80", 1, LAST_RESORT), found("10.0.0.2:80"))
        self.assertEqual([("10.0.0.1:80", False)], self.fail("10.0.0.1:80"))
        self.assertEqual([], self.fail("10.0.0.2:80", 3))

    def test_held(self) -> None:
        """At the second running, or where a check finds it down."""
        self.start(found("10.0.0.1:80", 1, HELD), found("10.0.0.2:80", 1, HELD))
        self.assertEqual([], self.fail("10.0.0.1:80"))
        self.assertEqual([("10.0.0.1:80", False)], self.fail("10.0.0.1:80"))
        self.upstream.checked(self.endpoint("10.0.0.2:80"), False)
        self.assertEqual([("10.0.0.2:80", False)], self.doubts)

    def test_the_last(self) -> None:
        """Nobody else can be picked: neither a drained one, nor a weightless, nor a failed one."""
        self.start(
            found("10.0.0.1:80", 1, LAST_RESORT),
            found("10.0.0.2:80", 1, LAST_RESORT),
            found("10.0.0.3:80", 0),
            found("10.0.0.4:80"),
        )
        self.upstream.drain("10.0.0.4:80", True)
        self.assertEqual([("10.0.0.1:80", False)], self.fail("10.0.0.1:80"))
        self.assertEqual([("10.0.0.2:80", True)], self.fail("10.0.0.2:80"))

    def test_a_static_member(self) -> None:
        """It counts as somebody else."""
        self.start(found("10.0.0.1:80", 1, LAST_RESORT), static=(("10.9.9.9:80", 1),))
        self.assertEqual([("10.0.0.1:80", False)], self.fail("10.0.0.1:80"))

    def test_by_its_name(self) -> None:
        """The member is the name that the registry has."""
        members = self.start(found("a.example:80", 1, LAST_RESORT), found("10.0.0.2:80"))
        self.resolver.answer(a=["10.0.0.1"])
        self.assertEqual([("a.example:80", False)], self.fail("10.0.0.1:80"))
        members.doubts = None
        self.assertEqual([], self.fail("10.0.0.1:80"))
