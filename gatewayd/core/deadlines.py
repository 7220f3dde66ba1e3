"""Deadlines by a coarse wheel, so that a request costs no timer.

Whatever can time out carries `deadline`, seconds on the wheel's clock or INFINITY, and sets it by
plain assignment as it goes on. The wheel looks at it in the slot where it lies; a deadline that has
moved later is only looked at again then, and only one that moves earlier has to be placed anew.
Something with a deadline is called at most one `tick` late, never early.
"""

from __future__ import annotations

from typing import Final, Protocol

INFINITY: Final = float("inf")


class Timed(Protocol):
    """Something that can time out; made by its owner, forgotten by setting deadline = INFINITY."""

    deadline: float
    wakes: float  # when the wheel looks at it next; the wheel's own, INFINITY at first

    def expired(self, now: float) -> None:
        """The deadline has passed; set it anew to be called again."""


class Wheel:
    """Holds what can time out in slots of `tick` seconds."""

    def __init__(self, now: float, *, tick: float = 0.1) -> None:
        """Args: now: on the clock that deadlines are given in. tick: how late a call may be."""
        self.tick = tick
        self.now = now  # as of the last sweep
        self._slots: dict[int, list[Timed]] = {}
        self._next = int(now / tick)

    def arm(self, item: Timed, deadline: float) -> None:
        """Set a deadline that may be earlier than the one before; INFINITY takes it away."""
        item.deadline = deadline
        if deadline < item.wakes:
            slot = max(int(deadline / self.tick) + 1, self._next)
            wakes = slot * self.tick
            if wakes < item.wakes:  # else it lies there already
                item.wakes = wakes
                self._slots.setdefault(slot, []).append(item)

    def sweep(self, now: float) -> None:
        """Call all whose deadline has passed.

        Raises:
            ExceptionGroup: of what they raised, after all of them were called.
        """
        failures: list[Exception] = []
        self.now = now
        last = int(now / self.tick)
        for slot in range(self._next, last + 1):
            self._next = slot + 1
            for item in self._slots.pop(slot, ()):
                if item.wakes != slot * self.tick:
                    continue  # placed anew in an earlier slot, and seen there
                item.wakes = INFINITY
                if item.deadline <= now:
                    item.deadline = INFINITY
                    try:
                        item.expired(now)
                    except Exception as error:
                        failures.append(error)
                elif item.deadline != INFINITY:
                    self.arm(item, item.deadline)
        if failures:
            raise ExceptionGroup("deadlines that failed", failures)
