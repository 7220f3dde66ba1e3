"""What the reactor touches of a plain connection: it reads, holds what a turn writes, and sends it.

Stock transports buffer each write, ask the reactor for a writable event and send then: an epoll_ctl,
an epoll_wait and three Python calls for every small answer. Here `write` only notes the bytes, and when
the reactor has read all that was to be read, `flush` sends what each wire has, in one call and without
waiting. Sent one after the other, the first answer wakes the peer and the others find it awake; sent
from within `write`, with a request's work in between, each one had to wake it again. On another
reactor `write` sends at once (docs/performance.md has the figures).

All else is its transport's (net.transports): connecting, queueing what the kernel does not take, closing.
This half is apart so that it can be compiled, and lies together: among thousands of connections memory
is cold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet import main
from twisted.python import log

_READ: Final = 65536
_WITH_HEAD: Final = (
    73_728  # 64 KiB and what stands before them: a body of that size comes in one piece
)
_MOST_READ: Final = 131_072  # of bulk: fewer and longer sends wake their reader less often
_HELD: Final = 65536  # bytes that may wait for the turn's end
_PIECES: Final = 1024  # that one call takes (Linux's UIO_MAXIOV)
_EPOLLIN: Final = 1


class Wire:
    """The near half of an eager transport; made by it, read and flushed by the reactor."""

    __slots__ = (
        "_first",
        "_more",
        "_reading",
        "_size",
        "bulk",
        "direct",
        "protocol",
        "reader",
        "sends",
        "socket",
        "then",
        "transport",
        "turn",
    )

    def __init__(self, transport: Any) -> None:
        """Make one.

        Args:
            transport: whose it is. Its `queue` takes what is written while the wire is not `direct`,
                its `stick` what the kernel does not take.
        """
        self.direct = False  # whether bytes may be sent: it is connected, and nothing is queued
        self.socket: Any = None
        self.protocol: Any = None
        self.reader: Callable[[], Any] | None = None  # reads in place of it, as a pump does
        self.then: Callable[[], None] | None = None  # when the turn ends and all is sent
        self.bulk = False  # set while a body comes: the more there is, the more is read at once
        self._reading = _READ  # of that
        self._first: Any = None  # what waits for the turn's end
        self._size = 0  # of all that waits
        self._more: list[Any] | None = None  # of it
        self.turn: list[Wire] | None = None  # the reactor's: who is to be flushed; None = no turns
        self.sends = 0  # how often something was handed on: to the kernel, or to be queued
        self.transport = transport

    def write(self, data: bytes | memoryview) -> None:
        """Send when the turn ends."""
        if not self.direct:
            self.sends += 1
            if self.transport is not None:
                self.transport.queue(bytes(data))
            return
        if self._first is None:
            self._first = data
            if self.turn is not None:
                self.turn.append(self)
        elif self._more is None:
            self._more = [data]
        else:
            self._more.append(data)
        self._size += len(data)
        if self._size > _HELD or self.turn is None:
            self.flush()

    def write_each(self, pieces: Iterable[bytes | memoryview]) -> None:
        """The same with several pieces, which need not be joined."""
        for piece in pieces:
            self.write(piece)

    def flush(self) -> None:
        """Send what waits for the turn's end; nothing if none does."""
        first = self._first
        if first is None:
            return
        more, size = self._more, self._size
        self.take_back()
        self.sends += 1
        try:
            if more is None:
                sent = self.socket.send(first)
            elif len(more) < _PIECES:
                sent = self.socket.sendmsg([first, *more])
            else:
                sent = self.socket.send(b"".join([first, *more]))
        except OSError:
            sent = 0  # the stock write meets the same error in the reactor's own time
        if sent != size:
            self.direct = False
            self.transport.stick(b"".join([first, *more] if more else [first])[sent:])

    def read(self) -> Any:
        """Read once and hand it on; the reactor comes again if there is more.

        Returns:
            As Twisted's doRead: what ended the connection, or None.
        """
        if self.reader is not None:
            return self.reader()
        size = self._reading if self.bulk else _WITH_HEAD
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        if self.bulk:
            if len(data) == size:
                self._reading = min(2 * size, _MOST_READ)
            elif len(data) < size // 2:
                self._reading = _READ
        return self.protocol.dataReceived(data)

    def slow_down(self) -> None:
        """Nobody takes what is read: begin small again."""
        self._reading = _READ

    def after_turn(self, then: Callable[[], None]) -> None:
        """Call, once, when the turn ends and what it wrote is sent; only where there are turns."""
        self.then = then
        if self._first is None and self.turn is not None:
            self.turn.append(self)

    def take_back(self) -> None:
        """Forget what waits for the turn's end: it goes out another way."""
        self._first = self._more = None
        self._size = 0

    def close(self) -> None:
        """Forget what waits: the connection is no more."""
        self.direct = False
        self.take_back()
        self.then = None
        self.transport = None  # which has this: no ring that only the collector could free


def read_nothing() -> None:
    """Whose connection closes has said enough."""


def read_each(
    events: list[tuple[int, int]],
    at: list[Any],
    lost: Callable[[Any, Any], None],
    otherwise: Callable[[Any, int, int], None],
) -> None:
    """Act on the events of a turn.

    Args:
        events: of epoll, as (fd, event).
        at: by fd, a wire or whatever else is selectable; None where an earlier event has closed it.
        lost: told a selectable, and what ended it.
        otherwise: told (selectable, fd, event) of all that is not plainly readable.
    """
    for fd, event in events:
        found = at[fd]
        wire = found if isinstance(found, Wire) else None
        try:
            if event == _EPOLLIN and found is not None:
                try:
                    why = wire.read() if wire is not None else found.doRead()
                except Exception as error:
                    log.err()
                    why = error
                selectable = found if wire is None else wire.transport
                if why and selectable is not None:  # not closed meanwhile
                    lost(selectable, why)
            elif found is not None:
                otherwise(found if wire is None else wire.transport, fd, event)
        except Exception:
            log.err()  # who failed at its end must not keep others from theirs


def flush_each(turn: list[Wire]) -> None:
    """End a turn: send what its events wrote."""
    for wire in turn:
        try:
            wire.flush()
            then = wire.then
            if then is not None:
                wire.then = None
                then()
        except Exception:
            log.err()
            if wire.transport is not None:
                wire.transport.abortConnection()  # what would follow had a hole before it
    turn.clear()
