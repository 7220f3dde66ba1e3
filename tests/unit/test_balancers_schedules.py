"""core.balancers: schedules that follow the weights, and the policies that only walk or draw from them."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import pairwise, repeat
from math import gcd
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.balancers import (
    MAX_SCHEDULE,
    RandomChoice,
    RoundRobin,
    quantised,
    spread,
)
from gatewayd.core.slices import finish
from tests.unit.balancing import counted, endpoints, within

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
