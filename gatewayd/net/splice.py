"""Moving a body from socket to socket inside the kernel (splice(2)), through a pipe.

From 128 KiB on, copying a body through Python costs more than setting this up. A pump replaces the
reading of one transport and the writing of the other for as long as the body lasts; whatever ends it
gives both back. It has a pipe only while there is something in it, so that one serves all whose sinks
keep up, and who takes bytes slowly holds one until the sink is empty. Works on Linux between plain
sockets.

While a body of known length comes fast, but in small pieces, the kernel is asked to wake us for 256
KiB at once (SO_RCVLOWAT) rather than for each. What a source that falters leaves below that is fetched
within 10 ms, and each piece as it comes again until bulk does. None gathers while the sink is full.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet import main

from gatewayd.net.pipes import SIZE, Pipe, Pipes
from gatewayd.net.transports import Eager

WORTHWHILE: Final = 131_072  # bytes left of a body
ENDLESS: Final = 1 << 62  # bytes, of what has no length
_BULK: Final = 65536  # bytes at once
_GATHERED: Final = 262_144  # bytes that bulk may gather in the source's socket before it is read
_FALTER: Final = 0.005  # seconds without a read, after which bulk is none
_SPLICE_F_MOVE: Final = 1
_SPLICE_F_NONBLOCK: Final = 2
_SPLICE_F_MORE: Final = 4
_FLAGS: Final = _SPLICE_F_MOVE | _SPLICE_F_NONBLOCK
_splice: Final[Any] = getattr(os, "splice", None)  # Linux, from Python 3.10 on
_pipes = Pipes()


def possible(source: Any, sink: Any) -> bool:
    """Whether a pump can run between two transports now; what the sink holds goes out first."""
    if _splice is None or not isinstance(source, Eager) or not isinstance(sink, Eager):
        return False
    sink.wire.flush()
    return not sink.unsent() and bool(sink.connected) and not sink.disconnecting


class Pump:
    """One body on its way from `source` to `sink`."""

    def __init__(
        self,
        source: Any,
        sink: Any,
        length: int,
        moved: Callable[[int], None],
        blocked: Callable[[bool], None],
        ended: Callable[[], None],
        gave_up: Callable[[], None],
    ) -> None:
        """Begin to pump.

        Args:
            source, sink: transports for which `possible` is true.
            length: bytes to move.
            moved: told how many bytes came in from the source.
            blocked: told when the sink stops to take bytes, and takes them again.
            ended: called when the last byte is out; the transports are their own again.
            gave_up: called instead where no pipe is to be had any more: nothing is lost, and what is
                `left` is to be copied; the transports are their own again.

        Raises:
            OSError: no pipe is to be had; nothing has changed.
        """
        _pipes.give_back(_pipes.borrow(), is_empty=True)
        self._source = source
        self._sink = sink
        self._left = length
        self._moved = moved
        self._blocked = blocked
        self._ended = ended
        self._gave_up = gave_up
        self._inside = 0  # bytes in the pipe
        # Whether more is sure to follow, so that the kernel may wait for it to fill a segment: in a
        # tunnel a long message may be the last for a while.
        self._has_length = length < ENDLESS
        self._is_bulk = False
        self._waiting = False
        self._low = 1  # bytes for which the source counts as readable
        self._faltering: Any = None  # the call that looks after bulk, while there is some
        self._has_come = False  # since its last look
        self._broken = False  # the sink's connection
        self._pipe: Pipe | None = None  # while there is something in it
        self._stopped = False
        # Good while the sockets are open: whoever closes one stops its pump.
        self._from: int = source.socket.fileno()
        self._to: int = sink.socket.fileno()
        self._socket = source.socket
        source.wire.reader = self._read
        sink.doWrite = self._write
        source.startReading()

    @property
    def left(self) -> int:
        """Bytes that have not come in yet."""
        return self._left

    def stop(self) -> None:
        """Give the transports back; what is in the pipe is lost, so the exchange must be cut."""
        if self._stopped:
            return
        self._stopped = True
        self._gather(1)
        self._source.wire.reader = None
        self._sink.__dict__.pop("doWrite", None)
        if self._pipe is not None:
            self._give_back(self._pipe)

    def _read(self) -> Any:
        """The source is readable; once a turn, for what comes meanwhile goes better together."""
        pipe = self._pipe
        if pipe is None:
            try:
                pipe = self._pipe = _pipes.borrow()
            except OSError:
                self.stop()
                self._gave_up()
                return None
        try:
            size: int = _splice(self._from, pipe[1], min(self._left, SIZE), None, None, _FLAGS)
        except OSError as error:
            if not self._inside:
                self._give_back(pipe)
            return None if isinstance(error, BlockingIOError) else main.CONNECTION_LOST
        if not size:
            return main.CONNECTION_DONE
        self._left -= size
        self._inside += size
        self._is_bulk = self._has_length and size >= _BULK
        self._has_come = True
        self._empty()
        self._moved(size)
        if self._stopped:
            return None
        gathers = self._low > 1 or (self._is_bulk and size < _GATHERED)
        if not self._left and not self._inside:
            self._finish()
        elif gathers and not self._waiting:  # what gathers has to fit; the next pipe may be another
            self._gather(min(_GATHERED, self._left) if pipe[2] >= _GATHERED else 1)
        return None

    def _empty(self) -> bool:
        """Push the pipe's bytes into the sink; whether it took them all."""
        pipe = self._pipe
        if pipe is None:
            return True
        while self._inside:
            more = _SPLICE_F_MORE if self._left and self._is_bulk else 0
            try:
                if not self._sink.connected:  # its number may be another's already
                    raise OSError(errno.ENOTCONN, "the sink is closed")
                size: int = _splice(pipe[0], self._to, self._inside, None, None, _FLAGS | more)
            except OSError as error:
                self._broken = not isinstance(error, BlockingIOError)
                if not self._waiting:
                    self._waiting = True
                    self._gather(1)
                    self._source.stopReading()
                    self._sink.startWriting()
                    self._blocked(True)
                return False
            self._inside -= size
            self._sink.moved += size
        self._give_back(pipe)
        return True

    def _give_back(self, pipe: Pipe) -> None:
        self._pipe = None
        _pipes.give_back(pipe, is_empty=not self._inside)

    def _write(self) -> Any:
        """The sink is writable again, or gone."""
        if self._broken:
            return main.CONNECTION_LOST  # the reactor has read what came from there: a last answer
        if not self._empty():
            return None
        self._waiting = False
        self._sink.stopWriting()
        self._blocked(False)
        if self._left:
            self._source.startReading()
            return None
        self._source.startReading()
        self._finish()
        return None

    def _gather(self, low: int) -> None:
        """Have the source count as readable from so many bytes on."""
        if low == self._low:
            return
        self._low = low
        with suppress(OSError):  # it is closed
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)
        if low == 1:
            if self._faltering is not None:
                self._faltering.cancel()
                self._faltering = None
        elif self._faltering is None:
            self._look_later()

    def _look_later(self) -> None:
        self._has_come = False
        self._faltering = self._source.reactor.callLater(_FALTER, self._look)

    def _look(self) -> None:
        """Whether bulk still comes; else what has gathered is told at once by the kernel."""
        self._faltering = None
        if self._has_come:
            self._look_later()
        else:
            self._gather(1)

    def _finish(self) -> None:
        self.stop()
        self._ended()
