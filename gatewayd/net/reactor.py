"""The lean reactor: epoll without the ceremony around a plain readable event.

The stock EPollReactor wraps each event in a log context (2 µs). Here a plain readable event is read
directly, and of a wire every other is acted on without that context; the rest takes the stock way. A
turn ends with sending what its events wrote (net.wire).
"""

from __future__ import annotations

import sys
from select import EPOLLIN, EPOLLOUT
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.main import installReactor
from twisted.python import log

from gatewayd.net.wire import Wire, flush_each, read_each

_EVENTS = 64  # of a turn: what the first one wrote waits for the others, a millisecond at most


class _Selectables(dict[int, Any]):
    """What the stock reactor has by descriptor, or its wire, in a list besides.

    Among thousands of connections each look into a dictionary is one at far memory more.
    """

    def __init__(self, known: dict[int, Any]) -> None:
        super().__init__()
        self.at: list[Any] = []
        for fd, selectable in known.items():
            self[fd] = selectable

    def __setitem__(self, fd: int, selectable: Any) -> None:
        super().__setitem__(fd, selectable)
        if fd >= len(self.at):
            self.at.extend([None] * (2 * fd + 64 - len(self.at)))
        self.at[fd] = getattr(selectable, "wire", selectable)

    def __delitem__(self, fd: int) -> None:
        super().__delitem__(fd)
        self.at[fd] = None


class LeanReactor(epollreactor.EPollReactor):
    """An EPollReactor that reads first and asks later."""

    _poller: Any
    _reads: Any
    _writes: Any
    _selectables: Any

    def __init__(self) -> None:
        """Nothing is written yet."""
        self.turn: list[Wire] = []  # those with something to send when the turn ends
        super().__init__()
        self._selectables = _Selectables(self._selectables)

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events and act on them."""
        if self.turn:  # of timed calls
            flush_each(self.turn)
            timeout = 0  # what closed may have asked for a call as soon as can be
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, _EVENTS)
        except InterruptedError:
            return
        read_each(events, self._selectables.at, self._lost, self._otherwise)
        flush_each(self.turn)

    doIteration = doPoll

    def add(self, selectable: Any, *, writes: bool = False) -> None:
        """Add a new reader, and writer, with one call to the kernel."""
        fd = selectable.fileno()
        self._poller.register(fd, EPOLLIN | EPOLLOUT if writes else EPOLLIN)
        self._reads.add(fd)
        if writes:
            self._writes.add(fd)
        self._selectables[fd] = selectable

    def forget(self, selectable: Any) -> None:
        """Neither a reader nor a writer any more, if it was one."""
        fd = selectable.fileno()
        if fd in self._selectables:
            del self._selectables[fd]
            self._poller.unregister(fd)
            self._reads.discard(fd)
            self._writes.discard(fd)

    def _lost(self, selectable: Any, why: Any) -> None:
        self._disconnectSelectable(selectable, why, True)

    def _otherwise(self, selectable: Any, fd: int, event: int) -> None:
        if isinstance(getattr(selectable, "wire", None), Wire):
            if selectable.dialling:
                selectable.tried()
            else:
                self._doReadOrWrite(selectable, fd, event)
        else:
            log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)


def install() -> bool:
    """Make it the process's reactor, unless one was chosen already.

    Returns:
        Whether it was installed.
    """
    if "twisted.internet.reactor" in sys.modules:
        return False
    installReactor(LeanReactor())
    return True
