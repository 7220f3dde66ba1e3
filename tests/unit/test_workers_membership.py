"""workers.membership: a worker that takes all news ends as the supervisor's upstream is."""

from __future__ import annotations

import pickle
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.balancers import Balancer, RoundRobin
from gatewayd.core.breaker import CLOSED, OPEN, Breaker, BreakerRules
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.endpoints import (
    HEALTHY,
    HELD,
    LAST_RESORT,
    UNCHECKED,
    UNHEALTHY,
    Endpoint,
    Member,
)
from gatewayd.core.health import ActiveRules, Health, PassiveRules
from gatewayd.upstreams.upstream import Upstream
from gatewayd.workers.membership import Follower, News, Teller
from tests.unit.upstream_fakes import World, member

quick = settings(deadline=None, database=None, max_examples=150)
RULES = BreakerRules(error_rate=0.5, window=10.0, min_requests=4, open_for=5.0)


def made(world: World, later: Any, *, slow_start: float = 0.0) -> Upstream:
    """One of either process: the supervisor's and a worker's are made of one configuration."""
    return Upstream(
        "u",
        balancer=RoundRobin,
        pool=world.pool,
        counters=UpstreamCounters(),
        random=Random(1),
        clock=world.clock.seconds,
        wheel=world.wheel,
        later=later,
        breaker=Breaker(RULES),
        health=Health(
            passive=PassiveRules(consecutive_failures=1, eject_for=10.0, max_ejected=1.0),
            active=ActiveRules(healthy=1, unhealthy=1),
            slow_start=slow_start,
        ),
    )


class Fails(Balancer):
    """One's own, with a fault."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Fail."""
        raise ZeroDivisionError


class Pair:
    """A supervisor's upstream, and workers that follow it."""

    def __init__(self, *, slow_start: float = 0.0) -> None:
        self.world = World()
        self.world.clock.advance(1000.0)
        self.slow_start = slow_start
        self.turns: list[Any] = []  # what is to be called in a turn of its own
        self.upstream = made(self.world, self.turns.append, slow_start=slow_start)
        self.teller = Teller()
        self.workers: list[Upstream] = []
        self.followers: list[Follower] = []

    def hire(self) -> Upstream:
        """A worker that begins now; what the others have not heard yet, they hear before."""
        self.tell()
        worker = made(self.world, self.turns.append, slow_start=self.slow_start)
        follower = Follower(worker)
        follower.take(self.arrived(self.teller.everything({"u": self.upstream}))["u"])
        self.workers.append(worker)
        self.followers.append(follower)
        return worker

    def run(self, turns: int = 1_000_000) -> None:
        """So many turns pass, or all that there are."""
        while self.turns and turns:
            turns -= 1
            self.turns.pop(0)()

    def tell(self) -> dict[str, News]:
        """All workers hear what is new."""
        news = self.arrived(self.teller.news({"u": self.upstream}))
        for follower in self.followers:
            for each in news.values():
                follower.take(each)
        return news

    def arrived(self, news: dict[str, News]) -> dict[str, News]:
        """As it comes out of a link."""
        found: dict[str, News] = pickle.loads(pickle.dumps(news))
        return found


def fares(endpoint: Endpoint) -> str:
    """Its state; who was never out and who came back again without a check serve alike."""
    return HEALTHY if endpoint.state == UNCHECKED else endpoint.state


def shown(upstream: Upstream) -> Any:
    """Who the members are, how they fare, and who is picked."""
    return (
        upstream.known,
        sorted(
            (e.label, e.weight, e.source, e.name, e.standing, fares(e), *e.marks[:3], *e.marks[4:])
            for e in upstream.endpoints
        ),
        sorted(each.label for each in upstream.balancer.endpoints),
    )


class Telling(SynchronousTestCase):
    """Only what has changed is told."""

    def labels(self, news: dict[str, News]) -> tuple[list[str], list[str]]:
        """Of those that are new or different, and of those that are gone."""
        if not news:
            return [], []
        return [str(each) for each in news["u"].entries], [str(each) for each in news["u"].gone]

    def test_what_changed(self) -> None:
        """Members one by one, their marks, who is gone; nothing where nothing happened."""
        pair = Pair()
        upstream = pair.upstream
        self.assertEqual({}, pair.tell())
        upstream.set_members([member("a:1"), member("b:1")])
        self.assertEqual((["a:1", "b:1"], []), self.labels(pair.tell()))
        self.assertEqual({}, pair.tell())
        upstream.set_members([member("a:1"), member("b:1", 3), member("c:1")])
        self.assertEqual((["b:1", "c:1"], []), self.labels(pair.tell()))
        upstream.drain("a:1", True)
        self.assertEqual((["a:1"], []), self.labels(pair.tell()))
        upstream.set_members([member("a:1"), member("c:1")])
        self.assertEqual(([], ["b:1"]), self.labels(pair.tell()))
        upstream.checked(upstream.endpoints[1], False)
        self.assertEqual((["c:1"], []), self.labels(pair.tell()))
        self.assertEqual({}, pair.tell())

    def test_everything(self) -> None:
        """For one who begins; the others are not told again."""
        pair = Pair()
        pair.upstream.set_members([member("a:1"), member("b:1")])
        pair.tell()
        news = pair.teller.everything({"u": pair.upstream})
        self.assertEqual(((True, True), 2), (news["u"][:2], len(news["u"].entries)))
        self.assertEqual({}, pair.tell())

    def test_known(self) -> None:
        """A membership of nobody is news too: who waits for one need not any longer."""
        pair = Pair()
        worker = pair.hire()
        self.assertFalse(worker.known)
        pair.upstream.set_members([])
        news = pair.tell()
        self.assertEqual(News(False, True, {}), news["u"])
        self.assertTrue(worker.known)

    def test_an_upstream_that_goes(self) -> None:
        """Is forgotten: another of its name is told anew."""
        pair = Pair()
        pair.upstream.set_members([member("a:1")])
        pair.tell()
        self.assertEqual({}, pair.teller.news({}))
        self.assertEqual((["a:1"], []), self.labels(pair.tell()))


class Following(SynchronousTestCase):
    """A worker believes it."""

    def test_marks_of_those_who_join(self) -> None:
        """Nobody who waits for its first check is picked in between."""
        pair = Pair()
        pair.upstream.set_members([member("a:1")])
        worker = pair.hire()
        pair.upstream.set_members([member("a:1"), member("b:1")])
        pair.tell()
        self.assertEqual(["a:1"], [each.label for each in worker.balancer.endpoints])
        pair.upstream.checked(pair.upstream.endpoints[1], True)
        pair.tell()
        self.assertEqual(["a:1", "b:1"], [each.label for each in worker.balancer.endpoints])

    def test_who_begins_meanwhile(self) -> None:
        """For a worker all are new, but not for the supervisor: b waits for its first check here too."""
        pair = Pair()
        pair.upstream.set_members([member("a:1")])
        pair.upstream.set_members([member("a:1"), member("b:1")])
        self.assertEqual(["a:1"], [each.label for each in pair.hire().balancer.endpoints])

    def test_a_mark_that_is_no_state(self) -> None:
        """Who waits for a check is as unchecked as who needs none, and is not picked."""
        pair = Pair()
        pair.upstream.set_members([member("a:1"), member("b:1")])
        worker = pair.hire()
        first = worker.endpoints[0]
        worker.mark({first: first.marks._replace(awaits_check=True)})
        self.assertEqual(["b:1"], [each.label for each in worker.balancer.endpoints])

    def test_a_balancer_that_fails(self) -> None:
        """Costs its own turn, and no mark: the next good news finds all as the supervisor has it."""
        pair = Pair()
        pair.upstream.set_members([member("a:1"), member("b:1")])
        worker = pair.hire()
        pair.upstream.set_members([member("a:1"), member("b:1"), member("c:1")])
        pair.upstream.checked(pair.upstream.endpoints[2], True)
        pair.upstream.drain("a:1", True)
        worker._kind = Fails
        self.assertRaises(ZeroDivisionError, pair.tell)
        worker._kind = RoundRobin
        pair.upstream.set_members([member("a:1"), member("b:1", 3), member("c:1")])
        pair.tell()
        self.assertEqual({"b:1", "c:1"}, {each.label for each in worker.balancer.endpoints})

    def test_same_objects(self) -> None:
        """What is in flight goes on where it is."""
        pair = Pair()
        pair.upstream.set_members([member("a:1"), member("b:1")])
        worker = pair.hire()
        before = worker.endpoints
        pair.upstream.set_members([member("a:1", 2), member("b:1")])
        pair.tell()
        self.assertEqual(before, worker.endpoints)
        self.assertEqual(2, before[0].weight)

    def test_circuit(self) -> None:
        """It opens with the supervisor's, until then; one that closes here is not opened again."""
        pair = Pair()
        pair.upstream.set_members([member("a:1")])
        worker = pair.hire()
        now = pair.world.clock.seconds()
        pair.upstream.open_circuit(now + 5.0)
        self.assertEqual(now + 5.0, pair.tell()["u"].open_until)
        assert worker.breaker is not None
        self.assertEqual((OPEN, now + 5.0), (worker.breaker.state, worker.breaker.until))
        late = pair.hire()
        assert late.breaker is not None
        self.assertEqual(OPEN, late.breaker.state)
        pair.world.clock.advance(6.0)
        self.assertTrue(worker.breaker.allows(now + 6.0))
        worker.breaker.done(False, now + 6.0)
        pair.upstream.set_members([member("a:1"), member("b:1")])
        pair.tell()  # the supervisor, which serves nobody, still thinks that it is open
        self.assertEqual(CLOSED, worker.breaker.state)

    def test_proven(self) -> None:
        """A good request in one worker is known to the supervisor, and then to all; it is told of once."""
        pair = Pair()
        upstream = pair.upstream
        upstream.set_members([member("a:1"), member("b:1"), member("c:1")])
        upstream.checked(upstream.endpoints[2], False)
        one, other = pair.hire(), pair.hire()
        self.assertEqual([], pair.followers[0].proven())
        for endpoint in one.endpoints:
            endpoint.known_good = True  # c in panic: what checks say of it counts more
        self.assertEqual(["a:1", "b:1"], pair.followers[0].proven())
        upstream.prove({"a:1", "c:1", "gone:1"})
        self.assertEqual([HEALTHY, UNCHECKED, UNHEALTHY], [e.state for e in upstream.endpoints])
        self.assertFalse(upstream.endpoints[2].known_good)
        self.assertEqual(["a:1"], [str(each) for each in pair.tell()["u"].entries])
        self.assertEqual(["b:1"], pair.followers[0].proven())
        self.assertEqual([], pair.followers[1].proven())
        self.assertEqual(HEALTHY, other.endpoints[0].state)
        upstream.set_members([member("b:1")])
        pair.tell()
        upstream.set_members([member("b:1"), member("d:1")])
        pair.tell()
        one.endpoints[1].known_good = True
        self.assertEqual(["b:1"], pair.followers[0].proven())  # d waits for its first check

    def test_many(self) -> None:
        """A membership that is taken in slices is marked when it is there."""
        pair = Pair()
        worker = pair.hire()
        many = [member(f"10.0.{n >> 8}.{n & 255}:80") for n in range(2000)]
        pair.upstream.set_members(many)
        pair.run()
        pair.upstream.drain("10.0.0.7:80", True)
        pair.tell()
        pair.run()
        self.assertEqual(2000, len(worker.endpoints))
        self.assertEqual(1999, len(worker.balancer.endpoints))

    NUMBERS = st.integers(0, 5)
    MEMBERS = st.lists(
        st.builds(
            lambda number, weight, source, name, standing: Member(
                member(f"10.0.0.{number}:80").address, weight, source, name, standing
            ),
            NUMBERS,
            st.integers(0, 3),
            st.sampled_from(("static", "zookeeper")),
            st.sampled_from(("", "h:80")),
            st.sampled_from(("", HELD, LAST_RESORT)),
        ),
        max_size=6,
    )
    STEPS = st.lists(
        st.one_of(
            st.tuples(st.just("members"), MEMBERS),
            st.tuples(st.just("check"), st.tuples(NUMBERS, st.booleans())),
            st.tuples(st.just("drain"), st.tuples(NUMBERS, st.booleans())),
            st.tuples(st.just("eject"), st.tuples(NUMBERS, st.integers(1, 20))),
            st.tuples(st.just("time"), st.integers(1, 15)),
            st.tuples(st.just("turns"), st.integers(1, 12)),
            st.tuples(st.just("tell"), st.none()),
            st.tuples(st.just("hire"), st.none()),
        ),
        max_size=25,
    )

    @quick
    @given(STEPS)
    def test_ends_in_the_same_state(self, steps: list[tuple[str, Any]]) -> None:
        """Whatever happened, however late it was heard, and whenever a worker began."""
        self.check(steps, [])

    @settings(quick, max_examples=60)
    @given(STEPS)
    def test_many_end_in_the_same_state(self, steps: list[tuple[str, Any]]) -> None:
        """So many that they are taken in slices, with other news between these."""
        self.check(steps, [member(f"10.1.{n >> 8}.{n & 255}:80") for n in range(300)])

    def check(self, steps: list[tuple[str, Any]], others: list[Member]) -> None:
        """Go through the steps; *others* are members all the time."""
        pair = Pair()
        pair.hire()
        upstream = pair.upstream
        for what, how in steps:
            endpoints = upstream.endpoints
            if what == "members":
                upstream.set_members([*how, *others])
            elif what == "turns":
                pair.run(how)
            elif what == "check" and endpoints:
                upstream.checked(endpoints[how[0] % len(endpoints)], how[1])
            elif what == "drain" and endpoints:
                upstream.drain(endpoints[how[0] % len(endpoints)].label, how[1])
            elif what == "eject" and endpoints:
                until = pair.world.clock.seconds() + how[1]
                upstream.eject(endpoints[how[0] % len(endpoints)].label, until)
            elif what == "time":
                pair.world.clock.advance(how)
                for each in (upstream, *pair.workers):
                    each.review()
            elif what == "tell":
                pair.tell()
            elif what == "hire":
                pair.hire()
        pair.run()
        pair.tell()
        pair.hire()
        pair.run()
        for worker in pair.workers:
            self.assertEqual(shown(upstream), shown(worker))
