"""peak_ewma over time: who is slow gets little, is not forgotten, and is found again when well.

Single picks and what one response teaches are in test_balancers.
"""

from __future__ import annotations

import heapq
from collections import Counter
from random import Random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.balancers import PeakEwma
from gatewayd.core.endpoints import Endpoint
from tests.unit.balancing import endpoints, release, use


class Farm:
    """Endpoints that answer after a time of their own, asked at random times."""

    def __init__(
        self, seconds: list[float], *, rate: float, weights: list[int] | None = None
    ) -> None:
        self.clock = Clock()
        self.random = Random(1)
        self.members = endpoints(weights or [1] * len(seconds))
        self.seconds = dict(zip(self.members, seconds, strict=True))
        self.failing: set[Endpoint] = set()
        self.balancer = PeakEwma(self.members, random=self.random, clock=self.clock.seconds)
        self.rate = rate
        self._ends: list[tuple[float, int, Endpoint, float]] = []
        self._number = 0

    def run(self, seconds: float) -> list[float]:
        """Time passes; each one's share of the picks."""
        until = self.clock.seconds() + seconds
        picks: Counter[Endpoint] = Counter()
        while self.clock.seconds() < until:
            self.clock.advance(self.random.expovariate(self.rate))
            now = self.clock.seconds()
            while self._ends and self._ends[0][0] <= now:
                _, _, endpoint, _began = heapq.heappop(self._ends)
                failed = endpoint in self.failing
                release(self.balancer, endpoint, self.seconds[endpoint], failed)
            endpoint = use(self.balancer)
            picks[endpoint] += 1
            self._number += 1
            heapq.heappush(self._ends, (now + self.seconds[endpoint], self._number, endpoint, now))
        return [picks[each] / picks.total() for each in self.members]


class OverTime(SynchronousTestCase):
    """Shares of a farm of four; both draws fall on the same one in a sixteenth of the picks."""

    def about(self, expected: float, share: float, delta: float) -> None:
        """It is, within chance."""
        self.assertLess(abs(expected - share), delta, share)

    def test_equals(self) -> None:
        """Share alike."""
        for share in Farm([0.05] * 4, rate=200.0).run(30.0):
            self.about(0.25, share, 0.02)

    def test_a_slow_one(self) -> None:
        """Gets little, the others the same."""
        slow, *others = Farm([0.5, 0.02, 0.02, 0.02], rate=300.0).run(30.0)
        self.assertTrue(0 < slow < 0.07, slow)
        for share in others:
            self.about((1 - slow) / 3, share, 0.03)

    def test_a_slow_one_is_found_again(self) -> None:
        """Its past fades though nobody asks it; half a minute later it has its share."""
        farm = Farm([2.0, 0.02, 0.02, 0.02], rate=300.0)
        self.assertLess(farm.run(30.0)[0], 0.1)
        farm.seconds[farm.members[0]] = 0.02
        farm.run(45.0)
        self.about(0.25, farm.run(10.0)[0], 0.08)

    def test_one_that_becomes_slow(self) -> None:
        """Is left within a second."""
        farm = Farm([0.02] * 4, rate=300.0)
        farm.run(10.0)
        farm.seconds[farm.members[0]] = 1.0
        farm.run(1.0)
        self.assertLess(farm.run(5.0)[0], 0.07)

    def test_fast_failures_attract_nobody(self) -> None:
        """An endpoint that refuses at once is the fastest of all, and gets the least."""
        farm = Farm([0.001, 0.05, 0.05, 0.05], rate=200.0)
        farm.failing.add(farm.members[0])
        farm.run(5.0)
        self.assertLess(farm.run(20.0)[0], 0.1)

    def test_weights(self) -> None:
        """Count where times are equal."""
        shares = Farm([0.05] * 3, rate=200.0, weights=[3, 1, 1]).run(30.0)
        self.about(0.6, shares[0], 0.06)

    def test_hanging(self) -> None:
        """What is out and does not come back counts, though no response has told of it."""
        members = endpoints([1, 1])
        clock = Clock()
        clock.advance(100.0)
        balancer = PeakEwma(members, random=Random(1), clock=clock.seconds)
        for each in members:
            each.in_flight += 1
            release(balancer, each, 0.05)
        members[0].in_flight = 20
        self.assertLess(sum(balancer.pick(None) is members[0] for _ in range(1000)), 350)
