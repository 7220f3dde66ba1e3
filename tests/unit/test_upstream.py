"""upstreams.upstream: an endpoint at once where there is one, a place in line where not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.balancers import Balancer, balancer_named
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.errors import ConnectFailed, NoEndpoint, PendingTimeout, QueueFull
from gatewayd.core.health import ActiveRules, Health
from gatewayd.upstreams import make_upstream
from gatewayd.upstreams.split import Split
from gatewayd.upstreams.upstream import Upstream
from tests.unit.upstream_fakes import FakeDialer, World, member


class Waits(Balancer):
    """A balancer of one's own that has to wait for every answer."""

    asked: ClassVar[list[Deferred[Endpoint | None]]] = []

    def pick(self, key: bytes | None) -> Any:
        """An answer to come."""
        answer: Deferred[Endpoint | None] = Deferred()
        self.asked.append(answer)
        return answer


class Broken(Balancer):
    """A balancer of one's own that likes nobody."""

    broken: ClassVar[bool] = False

    def __init__(self, endpoints: Sequence[Endpoint], *, random: Random) -> None:
        super().__init__(endpoints, random=random)
        if self.broken:
            raise RuntimeError("out of order")

    def pick(self, key: bytes | None) -> Any:
        """The first."""
        return self.endpoints[0] if self.endpoints else None


class UpstreamTestCase(SynchronousTestCase):
    """Makes upstreams on a clock."""

    def make(
        self, *members: str, balancer: str = "round_robin", limit: int = 0, **options: Any
    ) -> Upstream:
        """One with these members; without any, one that waits for its first membership."""
        self.world = world = World(max_connections_per_endpoint=limit)
        self.turns: list[Callable[[], None]] = []  # what waits for the reactor's next turn
        upstream = Upstream(
            "u",
            balancer=balancer_named(balancer),
            pool=world.pool,
            counters=UpstreamCounters(),
            random=Random(1),
            clock=world.clock.seconds,
            wheel=world.wheel,
            later=self.turns.append,
            **options,
        )
        if members:
            upstream.set_members(map(member, members))
        return upstream

    def label(self, picked: Any) -> str:
        """Of an endpoint that was picked at once."""
        self.assertIsInstance(picked, Endpoint)
        return str(picked.label)

    def labels(self, upstream: Upstream, count: int) -> list[str]:
        """Of as many picks."""
        return [self.label(upstream.pick(None)) for _ in range(count)]

    def waiting(self, upstream: Upstream, count: int = 1) -> list[Deferred[Endpoint]]:
        """As many picks that have to wait."""
        found: list[Any] = [upstream.pick(None) for _ in range(count)]
        for each in found:
            self.assertNoResult(each)
        return found


class Picking(UpstreamTestCase):
    """At once, and counted."""

    def test_in_turn(self) -> None:
        """Everybody as often; each pick counts until it is released."""
        upstream = self.make("a:1", "b:1", "c:1")
        picked = [upstream.pick(None) for _ in range(6)]
        self.assertEqual(
            ["a:1", "a:1", "b:1", "b:1", "c:1", "c:1"], sorted(map(self.label, picked))
        )
        self.assertEqual(picked[:3], picked[3:])
        self.assertEqual([(2, 2)] * 3, [(e.picks, e.in_flight) for e in upstream.endpoints])
        for endpoint in picked:
            assert isinstance(endpoint, Endpoint)
            upstream.released(endpoint, 0.1, False)
        self.assertEqual([(2, 0)] * 3, [(e.picks, e.in_flight) for e in upstream.endpoints])
        self.assertEqual("<Upstream u endpoints=3 waiting=0>", repr(upstream))

    def test_weight_0_is_never_picked(self) -> None:
        """Nor is it usable."""
        upstream = self.make("a:1")
        upstream.set_members([member("a:1", 0), member("b:1")])
        self.assertEqual(["b:1"] * 4, self.labels(upstream, 4))
        upstream.set_members([member("a:1", 0), member("b:1", 0)])
        self.assertRaises(NoEndpoint, upstream.pick, None)
        self.assertFalse(upstream.is_usable)

    def test_only_consistent_hash_wants_a_key(self) -> None:
        """So that nobody computes one in vain."""
        self.assertEqual("", self.make(hash_key="path").hash_key)
        upstream = self.make("a:1", "b:1", balancer="consistent_hash", hash_key="path")
        self.assertEqual("path", upstream.hash_key)
        picked = {self.label(upstream.pick(b"/x")) for _ in range(9)}
        self.assertEqual(1, len(picked))

    def test_names(self) -> None:
        """The policy is shown as the configuration has it; base_path gets no slash at its end."""
        upstream = self.make(balancer="tests.unit.test_upstream:Waits", base_path="/a/", via="none")
        self.assertEqual("tests.unit.test_upstream:Waits", upstream.policy)
        self.assertEqual(
            (b"/a", False, False), (upstream.base_path, upstream.via_out, upstream.via_back)
        )


class FirstMembership(UpstreamTestCase):
    """An upstream without any members yet."""

    def test_waits_and_is_served_in_order(self) -> None:
        """Who came first gets the first pick."""
        upstream = self.make(balancer="tests.unit.test_upstream:Broken")
        self.assertTrue(upstream.is_usable)
        served: list[int] = []
        for number, each in enumerate(self.waiting(upstream, 3)):
            each.addCallback(lambda endpoint, number: served.append(number), number)
        counters = upstream.counters
        self.assertEqual((3, 3, 0), (counters.pending, counters.waited, counters.rejected))
        self.assertEqual("<Upstream u endpoints=0 waiting=3>", repr(upstream))
        self.world.advance(2)
        upstream.set_members([member("a:1")])
        self.assertEqual([0, 1, 2], served)
        (endpoint,) = upstream.endpoints
        self.assertEqual((3, 3), (endpoint.picks, endpoint.in_flight))
        self.assertEqual((0, 3), (counters.pending, sum(counters.queue.buckets)))
        self.assertAlmostEqual(6.0, counters.queue.total)

    def test_for_pending_timeout_at_most(self) -> None:
        """Not a tick less, and at most one more; then nothing comes of it."""
        upstream = self.make(pending_timeout=5.0)
        (early,) = self.waiting(upstream)
        self.world.advance(2)
        (late,) = self.waiting(upstream)
        self.world.advance(2.9)
        self.assertNoResult(early)
        self.world.advance(0.3)
        error = self.failureResultOf(early, PendingTimeout).value
        self.assertEqual("no slot within pool.pending_timeout", error.detail)
        self.assertEqual((1, 2), (upstream.counters.pending, upstream.counters.waited))
        upstream.set_members([member("a:1")])
        self.assertEqual("a:1", self.label(self.successResultOf(late)))
        self.world.advance(10)
        self.assertEqual([(1, 1)], [(e.picks, e.in_flight) for e in upstream.endpoints])

    def test_an_empty_one_refuses_all(self) -> None:
        """A membership of nobody is one: whoever waits is told at once, and so is who comes."""
        upstream = self.make()
        waiting = self.waiting(upstream, 2)
        upstream.set_members([])
        for each in waiting:
            self.failureResultOf(each, NoEndpoint)
        error = self.assertRaises(NoEndpoint, upstream.pick, None)
        self.assertEqual("upstream u has no usable endpoint", error.detail)
        self.assertEqual((0, 0), (upstream.counters.pending, upstream.counters.changes))

    def test_members_lost(self) -> None:
        """503 at once, until somebody is back."""
        upstream = self.make("a:1", "b:1")
        upstream.set_members([])
        self.assertRaises(NoEndpoint, upstream.pick, None)
        upstream.set_members([member("b:1")])
        self.assertEqual("b:1", self.label(upstream.pick(None)))
        self.assertEqual(3, upstream.counters.changes)


class Queue(UpstreamTestCase):
    """The line is bounded."""

    def test_full(self) -> None:
        """Whoever comes then is refused, counted, and keeps nobody's place."""
        upstream = self.make(max_pending=2)
        waiting = self.waiting(upstream, 2)
        error = self.assertRaises(QueueFull, upstream.pick, None)
        self.assertEqual("upstream u: 2 requests wait already", error.detail)
        self.assertEqual((2, 1), (upstream.counters.waited, upstream.counters.rejected))
        waiting[0].addErrback(lambda _: None)
        waiting[0].cancel()
        self.waiting(upstream)
        self.assertRaises(QueueFull, upstream.pick, None)

    def test_no_queue_at_all(self) -> None:
        """max_pending 0 is no waiting, pending_timeout 0 at once: each by its own reason."""
        self.assertRaises(QueueFull, self.make(max_pending=0).pick, None)
        error = self.assertRaises(PendingTimeout, self.make(pending_timeout=0.0).pick, None)
        self.assertEqual("upstream u: pool.pending_timeout is 0", error.detail)
        self.assertEqual("a:1", self.label(self.make("a:1", pending_timeout=0.0).pick(None)))

    def test_cancelled(self) -> None:
        """A client that leaves gives up its place; the others go on in order."""
        upstream = self.make()
        first, second, third = self.waiting(upstream, 3)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(2, upstream.counters.pending)
        upstream.set_members([member("a:1")])
        self.successResultOf(first)
        self.successResultOf(third)
        (endpoint,) = upstream.endpoints
        self.assertEqual((2, 2), (endpoint.picks, endpoint.in_flight))
        self.world.advance(10)
        self.assertEqual(0, upstream.counters.pending)

    def test_the_end(self) -> None:
        """Nobody waits on."""
        upstream = self.make()
        (waiting,) = self.waiting(upstream)
        self.successResultOf(upstream.close())
        self.failureResultOf(waiting, NoEndpoint)


class Slots(UpstreamTestCase):
    """max_connections_per_endpoint: at the limit requests wait."""

    def pick_and_dial(self, upstream: Upstream) -> Any:
        """A pick that begins to connect, as the way does; its endpoint's label."""
        endpoint = upstream.pick(None)
        assert isinstance(endpoint, Endpoint)
        connecting = upstream.pool.acquire(endpoint)
        assert isinstance(connecting, Deferred)
        connecting.addErrback(lambda failure: failure.trap(ConnectFailed))
        return endpoint.label

    def test_who_has_room_is_picked(self) -> None:
        """Whoever's turn it is, everybody's slots are filled before anybody waits."""
        for balancer in ("round_robin", "random", "least_connections", "power_of_two"):
            upstream = self.make("a:1", "b:1", "c:1", limit=2, balancer=balancer)
            found = [self.pick_and_dial(upstream) for _ in range(6)]
            self.assertEqual(["a:1", "a:1", "b:1", "b:1", "c:1", "c:1"], sorted(found), balancer)
            self.waiting(upstream)

    def test_first_in_first_out(self) -> None:
        """A slot that is free goes to who waits longest, and no newcomer takes it."""
        upstream = self.make("a:1", limit=1)
        self.pick_and_dial(upstream)
        first, second = self.waiting(upstream, 2)
        got: list[str] = []

        def take(endpoint: Endpoint, name: str) -> None:
            got.append(name)
            connecting = upstream.pool.acquire(endpoint)
            assert isinstance(connecting, Deferred)
            connecting.addErrback(lambda failure: failure.trap(ConnectFailed))

        first.addCallback(take, "first")
        second.addCallback(take, "second")
        self.world.dialer.dials[0].fail(ConnectionRefusedError())
        self.assertEqual(["first"], got)
        (third,) = self.waiting(upstream)
        third.addCallback(take, "third")
        self.world.dialer.dials[1].fail(ConnectionRefusedError())
        self.assertEqual(["first", "second"], got)
        self.world.dialer.dials[2].fail(ConnectionRefusedError())
        self.assertEqual(["first", "second", "third"], got)
        self.assertEqual((0, 3), (upstream.counters.pending, upstream.counters.waited))

    def test_nobody_slips_in(self) -> None:
        """Who comes while a slot changes hands stands behind those who wait."""
        upstream = self.make("a:1", limit=1)
        self.pick_and_dial(upstream)
        first, second = self.waiting(upstream, 2)
        newcomers: list[Any] = []

        def take(endpoint: Endpoint) -> None:
            newcomers.append(upstream.pick(None))
            upstream.pool.acquire(endpoint)

        first.addCallback(take)
        self.world.dialer.dials[0].fail(ConnectionRefusedError())
        self.assertNoResult(newcomers[0])
        self.assertNoResult(second)
        second.cancel()
        self.failureResultOf(second, CancelledError)

    def test_one_slot_serves_one(self) -> None:
        """The others wait on."""
        upstream = self.make("a:1", limit=1)
        self.pick_and_dial(upstream)
        waiting = self.waiting(upstream, 3)
        waiting[0].addCallback(upstream.pool.acquire).addErrback(lambda _: None)
        self.world.dialer.dials[0].fail(ConnectionRefusedError())
        self.assertEqual([True, False, False], [each.called for each in waiting])

    def test_a_new_member_brings_slots(self) -> None:
        """They go to who waits."""
        upstream = self.make("a:1", limit=1)
        self.pick_and_dial(upstream)
        first, second = self.waiting(upstream, 2)
        first.addCallback(lambda endpoint: (endpoint.label, upstream.pool.acquire(endpoint))[0])
        upstream.set_members(map(member, ["a:1", "b:1"]))
        self.assertEqual("b:1", self.successResultOf(first))
        self.assertNoResult(second)

    def test_who_waits_is_refused_when_all_are_gone(self) -> None:
        """Not after pending_timeout."""
        upstream = self.make("a:1", limit=1)
        self.pick_and_dial(upstream)
        (waiting,) = self.waiting(upstream)
        upstream.set_members([])
        self.failureResultOf(waiting, NoEndpoint)


class OnesOwn(UpstreamTestCase):
    """A balancer by package.module:Class whose answers are Deferreds."""

    def setUp(self) -> None:
        Waits.asked.clear()
        self.addCleanup(Waits.asked.clear)

    def make_waiting(self, *members: str, **options: Any) -> Upstream:
        """One with that balancer."""
        return self.make(*members, balancer="tests.unit.test_upstream:Waits", **options)

    def test_answers_later(self) -> None:
        """The pick counts from then on."""
        upstream = self.make_waiting("a:1", "b:1")
        first, second = self.waiting(upstream, 2)
        self.assertEqual([0, 0], [each.picks for each in upstream.endpoints])
        a, b = upstream.endpoints
        Waits.asked[1].callback(b)
        Waits.asked[0].callback(a)
        self.assertEqual([a, b], [self.successResultOf(first), self.successResultOf(second)])
        self.assertEqual([(1, 1), (1, 1)], [(e.picks, e.in_flight) for e in upstream.endpoints])
        upstream.released(a, 0.1, False)
        self.assertEqual([0, 1], [each.in_flight for each in upstream.endpoints])

    def test_finds_nobody(self) -> None:
        """503, as without any."""
        upstream = self.make_waiting("a:1")
        (picked,) = self.waiting(upstream)
        Waits.asked[0].callback(None)
        error = self.failureResultOf(picked, NoEndpoint).value
        self.assertEqual("upstream u's balancer found no endpoint", error.detail)

    def test_fails(self) -> None:
        """Its error is the pick's."""
        upstream = self.make_waiting("a:1")
        (picked,) = self.waiting(upstream)
        Waits.asked[0].errback(ZeroDivisionError())
        self.failureResultOf(picked, ZeroDivisionError)
        self.assertEqual([(0, 0)], [(e.picks, e.in_flight) for e in upstream.endpoints])

    def test_cancelled(self) -> None:
        """The balancer is told; what it says then counts no more."""
        upstream = self.make_waiting("a:1")
        (picked,) = self.waiting(upstream)
        picked.cancel()
        self.failureResultOf(picked, CancelledError)
        Waits.asked[0].callback(upstream.endpoints[0])
        self.assertEqual([(0, 0)], [(e.picks, e.in_flight) for e in upstream.endpoints])

    def test_behind_a_first_membership(self) -> None:
        """Asked when it comes."""
        upstream = self.make_waiting()
        # Without members it is asked too, and answers as it likes.
        (picked,) = self.waiting(upstream)
        upstream.set_members([member("a:1")])
        Waits.asked[-1].callback(upstream.endpoints[0])
        self.assertEqual("a:1", self.label(self.successResultOf(picked)))

    def test_behind_a_slot(self) -> None:
        """It waits for a slot first, and for the balancer then; cancelled there, it asks for none."""
        upstream = self.make_waiting("a:1", limit=1)
        (endpoint,) = upstream.endpoints
        blocked, cancelled, served = (upstream._wait(None) for _ in range(3))
        upstream._slot_freed()
        self.assertEqual(3, len(Waits.asked))
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.assertTrue(Waits.asked[1].called)
        for asked in Waits.asked:
            asked.callback(endpoint)
        self.assertEqual(
            [endpoint, endpoint], [self.successResultOf(blocked), self.successResultOf(served)]
        )
        self.assertEqual((2, 2), (endpoint.picks, endpoint.in_flight))

    def test_a_change_of_members_meanwhile(self) -> None:
        """The answer that comes holds."""
        upstream = self.make_waiting("a:1")
        (endpoint,) = upstream.endpoints
        (picked,) = self.waiting(upstream)
        upstream.set_members([member("b:1")])
        Waits.asked[0].callback(endpoint)
        self.assertEqual("a:1", self.label(self.successResultOf(picked)))
        self.assertEqual(1, endpoint.in_flight)

    def test_one_that_fails_when_made(self) -> None:
        """Whoever changed the members hears of it; the last balancer serves on, and the next change counts."""
        upstream = self.make("a:1", balancer="tests.unit.test_upstream:Broken")
        self.patch(Broken, "broken", True)
        self.assertRaises(RuntimeError, upstream.set_members, [member("b:1")])
        self.assertEqual("a:1", self.label(upstream.pick(None)))
        Broken.broken = False
        upstream.set_members([member("c:1")])
        self.assertEqual("c:1", self.label(upstream.pick(None)))


class Changes(UpstreamTestCase):
    """Requests in flight notice nothing."""

    def test_picks_in_flight(self) -> None:
        """Who left serves what he has; who comes back is the same, with his figures."""
        upstream = self.make("a:1", "b:1")
        a, b = upstream.endpoints
        upstream.pick(None)
        upstream.pick(None)
        upstream.set_members(map(member, ["b:1", "c:1"]))
        self.assertEqual(
            ("leaving", 1, ["b:1", "c:1"]),
            (a.state, a.in_flight, [each.label for each in upstream.endpoints]),
        )
        self.assertIs(b, upstream.endpoints[0])
        self.assertEqual(1, b.in_flight)
        self.assertEqual({"b:1", "c:1"}, set(self.labels(upstream, 8)))
        upstream.released(a, 0.1, False)
        self.assertEqual(0, a.in_flight)
        upstream.set_members(map(member, ["a:1"]))
        self.assertIs(a, upstream.endpoints[0])
        self.assertEqual((1, "unchecked"), (a.picks, a.state))

    def test_with_every_balancer(self) -> None:
        """A release by someone who is no member any more breaks nothing."""
        for balancer in (
            "round_robin",
            "weighted_round_robin",
            "random",
            "consistent_hash",
            "least_connections",
            "power_of_two",
        ):
            upstream = self.make("a:1", "b:1", balancer=balancer)
            picked = [upstream.pick(b"k%d" % n) for n in range(6)]
            upstream.set_members([member("c:1")])
            again = [upstream.pick(b"k%d" % n) for n in range(3)]
            for each in picked + again:
                assert isinstance(each, Endpoint)
                upstream.released(each, 0.1, False)
            self.assertEqual(["c:1"] * 3, [self.label(each) for each in again], balancer)
            self.assertEqual([0] * 9, [each.in_flight for each in picked + again], balancer)  # type: ignore[union-attr]

    def test_no_change(self) -> None:
        """The same members in another order: nothing is counted, nothing compiled."""
        upstream = self.make("a:1", "b:1")
        balancer = upstream.balancer
        self.world.advance(5)
        upstream.set_members(map(member, ["b:1", "a:1", "b:1"]))
        self.assertIs(balancer, upstream.balancer)
        self.assertEqual((1, 0.0), (upstream.counters.changes, upstream.changed_at))

    def test_idle_connections_of_who_left_close(self) -> None:
        """At once; the others' stay."""
        upstream = self.make("a:1", "b:1")
        for endpoint in upstream.endpoints:
            upstream.pool.acquire(endpoint)
        connections = [dial.succeed() for dial in self.world.dialer.dials]
        for connection in connections:
            upstream.pool.release(connection)
        upstream.set_members([member("b:1")])
        self.assertEqual(["close", ""], [each.transport.closing for each in connections])

    def test_who_left_is_remembered_for_ten_minutes(self) -> None:
        """So long his series are shown."""
        upstream = self.make("a:1", "b:1")
        upstream.set_members([member("b:1")])
        self.assertEqual(["a:1"], [each.label for each in upstream.departed(599.9)])
        self.assertEqual([], upstream.departed(600.0))

    def test_who_comes_back_is_no_longer_gone(self) -> None:
        """His series are shown once."""
        upstream = self.make("a:1", "b:1")
        upstream.set_members([member("b:1")])
        upstream.set_members(map(member, ["a:1", "b:1"]))
        self.assertEqual([], upstream.departed(1.0))


class Slices(UpstreamTestCase):
    """Ten thousand members hold nobody up."""

    def many(self, last: int) -> list[Any]:
        """Members of several weights."""
        return [member(f"10.0.{n >> 8}.{n & 255}:80", 1 + n % 3) for n in range(last)]

    def run_turns(self) -> None:
        """The reactor goes on."""
        while self.turns:
            self.turns.pop(0)()

    def test_the_old_balancer_serves_until_the_new_one_is_made(self) -> None:
        """Between slices, each in a turn of its own."""
        for balancer in ("weighted_round_robin", "random", "consistent_hash", "least_connections"):
            upstream = self.make("192.0.2.1:80", balancer=balancer)
            upstream.set_members(self.many(10_000))
            slices = 0
            while self.turns:
                self.assertEqual("192.0.2.1:80", self.label(upstream.pick(b"k")))
                self.turns.pop(0)()
                slices += 1
            self.assertGreater(slices, 10, balancer)
            self.assertEqual(10_000, len(upstream.balancer.endpoints), balancer)
            self.assertEqual("10.0", self.label(upstream.pick(b"k"))[:4], balancer)
        gc.collect()

    def test_another_state_of_one_of_many(self) -> None:
        """Compiled in slices too; the old balancer serves meanwhile."""
        upstream = self.make("192.0.2.1:80", balancer="consistent_hash")
        upstream.set_members(self.many(5_000))
        self.run_turns()
        before = upstream.balancer
        upstream.drain("10.0.0.1:80", True)
        self.assertIs(before, upstream.balancer)
        self.assertEqual(1, len(self.turns))
        self.run_turns()
        self.assertEqual(4_999, len(upstream.balancer.endpoints))

    def test_few_of_many(self) -> None:
        """What is made of a large one takes slices, however small it becomes."""
        upstream = self.make("192.0.2.1:80", balancer="consistent_hash")
        upstream.set_members(self.many(2_000))
        self.run_turns()
        changes = upstream.counters.changes
        upstream.set_members(self.many(3))
        while upstream.counters.changes == changes:
            self.turns.pop(0)()
        self.assertEqual(2_000, len(upstream.balancer.endpoints))
        self.run_turns()
        self.assertEqual(3, len(upstream.balancer.endpoints))

    def test_changes_while_it_is_made(self) -> None:
        """Large or small, of several the newest counts, and turns do not pile up."""
        for turns in range(12):
            upstream = self.make("192.0.2.1:80", balancer="weighted_round_robin")
            upstream.set_members(self.many(2_000))
            for _ in range(turns):
                self.turns.pop(0)()
            for count in (1_000, 3_000, 500):
                upstream.set_members(self.many(count))
            upstream.set_members([member("192.0.2.2:80")])
            self.assertLessEqual(len(self.turns), 2)
            self.run_turns()
            self.assertEqual(["192.0.2.2:80"] * 2, self.labels(upstream, 2))
            self.assertEqual(["192.0.2.2:80"], [each.label for each in upstream.endpoints])

    def test_a_first_membership_of_many(self) -> None:
        """Who waits is served when it is made."""
        upstream = self.make(balancer="weighted_round_robin")
        (waiting,) = self.waiting(upstream)
        upstream.set_members(self.many(1_000))
        self.assertNoResult(waiting)
        self.run_turns()
        self.successResultOf(waiting)

    def test_while_a_first_membership_of_many_is_made(self) -> None:
        """Whoever comes in any of the turns waits too: members are on their way."""
        for balancer in ("weighted_round_robin", "consistent_hash"):
            upstream = self.make(balancer=balancer)
            upstream.set_members(self.many(600))
            waiting = self.waiting(upstream)
            while self.turns:
                self.turns.pop(0)()
                if self.turns:
                    waiting += self.waiting(upstream)
                    self.assertTrue(upstream.is_usable)
            self.assertEqual(600, len(upstream.balancer.endpoints))
            for each in waiting:
                self.successResultOf(each)

    def test_nobody_is_without_while_many_change(self) -> None:
        """Whatever has the balancer made anew between the slices: those who were there, or who will be."""
        for before, after in ((512, 512), (256, 300), (1024, 2000)):
            for turns in range(16):
                upstream = self.make(balancer="round_robin")
                upstream.set_members([member(f"10.1.{n >> 8}.{n & 255}:80") for n in range(before)])
                self.run_turns()
                upstream.set_members(self.many(after))
                for _ in range(turns):
                    if self.turns:
                        self.turns.pop(0)()
                upstream.recompile()
                while self.turns:
                    self.assertGreaterEqual(len(upstream.balancer.endpoints), min(before, after))
                    self.turns.pop(0)()
                self.assertEqual(after, len(upstream.balancer.endpoints))

    def test_a_reload_while_many_join(self) -> None:
        """Other rules hold for those on their way too: without checks nobody waits for one."""
        for turns in range(12):
            planned = self.make("192.0.2.1:80")
            upstream = self.make("192.0.2.1:80", health=Health(passive=None, active=ActiveRules()))
            upstream.set_members(self.many(600))
            for _ in range(turns):
                if self.turns:
                    self.turns.pop(0)()
            upstream.become(planned)
            self.run_turns()
            self.assertEqual(600, len(upstream.balancer.endpoints))


class Splits(UpstreamTestCase):
    """Several upstreams that share a route."""

    def drawn(self, split: Split, count: int) -> dict[str, int]:
        """How often each was."""
        found: dict[str, int] = {}
        for _ in range(count):
            name = split.choose().name
            found[name] = found.get(name, 0) + 1
        return found

    def named(self, name: str, *members: str) -> Upstream:
        """An upstream of that name."""
        upstream = self.make(*members)
        upstream.name = name
        return upstream

    def test_by_weight(self) -> None:
        """About as often as the weights say; 0 is never."""
        split = Split(
            [
                (self.named("a", "h:1"), 95),
                (self.named("b", "h:2"), 5),
                (self.named("c", "h:3"), 0),
            ],
            Random(7),
        )
        found = self.drawn(split, 10_000)
        self.assertEqual({"a", "b"}, set(found))
        self.assertTrue(425 < found["b"] < 575, found)
        self.assertEqual("<Split a=95 b=5 c=0>", repr(split))

    def test_among_those_that_can_serve(self) -> None:
        """One that lost its members gets nothing while another has some; one that awaits them does."""
        lost = self.named("lost", "h:1")
        lost.set_members([])
        able, new = self.named("able", "h:2"), self.named("new")
        split = Split([(lost, 50), (able, 50), (new, 50)], Random(7))
        self.assertEqual({"able", "new"}, set(self.drawn(split, 200)))
        self.assertEqual({"lost": 9}, self.drawn(Split([(lost, 1)], Random(7)), 9))


class Standalone(SynchronousTestCase):
    """make_upstream: one for somebody else's program."""

    def make(self, endpoints: Any, **options: Any) -> Upstream:
        """One on a clock."""
        self.reactor: Any = MemoryReactorClock()
        return make_upstream(self.reactor, endpoints, random=Random(1), **options)

    def test_ready(self) -> None:
        """Members, weights and options are as they were given."""
        upstream = self.make({"10.0.0.1:80": 3, "[fd00::1]:80": 1}, name="mine", max_idle=7)
        self.assertEqual(
            [("10.0.0.1:80", 3), ("[fd00::1]:80", 1)],
            [(each.label, each.weight) for each in upstream.endpoints],
        )
        self.assertEqual(("mine", 7), (upstream.name, upstream.pool.ledger.max_idle))
        self.assertEqual("<Upstream mine endpoints=2 waiting=0>", repr(upstream))

    def test_deadlines_are_swept(self) -> None:
        """On the reactor's own time; one that fails leaves the others theirs."""
        upstream = self.make([], pending_timeout=1.0)
        first: Any = upstream.pick(None)
        first.addErrback(lambda failure: 1 // 0)
        second: Any = upstream.pick(None)
        for _ in range(13):
            self.reactor.advance(0.1)
        self.failureResultOf(first, ZeroDivisionError)
        self.failureResultOf(second, PendingTimeout)

    def test_closed(self) -> None:
        """Without connections at once; no timer is left."""
        upstream = self.make(["10.0.0.1:80"])
        self.assertEqual(1, len(self.reactor.getDelayedCalls()))
        self.successResultOf(upstream.close())
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.successResultOf(upstream.close())

    def test_closed_while_it_connects(self) -> None:
        """Swept on until that is over."""
        upstream = self.make(["10.0.0.1:80"])
        dialer = FakeDialer()
        self.patch(upstream.pool, "_dialer", dialer)
        connecting: Any = upstream.pool.acquire(upstream.endpoints[0])
        closed = upstream.close()
        self.assertNoResult(closed)
        dialer.dials[0].fail(ConnectionRefusedError())
        self.failureResultOf(connecting, ConnectFailed)
        self.reactor.advance(0.1)
        self.successResultOf(closed)
        self.assertEqual([], self.reactor.getDelayedCalls())
