"""net.splice: what bulk asks of the kernel, and that it is taken back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import Any
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.net import pipes, splice
from gatewayd.net.pipes import Pipes
from gatewayd.net.wire import Wire

MIB = 1 << 20


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    return here, there


class Side:
    """An eager transport, as far as a pump goes; `peer` is the other end of its socket."""

    def __init__(self, reactor: Clock) -> None:
        self.socket, self.peer = connected()
        self.socket.setblocking(False)
        self.reactor = reactor
        self.connected = True
        self.moved = 0
        self.wire = Wire(self)
        self.doWrite: Any = None
        self.reads = False

    def startReading(self) -> None:
        """Want events."""
        self.reads = True

    def stopReading(self) -> None:
        """Want none."""
        self.reads = False

    startWriting = stopWriting = resume = lambda self: None

    @property
    def low(self) -> int:
        """From how many bytes on it counts as readable."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


class Gathering(SynchronousTestCase):
    """SO_RCVLOWAT of the source, while bulk comes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.source, self.sink = Side(self.clock), Side(self.clock)
        for each in (self.source, self.sink):
            self.addCleanup(each.socket.close)
            self.addCleanup(each.peer.close)
        self.pipes = Pipes()
        patched = patch.object(splice, "_pipes", self.pipes)
        patched.start()
        self.addCleanup(patched.stop)
        self.ended = self.gave_up = 0
        self.sizes: list[int] = []  # of what came at once

    def pump(self, length: int) -> splice.Pump:
        """Begin."""

        def ended() -> None:
            self.ended += 1

        def gave_up() -> None:
            self.gave_up += 1

        def blocked(is_blocked: bool) -> None:
            pass

        moved = self.sizes.append
        pump = splice.Pump(self.source, self.sink, length, moved, blocked, ended, gave_up)
        self.addCleanup(pump.stop)
        return pump

    def bring(self, size: int) -> None:
        """Bytes come, and go on; the sink's peer takes them."""
        self.source.peer.sendall(bytes(size))
        taken = 0
        while taken < size:
            self.assertIsNone(self.source.wire.read())
            if self.ended:
                return
            taken += len(self.sink.peer.recv(size))

    def state(self) -> tuple[int, int]:
        """What is asked of the kernel, and how many calls are to come."""
        return self.source.low, len(self.clock.getDelayedCalls())

    def test_bulk_gathers_until_it_falters(self) -> None:
        """A look every 5 ms; one that sees no read is the last, and bulk may come again."""
        self.pump(10 * MIB)
        self.bring(1000)
        self.assertEqual((1, 0), self.state())
        self.source.peer.sendall(bytes(100_000))
        while self.source.low == 1:
            self.source.wire.read()
        for _ in range(3):
            self.assertEqual((262_144, 1), self.state())
            self.clock.advance(0.0025)
            self.source.peer.sendall(bytes(1000))
            self.source.wire.read()
            self.clock.advance(0.0025)
        self.clock.advance(0.005)
        self.assertEqual((1, 0), self.state())
        self.source.wire.read()
        self.assertEqual((1, 0), self.state())

    def test_what_comes_at_once_need_not_gather(self) -> None:
        """A source that keeps up brings more than is asked for by itself."""
        self.pump(1000 * MIB)
        self.source.peer.setblocking(False)
        for _ in range(100):
            self.assertEqual(1, self.source.low)
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.source.peer.send(bytes(100_000))
            self.source.wire.read()
            while not self.source.reads:
                self.sink.peer.recv(MIB)
                self.sink.doWrite()
            if self.sizes[-1] >= 262_144:
                break
            self.clock.advance(0.005)
            self.clock.advance(0.005)
        self.assertGreaterEqual(self.sizes[-1], 262_144)
        self.assertEqual((1, 0), self.state())

    def test_the_end_is_not_waited_beyond(self) -> None:
        """The kernel waits for no more than there is to come; then the source is its own again."""
        self.pump(400_000)
        self.bring(200_000)
        self.assertEqual((200_000, 1), self.state())
        self.bring(150_000)
        self.assertEqual((50_000, 1), self.state())
        self.bring(50_000)
        self.assertEqual(((1, 0), 1), (self.state(), self.ended))

    def test_stopped(self) -> None:
        """Whatever stops it, also when the socket is closed already."""
        for closed in (False, True):
            pump = self.pump(10 * MIB)
            self.bring(200_000)
            self.assertEqual((262_144, 1), self.state())
            if closed:
                self.source.socket.close()
            else:
                pump.stop()
                self.assertEqual(1, self.source.low)
        pump.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_a_full_sink(self) -> None:
        """Bytes wait in the source's socket as it is: none are asked to gather, and no call looks."""
        self.sink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.sink.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.pump(10 * MIB)
        self.bring(100_000)
        for each in (self.source.peer, self.sink.peer):
            each.setblocking(False)
        for _ in range(2):
            self.assertEqual((262_144, 1), self.state())
            while self.source.reads:
                with contextlib.suppress(BlockingIOError):
                    self.source.peer.send(bytes(100_000))
                self.source.wire.read()
            self.assertEqual((1, 0), self.state())
            while self.source.low == 1:  # until all is out, and bulk comes again
                with contextlib.suppress(BlockingIOError):
                    self.sink.peer.recv(100_000)
                if self.source.reads:
                    with contextlib.suppress(BlockingIOError):
                        self.source.peer.send(bytes(100_000))
                    self.source.wire.read()
                else:
                    self.sink.doWrite()

    def test_a_small_pipe(self) -> None:
        """What gathers would not fit."""
        source, sink = os.pipe2(os.O_NONBLOCK)
        size = fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 131_072)
        self.pipes.give_back((source, sink, size), is_empty=True)
        self.pump(10 * MIB)
        self.bring(300_000)
        self.assertEqual((1, 0), self.state())

    def test_a_smaller_pipe_later(self) -> None:
        """What has begun to gather is not waited for any more."""
        self.pump(700_000)
        self.bring(100_000)
        self.assertEqual((262_144, 1), self.state())
        lent = self.pipes.borrow()
        source, sink = os.pipe2(os.O_NONBLOCK)
        self.pipes.give_back(
            (source, sink, fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 131_072)), is_empty=True
        )
        self.bring(100_000)
        self.assertEqual((1, 0), self.state())
        self.pipes.give_back(lent, is_empty=False)

    def test_a_tunnel(self) -> None:
        """It has no length: what came may be the last for a while."""
        self.pump(splice.ENDLESS)
        self.bring(300_000)
        self.assertEqual((1, 0), self.state())

    def test_a_pipe_for_a_moment(self) -> None:
        """Once it is empty the next one may have it; a full sink holds it."""
        self.sink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.sink.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        with patch.object(pipes, "MOST", 1):
            self.pump(10 * MIB)
            self.bring(100_000)
            self.pipes.give_back(self.pipes.borrow(), is_empty=True)
            self.source.peer.setblocking(False)
            while self.source.reads:
                with contextlib.suppress(BlockingIOError):
                    self.source.peer.send(bytes(100_000))
                self.source.wire.read()
            self.assertRaises(OSError, self.pipes.borrow)
            self.assertRaises(OSError, self.pump, MIB)

    def test_no_pipe_any_more(self) -> None:
        """Then the rest is copied: the transports are their own again, and nothing is lost."""
        with patch.object(pipes, "MOST", 1):
            pump = self.pump(10 * MIB)
            self.bring(100_000)
            lent = self.pipes.borrow()
            self.source.peer.sendall(b"next")
            self.assertIsNone(self.source.wire.read())
            self.pipes.give_back(lent, is_empty=False)
        self.assertEqual((1, 0, 10 * MIB - 100_000), (self.gave_up, self.ended, pump.left))
        self.assertEqual(
            (False, False), (self.source.wire.reader is not None, "doWrite" in vars(self.sink))
        )
        self.assertEqual((b"next", (1, 0)), (self.source.socket.recv(9), self.state()))

    def test_nothing_to_write(self) -> None:
        """Whoever asks to write for another reason finds an empty pipe, and that is no fault."""
        self.pump(10 * MIB)
        self.assertIsNone(self.sink.doWrite())
        self.bring(1000)
