"""status, logs, listeners and limits where several processes serve together, or one ends."""

from __future__ import annotations

import json
import os
from select import PIPE_BUF
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd import logs
from gatewayd.core.counters import Window, summary_of
from gatewayd.core.limits import RateLimit, Share
from gatewayd.core.scaling import Scaler
from gatewayd.logs import LineWriter
from gatewayd.status import add_traffic, status_of, traffic_of
from tests.unit.assembled import Assembled
from tests.unit.test_filters import Route

quick = settings(deadline=None, database=None, max_examples=100)

FILE = """
listeners:
  web: {address: 127.0.0.1:2000}
routes: [{name: r, upstream: users}]
upstreams:
  users:
    endpoints: [127.0.0.1:2003, 127.0.0.1:2004]
    circuit_breaker: {error_rate: 50%, window: 10s, min_requests: 4, open_for: 5s}
    adaptive_limit: {min: 5, max: 50}
  canary: {endpoints: [127.0.0.1:2005]}
"""


class Together(SynchronousTestCase):
    """/status of a supervisor: its own knowledge, and the traffic of its workers."""

    maxDiff = None

    def worker(self, requests: int, state: str, seconds: float) -> tuple[Assembled, dict[str, Any]]:
        """One that has been busy, and what it tells."""
        found = Assembled(FILE)
        web, users = found.listeners["web"], found.upstreams["users"]
        web.counters.open, web.counters.accepted = requests, 10 * requests
        users.counters.pending = users.in_flight = requests
        users.counters.window.add(seconds)
        users.pool.ledger.open = requests
        first = users.endpoints[0]
        first.in_flight, first.picks = requests, 3 * requests
        first.errors = {"reset": requests, f"by {requests}": 1}
        assert users.breaker is not None
        users.breaker.state = state
        told = traffic_of(found.listeners.values(), found.upstreams.values())
        return found, json.loads(json.dumps(told))

    def test_added_up(self) -> None:
        """Sums; of circuits the worst; of response times all together."""
        supervisor = Assembled(FILE)
        status = status_of(supervisor.listeners.values(), supervisor.upstreams.values(), None, 9.0)
        one, two = self.worker(2, "half_open", 0.1), self.worker(5, "closed", 0.3)
        add_traffic(status, [one[1], two[1]])
        web, users, canary = (
            status["listeners"]["web"],
            status["upstreams"]["users"],
            status["upstreams"]["canary"],
        )
        self.assertEqual(
            (7, 70, False), (web["connections"], web["accepted"], web["accept_paused"])
        )
        self.assertEqual((7, 7, 7), (users["pending"], users["in_flight"], users["pool"]["open"]))
        self.assertEqual("half_open", users["circuit_breaker"])
        self.assertEqual(40, users["adaptive_limit"])
        self.assertEqual(
            (2, 0.1, 0.2, 0.3),
            tuple(users["response_times"][key] for key in ("count", "min", "mean", "max")),
        )
        first, second = users["endpoints"]
        self.assertEqual((7, 21), (first["in_flight"], first["picks"]))
        self.assertEqual({"reset": 7, "by 2": 1, "by 5": 1}, first["errors"])
        self.assertEqual((0, 0), (second["in_flight"], second["picks"]))
        self.assertEqual(
            (None, None, None),
            (canary["circuit_breaker"], canary["adaptive_limit"], canary["response_times"]),
        )

    def test_states_of_circuits(self) -> None:
        """Open is worse than half open, and that is worse than closed."""
        for states, expected in (
            (["closed", "open", "half_open"], "open"),
            (["half_open", "closed"], "half_open"),
            (["closed", "closed"], "closed"),
            ([], "closed"),
        ):
            supervisor = Assembled(FILE)
            status = status_of([], supervisor.upstreams.values(), None, 9.0)
            add_traffic(status, [self.worker(1, state, 0.1)[1] for state in states])
            self.assertEqual(expected, status["upstreams"]["users"]["circuit_breaker"])

    def test_who_is_behind(self) -> None:
        """A worker that has not heard of a listener or an upstream yet counts for the others."""
        supervisor = Assembled(FILE)
        status = status_of(supervisor.listeners.values(), supervisor.upstreams.values(), None, 9.0)
        _, told = self.worker(2, "closed", 0.1)
        old = {"listeners": {}, "upstreams": {"gone": told["upstreams"]["users"]}}
        add_traffic(status, [told, old])
        self.assertEqual(2, status["listeners"]["web"]["connections"])
        self.assertEqual(2, status["upstreams"]["users"]["in_flight"])

    def test_what_the_supervisor_knows(self) -> None:
        """An endpoint's state is its own, for workers tell it what they find out."""
        supervisor = Assembled(FILE)
        first, second = supervisor.upstreams["users"].endpoints
        first.state, second.state = "draining", "unhealthy"
        status = status_of([], supervisor.upstreams.values(), None, 9.0)
        add_traffic(status, [self.worker(1, "closed", 0.1)[1]])
        states = [each["state"] for each in status["upstreams"]["users"]["endpoints"]]
        self.assertEqual(["draining", "unhealthy"], states)

    def test_windows(self) -> None:
        """The last thousand of each; one with all of them is what one process would say."""
        one, two, both = Window(), Window(), []
        for number in range(1500):
            one.add(number / 1000)
        two.add(7.0)
        self.assertEqual((1000, 1), (len(one.times()), len(two.times())))
        both = [*one.times(), *two.times()]
        found = summary_of(both)
        assert found is not None
        self.assertEqual((1001, 0.5, 7.0), (found.size, found.min, found.max))
        self.assertEqual(one.summary(), summary_of(reversed(one.times())))
        self.assertIsNone(summary_of([]))


class Pipes(SynchronousTestCase):
    """Lines of several processes on one pipe."""

    def writes(self, lines: list[bytes], *, many: bool = True) -> list[bytes]:
        """What is given to the system, call by call."""
        reader, writer = os.pipe()
        self.patch(logs, "_open", lambda target: writer)
        made = LineWriter("-", lambda message: None, many=many)
        found: list[bytes] = []
        write = os.write

        def noted(fd: int, data: bytes) -> int:
            if fd == writer:
                found.append(data)
                return len(data)
            return write(fd, data)

        self.patch(logs.os, "write", noted)
        made.write(b"".join(lines), len(lines))
        made.close()
        os.close(reader)
        os.close(writer)
        return found

    def test_whole_lines(self) -> None:
        """At most PIPE_BUF at a time, for those the system keeps together; all of them, in order."""
        lines = [b"%04d " % number + b"x" * (number % 700) + b"\n" for number in range(300)]
        found = self.writes(lines)
        self.assertEqual(b"".join(lines), b"".join(found))
        self.assertTrue(all(each.endswith(b"\n") and len(each) <= PIPE_BUF for each in found))
        self.assertTrue(len(found) < 50)

    def test_a_long_line(self) -> None:
        """Goes by itself: its neighbours at least stay whole."""
        lines = [b"a\n", b"x" * (3 * PIPE_BUF) + b"\n", b"b\n"]
        self.assertEqual(lines, self.writes(lines))

    def test_borders(self) -> None:
        """Exactly so long is short enough."""
        fits = b"x" * (PIPE_BUF - 1) + b"\n"
        self.assertEqual([fits, fits], self.writes([fits, fits]))
        half = b"x" * (PIPE_BUF // 2 - 1) + b"\n"
        self.assertEqual([half * 2, half], self.writes([half] * 3))
        self.assertEqual([half, b"x" + half], self.writes([half, b"x" + half]))

    def test_alone(self) -> None:
        """A process that writes alone does so in one go."""
        lines = [b"x" * 1000 + b"\n"] * 20
        self.assertEqual([b"".join(lines)], self.writes(lines, many=False))


class Draining(SynchronousTestCase):
    """A listener that ends: who rests is closed, but not within a second of its last answer."""

    class Client:
        """A channel that rests since some moment."""

        def __init__(self, rested_at: float) -> None:
            self.rested_at = rested_at
            self.closed = 0

        def close(self) -> None:
            """End it."""
            self.closed += 1

    def test_grace(self) -> None:
        """Another's next request may be on its way just now; one that is busy is never closed."""
        gateway = Assembled(FILE)
        listener = gateway.listeners["web"]
        gateway.reactor.advance(100.0)
        old, young, busy = self.Client(98.0), self.Client(99.9), self.Client(float("inf"))
        everybody: Any = {old, young, busy}
        listener._channels.update(everybody)
        listener.counters.open = 3
        done = listener.drain()
        self.assertEqual([1, 0, 0], [each.closed for each in (old, young, busy)])
        self.assertNoResult(done)
        gone: Any = old
        listener.lost(gone)
        gateway.reactor.pump([0.125] * 7)
        self.assertEqual(0, young.closed)
        gateway.reactor.advance(0.125)
        self.assertEqual(1, young.closed)
        gone = young
        listener.lost(gone)
        gateway.reactor.pump([0.125] * 40)
        self.assertEqual(0, busy.closed)
        self.assertNoResult(done)
        gone = busy
        listener.lost(gone)
        self.successResultOf(done)
        gateway.reactor.advance(1.0)
        self.assertEqual([], gateway.reactor.getDelayedCalls())

    def test_nobody(self) -> None:
        """Is over at once."""
        gateway = Assembled(FILE)
        self.successResultOf(gateway.listeners["web"].drain())
        self.assertEqual([], gateway.reactor.getDelayedCalls())


class Divided(SynchronousTestCase):
    """Filters of one worker among several."""

    def test_concurrency(self) -> None:
        """Its part; the whole again when it is alone."""
        route = Route(max_concurrent=5)
        route.filters.divide(Share(0, 2), 5)
        self.assertEqual(["", "", "", "max_concurrent"], [route.ask() for _ in range(4)])
        route.filters.divide(Share(0, 1), 5)
        self.assertEqual(["", "", "max_concurrent"], [route.ask() for _ in range(3)])
        route.filters.divide(Share(1, 2), 5)  # those inside stay, whoever they are too many for
        self.assertEqual("max_concurrent", route.ask())
        for _ in range(4):
            route.leave()
        self.assertEqual("", route.ask())

    def test_rate(self) -> None:
        """A route's bucket is divided, clients' are shared instead."""
        for key, shared, expected in (
            ("route", False, 5),
            ("client_ip", True, 10),
            ("header:x", True, 10),
        ):
            route = Route(rate=1.0, burst=10, key=key)
            assert route.rule is not None
            self.assertEqual(shared, route.rule.is_shared)
            route.filters.divide(Share(0, 2), 0)
            self.assertEqual(expected, [route.ask() for _ in range(20)].count(""), key)

    def test_refusals_count_nobody(self) -> None:
        """Who was not let in does not leave: requests in flight never become negative."""
        for options in ({"max_concurrent": 1}, {"max_concurrent": 1, "rate": 1.0, "burst": 1}):
            route = Route(**options)  # type: ignore[arg-type]
            self.assertEqual("", route.ask())
            for _ in range(3):
                self.assertNotEqual("", route.ask())
            self.assertEqual(1, route.filters._gate.inside)
            route.leave()
            self.assertEqual((0, []), (route.filters._gate.inside, route.inside))


class Exchanged(SynchronousTestCase):
    """Workers that tell each other of spent tokens, by way of a supervisor, some time later."""

    DELAY = 0.06  # seconds until all have heard

    def play(self, rate: float, burst: int, asks: list[tuple[float, int]]) -> list[bool]:
        """Whether each request was let in; asks: seconds since the last, and which worker."""
        whole, workers = (
            RateLimit(rate=rate, burst=burst, max_keys=9),
            [RateLimit(rate=rate, burst=burst, max_keys=9) for _ in range(2)],
        )
        spent = [0, 0]
        since = [0.0, 0.0]

        def counting(number: int) -> Any:
            def told(key: str, taken: float) -> None:
                if not spent[number]:
                    since[number] = taken
                spent[number] += 1

            return told

        for number, worker in enumerate(workers):
            worker.on_spent(counting(number))
        now, due, found = 1000.0, 1000.0 + self.DELAY, []
        for passed, number in asks:
            now += passed
            while due <= now:
                for each in sorted((0, 1), key=since.__getitem__):
                    if spent[each]:
                        full_at = whole.spend("k", spent[each], since[each])
                        spent[each] = 0
                        for other in (0, 1):
                            workers[other].learn("k", full_at, spent[other])
                due += self.DELAY
            found.append(workers[number].take("k", now).allowed)
        return found

    ASKS = st.lists(st.tuples(st.floats(0.0, 0.3), st.integers(0, 1)), max_size=150)

    @quick
    @given(st.sampled_from((2.0, 5.0, 20.0)), st.integers(0, 10), ASKS)
    def test_within_its_rate(self, rate: float, more: int, asks: list[tuple[float, int]]) -> None:
        """Nobody is refused, however small the burst and late the news."""
        burst = 1 + more
        steady = [(max(1.0 / rate, passed), number) for passed, number in asks]
        self.assertEqual([True] * len(steady), self.play(rate, burst, steady))

    @quick
    @given(st.sampled_from((0.5, 2.0, 5.0)), st.integers(1, 10), ASKS)
    def test_beyond_it(self, rate: float, burst: int, asks: list[tuple[float, int]]) -> None:
        """Two workers together give away at most a further burst each time they have not heard."""
        greedy = [(passed / 30, number) for passed, number in asks]
        seconds = sum(passed for passed, _ in greedy)
        allowed = sum(self.play(rate, burst, greedy))
        self.assertTrue(allowed <= 2 * burst + rate * (seconds + self.DELAY) * 2 + 2)


class Load(SynchronousTestCase):
    """core.scaling, whatever the workers report."""

    REPORTS = st.lists(
        st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 0.2), st.integers(1, 90)), max_size=30
    )

    @quick
    @given(st.integers(1, 4), st.integers(0, 4), REPORTS)
    def test_bounds(self, least: int, more: int, reports: list[tuple[float, float, int]]) -> None:
        """Never outside, one at a time, and not twice within the pause and the time it takes to judge."""
        scaler = Scaler(least, least + more)
        now, changed, before = 0.0, -15.0, least
        for busy, late, seconds in reports:
            for _ in range(seconds):
                now += 1.0
                wanted = scaler.look([busy] * before, [late] * before, now)
                self.assertTrue(least <= wanted <= least + more)
                if wanted != before:
                    self.assertEqual(1, abs(wanted - before))
                    self.assertTrue(now - changed >= 15.0)
                    changed, before = now, wanted

    @quick
    @given(st.integers(1, 6), st.floats(0.0, 8.0))
    def test_no_flapping(self, least: int, load: float) -> None:
        """A load that stays is answered in one direction: who has grown does not shrink by it."""
        scaler = Scaler(least, least + 6)
        counts = [least]
        for second in range(1500):
            count = counts[-1]
            counts.append(
                scaler.look([min(1.0, load / count)] * count, [0.0] * count, float(second))
            )
        self.assertEqual(sorted(counts), counts)
        self.assertEqual(counts[-1], counts[-300])
