"""What processes of one gateway share: limits, buckets, marks, circuits and budgets."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.config.difference import Change, difference, refused
from gatewayd.core.breaker import OPEN, Breaker, BreakerRules
from gatewayd.core.health import ActiveRules, Health, PassiveRules
from gatewayd.core.limits import ALONE, RateLimit, Share
from tests.unit.balancing import endpoints
from tests.unit.config_cases import BASE, fine

RULES = BreakerRules(error_rate=0.5, window=10.0, min_requests=4, open_for=5.0)


class Shares(SynchronousTestCase):
    """A worker's part."""

    @given(st.integers(0, 10_000), st.integers(1, 64))
    def test_parts(self, count: int, of: int) -> None:
        """All parts make the whole where there is one for each; nobody has less than one."""
        parts = [Share(number, of).part(count) for number in range(of)]
        self.assertEqual(count if count >= of or not count else of, sum(parts))
        self.assertEqual(count, ALONE.part(count))

    def test_divided(self) -> None:
        """A rate in two parts, and a part that is less than a request has room for one."""
        limit = RateLimit(rate=10.0, burst=10, max_keys=0)
        limit.divide(2)
        self.assertEqual(5, sum(limit.take("", 100.0).allowed for _ in range(20)))
        limit = RateLimit(rate=1.0, burst=1, max_keys=0)
        limit.divide(4)
        self.assertTrue(limit.take("", 100.0).allowed)
        self.assertFalse(limit.take("", 103.0).allowed)
        self.assertTrue(limit.take("", 104.0).allowed)


class Buckets(SynchronousTestCase):
    """One bucket for two processes."""

    def test_shared(self) -> None:
        """What one gave away is missing in the other's, once it has heard of it."""
        told: list[tuple[str, float]] = []
        first, second, whole = (RateLimit(rate=1.0, burst=4, max_keys=10) for _ in range(3))
        first.on_spent(lambda *spent: told.append(spent))
        taken = sum(first.take("a", 100.0).allowed for _ in range(9))
        self.assertEqual((4, [("a", 100.0)] * 4), (taken, told))
        second.learn("a", whole.spend("a", 3, 100.0), 0)
        self.assertEqual(1, sum(second.take("a", 100.0).allowed for _ in range(9)))
        second.learn("a", 101.0, 0)  # older than what it knows
        self.assertFalse(second.take("a", 100.0).allowed)
        late = RateLimit(rate=1.0, burst=1, max_keys=0)
        self.assertTrue(late.take("a", 100.0).allowed)
        late.learn("a", whole.spend("b", 1, 100.0), 0)  # heard of later: it counts from when it was
        self.assertTrue(late.take("a", 101.0).allowed)
        other = RateLimit(rate=1.0, burst=4, max_keys=1)
        other.learn("a", 102.0, 1)  # and one that nobody has heard of
        self.assertEqual(1, sum(other.take("a", 100.0).allowed for _ in range(9)))
        other.learn("b", 102.0, 0)
        self.assertEqual(1, len(other))


class Marks(SynchronousTestCase):
    """What one process knows of an endpoint."""

    def test_marks(self) -> None:
        """They arrive as they were; ejected in either is ejected, good in either good, unless down."""
        one, other = endpoints([1, 1])
        one.down = one.drained = True
        one.ejected_until = 5.0
        other.ejected_until, other.known_good = 7.0, True
        other.take_marks(pickle.loads(pickle.dumps(one.marks)))
        self.assertEqual((False, True, True, False, 7.0, 0.0), tuple(other.marks))
        other.down, one.known_good = False, True
        other.take_marks(one.marks._replace(down=False))
        self.assertTrue(other.known_good)
        other.take_marks(other.marks._replace(known_good=False))
        self.assertTrue(other.known_good)

    def test_circuit(self) -> None:
        """One that opened elsewhere is open here until then."""
        breaker = Breaker(RULES)
        breaker.open_until(105.0)
        self.assertEqual((OPEN, False, True), (breaker.state, *map(breaker.allows, (104.0, 105.0))))
        self.assertIs(RULES, breaker.rules)


class Becoming(SynchronousTestCase):
    """After a reload."""

    def test_health_that_goes(self) -> None:
        """Marks that nobody would lift any more are lifted; a circuit of other rules is new."""
        health = Health(
            passive=PassiveRules(), active=ActiveRules(), breaker=RULES, slow_start=60.0
        )
        (member,) = endpoints([1])
        health.joined(member, 100.0, first=False)
        member.down, member.ejected_until = True, 999.0
        health.become(Health(passive=None), [member], 101.0)
        self.assertEqual(
            (False, False, 0.0, 0.0, None),
            (
                member.down,
                member.awaits_check,
                member.ejected_until,
                member.slow_until,
                member.breaker,
            ),
        )
        self.assertTrue(member.usable)

    def test_health_that_stays(self) -> None:
        """What did not change keeps its marks and its circuits."""

        def made() -> Health:
            return Health(
                passive=PassiveRules(), active=ActiveRules(), breaker=RULES, slow_start=9.0
            )

        health = made()
        (member,) = endpoints([1])
        health.joined(member, 100.0, first=True)
        member.down = True
        breaker = member.breaker
        health.become(made(), [member], 101.0)
        self.assertEqual((True, breaker), (member.down, member.breaker))
        other = RULES._replace(window=1.0)
        health.become(
            Health(passive=PassiveRules(), active=ActiveRules(), breaker=other, slow_start=9.0),
            [member],
            102.0,
        )
        assert member.breaker is not None
        self.assertEqual(other, member.breaker.rules)


class Differences(SynchronousTestCase):
    """The plan of a reload."""

    def changes(self, old: str, new: str) -> list[str]:
        """As people read them."""
        return list(map(str, difference(fine(old).config, fine(new).config)))

    def test_nothing(self) -> None:
        """A file that was only reformatted changes nothing."""
        self.assertEqual([], self.changes(BASE, "# the same\n" + BASE + "drain_delay: 0s\n"))

    def test_by_name(self) -> None:
        """What is added, removed and changed, and what it touches."""
        self.assertEqual(
            ["drain_delay: changed: at the next stop"],
            self.changes(BASE, BASE + "drain_delay: 1s\n"),
        )
        added = self.changes(BASE, BASE.replace("listeners:", "drain_timeout: 9s\nlisteners:"))
        self.assertEqual(["drain_timeout: changed: at the next stop"], added)
        shown = Change("route", "a", "changed", ("retries",), "soon").shown()
        self.assertEqual(["retries"], shown["keys"])

    def test_refused(self) -> None:
        """What only a start can do."""
        new = fine(BASE + "workers: {min: 1, max: 3}\nadmin: {address: 127.0.0.1:9}\n").config
        old = fine(BASE).config
        self.assertEqual(
            ["workers", "admin.address"], [each.split()[0] for each in refused(old, new)]
        )
