"""core.counters: what is counted, and the window's percentiles."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil, fsum
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.counters import (
    BUCKETS,
    WINDOW,
    Counters,
    ExchangeCounters,
    Histogram,
    Summary,
    Window,
)

quick = settings(deadline=None, database=None, max_examples=50)


def nearest_rank(times: list[float], percent: int) -> float:
    """The percentile as the textbook has it: the ceil(p/100 * n)-th smallest."""
    return sorted(times)[ceil(Fraction(percent, 100) * len(times)) - 1]


def summary_of(times: list[float]) -> Summary:
    """The figures of so many response times, the slow and plain way."""
    return Summary(
        len(times),
        min(times),
        sum(sorted(times)) / len(times),
        max(times),
        nearest_rank(times, 50),
        nearest_rank(times, 90),
        nearest_rank(times, 99),
    )


class HistogramTests(SynchronousTestCase):
    """Counts by bucket."""

    def test_borders(self) -> None:
        """A bucket holds what is at most its bound (Prometheus' `le`); the last one all above."""
        histogram = Histogram()
        for bound in BUCKETS:
            histogram.observe(bound)
            histogram.observe(bound * 1.001)
        histogram.observe(0.0)
        self.assertEqual(histogram.buckets, [2] + [2] * (len(BUCKETS) - 1) + [1])
        self.assertAlmostEqual(histogram.total, fsum(bound * 2.001 for bound in BUCKETS))

    def test_bounds_rise(self) -> None:
        """The bounds are in order, or bisecting them would be wrong."""
        self.assertEqual(sorted(set(BUCKETS)), list(BUCKETS))


class ExchangeCountersTests(SynchronousTestCase):
    """Status codes and durations, tallied in one number."""

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 999),
                st.sampled_from((-1.0, 0.0, 0.001, 0.0011, 25.0, 60.0, 61.0, 1e9)),
            )
        )
    )
    def test_apart(self, ended: list[tuple[int, float]]) -> None:
        """Each is told as if it had been counted alone; tunnels have no duration."""
        counters, duration = ExchangeCounters("web", "api", "users"), Histogram()
        for number, (status, seconds) in enumerate(ended):
            counters.ended(status, seconds)
            if seconds >= 0.0:
                duration.observe(seconds)
            if not number % 7:  # reading in between changes nothing
                self.assertEqual(number + 1, sum(counters.statuses.values()))
        self.assertEqual(Counter(status for status, _ in ended), counters.statuses)
        self.assertEqual(duration.buckets, counters.duration.buckets)
        self.assertEqual(duration.total, counters.duration.total)


ENDS = st.tuples(
    st.sampled_from(("web", "admin")),
    st.sampled_from(("api", "other")),
    st.sampled_from(("users", "more")),
    st.sampled_from((200, 404, 502)),
    st.sampled_from((-1.0, 0.0, 0.001, 0.0625, 64.0)),  # sums of these are exact
    st.integers(0, 9),
    st.integers(0, 9),
)


class RouteCountersTests(SynchronousTestCase):
    """What is counted in the route and told to its ExchangeCounters later."""

    @given(st.lists(st.one_of(ENDS, st.none(), st.integers(0, 9)), max_size=60))
    def test_as_if_told_at_once(self, events: list[Any]) -> None:
        """In whatever order they begin and end (a number), and however often somebody looks (None)."""
        counters, told = Counters(), Counters()
        inside: list[Any] = []
        for event in events:
            if event is None:
                self.assertEqual(figures(told), figures(counters))
            elif not isinstance(event, int):
                listener, route, upstream, *_ = event
                place = counters.route(route).began(counters, listener, upstream, 1.0)
                self.assertEqual(told.exchange(listener, route, upstream).place, place)
                inside.append(event)
            elif inside:
                listener, route, upstream, *ended = inside.pop(event % len(inside))
                told.exchange(listener, route, upstream).ended(*ended)
                counters.route(route).ended(counters, listener, upstream, *ended)
            in_flight = {name: each.in_flight for name, each in counters.routes.items()}
            self.assertEqual(+Counter(each[1] for each in inside), +Counter(in_flight))
        self.assertEqual(figures(told), figures(counters))

    def test_by_two_listeners(self) -> None:
        """The one that began first may end last: each is told of its own."""
        counters = Counters()
        route = counters.route("r")
        for listener in ("a", "b"):
            route.began(counters, listener, "u", 1.0)
        for listener, status in (("a", 200), ("b", 404)):
            route.ended(counters, listener, "u", status, 0.1, 0, 0)
        told = {key[0]: each.statuses for key, each in counters.exchanges.items()}
        self.assertEqual(told, {"a": {200: 1}, "b": {404: 1}})


def figures(counters: Counters) -> dict[tuple[str, str, str], Any]:
    """All that is told of exchanges."""
    return {
        key: (each.statuses, each.duration.buckets, each.seconds, each.bytes_in, each.bytes_out)
        for key, each in counters.exchanges.items()
    }


class WindowTests(SynchronousTestCase):
    """The last 1,000 response times."""

    def test_empty(self) -> None:
        """Nothing is not zero."""
        self.assertIsNone(Window().summary())

    def test_percentiles(self) -> None:
        """Nearest rank at the sizes where an off-by-one shows."""
        expected = {
            1: (1.0, 1.0, 1.0),
            2: (1.0, 2.0, 2.0),
            3: (2.0, 3.0, 3.0),
            10: (5.0, 9.0, 10.0),
            11: (6.0, 10.0, 11.0),
            100: (50.0, 90.0, 99.0),
            101: (51.0, 91.0, 100.0),
            1000: (500.0, 900.0, 990.0),
        }
        found = {}
        for size in expected:
            window = Window()
            times = [float(number) for number in range(1, size + 1)]
            Random(size).shuffle(times)
            for time in times:
                window.add(time)
            summary = window.summary()
            assert summary is not None
            found[size] = summary[4:]
        self.assertEqual(found, expected)

    def test_whole_summary(self) -> None:
        """All figures of a small window."""
        window = Window()
        for time in (0.4, 0.1, 0.3, 0.2):
            window.add(time)
        self.assertEqual(window.summary(), Summary(4, 0.1, 0.25, 0.4, 0.2, 0.4, 0.4))

    def test_oldest_goes(self) -> None:
        """Only the last 1,000 count."""
        window = Window()
        for number in range(WINDOW + 1):
            window.add(float(number))
        self.assertEqual(WINDOW, 1000)
        self.assertEqual(window.summary(), summary_of([float(n) for n in range(1, WINDOW + 1)]))

    @quick
    @given(st.integers(1, 2500), st.integers())
    def test_as_a_list(self, size: int, seed: int) -> None:
        """It agrees with a list of all times cut to the last 1,000."""
        random = Random(seed)
        times = [random.expovariate(10) for _ in range(size)]
        window = Window()
        for time in times:
            window.add(time)
        self.assertEqual(window.summary(), summary_of(times[-WINDOW:]))


class CountersTests(SynchronousTestCase):
    """Counters by the names that label them."""

    def test_same_again(self) -> None:
        """Whoever asks twice counts into the same one; names are told apart."""
        counters = Counters()
        exchange = counters.exchange("web", "api", "users")
        exchange.ended(200, 0.1, bytes_in=5)
        self.assertIs(counters.exchange("web", "api", "users"), exchange)
        self.assertIs(counters.route("api"), counters.route("api"))
        self.assertIs(counters.listener("web"), counters.listener("web"))
        self.assertIs(counters.upstream("users"), counters.upstream("users"))
        self.assertIsNot(counters.exchange("web", "api", "others"), exchange)
        self.assertEqual(
            [list(found) for found in (counters.exchanges, counters.routes, counters.listeners)],
            [[("web", "api", "users"), ("web", "api", "others")], ["api"], ["web"]],
        )
        self.assertEqual(list(counters.upstreams), ["users"])

    def test_begins_at_nothing(self) -> None:
        """All figures begin at nothing, and none is shared."""
        counters = Counters()
        one, other = counters.upstream("a"), counters.upstream("b")
        one.count(502)
        one.queue.observe(1.0)
        one.window.add(1.0)
        self.assertEqual(
            (other.counts(), sum(other.queue.buckets), other.window.summary()), ({}, 0, None)
        )
        self.assertEqual((other.pending, other.waited, other.rejected, other.changes), (0, 0, 0, 0))
        listener, route = counters.listener("web"), counters.route("api")
        self.assertEqual((listener.accepted, listener.open, listener.accept_paused), (0, 0, 0))
        self.assertFalse(listener.paused)
        self.assertEqual((route.in_flight, route.tunnels, route.rate_limited), (0, 0, 0))
        exchange = counters.exchange("web", "api", "a")
        self.assertEqual((exchange.bytes_in, exchange.bytes_out, exchange.statuses), (0, 0, {}))
        self.assertEqual((0, 0.0), (sum(exchange.duration.buckets), exchange.duration.total))

    def test_retries(self) -> None:
        """Retries are counted by what failed and how the retry went."""
        route = Counters().route("api")
        for result in ("success", "failure", "success"):
            route.retried("reset", result)
        self.assertEqual(route.retries, {("reset", "success"): 2, ("reset", "failure"): 1})

    def test_answers(self) -> None:
        """Answers of the gateway's own are counted by listener, route and reason."""
        counters = Counters()
        counters.answered("web", "-", "no_route")
        counters.answered("web", "-", "no_route")
        counters.answered("web", "api", "queue_full")
        self.assertEqual(
            counters.answers, {("web", "-", "no_route"): 2, ("web", "api", "queue_full"): 1}
        )
