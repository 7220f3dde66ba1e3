"""What all exchanges of a process share."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from secrets import token_hex
from time import time
from typing import Final

from gatewayd.core.counters import Counters
from gatewayd.core.deadlines import Wheel
from gatewayd.core.errors import GatewayError
from gatewayd.core.exchange import Exchange
from gatewayd.core.forwarded import RequestIds, Via

_BATCH: Final = 64  # finished exchanges between two visits of the access log: 0.2 ms of formatting


class Context:
    """Time, names and figures; made once by the service."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        wheel: Wheel,
        counters: Counters,
        via: Via,
        ids: RequestIds,
    ) -> None:
        """Args: clock: monotonic seconds, the wheel's too. wall: seconds since 1970."""
        self.clock = clock
        self.wheel = wheel
        self.counters = counters
        self.via = via
        self.ids = ids
        self.finished: list[Exchange] = []
        self.log: Callable[[list[Exchange]], None] | None = None
        self.on_error: Callable[[Exchange, GatewayError], None] | None = None
        self.wall = wall
        self._date = b""
        self._date_until = -1.0

    @classmethod
    def standalone(cls, clock: Callable[[], float], wheel: Wheel) -> Context:
        """One for a leaf that serves in somebody else's Site: its own names and figures, no log."""
        prefix = token_hex(4).encode()
        return cls(
            clock=clock,
            wall=time,
            wheel=wheel,
            counters=Counters(),
            via=Via(b"gatewayd-" + prefix),
            ids=RequestIds(prefix),
        )

    def date(self) -> bytes:
        """A Date field line for now (RFC 9110 §6.6.1)."""
        now = self.wheel.now
        if now >= self._date_until:
            wall = self.wall()
            self._date_until = now + 1.0 - wall % 1.0
            self._date = b"Date: %b\r\n" % formatdate(wall, usegmt=True).encode()
        return self._date

    def finish(self, exchange: Exchange) -> None:
        """Take a finished exchange for the access log."""
        if self.log is not None:
            self.finished.append(exchange)
            if len(self.finished) >= _BATCH:
                self.flush()

    def flush(self) -> None:
        """Hand what is finished to the access log."""
        if self.finished and self.log is not None:
            batch = self.finished
            self.finished = []
            self.log(batch)
