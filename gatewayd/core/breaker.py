"""Circuit breakers: when too much fails, stop asking for a while, then ask carefully.

States and events are one table; its diagram is in docs/architecture.md.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"  # one probe at a time

TRIP: Final = "trip"
COOL: Final = "cool"
PROBE_FAILED: Final = "probe failed"
PROBE_SUCCEEDED: Final = "probe succeeded"

TRANSITIONS: Final[dict[str, dict[str, str]]] = {
    CLOSED: {TRIP: OPEN},
    OPEN: {COOL: HALF_OPEN},
    HALF_OPEN: {PROBE_FAILED: OPEN, PROBE_SUCCEEDED: CLOSED},
}
STATES: Final = tuple(TRANSITIONS)
_SLICES: Final = 10  # of a window


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {CLOSED}"]
    for state, row in TRANSITIONS.items():
        lines += [f"    {state} --> {after}: {event}" for event, after in row.items()]
    return "\n".join(lines)


class Rate:
    """How much failed over a window of time, in slices that are forgotten one by one."""

    __slots__ = ("_failed", "_slice", "_total", "failed", "seconds", "total")

    def __init__(self, window: float) -> None:
        """Args: window: in seconds."""
        self.seconds = window / _SLICES
        self.total = 0
        self.failed = 0
        self._total = [0] * _SLICES
        self._failed = [0] * _SLICES
        self._slice = 0

    def turn(self, now: float) -> int:
        """Forget what is over; the current slice's index."""
        current = int(now / self.seconds)
        if current > self._slice:
            for passed in range(min(current - self._slice, _SLICES)):
                index = (current - passed) % _SLICES
                self.total -= self._total[index]
                self.failed -= self._failed[index]
                self._total[index] = self._failed[index] = 0
            self._slice = current
        return self._slice % _SLICES

    def add(self, failed: bool, now: float) -> None:
        """Count one."""
        index = self.turn(now)
        self.total += 1
        self._total[index] += 1
        if failed:
            self.failed += 1
            self._failed[index] += 1

    def clear(self) -> None:
        """Begin anew."""
        self.total = self.failed = 0
        self._total = [0] * _SLICES
        self._failed = [0] * _SLICES


class BreakerRules(NamedTuple):
    """When breakers open, and for how long."""

    error_rate: float  # 0 to 1
    window: float  # seconds
    min_requests: int  # within a window
    open_for: float  # seconds


class Breaker:
    """One circuit; made for an upstream and for each of its endpoints."""

    __slots__ = ("_probe_until", "_rate", "_rules", "state", "until")

    def __init__(self, rules: BreakerRules) -> None:
        """Args: rules: shared by many."""
        self._rules = rules
        self._rate = Rate(rules.window)
        self.state = CLOSED
        self.until = 0.0  # when it is open no longer
        self._probe_until = 0.0  # a probe that comes to no verdict counts no longer then; 0 = none

    @property
    def rules(self) -> BreakerRules:
        """What it goes by."""
        return self._rules

    def __repr__(self) -> str:
        return f"<Breaker {self.state} failed={self._rate.failed}/{self._rate.total}>"

    def allows(self, now: float) -> bool:
        """Whether a request may go now; in half-open it is then the probe, and `done` follows."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN:
            if now < self.until:
                return False
            self._advance(COOL)
        if now < self._probe_until:
            return False
        self._probe_until = now + self._rules.open_for
        return True

    def done(self, failed: bool, now: float) -> bool:
        """A request that was allowed is over.

        Returns:
            Whether the state has changed.
        """
        if self.state == CLOSED:
            rate = self._rate
            rate.add(failed, now)
            rules = self._rules
            if not failed or rate.total < rules.min_requests:
                return False
            if rate.failed < rules.error_rate * rate.total:
                return False
            self._open(TRIP, now)
            return True
        if self.state == HALF_OPEN and self._probe_until:
            self._probe_until = 0.0
            if failed:
                self._open(PROBE_FAILED, now)
            else:
                self._advance(PROBE_SUCCEEDED)
                self._rate.clear()
            return True
        return False  # it was sent before the circuit opened

    def open_until(self, until: float) -> None:
        """Another process's circuit to the same place has opened: so does this one."""
        self.state = OPEN
        self.until = until
        self._probe_until = 0.0

    def retry_after(self, now: float) -> int:
        """Whole seconds until a request may be tried again, at least 1."""
        return max(1, -int(-(self.until - now) // 1))

    def _open(self, event: str, now: float) -> None:
        self._advance(event)
        self.until = now + self._rules.open_for
        self._probe_until = 0.0

    def _advance(self, event: str) -> None:
        self.state = TRANSITIONS[self.state][event]
