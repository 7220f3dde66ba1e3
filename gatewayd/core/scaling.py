"""How many workers the load needs: grow soon, shrink late, never flap.

A worker is one process on one core, so what counts is the share of a core that the workers use, and
whether their reactors answer late. They grow by one when the load has been too high for a while, and
shrink by one when those left would still have room to spare; after each change there is a pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_HIGH: Final = 0.75  # of a core, on average: beyond it queues build up
_LATE: Final = 0.05  # seconds that a reactor is late, on average
_LOW: Final = 0.5  # of a core that each of those left would use
_GROW_AFTER: Final = 5.0  # seconds of high load
_SHRINK_AFTER: Final = 60.0  # seconds of low load
_PAUSE: Final = 10.0  # seconds after a change: a new worker needs some to take its part


class Scaler:
    """Decides; made by the supervisor."""

    def __init__(self, least: int, most: int) -> None:
        """Args: least, most: workers."""
        self.least = least
        self.most = max(least, most)
        self.wanted = least
        self._high_since = self._low_since = -1.0
        self._changed = -_PAUSE

    def __repr__(self) -> str:
        return f"<Scaler wanted={self.wanted} of {self.least}..{self.most}>"

    def look(self, busy: Sequence[float], late: Sequence[float], now: float) -> int:
        """Take in what the workers report, about once a second.

        Args:
            busy: share of a core that each used of late.
            late: seconds that the reactor of each was late at most.
            now: monotonic seconds.

        Returns:
            How many workers there should be.
        """
        if not busy or now - self._changed < _PAUSE:
            self._high_since = self._low_since = -1.0
            return self.wanted
        mean = sum(busy) / len(busy)
        high = mean > _HIGH or sum(late) / len(late) > _LATE
        low = len(busy) > 1 and sum(busy) / (len(busy) - 1) < _LOW and not high
        self._high_since = (self._high_since if self._high_since >= 0 else now) if high else -1.0
        self._low_since = (self._low_since if self._low_since >= 0 else now) if low else -1.0
        if high and now - self._high_since >= _GROW_AFTER:
            self._change(min(self.most, self.wanted + 1), now)
        elif low and now - self._low_since >= _SHRINK_AFTER:
            self._change(max(self.least, self.wanted - 1), now)
        return self.wanted

    def _change(self, wanted: int, now: float) -> None:
        if wanted != self.wanted:
            self.wanted = wanted
            self._changed = now


class Restarts:
    """When a worker that died is replaced: at once, but with back-off where it dies again and again."""

    _FIRST: Final = 0.1  # seconds
    _MOST: Final = 30.0
    _STEADY: Final = 10.0  # seconds of life that make up for former deaths

    def __init__(self) -> None:
        self._failures = 0

    def pause(self, lived: float) -> float:
        """Seconds to wait; Args: lived: seconds that the dead one served."""
        if lived >= self._STEADY:
            self._failures = 0
            return 0.0
        self._failures += 1
        return float(min(self._MOST, self._FIRST * 2 ** (self._failures - 1)))
