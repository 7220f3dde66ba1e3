"""core.scaling: how many workers there should be, and when a dead one is replaced."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.scaling import Restarts, Scaler


def played(scaler: Scaler, busy: float, seconds: int, start: int, late: float = 0.0) -> list[int]:
    """How many are wanted, second by second, while each is so busy."""
    return [
        scaler.look([busy] * scaler.wanted, [late] * scaler.wanted, float(start + second))
        for second in range(seconds)
    ]


class Scaling(SynchronousTestCase):
    """Grows soon, shrinks late."""

    def test_grows(self) -> None:
        """After five seconds of load, then not before a pause is over, and never beyond the most."""
        scaler = Scaler(1, 3)
        self.assertEqual([1] * 5 + [2] * 15 + [3] * 20, played(scaler, 0.9, 40, 0))

    def test_grows_by_lateness(self) -> None:
        """A reactor that answers late is load too."""
        self.assertEqual([1] * 5 + [2], played(Scaler(1, 2), 0.1, 6, 0, late=0.06))

    def test_shrinks(self) -> None:
        """After a minute in which those left would have room to spare; never below the least."""
        scaler = Scaler(1, 2)
        played(scaler, 0.9, 6, 0)
        self.assertEqual([2] * 60 + [1] * 70, played(scaler, 0.1, 130, 6 + 9))

    def test_stays(self) -> None:
        """Load in between changes nothing, nor does a short burst, nor silence."""
        scaler = Scaler(2, 4)
        self.assertEqual([2] * 200, played(scaler, 0.4, 200, 0))
        self.assertEqual([2] * 4, played(scaler, 0.9, 4, 200))
        self.assertEqual([2] * 4, played(scaler, 0.4, 4, 204))
        self.assertEqual([2] * 4, played(scaler, 0.9, 4, 208))
        self.assertEqual(2, scaler.look([], [], 300.0))

    def test_pause(self) -> None:
        """One that served for a while is replaced at once; one that dies again and again, later."""
        restarts = Restarts()
        lived = [60.0, 1.0, 1.0, 0.0, 11.0, 1.0] + [0.0] * 12
        pauses = [restarts.pause(each) for each in lived]
        self.assertEqual([0.0, 0.1, 0.2, 0.4, 0.0, 0.1], pauses[:6])
        self.assertEqual(30.0, pauses[-1])
