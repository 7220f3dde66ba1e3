"""What all exchanges of a process share."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

from gatewayd.core.counters import Counters
from gatewayd.core.deadlines import Wheel
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
        max_header_memory: int = 0,
    ) -> None:
        """Args: clock: monotonic seconds. wall: seconds since 1970. max_header_memory: bytes, 0 = any."""
        self.clock = clock
        self.wheel = wheel
        self.counters = counters
        self.via = via
        self.ids = ids
        self.heads = HeadMemory(max_header_memory)
        self.finished: list[Exchange] = []
        self.log: Callable[[list[Exchange]], None] | None = None
        self._wall = wall
        self._date = b""
        self._date_until = -1.0

    def date(self) -> bytes:
        """A Date field line for now (RFC 9110 §6.6.1)."""
        now = self.wheel.now
        if now >= self._date_until:
            wall = self._wall()
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


class HeadMemory:
    """Bounds all unfinished heads together: over the bound the largest is refused."""

    def __init__(self, limit: int) -> None:
        """Args: limit: bytes, 0 = any."""
        self._limit = limit
        self._held: dict[Any, int] = {}
        self._total = 0

    def hold(self, channel: Any, size: int) -> None:
        """A channel holds so many bytes of an unfinished head."""
        self._total += size - self._held.get(channel, 0)
        self._held[channel] = size
        while self._limit and self._total > self._limit:
            largest = max(self._held, key=self._held.__getitem__)
            self.release(largest)
            largest.refuse_head()

    def release(self, channel: Any) -> None:
        """A channel holds nothing any more."""
        self._total -= self._held.pop(channel, 0)
