"""core.balancers: schedules, and the policies that walk or draw from them."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import pairwise, repeat
from math import gcd
from random import Random
from time import process_time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.balancers import (
    BALANCERS,
    MAX_SCHEDULE,
    Balancer,
    LeastConnections,
    PeakEwma,
    PowerOfTwo,
    RandomChoice,
    RoundRobin,
    balancer_named,
    compile_balancer,
    policy_name,
    quantised,
    spread,
)
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.slices import finish
from tests.unit.balancing import counted, endpoints, release, use, within

quick = settings(deadline=None, database=None, max_examples=100)
some_weights = st.lists(st.integers(1, 256), min_size=1, max_size=12)


class QuantisedTests(SynchronousTestCase):
    """Weights that fit a schedule."""

    def test_reduced(self) -> None:
        """The smallest whole weights in the same proportions."""
        expected = {
            (): [],
            (100,): [1],
            (100, 50): [2, 1],
            (3, 5): [3, 5],
            (256, 256, 128): [2, 2, 1],
        }
        self.assertEqual({weights: quantised(weights) for weights in expected}, expected)

    def test_bound(self) -> None:
        """Ten thousand members of any weights fit 65,536 places, and everybody has one."""
        random = Random(1)
        self.assertEqual(MAX_SCHEDULE, 65536)
        for weights in (
            [random.randint(1, 256) for _ in range(10_000)],
            [256] * 9_999 + [1],
            [1] * 9_999 + [256],
            [1, 256] * 5_000,
            [257] * 300,
        ):
            found = quantised(weights)
            self.assertLessEqual(sum(found), MAX_SCHEDULE)
            self.assertGreaterEqual(min(found), 1)

    def test_more_members_than_places(self) -> None:
        """Then each has one place, and no more."""
        self.assertEqual(quantised([1, 2, 3, 4], most=3), [1, 1, 1, 1])

    @quick
    @given(st.lists(st.integers(1, 256), min_size=1, max_size=60), st.integers(60, 600))
    def test_proportions(self, weights: list[int], most: int) -> None:
        """As near to the proportions as whole places allow, in the same order."""
        found = quantised(weights, most)
        total = sum(weights)
        self.assertLessEqual(sum(found), most)
        if total // gcd(*weights) <= most:
            self.assertEqual([w * sum(found) for w in weights], [f * total for f in found])
            return
        for weight, places in zip(weights, found, strict=True):
            exact = Fraction(weight * (most - len(weights)), total)
            self.assertTrue(exact <= places <= exact + 1, (weight, places))


class SpreadTests(SynchronousTestCase):
    """An evenly spread cycle."""

    def walks(self, weights: list[int]) -> list[tuple[float, float]]:
        """For each index how far its count falls behind and runs ahead of its share, in places."""
        order = finish(spread(weights))
        self.assertEqual(Counter(order), Counter({i: w for i, w in enumerate(weights) if w}))
        found = []
        for index, weight in enumerate(weights):
            ahead = behind = at = 0  # in whole numbers, a place being as many as there are places
            for each in order:
                at += (len(order) if each == index else 0) - weight
                ahead, behind = max(ahead, at), min(behind, at)
            found.append((behind / len(order), ahead / len(order)))
        return found

    def test_examples(self) -> None:
        """What can be told by eye."""
        expected = {
            (1, 1, 1): [0, 1, 2],
            (2, 1): [0, 0, 1],
            (5, 1, 1): [0, 0, 0, 1, 0, 0, 2],
            (1, 0, 1): [0, 2],
            (): [],
        }
        self.assertEqual({weights: finish(spread(weights)) for weights in expected}, expected)

    def test_crowd(self) -> None:
        """One who has half of all waits for nobody, however the others' weights fall together."""
        order = finish(spread([*range(1, 31), 465]))
        longest = max(map(len, "".join("x" if i == 30 else "." for i in order).split("x")))
        self.assertLessEqual(longest, 2)

    @quick
    @given(some_weights)
    def test_fair(self, weights: list[int]) -> None:
        """Counted from the beginning nobody is a whole place off his share.

        Over any stretch, the difference of two such counts, it is less than two: no cycle can
        promise one for all weights.
        """
        for behind, ahead in self.walks(weights):
            self.assertTrue(-1 < behind <= 0 <= ahead < 1)
            self.assertLess(ahead - behind, 2)

    def test_slices(self) -> None:
        """It yields every thousand places, however few members have so many."""
        for weights in ([256] * 255 + [255], [1, 2] * 5000):
            places = sum(weights)
            yields = sum(1 for _ in spread(weights))
            self.assertEqual(yields, -(-places // 1000))


class RoundRobinTests(SynchronousTestCase):
    """A plain cycle, or an evenly spread one."""

    def test_plain(self) -> None:
        """With equal weights, whatever they are, everybody in turn."""
        for weight in (1, 7, 256):
            members = endpoints([weight] * 5)
            balancer = RoundRobin(members, random=Random(3))
            labels = [balancer.pick(None).label for _ in range(15)]
            start = [member.label for member in members].index(labels[0])
            turned = members[start:] + members[:start]
            self.assertEqual(labels, [member.label for member in turned] * 3)

    def test_begins_anywhere(self) -> None:
        """A fleet of gateways does not march in step."""
        members = endpoints([1] * 5)
        firsts = {RoundRobin(members, random=Random(seed)).pick(None) for seed in range(50)}
        self.assertEqual(firsts, set(members))

    @quick
    @given(some_weights, st.integers())
    def test_weights(self, weights: list[int], seed: int) -> None:
        """Each cycle serves everybody by his weight."""
        members = endpoints(weights)
        balancer = RoundRobin(members, random=Random(seed))
        found = counted(balancer, sum(weights))
        self.assertEqual(found, Counter({member.label: member.weight for member in members}))

    def test_no_allocation(self) -> None:
        """A pick is one call that allocates nothing."""
        for weights in ([1] * 10, [1, 2, 3, 250]):
            pick = RoundRobin(endpoints(weights), random=Random(1)).next
            assert pick is not None
            tracemalloc.start()
            try:
                for _ in repeat(None, sum(weights)):
                    pick()  # itertools.cycle copies what it is given as it goes round for the first time
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                for _ in repeat(None, 10_000):
                    pick()
                after, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            self.assertLess(max(after, peak) - before, 1024, weights)


class RandomTests(SynchronousTestCase):
    """Chance, by weight."""

    def test_shares(self) -> None:
        """Within what chance explains."""
        for weights in ([1] * 4, [1, 2, 3, 10], [256, 1]):
            members = endpoints(weights)
            found = counted(RandomChoice(members, random=Random(7)), 40_000)
            self.assertEqual(within(found, members), [], found)

    def test_many(self) -> None:
        """Nobody of ten thousand is favoured for his place in the list."""
        members = endpoints([1] * 10_000)
        pick = RandomChoice(members, random=Random(5)).next
        assert pick is not None
        places = {member: at // 1_000 for at, member in enumerate(members)}
        found = Counter(places[pick()] for _ in range(100_000))
        self.assertEqual([at for at in range(10) if not 9_500 < found[at] < 10_500], [], found)

    def test_few(self) -> None:
        """Whatever the size of the schedule, shares are within 3% of the weights', chance aside."""
        for size in (1, 2, 3, 7, 8, 9, 15, 16, 17):
            members = endpoints([1] * size)
            found = counted(RandomChoice(members, random=Random(6)), 20_000)
            shares = [found[member.label] * size / 20_000 for member in members]
            self.assertTrue(min(shares) > 0.8 and max(shares) < 1.2, (size, shares))

    def test_independent(self) -> None:
        """It is no cycle: the same one comes twice in a row as often as chance says."""
        balancer = RandomChoice(endpoints([1] * 4), random=Random(9))
        picks = [balancer.pick(None) for _ in range(20_000)]
        pairs = sum(one is other for one, other in pairwise(picks))
        self.assertTrue(4_600 < pairs < 5_400, pairs)


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
