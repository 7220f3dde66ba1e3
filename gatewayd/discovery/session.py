"""The life of a ZooKeeper session as the gateway sees it: one table.

kazoo says LOST only when a server says so, so a session that has been suspended for longer than its timeout
is taken for expired by our own clock. Nothing in any state changes a membership.
"""

from __future__ import annotations

from typing import Final

CONNECTING: Final = "connecting"  # never connected yet
CONNECTED: Final = "connected"
SUSPENDED: Final = "suspended"
EXPIRED: Final = "expired"  # by our clock, or by a server's word

UP: Final = "up"
DOWN: Final = "down"
GONE: Final = "gone"
LATE: Final = "late"  # suspended for longer than session_timeout

TRANSITIONS: Final[dict[str, dict[str, str]]] = {
    CONNECTING: {UP: CONNECTED, DOWN: CONNECTING, GONE: CONNECTING, LATE: CONNECTING},
    CONNECTED: {UP: CONNECTED, DOWN: SUSPENDED, GONE: EXPIRED, LATE: CONNECTED},
    SUSPENDED: {UP: CONNECTED, DOWN: SUSPENDED, GONE: EXPIRED, LATE: EXPIRED},
    EXPIRED: {UP: CONNECTED, DOWN: EXPIRED, GONE: EXPIRED, LATE: EXPIRED},
}
STATES: Final = tuple(TRANSITIONS)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {CONNECTING}"]
    for state, row in TRANSITIONS.items():
        lines += [
            f"    {state} --> {after}: {event}" for event, after in row.items() if after != state
        ]
    return "\n".join(lines)


class Session:
    """One session's state and since when."""

    def __init__(self, now: float) -> None:
        """Args: now: monotonic seconds."""
        self.state = CONNECTING
        self.since = now
        self.connected_at = 0.0  # of the last connect; 0 = never
        self.away_since = now  # of the last disconnect

    def __repr__(self) -> str:
        return f"<Session {self.state}>"

    def advance(self, event: str, now: float) -> bool:
        """Go on by the table.

        Returns:
            Whether the state is another.
        """
        after = TRANSITIONS[self.state][event]
        if event == UP:
            self.connected_at = now
        if after == self.state:
            return False
        if self.state == CONNECTED:
            self.away_since = now
        self.state = after
        self.since = now
        return True

    def steady(self, grace: float, now: float) -> bool:
        """Whether it has been without trouble for so many seconds."""
        return self.state == CONNECTED and now - self.connected_at >= grace
