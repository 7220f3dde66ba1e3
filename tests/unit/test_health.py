"""core.health: what marks an endpoint bears, and which of them is its state."""

from __future__ import annotations

from math import inf
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.breaker import CLOSED, HALF_OPEN, OPEN, BreakerRules
from gatewayd.core.endpoints import (
    DRAINING,
    EJECTED,
    HEALTHY,
    HELD,
    LAST_RESORT,
    LEAVING,
    SLOW_START,
    UNCHECKED,
    UNHEALTHY,
    Endpoint,
)
from gatewayd.core.health import ActiveRules, Health, PassiveRules
from tests.unit.balancing import endpoints

BREAKER = BreakerRules(error_rate=0.5, window=10.0, min_requests=4, open_for=5.0)


def made(count: int = 3, *, first: bool = True, **options: Any) -> tuple[Health, list[Endpoint]]:
    """A Health and members that joined at 100."""
    options.setdefault("passive", PassiveRules(consecutive_failures=2, eject_for=10.0))
    health = Health(**options)
    members = endpoints([1] * count)
    for each in members:
        health.joined(each, 100.0, first=first)
    return health, members


def fail(health: Health, endpoint: Endpoint, members: list[Endpoint], now: float) -> list[bool]:
    """Two failures: what was said to each."""
    return [health.served(endpoint, True, members, now) for _ in range(2)]


class States(SynchronousTestCase):
    """One table: the first mark that holds is the state."""

    def test_precedence(self) -> None:
        """Taking away the mark that shows uncovers the next."""
        health, members = made(first=False, active=ActiveRules(), slow_start=60.0)
        endpoint = members[0]
        endpoint.drained = True
        endpoint.standing = LAST_RESORT
        endpoint.down = True
        endpoint.ejected_until = 200.0
        endpoint.awaits_check = True
        endpoint.slow_until = 300.0
        endpoint.known_good = True
        found = []
        for uncover in (
            {},
            {"drained": False},
            {"standing": HELD},
            {"down": False},
            {"ejected_until": 0.0},
            {"awaits_check": False},
            {"standing": ""},
            {"slow_until": 0.0},
            {"known_good": False, "state": UNCHECKED},
        ):
            for name, value in uncover.items():
                setattr(endpoint, name, value)
            # Twice: what is settled stays so, and says that nothing has changed.
            health.settle(endpoint, 150.0)
            self.assertFalse(health.settle(endpoint, 150.0))
            found.append(endpoint.state)
            endpoint.slow_until = min(endpoint.slow_until, 300.0)
        self.assertEqual(
            [
                DRAINING,
                LEAVING,
                UNHEALTHY,
                EJECTED,
                UNCHECKED,
                HELD,
                SLOW_START,
                HEALTHY,
                UNCHECKED,
            ],
            found,
        )

    def test_who_has_left_stays_so(self) -> None:
        """Nothing that happens to what is still in flight brings it back."""
        health, members = made()
        members[0].state = LEAVING
        said = [health.served(members[0], bad, members, 101.0) for bad in (True, True, False)]
        self.assertEqual([False] * 3, said)
        self.assertEqual(LEAVING, members[0].state)

    def test_a_good_request(self) -> None:
        """Tells what an endpoint is of which nothing was known; a drain does not unlearn it."""
        health, members = made()
        endpoint = members[0]
        self.assertEqual(UNCHECKED, endpoint.state)
        self.assertFalse(health.served(endpoint, False, members, 101.0))
        self.assertEqual(HEALTHY, endpoint.state)
        said = [health.drain(endpoint, drained, 102.0) for drained in (True, True, False, False)]
        self.assertEqual([True, False, True, False], said)
        self.assertEqual(HEALTHY, endpoint.state)
        health.joined(endpoint, 103.0, first=False)
        endpoint.state = UNCHECKED
        self.assertFalse(health.settle(endpoint, 103.0))  # back after it had left: nothing is known


class Passive(SynchronousTestCase):
    """Requests that fail eject."""

    def test_ejected_and_back(self) -> None:
        """For eject_for seconds, after so many failures in a row."""
        health, members = made()
        one = members[0]
        said = [
            health.served(one, bad, members, 101.0)
            for bad in (True, False, True, True, True, False)
        ]
        self.assertEqual([False, False, False, True, False, False], said)
        self.assertEqual((EJECTED, 111.0), (one.state, one.ejected_until))
        self.assertEqual(111.0, health.wakes(members, 101.0))
        self.assertFalse(health.settle(one, 110.9))
        self.assertTrue(health.settle(one, 111.0))
        self.assertEqual((HEALTHY, inf), (one.state, health.wakes(members, 111.0)))

    def test_longer_each_time(self) -> None:
        """Up to ten times; who was well for long begins anew."""
        health, members = made()
        one = members[0]
        now, spans = 1000.0, []
        for _ in range(12):
            fail(health, one, members, now)
            spans.append(one.ejected_until - now)
            now = one.ejected_until
            health.settle(one, now)
        self.assertEqual([10.0 * min(n, 10) for n in range(1, 13)], spans)
        now += 100.1
        fail(health, one, members, now)
        self.assertAlmostEqual(10.0, one.ejected_until - now)

    def test_max_ejected_rounds_up(self) -> None:
        """And the last usable one stays, whatever the share."""
        for count, share, expected in (
            (1, 1.0, 0),
            (2, 0.5, 1),
            (3, 0.5, 2),
            (4, 0.5, 2),
            (5, 0.5, 3),
            (10, 0.01, 1),
            (4, 0.0, 0),
            (4, 1.0, 3),
        ):
            passive = PassiveRules(consecutive_failures=2, eject_for=10.0, max_ejected=share)
            health, members = made(count, passive=passive)
            for each in members:
                fail(health, each, members, 101.0)
            out = sum(each.state == EJECTED for each in members)
            self.assertEqual(expected, out, (count, share))

    def test_who_could_not_be_ejected(self) -> None:
        """Is, as soon as there is room, by its next failure."""
        health, members = made(2)
        fail(health, members[0], members, 101.0)
        self.assertEqual([False, False], fail(health, members[1], members, 102.0))
        health.settle(members[0], 111.0)
        self.assertTrue(health.served(members[1], True, members, 112.0))

    def test_others_that_cannot_be_used(self) -> None:
        """Do not count as left: a drained one is no reason to eject the last."""
        health, members = made(2)
        health.drain(members[0], True, 101.0)
        self.assertEqual([False, False], fail(health, members[1], members, 102.0))

    def test_off(self) -> None:
        """Nobody is ejected."""
        health, members = made(passive=None)
        self.assertEqual([False] * 2, fail(health, members[0], members, 101.0))


class Active(SynchronousTestCase):
    """Checks take out and bring back."""

    def test_down_and_up(self) -> None:
        """After so many results in a row; a first membership is used at once."""
        health, members = made(active=ActiveRules(healthy=2, unhealthy=3))
        one = members[0]
        said = []
        for good in (False, False, True, False, False, False, True, False, True, True, True):
            said.append((health.checked(one, good, 101.0), one.state))
        self.assertEqual(
            [
                (False, UNCHECKED),
                (False, UNCHECKED),
                (False, UNCHECKED),
                (False, UNCHECKED),
                (False, UNCHECKED),
                (True, UNHEALTHY),
                (False, UNHEALTHY),
                (False, UNHEALTHY),
                (False, UNHEALTHY),
                (True, HEALTHY),
                (False, HEALTHY),
            ],
            said,
        )

    def test_a_new_member(self) -> None:
        """Waits for its first good check; requests say nothing of it."""
        health, members = made(first=False, active=ActiveRules(healthy=3, unhealthy=3))
        one = members[0]
        self.assertEqual((UNCHECKED, False), (one.state, one.usable))
        health.served(one, False, members, 101.0)
        health.checked(one, False, 101.0)
        self.assertFalse(one.usable)
        self.assertTrue(health.checked(one, True, 102.0))
        self.assertEqual((HEALTHY, True), (one.state, one.usable))

    def test_without_rules(self) -> None:
        """A check means nothing."""
        health, members = made()
        self.assertEqual([False] * 5, [health.checked(members[0], False, 101.0) for _ in range(5)])

    def test_slow_start(self) -> None:
        """Who comes back gets little at first."""
        health, members = made(active=ActiveRules(healthy=1, unhealthy=1), slow_start=20.0)
        one = members[0]
        health.checked(one, False, 101.0)
        health.checked(one, True, 102.0)
        self.assertEqual((SLOW_START, 122.0), (one.state, one.slow_until))
        health.checked(one, True, 110.0)
        self.assertEqual(122.0, one.slow_until)
        self.assertTrue(health.settle(one, 122.0))
        self.assertEqual(HEALTHY, one.state)


class SlowStart(SynchronousTestCase):
    """A growing share."""

    def test_share(self) -> None:
        """A tenth at first, all in the end."""
        health, members = made(first=False, slow_start=10.0)
        one = members[0]
        self.assertEqual((SLOW_START, 110.0), (one.state, one.slow_until))
        shares = []
        for now in (100.0, 100.5, 102.0, 105.0, 109.0, 110.0):
            shares.append(sum(health.admits(one, n / 100, now) for n in range(100)))
        self.assertEqual([10, 10, 20, 50, 90, 100], shares)
        self.assertEqual((True, 110.0), (health.guarded(members), health.wakes(members, 101.0)))
        for each in members:
            health.settle(each, 110.0)
        self.assertEqual((False, inf), (health.guarded(members), health.wakes(members, 110.0)))

    def test_after_an_ejection(self) -> None:
        """Begins when the ejection ends."""
        health, members = made(slow_start=10.0)
        fail(health, members[0], members, 101.0)
        health.settle(members[0], 111.0)
        self.assertEqual((SLOW_START, 121.0), (members[0].state, members[0].slow_until))

    def test_a_first_membership(self) -> None:
        """Starts at once: there is nobody else."""
        self.assertEqual([UNCHECKED] * 3, [each.state for each in made(slow_start=9.0)[1]])


class Breakers(SynchronousTestCase):
    """A circuit for each endpoint."""

    def broken(self, **options: Any) -> tuple[Health, list[Endpoint]]:
        """The first of three has tripped, at 101."""
        health, members = made(passive=None, breaker=BREAKER, **options)
        said = [health.served(members[0], True, members, 101.0) for _ in range(4)]
        self.assertEqual([False, False, False, True], said)
        return health, members

    def test_a_life(self) -> None:
        """Out, back for one probe at a time, out again, and back for all."""
        health, members = self.broken()
        one, other, _ = members
        assert one.breaker is not None
        self.assertEqual((EJECTED, OPEN), (one.state, one.breaker.state))
        self.assertEqual((106.0, True), (health.wakes(members, 101.0), health.guarded(members)))
        self.assertTrue(health.settle(one, 106.0))
        self.assertEqual(
            [True, False, True], [health.admits(each, 0.9, 106.0) for each in (one, one, other)]
        )
        self.assertTrue(health.served(one, True, members, 107.0))  # the probe failed
        self.assertEqual((EJECTED, OPEN), (one.state, one.breaker.state))
        health.settle(one, 112.0)
        self.assertTrue(health.admits(one, 0.9, 112.0))
        self.assertEqual(HALF_OPEN, one.breaker.state)
        # It was pickable already; what changes is that picks need not look twice any more.
        self.assertTrue(health.served(one, False, members, 113.0))
        self.assertEqual((HEALTHY, CLOSED), (one.state, one.breaker.state))
        self.assertFalse(health.guarded(members))

    def test_a_slow_start_spends_no_probe(self) -> None:
        """Who is passed over for its share is not probed by that."""
        health, members = self.broken(slow_start=10.0)
        one = members[0]
        health.settle(one, 106.0)
        self.assertEqual(SLOW_START, one.state)
        said = [health.admits(one, chance, 106.5) for chance in (0.99, 0.5, 0.01, 0.01)]
        self.assertEqual([False, False, True, False], said)


class Usable(SynchronousTestCase):
    """Who may be picked, and when all are used."""

    def test_panic(self) -> None:
        """Below the threshold all but the drained and weightless; who refused last, last."""
        health, members = made(6, panic_threshold=0.5)
        one, two, drained, weightless, *others = members
        health.drain(drained, True, 101.0)
        weightless.weight = 0
        self.assertEqual([one, two, *others], health.usable(members))
        for each in (one, two):
            each.down = True
            health.settle(each, 101.0)
        self.assertEqual((others, False), (health.usable(members), health.panic))
        others[0].down = True
        others[0].connect_failures = 1
        health.settle(others[0], 101.0)
        self.assertEqual(
            ([one, two, others[1], others[0]], True), (health.usable(members), health.panic)
        )

    def test_never(self) -> None:
        """A threshold of 0."""
        health, members = made(2, panic_threshold=0.0)
        for each in members:
            each.down = True
            health.settle(each, 101.0)
        self.assertEqual(([], False), (health.usable(members), health.panic))

    def test_nobody(self) -> None:
        """Is no panic."""
        health, _ = made(0)
        self.assertEqual(([], False), (health.usable([]), health.panic))

    def test_last_resorts(self) -> None:
        """Are picked only when no other is, and not if checks say they are down."""
        health, members = made(3)
        for each in members[1:]:
            each.standing = LAST_RESORT
            health.settle(each, 101.0)
        self.assertEqual(members[:1], health.usable(members))
        members[0].weight = 0
        members[2].down = True
        self.assertEqual((members[1:2], False), (health.usable(members), health.panic))
        members[1].drained = True
        health.panic_threshold = 0.0
        self.assertEqual([], health.usable(members))
