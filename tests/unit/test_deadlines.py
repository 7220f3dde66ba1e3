"""core.deadlines: never early, at most one tick late, whatever happens to a deadline meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.deadlines import INFINITY, Wheel

TICK = 0.125  # exact in binary, so that borders are borders
quick = settings(deadline=None, database=None, max_examples=200)


class Item:
    """Something that times out and remembers when it did."""

    def __init__(self, then: Callable[[Item, float], None] | None = None) -> None:
        self.deadline = INFINITY
        self.wakes = INFINITY
        self.calls: list[float] = []
        self._then = then

    def expired(self, now: float) -> None:
        """The wheel's call."""
        self.calls.append(now)
        if self._then is not None:
            self._then(self, now)


def sweep_to(wheel: Wheel, end: float, step: float = TICK) -> None:
    """Sweep regularly up to a time."""
    while wheel.now + step <= end:
        wheel.sweep(wheel.now + step)


class WheelTests(SynchronousTestCase):
    """One thing at a time."""

    def setUp(self) -> None:
        """A wheel that begins at 100 seconds."""
        self.wheel = Wheel(100.0, tick=TICK)
        self.item = Item()

    def test_once(self) -> None:
        """It is called once, in the tick after its deadline, and its deadline is gone."""
        self.wheel.arm(self.item, 101.0)
        sweep_to(self.wheel, 105.0)
        self.assertEqual(self.item.calls, [101.0 + TICK])
        self.assertEqual((self.item.deadline, self.item.wakes), (INFINITY, INFINITY))

    def test_not_early(self) -> None:
        """A sweep a moment before the deadline calls nobody."""
        self.wheel.arm(self.item, 101.0)
        self.wheel.sweep(100.9999)
        self.assertEqual(self.item.calls, [])

    def test_late_sweep(self) -> None:
        """A process that was stopped for long calls it in its first sweep."""
        self.wheel.arm(self.item, 101.0)
        self.wheel.sweep(5000.0)
        self.assertEqual(self.item.calls, [5000.0])

    def test_earlier(self) -> None:
        """A deadline moved earlier is kept, and the old place does nothing."""
        self.wheel.arm(self.item, 110.0)
        self.wheel.arm(self.item, 101.0)
        sweep_to(self.wheel, 115.0)
        self.assertEqual(self.item.calls, [101.0 + TICK])

    def test_later_by_assignment(self) -> None:
        """A deadline moved later costs an assignment alone."""
        self.wheel.arm(self.item, 101.0)
        self.item.deadline = 103.0
        sweep_to(self.wheel, 110.0)
        self.assertEqual(self.item.calls, [103.0 + TICK])

    def test_later_by_arm(self) -> None:
        """Arming later does the same."""
        self.wheel.arm(self.item, 101.0)
        self.wheel.arm(self.item, 103.0)
        sweep_to(self.wheel, 110.0)
        self.assertEqual(self.item.calls, [103.0 + TICK])

    def test_earlier_and_back(self) -> None:
        """Placed twice in one slot, it is called once."""
        self.wheel.arm(self.item, 110.0)
        self.wheel.arm(self.item, 101.0)
        self.item.deadline = 110.0
        sweep_to(self.wheel, 120.0)
        self.assertEqual(self.item.calls, [110.0 + TICK])

    def test_forgotten(self) -> None:
        """INFINITY takes it away, by either way, and it can come back."""
        other = Item()
        self.wheel.arm(self.item, 101.0)
        self.wheel.arm(other, 101.0)
        self.item.deadline = INFINITY
        self.wheel.arm(other, INFINITY)
        sweep_to(self.wheel, 105.0)
        self.assertEqual((self.item.calls, other.calls), ([], []))
        self.wheel.arm(self.item, 106.0)
        sweep_to(self.wheel, 110.0)
        self.assertEqual(self.item.calls, [106.0 + TICK])

    def test_long_past(self) -> None:
        """A deadline that has passed already is called in the next sweep."""
        self.wheel.arm(self.item, 3.0)
        self.wheel.sweep(100.0 + TICK)
        self.assertEqual(self.item.calls, [100.0 + TICK])

    def test_again(self) -> None:
        """Who arms itself anew when called is called again, once for each time."""
        item = Item(lambda item, now: self.wheel.arm(item, now + 1.0) if now < 103 else None)
        self.wheel.arm(item, 101.0)
        sweep_to(self.wheel, 110.0)
        self.assertEqual(item.calls, [101.125, 102.25, 103.375])

    def test_arms_another(self) -> None:
        """Who arms another in the past is served too, by the next sweep at the latest."""
        other = Item()
        item = Item(lambda _, now: self.wheel.arm(other, now - 1.0))
        self.wheel.arm(item, 101.0)
        sweep_to(self.wheel, 101.0 + 2 * TICK)
        self.assertEqual((item.calls, other.calls), ([101.0 + TICK], [101.0 + 2 * TICK]))

    def test_never_armed(self) -> None:
        """Taking away what was never there does nothing."""
        self.wheel.arm(self.item, INFINITY)
        sweep_to(self.wheel, 105.0)
        self.assertEqual((self.item.calls, self.wheel._slots), ([], {}))

    def test_usual_tick(self) -> None:
        """Unless told otherwise a call is late by a tenth of a second at most."""
        wheel = Wheel(0.0)
        wheel.arm(self.item, 1.5)
        sweep_to(wheel, 2.0, step=0.01)
        (called,) = self.item.calls
        self.assertTrue(1.5 <= called <= 1.6 + 1e-6, called)

    def test_back_and_forth(self) -> None:
        """A connection's life, long idle times and short waits by turns, leaves no trail of places."""
        for _ in range(300):
            self.wheel.arm(self.item, self.wheel.now + 1.0)
            self.item.deadline = self.wheel.now + 90.0
            sweep_to(self.wheel, self.wheel.now + 1.5)
        self.assertEqual(self.item.calls, [])
        self.assertLess(sum(map(len, self.wheel._slots.values())), 70)

    def test_nothing_kept(self) -> None:
        """Slots that were swept hold nothing."""
        for number in range(100):
            self.wheel.arm(Item(), 100.0 + number / 7)
        sweep_to(self.wheel, 120.0)
        self.assertEqual(self.wheel._slots, {})


Operation = tuple[str, int, float]
operations = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, 3), st.floats(-1.0, 8.0)),
        st.tuples(st.just("later"), st.integers(0, 3), st.floats(0.0, 4.0)),
        st.tuples(st.just("forget"), st.integers(0, 3), st.just(0.0)),
        st.tuples(st.just("sweep"), st.just(0), st.floats(0.0, 0.5)),
        st.tuples(st.just("sweep"), st.just(0), st.floats(0.0, 9.0)),
    ),
    max_size=60,
)


class ModelTests(SynchronousTestCase):
    """Against a model that looks at every deadline in every sweep."""

    @quick
    @given(operations, st.sampled_from([0.1, TICK, 1.0]), st.floats(0.0, 1e6))
    def test_window(self, steps: list[Operation], tick: float, start: float) -> None:
        """Called is nobody before his deadline, and everybody whose deadline is a tick ago.

        A deadline that has passed when it is set counts from then.
        """
        wheel = Wheel(start, tick=tick)
        items = [Item() for _ in range(4)]
        now = start
        armed = [start] * 4
        for what, which, amount in [*steps, ("sweep", 0, tick), ("sweep", 0, 20.0)]:
            item = items[which]
            if what == "arm":
                wheel.arm(item, now + amount)
                armed[which] = now
            elif what == "later" and item.deadline != INFINITY:
                item.deadline += amount
            elif what == "forget":
                item.deadline = INFINITY
            elif what == "sweep":
                now += amount
                deadlines = [each.deadline for each in items]
                wheel.sweep(now)
                for each, deadline, since in zip(items, deadlines, armed, strict=True):
                    called = each.calls == [now]
                    each.calls.clear()
                    if deadline > now:
                        self.assertFalse(called, f"early: {deadline} at {now}")
                    elif max(deadline, since) <= now - tick * 1.000001:
                        self.assertTrue(called, f"late: {deadline} at {now}")
        self.assertEqual([each.deadline for each in items], [INFINITY] * 4)


class FailureTests(SynchronousTestCase):
    """A handler that raises."""

    def test_the_others_are_called(self) -> None:
        """All whose time has come are called, whatever one of them does; then it is told."""
        called: list[str] = []

        class Item:
            deadline = wakes = INFINITY

            def __init__(self, name: str) -> None:
                self.name = name

            def expired(self, now: float) -> None:
                called.append(self.name)
                if self.name == "b":
                    raise ValueError(self.name)

        wheel = Wheel(0.0)
        for name in "abc":
            wheel.arm(Item(name), 1.0)
        error = self.assertRaises(ExceptionGroup, wheel.sweep, 2.0)
        self.assertEqual((called, [str(each) for each in error.exceptions]), ([*"abc"], ["b"]))
