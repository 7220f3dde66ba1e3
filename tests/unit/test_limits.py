"""core.limits: token buckets that forget only what is no loss, and a limit that finds itself."""

from __future__ import annotations

import tracemalloc
from math import ceil
from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core import limits
from gatewayd.core.limits import AdaptiveLimit, RateLimit, Verdict, client_key
from tests.unit.serving import Service, exponential, serve, steady, varied


class NaiveBucket:
    """Tokens that come at a rate, up to a burst."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = float(burst)
        self.filled = now

    def take(self, now: float) -> tuple[bool, int]:
        """Whether there was a token, and how many whole ones are left."""
        self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if self.tokens < 1 - 1e-6:
            return False, 0
        self.tokens -= 1
        return True, int(self.tokens + 1e-6)


class Buckets(SynchronousTestCase):
    """RateLimit."""

    @given(
        st.sampled_from((0.5, 1.0, 4.0, 100.0)),
        st.integers(1, 8),
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(0, 24).map(lambda n: n / 8)), max_size=60
        ),
    )
    def test_naive(self, rate: float, burst: int, steps: list[tuple[str, float]]) -> None:
        """Says what a bucket of tokens says, and waits are exact."""
        limit = RateLimit(rate=rate, burst=burst, max_keys=10)
        now = 1000.0
        models = {key: NaiveBucket(rate, burst, now) for key in "abc"}
        for key, passed in steps:
            now += passed
            verdict = limit.take(key, now)
            allowed, left = models[key].take(now)
            self.assertEqual((allowed, left), verdict[:2])
            self.assertEqual(allowed, verdict.wait == 0.0)
            if not allowed:
                missing = 1 - models[key].tokens
                self.assertAlmostEqual(missing / rate, verdict.wait, places=6)

    def test_a_burst(self) -> None:
        """All at once, then one by one at the rate."""
        limit = RateLimit(rate=2.0, burst=3, max_keys=10)
        found = [limit.take("k", 10.0) for _ in range(4)]
        expected = [
            Verdict(True, 2, 0.0),
            Verdict(True, 1, 0.0),
            Verdict(True, 0, 0.0),
            Verdict(False, 0, 0.5),
        ]
        self.assertEqual(expected, found)
        self.assertEqual(
            [False, True, False], [limit.take("k", now).allowed for now in (10.4, 10.5, 10.6)]
        )
        self.assertEqual(Verdict(True, 2, 0.0), limit.take("other", 10.6))

    def test_shown(self) -> None:
        """How many it keeps."""
        limit = RateLimit(rate=2.0, burst=3, max_keys=10)
        limit.take("k", 10.0)
        self.assertEqual(1, len(limit))

    def test_refusals_cost_nothing(self) -> None:
        """Who hammers gets as much as who waits."""
        limit = RateLimit(rate=1.0, burst=1, max_keys=10)
        served = sum(limit.take("k", 100 + n / 100).allowed for n in range(1000))
        self.assertEqual(10, served)

    def test_the_idlest_goes_first(self) -> None:
        """A refused request is use as well."""
        limit = RateLimit(rate=0.001, burst=1, max_keys=3)
        for key in "abc":
            limit.take(key, 1.0)
        self.assertFalse(limit.take("a", 2.0).allowed)
        limit.take("d", 3.0)  # b was idle for longest
        self.assertEqual(3, len(limit))
        self.assertEqual([False] * 3, [limit.take(key, 4.0).allowed for key in "acd"])
        self.assertTrue(limit.take("b", 4.0).allowed)

    def test_a_million_clients(self) -> None:
        """Cost memory for max_keys, and a look-up costs the last what it cost the first."""
        limit = RateLimit(rate=10.0, burst=20, max_keys=50_000)
        spent: list[float] = []
        for part in range(20):
            numbers = range(part * 50_000, (part + 1) * 50_000)
            keys = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in numbers]
            began = perf_counter()
            for key in keys:
                limit.take(key, 1000.0 + part)
            spent.append(perf_counter() - began)
            self.assertEqual(50_000, len(limit))
        self.assertLess(min(spent[12:]), 2 * min(spent[2:10]))

    def test_memory(self) -> None:
        """Ten times as many clients as max_keys cost what twice as many do."""
        limit = RateLimit(rate=10.0, burst=20, max_keys=5_000)
        held: list[int] = []
        tracemalloc.start()
        try:
            for number in range(50_000):
                limit.take(f"10.0.{number >> 8}.{number & 255}", 1000.0 + number / 1000)
                if number in (10_000, 49_999):
                    held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        self.assertLess(held[1], held[0] * 1.25)  # its table may have grown once more
        self.assertLess(held[1] / 5_000, 400)


class Adopting(SynchronousTestCase):
    """A reload forgives nobody, and punishes nobody."""

    def emptied(self, **options: float) -> RateLimit:
        """A limit whose key `k` has spent 8 of 10 tokens at 100."""
        limit = RateLimit(rate=1.0, burst=10, max_keys=10)
        for _ in range(8):
            limit.take("k", 100.0)
        return limit

    def taken(self, limit: RateLimit, key: str = "k", now: float = 100.0) -> int:
        """Tokens to be had at once."""
        return sum(limit.take(key, now).allowed for _ in range(100))

    def test_the_same_limit(self) -> None:
        """Goes on where the former was."""
        limit = RateLimit(rate=1.0, burst=10, max_keys=10)
        limit.adopt(self.emptied(), 100.0)
        self.assertEqual((2, 10), (self.taken(limit), self.taken(limit, "new")))

    def test_another_rate(self) -> None:
        """What is missing stays missing, and comes back at the new rate."""
        for rate in (0.5, 4.0):
            limit = RateLimit(rate=rate, burst=10, max_keys=10)
            limit.adopt(self.emptied(), 100.0)
            self.assertEqual(2, self.taken(limit))
            self.assertEqual(1, self.taken(limit, now=100.0 + 1 / rate))

    def test_another_burst(self) -> None:
        """A smaller bucket is at most empty; of a larger one as many are missing."""
        for burst, expected in ((4, 0), (9, 1), (20, 12)):
            limit = RateLimit(rate=1.0, burst=burst, max_keys=10)
            limit.adopt(self.emptied(), 100.0)
            self.assertEqual(expected, self.taken(limit))
            self.assertEqual(1, self.taken(limit, now=101.0))

    def test_fewer_keys(self) -> None:
        """The idlest go."""
        former = RateLimit(rate=1.0, burst=1, max_keys=10)
        for key in "abcde":
            former.take(key, 100.0)
        for rate in (1.0, 2.0):
            limit = RateLimit(rate=rate, burst=1, max_keys=2)
            limit.adopt(former, 100.0)
            self.assertEqual(2, len(limit))
            self.assertEqual([False, False], [limit.take(key, 100.0).allowed for key in "de"])

    def test_full_buckets(self) -> None:
        """Are no loss."""
        limit = RateLimit(rate=2.0, burst=10, max_keys=10)
        limit.adopt(self.emptied(), 109.0)
        self.assertEqual(0, len(limit))


class Clients(SynchronousTestCase):
    """Who shares a bucket."""

    def test_keys(self) -> None:
        """IPv4 addresses, IPv6 networks of /64, and whatever else there is as it is."""
        table = {
            "192.0.2.7": "192.0.2.7",
            "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
            "2001:db8:1:2::": "2001:db8:1:2::/64",
            "2001:db8:1:2:8000::1": "2001:db8:1:2::/64",
            "2001:db8:1:3::1": "2001:db8:1:3::/64",
            "::1": "::/64",
            "fe80::1%eth0": "fe80::/64",
            "::ffff:192.0.2.7": "192.0.2.7",
            "::ffff:c000:207": "192.0.2.7",
            "unix": "unix",
            "not:an:address": "not:an:address",
            "": "",
        }
        for _ in range(2):  # computed, then remembered
            self.assertEqual(table, {address: client_key(address) for address in table})

    def test_the_memo_is_bounded(self) -> None:
        """Whoever has a /64 has more addresses than we memory."""
        self.patch(limits, "_MEMO", 100)
        for number in range(1000):
            self.assertEqual("2001:db8::/64", client_key(f"2001:db8::{number:x}"))
            self.assertLessEqual(len(limits._networks), 100)


class Adaptive(SynchronousTestCase):
    """AdaptiveLimit."""

    def limit(self, least: int = 4, most: int = 1000) -> AdaptiveLimit:
        """As configured by default."""
        return AdaptiveLimit(least=least, most=most)

    def test_begins(self) -> None:
        """At 20, within its bounds."""
        begun = [self.limit(*bounds).limit for bounds in ((4, 1000), (50, 100), (1, 8), (20, 20))]
        self.assertEqual([20.0, 50.0, 8.0, 20.0], begun)
        self.assertEqual("<AdaptiveLimit 20.0 floor=0.0000>", repr(self.limit()))
        self.assertEqual((True, False), (self.limit().has_room(19), self.limit().has_room(20)))

    def test_overload(self) -> None:
        """At three times what the server can do nearly all is done, and in little more time.

        Goals: goodput above 90% of capacity, p99 of those admitted below twice its unloaded value.
        """
        services: dict[str, Service] = {"steady": steady, "varied": varied, "M/M/c": exponential}
        for name, service in services.items():
            for places in (4, 20, 100):
                alone = serve(
                    AdaptiveLimit(least=1, most=1), places=places, load=0.5, service=service
                )
                found = serve(self.limit(), places=places, load=3.0, service=service)
                what = (name, places, found.goodput, ceil(max(found.limits)))
                self.assertGreater(found.goodput, 0.9, what)
                self.assertLess(found.quantile(0.99), 2 * alone.quantile(0.99), what)
                mean = sum(found.limits) / len(found.limits)
                self.assertTrue(0.9 * places < mean < 1.9 * places + 1, (what, mean))

    def test_no_drift(self) -> None:
        """An hour of overload ends as its first minute did."""
        limit = self.limit()
        early = serve(limit, places=4, load=3.0, service=varied, seconds=60.0)
        serve(limit, places=4, load=3.0, service=varied, seconds=600.0)
        late = serve(limit, places=4, load=3.0, service=varied, seconds=60.0)
        self.assertLess(late.quantile(0.5), 1.2 * early.quantile(0.5))

    def test_room_to_grow(self) -> None:
        """A server that is never busy refuses nobody for long."""
        limit = self.limit()
        found = serve(limit, places=500, load=0.4, service=varied, counted=10.0)
        self.assertGreater(found.goodput, 0.39)
        self.assertGreater(limit.limit, 200)

    def test_idle(self) -> None:
        """An upstream that is hardly asked teaches nothing of its limit."""
        limit = self.limit()
        for _ in range(5000):
            limit.released(0.01, False, 1)
        self.assertEqual(20.0, limit.limit)

    def test_shrinks_as_responses_take_longer(self) -> None:
        """In proportion, at once."""
        limit = self.limit()
        for _ in range(2000):
            limit.released(0.01, False, int(limit.limit) - 1)
        before = limit.limit
        for _ in range(3 * int(before)):
            limit.released(0.05, False, int(limit.limit) - 1)
        self.assertLess(limit.limit, 0.6 * before)

    def test_a_server_that_becomes_slower(self) -> None:
        """Is believed: its capacity is used again, though each answer takes three times as long."""
        for service in (steady, varied, exponential):
            found = serve(
                self.limit(),
                places=20,
                load=3.0,
                service=service,
                seconds=60.0,
                counted=30.0,
                slower=(20.0, 3.0),
            )
            self.assertGreater(found.goodput, 0.8)

    def test_failures(self) -> None:
        """More than a tenth: it halves and halves, whatever the times; fewer are no matter."""
        many, few = self.limit(), self.limit()
        serve(many, places=20, load=3.0, service=steady, failing=0.5, seconds=30.0)
        serve(few, places=20, load=3.0, service=steady, failing=0.03, seconds=30.0)
        self.assertEqual(4.0, many.limit)
        self.assertGreater(few.limit, 15)

    def test_failures_end_a_probe(self) -> None:
        """What a failing server takes is no floor."""
        limit = self.limit()
        for _ in range(20 + 21):
            limit.released(0.01, False, 20)
        probed = limit.limit
        self.assertLess(probed, 15)
        for _ in range(20 + 50):
            limit.released(0.001, True, 0)
        self.assertGreater(limit.limit, probed)  # back, and a little less
        self.assertLess(limit.limit, 22)

    @given(
        st.integers(1, 30),
        st.integers(0, 100),
        st.lists(
            st.tuples(st.floats(0, 30), st.booleans(), st.integers(0, 200), st.integers(1, 80)),
            max_size=30,
        ),
    )
    def test_never_leaves_its_bounds(
        self, least: int, more: int, steps: list[tuple[float, bool, int, int]]
    ) -> None:
        """Whatever is said to it, also in a probe."""
        limit = AdaptiveLimit(least=least, most=least + more)
        for seconds, failed, in_flight, times in steps:
            for _ in range(times):
                limit.released(seconds, failed, in_flight)
                self.assertTrue(least <= limit.limit <= least + more)
