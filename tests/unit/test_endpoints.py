"""core.endpoints: who an endpoint is, and what a new membership changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Address
from gatewayd.core.endpoints import (
    HELD,
    LAST_RESORT,
    LEAVING,
    MAX_WEIGHT,
    STATES,
    UNCHECKED,
    Endpoint,
    Member,
    reconcile,
    reconciled,
)
from gatewayd.core.pooling import Slot

quick = settings(deadline=None, database=None, max_examples=150)


def member(number: int, weight: int = 1, source: str = "static", name: str = "") -> Member:
    """What a source says of endpoint number so and so."""
    return Member(Address("tcp", f"10.0.0.{number}", 80), weight, source, name)


def endpoints(*numbers: int) -> tuple[Endpoint, ...]:
    """Endpoints that are members already."""
    return tuple(Endpoint(member(number)) for number in numbers)


class EndpointTests(SynchronousTestCase):
    """One endpoint."""

    def test_shown(self) -> None:
        """Its repr is a status line."""
        endpoint = Endpoint(member(1, weight=3))
        endpoint.in_flight = 2
        self.assertEqual(repr(endpoint), "<Endpoint 10.0.0.1:80 unchecked weight=3 in_flight=2>")

    def test_made(self) -> None:
        """It begins unchecked, with nothing counted."""
        endpoint = Endpoint(Member(Address("tcp", "::1", 81), 2, "zookeeper", "db.internal:81"))
        self.assertEqual(
            (endpoint.label, endpoint.host, endpoint.port, endpoint.weight, endpoint.source),
            ("[::1]:81", "::1", 81, 2, "zookeeper"),
        )
        self.assertEqual((endpoint.name, endpoint.state), ("db.internal:81", UNCHECKED))
        self.assertEqual((endpoint.in_flight, endpoint.picks, endpoint.connect_failures), (0, 0, 0))
        self.assertEqual(endpoint.errors, {})
        self.assertEqual((endpoint.open, endpoint.idle, endpoint.newest), (0, 0, None))
        self.assertEqual(endpoint.logged, b"[::1]:81")
        others = (
            {name for name in dir(endpoint) if not name.startswith("_")}
            - {*dir(Slot)}
            - {
                "address",
                "authority",
                "host",
                "label",
                "logged",
                "marks",
                "name",
                "port",
                "source",
                "state",
                "take_marks",
                "usable",
                "weight",
            }
        )
        self.assertEqual([name for name in others if getattr(endpoint, name)], [])
        self.assertFalse(any(endpoint.marks))
        self.assertEqual(Endpoint(Member(Address("tcp", "::1", 1))).weight, 1, "unless written")
        self.assertEqual(MAX_WEIGHT, 256)

    def test_authority(self) -> None:
        """preserve_host: false sends the endpoint as written, `:80` left out."""
        expected = {
            ("10.0.0.1", 80, ""): b"10.0.0.1",
            ("10.0.0.1", 8080, ""): b"10.0.0.1:8080",
            ("10.0.0.1", 180, ""): b"10.0.0.1:180",
            ("::1", 80, ""): b"[::1]",
            ("::1", 443, ""): b"[::1]:443",
            ("10.0.0.1", 80, "users.internal:80"): b"users.internal",
            ("10.0.0.1", 2003, "users.internal:2003"): b"users.internal:2003",
        }
        found = {
            (host, port, name): Endpoint(Member(Address("tcp", host, port), name=name)).authority
            for host, port, name in expected
        }
        self.assertEqual(found, expected)

    def test_usable(self) -> None:
        """By state; held members stay pickable, weight 0 never gets anything."""
        endpoint, idle = Endpoint(member(1)), Endpoint(member(2, weight=0))
        usable = set()
        for state in STATES:
            endpoint.state = idle.state = state
            self.assertFalse(idle.usable, state)
            if endpoint.usable:
                usable.add(state)
        self.assertEqual(usable, {"healthy", "unchecked", "slow_start", "held"})

    def test_not_yet(self) -> None:
        """Who awaits his first check, or is a last resort, is not picked as others are."""
        endpoint = Endpoint(member(1))
        endpoint.awaits_check = True
        found = [endpoint.usable]
        endpoint.awaits_check = False
        for standing in (LAST_RESORT, HELD, ""):
            endpoint.standing = standing
            found.append(endpoint.usable)
        self.assertEqual(found, [False, False, True, True])

    def test_states(self) -> None:
        """The states are those that /status names."""
        named = "healthy, unchecked, unhealthy, ejected, slow_start, leaving, held, draining"
        self.assertEqual(", ".join(STATES), named)


class ReconcileTests(SynchronousTestCase):
    """From one membership to the next."""

    def test_first(self) -> None:
        """All join."""
        change = reconcile((), [member(1), member(2, weight=5)])
        self.assertEqual([each.label for each in change.members], ["10.0.0.1:80", "10.0.0.2:80"])
        self.assertEqual([each.weight for each in change.members], [1, 5])
        self.assertEqual((change.joined, change.left, change.altered), (change.members, (), True))

    def test_same(self) -> None:
        """Nothing changes, whatever the order of sources or who is asked."""
        current = endpoints(1, 2)
        change = reconcile(current, [member(1), member(2)])
        self.assertEqual((change.members, change.joined, change.left), (current, (), ()))
        self.assertFalse(change.altered)

    def test_stays_the_same_object(self) -> None:
        """Who stays keeps identity, state and figures; who left keeps what he has in flight."""
        first, second = current = endpoints(1, 2)
        first.state = "healthy"
        first.in_flight = second.in_flight = 1
        change = reconcile(current, [member(3), member(1)])
        self.assertEqual((change.members[1], change.left), (first, (second,)))
        self.assertEqual(change.joined, change.members[:1])
        self.assertEqual((first.state, first.in_flight), ("healthy", 1))
        self.assertEqual(second.in_flight, 1)
        self.assertTrue(change.altered)

    def test_weight(self) -> None:
        """A changed weight is a change without joining or leaving."""
        current = endpoints(1, 2)
        change = reconcile(current, [member(1), member(2, weight=0)])
        self.assertEqual((change.members, change.joined, change.left), (current, (), ()))
        self.assertEqual([each.weight for each in current], [1, 0])
        self.assertTrue(change.altered)

    def test_source_and_name(self) -> None:
        """A new source or name is taken, but nobody's picks change by it."""
        current = endpoints(1)
        change = reconcile(current, [member(1, source="zookeeper", name="a.internal:80")])
        self.assertFalse(change.altered)
        self.assertEqual((current[0].source, current[0].name), ("zookeeper", "a.internal:80"))
        reconcile(current, [member(1)])
        self.assertEqual((current[0].source, current[0].name), ("static", "10.0.0.1:80"))

    def test_standing(self) -> None:
        """Whether its source still names it is a change, too."""
        current = endpoints(1)
        held = member(1)._replace(standing=HELD)
        changes = [reconcile(current, [each]) for each in (held, held, member(1))]
        self.assertEqual([change.altered for change in changes], [True, False, True])
        self.assertEqual(current[0].standing, "")

    def test_slices(self) -> None:
        """A large membership is taken in slices, with the result of one taken at once."""
        wanted = [
            member(at % 256)._replace(address=Address("tcp", "h", at + 1)) for at in range(1_500)
        ]
        slices = reconciled((), wanted)
        yields = 0
        while True:
            try:
                next(slices)
            except StopIteration as stop:
                change = stop.value
                break
            yields += 1
        self.assertEqual(yields, 3)
        at_once = reconcile(change.members, wanted)
        self.assertEqual(
            (len(change.joined), at_once.members, at_once.altered), (1_500, change.members, False)
        )

    def test_twice(self) -> None:
        """Of two with one address the first counts."""
        change = reconcile((), [member(1, weight=2), member(1, weight=7, source="zookeeper")])
        self.assertEqual([(each.weight, each.source) for each in change.members], [(2, "static")])

    def test_nobody(self) -> None:
        """All leave."""
        current = endpoints(1, 2)
        change = reconcile(current, [])
        self.assertEqual((change.members, change.joined, change.left), ((), (), current))

    def test_comes_back(self) -> None:
        """Who left and comes back is the same again, usable, with his figures."""
        (endpoint,) = current = endpoints(1)
        endpoint.in_flight = 3
        left = reconcile(current, []).left
        endpoint.state = LEAVING
        change = reconcile((), [member(1, weight=4)], left)
        self.assertEqual((change.members, change.joined, change.left), (current, current, ()))
        self.assertEqual((endpoint.state, endpoint.weight, endpoint.in_flight), (UNCHECKED, 4, 3))
        self.assertTrue(endpoint.usable)

    @quick
    @given(
        st.lists(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), max_size=8), max_size=8)
    )
    def test_any_history(self, history: list[list[tuple[int, int]]]) -> None:
        """After each change the members are the wanted ones, and the difference says what happened."""
        current: tuple[Endpoint, ...] = ()
        for wanted in history:
            before = {each.label: each for each in current}
            weights = {each.label: each.weight for each in current}
            firsts: dict[str, int] = {}
            for number, weight in wanted:
                firsts.setdefault(f"10.0.0.{number}:80", weight)
            change = reconcile(current, [member(number, weight) for number, weight in wanted])
            self.assertEqual({each.label: each.weight for each in change.members}, firsts)
            self.assertEqual([each.label for each in change.members], list(firsts))
            self.assertEqual(
                {each.label: each for each in change.members if each.label in before},
                {label: each for label, each in before.items() if label in firsts},
            )
            self.assertEqual({each.label for each in change.joined}, firsts.keys() - before.keys())
            self.assertEqual({each.label for each in change.left}, before.keys() - firsts.keys())
            self.assertEqual(change.altered, firsts != weights)
            current = change.members
