"""What happens ten times a second: the coarse clock moves, what is late is called, logs are flushed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from gatewayd.proxy.context import Context

TICK: Final = 0.1
_FLUSH_SECONDS: Final = 0.5  # a line is in its file within twice this


class Sweeper(Service):
    """Sweeps the wheel of deadlines, and measures how late the reactor calls; made by the service."""

    def __init__(
        self,
        context: Context,
        clock: Any,
        *,
        flush: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Args:
        context: whose wheel, clock and figures these are.
        clock: Twisted's IReactorTime.
        flush: has written what was logged.
        failed: told of a deadline's handler that raised; the next sweep goes on.
        """
        self._context = context
        self._flush = flush
        self._failed = failed
        self._loop = LoopingCall(self._sweep)
        self._loop.clock = clock
        self._due = 0.0
        self._flushed = 0.0

    def startService(self) -> None:
        """Twisted: begin."""
        super().startService()
        self._due = self._context.clock()
        self._loop.start(TICK, now=True)

    def stopService(self) -> None:
        """Twisted: end."""
        super().stopService()
        self._loop.stop()

    def _sweep(self) -> None:
        now = self._context.clock()
        self._context.counters.lag.observe(max(0.0, now - self._due))
        self._due = now + TICK
        try:
            self._context.wheel.sweep(now)
        except Exception as error:
            self._failed(error)
        if now - self._flushed >= _FLUSH_SECONDS:
            self._flushed = now
            self._flush()
