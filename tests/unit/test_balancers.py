"""core.balancers: policies that go by load, what all have in common, and their names."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product
from random import Random
from time import process_time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.balancers import (
    BALANCERS,
    Balancer,
    LeastConnections,
    PeakEwma,
    PowerOfTwo,
    RandomChoice,
    RoundRobin,
    balancer_named,
    compile_balancer,
    policy_name,
)
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.slices import finish
from tests.unit.balancing import counted, endpoints, release, use, within

quick = settings(deadline=None, database=None, max_examples=100)


class PowerOfTwoTests(SynchronousTestCase):
    """The less loaded of two."""

    def test_idle_shares(self) -> None:
        """Where nothing is in flight the weights decide."""
        members = endpoints([1, 2, 3, 10])
        found = counted(PowerOfTwo(members, random=Random(7)), 40_000)
        self.assertEqual(within(found, members), [], found)

    def test_loaded(self) -> None:
        """One with more in flight is taken only where both draws fall on it."""
        members = endpoints([1] * 4)
        members[0].in_flight = 1
        found = counted(PowerOfTwo(members, random=Random(5)), 16_000)
        self.assertTrue(850 < found[members[0].label] < 1150, found)

    def test_per_weight(self) -> None:
        """Load is per weight: 3 on a weight of 4 are fewer than 1 on a weight of 1."""
        members = endpoints([4, 1])
        members[0].in_flight, members[1].in_flight = 3, 1
        found = counted(PowerOfTwo(members, random=Random(5)), 25_000)
        self.assertTrue(850 < found[members[1].label] < 1150, found)

    def test_every_pair(self) -> None:
        """Whichever of the two has fewer requests per weight is taken."""
        for weight, other_weight, load, other_load in product(
            (1, 2, 3), (1, 2, 3), range(4), range(4)
        ):
            one, other = members = endpoints([weight, other_weight])
            one.in_flight, other.in_flight = load, other_load
            balancer = PowerOfTwo(members, random=Random(1))
            less = min(Fraction(load, weight), Fraction(other_load, other_weight))
            for drawn in (members, members[::-1]):
                balancer._chance = iter(drawn).__next__
                taken = balancer.pick(None)
                self.assertEqual(Fraction(taken.in_flight, taken.weight), less, (members, drawn))

    def test_evens_out(self) -> None:
        """Two choices even out what one leaves uneven (Mitzenmacher)."""

        def unevenness(kind: type[Balancer]) -> int:
            members = endpoints([1] * 100)
            balancer = kind(members, random=Random(11))
            for _ in range(2_000):
                use(balancer)
            loads = [member.in_flight for member in members]
            return max(loads) - min(loads)

        self.assertLess(unevenness(PowerOfTwo), 8)
        self.assertGreater(unevenness(RandomChoice), 15)


class PeakEwmaTests(SynchronousTestCase):
    """The sooner answer of two."""

    def setUp(self) -> None:
        """Two endpoints and a clock."""
        self.now = 1000.0
        self.members = endpoints([1, 1])
        self.balancer = PeakEwma(self.members, random=Random(1), clock=lambda: self.now)

    def shares(self) -> list[float]:
        """Of 4,000 picks, to the nearest quarter."""
        found = counted(self.balancer, 4_000)
        return [round(found[member.label] / 1_000) / 4 for member in self.members]

    def test_unknown(self) -> None:
        """Where nothing is known both have the same chance."""
        found = counted(self.balancer, 10_000)
        self.assertEqual(within(found, self.members), [], found)

    def test_slower(self) -> None:
        """The slower one is taken only where both draws fall on it, or the other is busy enough."""
        first, second = self.members
        self.balancer.released(first, 0.010, False)
        self.balancer.released(second, 0.050, False)
        found = [self.shares()]
        first.in_flight = 3
        found.append(self.shares())
        first.in_flight = 9
        found.append(self.shares())
        self.assertEqual(found, [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75]])

    def test_peak_and_decay(self) -> None:
        """A slower answer counts at once, a faster one by and by."""
        (first, _) = self.members
        self.balancer.released(first, 0.1, False)
        self.balancer.released(first, 0.9, False)
        seen = [first.latency]
        self.balancer.released(first, 0.1, False)
        seen.append(first.latency)
        self.now += 10.0
        self.balancer.released(first, 0.1, False)
        seen.append(round(first.latency, 3))
        self.assertEqual(seen, [0.9, 0.9, 0.394])

    def test_failure(self) -> None:
        """A fast failure counts as a second; a pick without an answer teaches nothing."""
        first, second = self.members
        self.balancer.released(first, 0.001, True)
        self.balancer.released(second, 0.0, False)
        self.assertEqual((first.latency, second.latency, second.latency_at), (1.0, 0.0, 0.0))

    def test_tried_again(self) -> None:
        """An endpoint that was slow once has its chance again after a while."""
        first, second = self.members
        self.balancer.released(first, 5.0, False)
        self.balancer.released(second, 0.010, False)
        found = [self.shares()]
        self.now += 60.0
        self.balancer.released(second, 0.020, False)
        found.append(self.shares())
        self.assertEqual(found, [[0.25, 0.75], [0.75, 0.25]])


class LeastConnectionsTests(SynchronousTestCase):
    """The fewest requests in flight per weight."""

    @quick
    @given(
        st.lists(st.sampled_from([1, 2, 3, 7, 100, 256]), min_size=1, max_size=8),
        st.lists(st.integers(0, 8), min_size=8, max_size=8),
        st.lists(st.integers(0, 9), max_size=200),
        st.integers(),
    )
    def test_naive(self, weights: list[int], begun: list[int], steps: list[int], seed: int) -> None:
        """It picks what a scan of all would: nobody has fewer per weight than who is picked."""
        members = endpoints(weights)
        for member, in_flight in zip(members, begun, strict=False):
            member.in_flight = in_flight
        balancer = LeastConnections(members, random=Random(seed))
        busy = [member for member in members for _ in range(member.in_flight)]
        for step in steps:
            if step < 6 or not busy:
                least = min(Fraction(each.in_flight, each.weight) for each in members)
                chosen = balancer.pick(None)
                self.assertEqual(Fraction(chosen.in_flight, chosen.weight), least)
                chosen.in_flight += 1
                busy.append(chosen)
            else:
                release(balancer, busy.pop(step * 7919 % len(busy)))

    def test_idle_shares(self) -> None:
        """One request at a time: among equals the turn goes by weight."""
        for weights in ([1, 1, 1], [3, 1], [100, 50, 50], [256, 1]):
            members = endpoints(weights)
            balancer = LeastConnections(members, random=Random(1))
            found: Counter[str] = Counter()
            for _ in range(sum(weights) * 4):
                endpoint = use(balancer)
                found[endpoint.label] += 1
                release(balancer, endpoint)
            self.assertEqual(found, Counter({each.label: each.weight * 4 for each in members}))

    def test_equal_weights(self) -> None:
        """Weights that are all 100 are as good as 1: the idle one is picked."""
        members = endpoints([100] * 3)
        balancer = LeastConnections(members, random=Random(1))
        picked = [use(balancer) for _ in range(3)]
        self.assertEqual(set(picked), set(members))
        release(balancer, picked[1])
        self.assertIs(use(balancer), picked[1])

    def test_others_take(self) -> None:
        """A pick that an upstream gave to somebody else, and one of a former member, do no harm."""
        members = endpoints([1, 1])
        balancer = LeastConnections(members, random=Random(1))
        refused = balancer.pick(None)
        balancer.released(refused, 0.0, False)
        stranger = endpoints([1], first=9)[0]
        balancer.released(stranger, 0.1, False)
        self.assertEqual({use(balancer), use(balancer)}, set(members))

    def test_weight_to_zero(self) -> None:
        """A weight set to 0 while requests are in flight breaks neither pick nor release."""
        members = endpoints([2, 2])
        balancer = LeastConnections(members, random=Random(1))
        picked = [use(balancer) for _ in range(3)]
        members[0].weight = 0
        other = LeastConnections(members[1:], random=Random(1))
        for endpoint in picked:
            endpoint.in_flight -= 1
            balancer.released(endpoint, 0.1, False)
            other.released(endpoint, 0.1, False)
        self.assertEqual({use(balancer) for _ in range(3)}, set(members))
        self.assertIs(use(other), members[1])

    def test_bounded(self) -> None:
        """What it keeps does not grow with its history."""
        random = Random(2)
        members = endpoints([random.randint(1, 8) for _ in range(20)])
        balancer = LeastConnections(members, random=random)
        busy: list[Endpoint] = []
        for _ in range(20_000):
            if random.random() < 0.5 and busy:
                release(balancer, busy.pop(random.randrange(len(busy))))
            elif len(busy) < 200:
                busy.append(use(balancer))
        self.assertEqual(len(balancer._loads), len(set(balancer._loads)))
        self.assertLess(len(balancer._loads), 400)
        self.assertEqual(sum(map(len, balancer._buckets.values())), 20)

    def test_no_scan(self) -> None:
        """A pick among 10,000 costs no more than one among 100, within the noise of a clock."""

        def best(size: int) -> float:
            balancer = LeastConnections(endpoints([1] * size), random=Random(1))
            times = []
            for _ in range(5):
                began = process_time()
                busy = [use(balancer) for _ in range(2_000)]
                for endpoint in busy:
                    release(balancer, endpoint)
                times.append(process_time() - began)
            return min(times)

        self.assertLess(best(10_000), 20 * best(100), "a scan would cost a hundred times as much")


class Own(Balancer):
    """A balancer of one's own: always the last."""

    def pick(self, key: bytes | None) -> Endpoint | None:
        """The last."""
        return self.endpoints[-1] if self.endpoints else None


class InterfaceTests(SynchronousTestCase):
    """What is common to all."""

    def test_nobody(self) -> None:
        """Without endpoints every policy picks and promises nobody."""
        for name, kind in BALANCERS.items():
            balancer = finish(compile_balancer(kind, [], Random(1)))
            self.assertEqual(
                (
                    balancer.pick(None),
                    balancer.pick(b"key"),
                    balancer.peek(None),
                    balancer.peek(b"key"),
                ),
                (None, None, [], []),
                name,
            )
            self.assertIsNone(balancer.next, name)

    def test_peek(self) -> None:
        """explain names the candidates with their shares and picks nothing."""
        members = endpoints([1, 3])
        for name, kind in BALANCERS.items():
            balancer = kind(members, random=Random(1))
            self.assertEqual(balancer.peek(None), [(members[0], 0.25), (members[1], 0.75)], name)
        members[0].weight = members[1].weight = 0
        self.assertEqual([share for _, share in balancer.peek(None)], [0.0, 0.0])

    def test_next_is_pick(self) -> None:
        """Where a pick needs no key, `next` is the pick."""
        members = endpoints([1, 2])
        with_next = {
            name
            for name, kind in BALANCERS.items()
            if kind(members, random=Random(1)).next is not None
        }
        self.assertEqual(with_next, set(BALANCERS) - {"consistent_hash"})

    def test_sliced(self) -> None:
        """Compiled in slices it picks as if made at once, and who serves meanwhile is not touched."""
        members = endpoints([(at * 37) % 256 + 1 for at in range(300)])
        keys = [b"%d" % at for at in range(50)]
        for name, kind in BALANCERS.items():
            at_once = kind(members, random=Random(4))
            sliced = finish(compile_balancer(kind, members, Random(4)))
            self.assertIs(type(sliced), kind)
            found = [[each.pick(key) for key in keys * 4] for each in (at_once, sliced)]
            self.assertEqual(found[0], found[1], name)

    def test_own(self) -> None:
        """A balancer of one's own is made by its interface alone."""
        members = endpoints([1, 1])
        balancer = finish(compile_balancer(Own, iter(members), Random(1)))
        balancer.released(members[0], 0.1, False)
        self.assertEqual(
            (balancer.pick(None), balancer.peek(None)),
            (members[1], [(each, 0.5) for each in members]),
        )

    def test_clock(self) -> None:
        """Those that learn over time are given the clock."""
        members = endpoints([1, 1])
        balancer = finish(compile_balancer(PeakEwma, members, Random(1), None, lambda: 5.0))
        balancer.released(members[0], 0.1, False)
        self.assertEqual(members[0].latency_at, 5.0)


class NameTests(SynchronousTestCase):
    """What a balancer is called in the configuration."""

    def test_names(self) -> None:
        """Those of the contract, and package.module:Class."""
        contract = (
            "round_robin weighted_round_robin random consistent_hash least_connections power_of_two "
            "peak_ewma"
        )
        self.assertEqual(sorted(BALANCERS), sorted(contract.split()))
        self.assertIs(balancer_named("weighted_round_robin"), RoundRobin)
        own = f"{Own.__module__}:Own"
        self.assertIs(balancer_named(own), Own)
        self.assertEqual([policy_name(kind) for kind in (RoundRobin, Own)], ["round_robin", own])

    def test_wrong_names(self) -> None:
        """Each is told what is wrong with it."""
        expected = {
            "round-robin": "did you mean round_robin?",
            "zzz": "no balancer is called 'zzz' (there are round_robin, ",
            "no.such.module:Class": "no.such.module:Class cannot be imported: No module named",
            "gatewayd.core.balancers:Nobody": "cannot be imported: module",
            "gatewayd.core.balancers:finish": "is no subclass of",
            "gatewayd.core.endpoints:Endpoint": "is no subclass of",
        }
        told = {name: str(self.assertRaises(ValueError, balancer_named, name)) for name in expected}
        self.assertEqual([name for name in expected if expected[name] not in told[name]], [])
