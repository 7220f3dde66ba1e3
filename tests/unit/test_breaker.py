"""core.breaker: what opens a circuit, what is asked meanwhile, and what closes it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.breaker import (
    CLOSED,
    COOL,
    HALF_OPEN,
    OPEN,
    PROBE_FAILED,
    PROBE_SUCCEEDED,
    STATES,
    TRANSITIONS,
    TRIP,
    Breaker,
    BreakerRules,
    Rate,
    diagram,
)

RULES = BreakerRules(error_rate=0.5, window=10.0, min_requests=4, open_for=5.0)


def played(steps: list[tuple[float, str]], rules: BreakerRules = RULES) -> list[tuple[object, str]]:
    """What a breaker says to each step (`ask`, `good` or `bad` at a time), and its state then."""
    breaker = Breaker(rules)
    said: list[tuple[object, str]] = []
    for now, step in steps:
        answer = breaker.allows(now) if step == "ask" else breaker.done(step == "bad", now)
        said.append((answer, breaker.state))
    return said


class Table(SynchronousTestCase):
    """The states and what leads from one to another."""

    def test_all_transitions(self) -> None:
        """Nothing happens that is not written here."""
        expected = [
            (CLOSED, TRIP, OPEN),
            (OPEN, COOL, HALF_OPEN),
            (HALF_OPEN, PROBE_FAILED, OPEN),
            (HALF_OPEN, PROBE_SUCCEEDED, CLOSED),
        ]
        found = [
            (s, event, after) for s, row in TRANSITIONS.items() for event, after in row.items()
        ]
        self.assertEqual(expected, found)
        self.assertEqual((CLOSED, OPEN, HALF_OPEN), STATES)

    def test_diagram(self) -> None:
        """As it stands in docs/architecture.md."""
        expected = [
            "stateDiagram-v2",
            "    [*] --> closed",
            "    closed --> open: trip",
            "    open --> half_open: cool",
            "    half_open --> open: probe failed",
            "    half_open --> closed: probe succeeded",
        ]
        self.assertEqual(expected, diagram().splitlines())


class Breaking(SynchronousTestCase):
    """Whole lives of a circuit."""

    def test_opens_and_closes_again(self) -> None:
        """Trips at the rate, is silent for open_for, asks one, and trusts its answer."""
        steps = [
            (1.0, "ask"),
            (1.0, "good"),
            (1.1, "good"),
            (1.2, "bad"),  # 1 of 3: too few requests
            (1.3, "bad"),  # 2 of 4: half of them
            (1.4, "ask"),
            (6.2, "ask"),
            (6.3, "ask"),  # open_for is over: the probe
            (6.4, "ask"),  # one at a time
            (6.5, "good"),
            (6.6, "ask"),
            (6.7, "bad"),  # the window began anew: 1 of 1 is too few
        ]
        expected = [
            (True, CLOSED),
            (False, CLOSED),
            (False, CLOSED),
            (False, CLOSED),
            (True, OPEN),
            (False, OPEN),
            (False, OPEN),
            (True, HALF_OPEN),
            (False, HALF_OPEN),
            (True, CLOSED),
            (True, CLOSED),
            (False, CLOSED),
        ]
        self.assertEqual(expected, played(steps))

    def test_a_probe_that_fails(self) -> None:
        """Opens it for as long again."""
        steps = [
            *[(1.0, "bad")] * 4,
            (6.0, "ask"),
            (6.5, "bad"),
            (11.4, "ask"),
            (11.5, "ask"),
            (11.6, "good"),
        ]
        expected = [
            *[(False, CLOSED)] * 3,
            (True, OPEN),
            (True, HALF_OPEN),
            (True, OPEN),
            (False, OPEN),
            (True, HALF_OPEN),
            (True, CLOSED),
        ]
        self.assertEqual(expected, played(steps))

    def test_a_probe_without_a_verdict(self) -> None:
        """Its client left: after open_for there is another."""
        steps = [*[(1.0, "bad")] * 4, (6.0, "ask"), (10.9, "ask"), (11.0, "ask"), (11.1, "ask")]
        self.assertEqual(
            [(True, HALF_OPEN), (False, HALF_OPEN), (True, HALF_OPEN), (False, HALF_OPEN)],
            played(steps)[4:],
        )

    def test_answers_of_what_was_sent_before(self) -> None:
        """Change neither an open circuit nor one whose probe is not yet sent."""
        steps = [*[(1.0, "bad")] * 4, (1.1, "good"), (1.2, "bad")]
        self.assertEqual([(False, OPEN)] * 2, played(steps)[4:])
        breaker = Breaker(RULES)
        breaker.state = HALF_OPEN
        self.assertEqual((False, False), (breaker.done(False, 7.0), breaker.done(True, 7.0)))

    def test_successes_never_open_it(self) -> None:
        """Though the rate is over the limit as the window moves on."""
        steps = [*[(1.0, "good")] * 3, *[(3.5, "bad")] * 2, (11.5, "good"), (11.5, "good")]
        self.assertEqual({CLOSED}, {state for _, state in played(steps)})

    def test_failures_below_the_rate(self) -> None:
        """Leave it closed for ever."""
        steps = [(n / 10, "bad" if n % 3 == 0 else "good") for n in range(1, 300)]
        self.assertEqual({(False, CLOSED)}, set(played(steps)))

    def test_failures_are_forgotten(self) -> None:
        """Those of the last window count, no others."""
        spaced = [(n * 4.0, "bad") for n in range(20)]  # three a window, four are wanted
        self.assertEqual({(False, CLOSED)}, set(played(spaced)))
        self.assertEqual((True, OPEN), played([(n * 2.0, "bad") for n in range(1, 5)])[-1])

    def test_retry_after(self) -> None:
        """Whole seconds, rounded up, at least 1."""
        breaker = Breaker(RULES)
        for _ in range(4):
            breaker.done(True, 1.0)
        self.assertEqual(
            [5, 5, 4, 1, 1, 1],
            [breaker.retry_after(now) for now in (1.0, 1.1, 2.0, 5.5, 6.0, 99.0)],
        )

    def test_shown(self) -> None:
        """A line for people."""
        breaker = Breaker(RULES)
        breaker.done(True, 1.0)
        breaker.done(False, 1.0)
        self.assertEqual("<Breaker closed failed=1/2>", repr(breaker))


class Rates(SynchronousTestCase):
    """The window against a list of all that ever was."""

    @given(
        st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=60),
        st.sampled_from((0.5, 1.0, 10.0)),
    )
    def test_naive(self, steps: list[tuple[float, bool]], window: float) -> None:
        """Counts what lies in the current slice and the nine before."""
        rate = Rate(window)
        seen: list[tuple[int, bool]] = []
        now = 100.0
        for passed, failed in steps:
            now += passed
            rate.add(failed, now)
            current = int(now / rate.seconds)
            seen.append((current, failed))
            kept = [bad for index, bad in seen if index > current - 10]
            self.assertEqual((len(kept), sum(kept)), (rate.total, rate.failed))
        rate.clear()
        self.assertEqual((0, 0), (rate.total, rate.failed))
