"""net.transports: what is written in a turn goes out at its end, in order, whatever the kernel takes."""

from __future__ import annotations

import errno
import gc
import socket
import weakref
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import main
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.net.reactor import LeanReactor, _Selectables
from gatewayd.net.transports import EagerServer
from gatewayd.net.wire import Wire, flush_each, read_each

quick = settings(deadline=None, database=None, max_examples=200)


class FakeSocket:
    """Takes as much as it is told to; None = all."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.taken: list[bytes] = []  # by call
        self.error: OSError | None = None
        self.data = b""  # to be read
        self.ended = False  # after that
        self.asked: list[int] = []  # sizes of reads

    def send(self, data: bytes) -> int:
        """Take some."""
        if self.error is not None:
            raise self.error
        size = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= size
            if data and not size:
                raise BlockingIOError(errno.EAGAIN, "full")
        if data:
            self.taken.append(bytes(data[:size]))
        return size

    def sendmsg(self, pieces: Iterable[bytes]) -> int:
        """Take some of several."""
        pieces = list(pieces)
        if len(pieces) > 1024:
            raise OSError(errno.EMSGSIZE, "too many")
        return self.send(b"".join(pieces))

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Give some."""
        if flags & socket.MSG_PEEK:
            if not self.data and not self.ended:
                raise BlockingIOError(errno.EAGAIN, "nothing")
            return self.data[:size]
        self.asked.append(size)
        data, self.data = self.data[:size], self.data[size:]
        return data

    def fileno(self) -> int:
        """Some number."""
        return 7

    def setblocking(self, blocks: bool) -> None:
        """It never does."""

    def setsockopt(self, *option: int) -> None:
        """Nothing to set."""

    def shutdown(self, how: int) -> None:
        """Half closed."""
        self.error = BrokenPipeError(errno.EPIPE, "shut down")

    def close(self) -> None:
        """Closed."""


class FakeReactor(Clock):
    """Knows who waits for what."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[Any] = set()
        self.readers: set[Any] = set()

    def addWriter(self, writer: Any) -> None:
        """It wants to write."""
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        """It has nothing more to write."""
        self.writers.discard(writer)

    def addReader(self, reader: Any) -> None:
        """It wants to read."""
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        """It wants to read no more."""
        self.readers.discard(reader)


class FakePort:
    """Where it was accepted."""

    _realPortNumber = 80

    def accepted(self, connection: Any, peer: str) -> None:
        """Nothing to set."""


class Turns(FakeReactor):
    """One with turns."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: list[Wire] = []

    def add(self, selectable: Any, *, writes: bool = False) -> None:
        """One that is new."""
        self.readers.add(selectable)

    def forget(self, selectable: Any) -> None:
        """One that is no more."""
        self.readers.discard(selectable)
        self.writers.discard(selectable)

    def end(self) -> None:
        """The turn ends."""
        flush_each(self.turn)


class TransportTestCase(SynchronousTestCase):
    """Makes transports on fake sockets."""

    def make(self, reactor: Any) -> tuple[EagerServer, FakeSocket]:
        """A connected one."""
        socket = FakeSocket()
        self.protocol = protocol = Protocol()
        address = ("127.0.0.1", 1)
        transport = EagerServer(socket, protocol, address, FakePort(), 1, reactor)
        protocol.makeConnection(transport)
        return transport, socket


class Writing(TransportTestCase):
    """At the end of a turn."""

    def setUp(self) -> None:
        self.reactor = Turns()
        self.stuck = 0
        self.drained = 0
        self.transport, self.socket = self.make(self.reactor)
        self.transport.stuck = self._stuck

    def _stuck(self) -> None:
        self.stuck += 1

    def _drained(self) -> None:
        self.drained += 1

    def test_together(self) -> None:
        """What a turn wrote is one call at its end, and nobody has to be asked."""
        self.transport.write(b"head")
        self.transport.writeSequence([b"5\r\n", memoryview(b"hello"), b"\r\n"])
        self.assertEqual((self.socket.taken, self.transport.unsent()), ([], 0))
        self.reactor.end()
        self.assertEqual(self.socket.taken, [b"head5\r\nhello\r\n"])
        self.assertEqual((self.stuck, self.reactor.writers), (0, set()))
        self.transport.write(b"next")
        self.reactor.end()
        self.assertEqual(self.socket.taken[1:], [b"next"])

    def test_much_does_not_wait(self) -> None:
        """Over 64 KiB go at once, so that nobody holds more than that."""
        self.transport.write(b"x" * 60_000)
        self.assertEqual(self.socket.taken, [])
        self.transport.write(b"y" * 6_000)
        self.assertEqual(list(map(len, self.socket.taken)), [66_000])
        self.reactor.end()
        self.assertEqual(len(self.socket.taken), 1)

    def test_not_taken(self) -> None:
        """The rest goes when the socket has room; whoever wrote is told both."""
        self.socket.room = 3
        self.transport.write(b"abc")
        self.transport.write(memoryview(b"def"))
        self.reactor.end()
        self.assertEqual((self.stuck, self.transport.unsent()), (1, 3))
        self.assertIn(self.transport, self.reactor.writers)
        self.transport.drained = self._drained
        self.transport.write(memoryview(b"ghi"))
        self.reactor.end()
        self.assertEqual(self.transport.unsent(), 6)
        self.socket.room = None
        self.transport.doWrite()
        self.assertEqual(b"".join(self.socket.taken), b"abcdefghi")
        self.assertEqual((self.drained, self.transport.unsent(), self.transport.moved), (1, 0, 6))
        self.assertEqual(self.reactor.writers, set())

    def test_a_producer_is_paused(self) -> None:
        """When more than its read-ahead is not taken."""
        told: list[str] = []

        class Producer:
            def pauseProducing(self) -> None:
                told.append("pause")

            def resumeProducing(self) -> None:
                told.append("resume")

        self.transport.set_read_ahead(100)
        self.transport.registerProducer(Producer(), True)
        self.socket.room = 0
        self.transport.write(b"x" * 101)
        self.assertEqual(told, [])
        self.reactor.end()
        self.assertEqual(told, ["pause"])
        self.socket.room = None
        self.transport.doWrite()
        self.assertEqual(told, ["pause", "resume"])

    def test_an_error_comes_in_the_reactors_time(self) -> None:
        """Not to whoever wrote."""
        self.socket.error = BrokenPipeError(errno.EPIPE, "broken")
        self.transport.write(b"lost")
        self.reactor.end()
        self.assertIn(self.transport, self.reactor.writers)
        self.assertIs(self.transport.doWrite(), main.CONNECTION_LOST)

    def test_close_after_writing(self) -> None:
        """What was written goes out first; nobody has to be asked whether there is room."""
        self.transport.write(b"good")
        self.transport.loseConnection()
        self.transport.loseConnection()
        self.transport.write(b"bye")
        self.assertEqual((self.transport.connected, self.reactor.writers), (1, set()))
        self.reactor.end()
        self.assertEqual((self.socket.taken, self.transport.connected), ([b"goodbye"], 0))

    def test_close_without_writing(self) -> None:
        """When the turn ends, and not from within the call."""
        self.transport.loseConnection()
        self.assertTrue(self.transport.connected)
        self.reactor.end()
        self.assertFalse(self.transport.connected)

    def test_nothing_is_read_of_what_closes(self) -> None:
        """The rest of the turn, and also while the kernel does not take all."""
        received: list[bytes] = []
        self.protocol.dataReceived = received.append  # type: ignore[method-assign]
        self.socket.room, self.socket.data = 3, b"more"
        self.transport.write(b"goodbye")
        self.transport.loseConnection()
        self.transport.doRead()
        self.reactor.end()
        self.assertTrue(self.transport.connected)
        self.assertNotIn(self.transport, self.reactor.readers)
        self.socket.room = None
        self.assertIs(self.transport.doWrite(), main.CONNECTION_DONE)
        self.assertEqual((received, self.socket.taken), ([], [b"goo", b"dbye"]))

    def test_close_with_a_queue(self) -> None:
        """Then when that is sent."""
        self.socket.room = 3
        self.transport.write(b"goodbye")
        self.reactor.end()
        self.transport.loseConnection()
        self.reactor.end()
        self.assertTrue(self.transport.connected)
        self.socket.room = None
        self.assertIs(self.transport.doWrite(), main.CONNECTION_DONE)

    def test_close_before_the_turns_end(self) -> None:
        """Also where the reactor writes before the turn ends."""
        self.transport.write(b"bye")
        self.transport.loseConnection()
        self.assertIs(self.transport.doWrite(), main.CONNECTION_DONE)
        self.transport.connectionLost(Failure(main.CONNECTION_DONE))
        self.reactor.end()
        self.assertEqual(self.socket.taken, [b"bye"])

    def test_aborted_while_it_closes(self) -> None:
        """Then it is cut: the peer must be able to tell."""
        reasons: list[Failure] = []
        self.protocol.connectionLost = reasons.append  # type: ignore[method-assign,assignment]
        self.transport.loseConnection()
        self.transport.abortConnection()
        self.reactor.end()
        self.assertEqual(reasons, [])
        self.reactor.advance(0)
        self.assertIsInstance(reasons[0].value, ConnectionAborted)

    def test_closed_before_the_turns_end(self) -> None:
        """What was written goes out, nothing after it, and nothing is kept."""
        self.transport.write(b"answer")
        self.transport.connectionLost(Failure(main.CONNECTION_DONE))
        self.reactor.end()
        self.transport.write(b"lost")
        self.reactor.end()
        self.assertEqual(self.socket.taken, [b"answer"])
        self.assertIsNone(self.transport.stuck)

    def test_lost_with_a_queue(self) -> None:
        """Whoever takes nothing and goes leaves nothing behind."""
        self.socket.room = 0
        self.transport.write(b"x" * 99)
        self.reactor.end()
        self.transport.connectionLost(Failure(main.CONNECTION_LOST))
        kept = (self.transport.unsent(), self.transport.dataBuffer, self.transport._tempDataBuffer)
        self.assertEqual(kept, (0, b"", []))

    def test_lost_before_the_turns_end(self) -> None:
        """What a turn wrote to a peer that has reset is not sent: its writer may send it elsewhere."""
        wire = self.transport.wire
        self.transport.write(b"x")
        self.transport.connectionLost(Failure(main.CONNECTION_LOST))
        self.reactor.end()
        self.assertEqual((wire.sends, self.socket.taken), (0, []))

    def test_half_closed(self) -> None:
        """What was written goes out, and nothing after it, though the other half is open."""
        self.transport.write(b"last word")
        self.transport.loseWriteConnection()
        self.transport.doWrite()
        self.transport.write(b"lost")
        self.reactor.end()
        self.assertEqual(self.socket.taken, [b"last word"])
        self.assertTrue(self.transport.connected)

    def test_nothing_waits_for_the_collector(self) -> None:
        """Who is gone is forgotten at once: with thousands of clients its buffers would add up."""
        gc.disable()
        self.addCleanup(gc.enable)
        self.transport.write(b"answer")
        self.reactor.end()
        self.transport.connectionLost(Failure(main.CONNECTION_DONE))
        gone = weakref.ref(self.transport)
        self.protocol.transport = None
        del self.transport
        self.assertIsNone(gone())

    def test_aborted(self) -> None:
        """What was written before is tried once; nothing is kept."""
        self.transport.write(b"answer")
        self.transport.abortConnection()
        self.reactor.end()
        self.reactor.advance(0)
        self.transport.write(b"lost")
        self.reactor.end()
        self.assertEqual((self.socket.taken, self.transport.connected), ([b"answer"], 0))

    def test_many_pieces(self) -> None:
        """More than one call takes are joined."""
        for _ in range(1025):
            self.transport.write(b"x")
        self.reactor.end()
        self.assertEqual(self.socket.taken, [b"x" * 1025])
        self.assertEqual(self.stuck, 0)

    @quick
    @given(st.lists(st.one_of(st.binary(max_size=9), st.integers(0, 12), st.none()), max_size=30))
    def test_any_order(self, steps: list[bytes | int | None]) -> None:
        """Bytes are written, turns end, the kernel takes some: nothing is lost, doubled or reordered."""
        reactor = Turns()
        transport, socket = self.make(reactor)
        wanted = b""
        for step in steps:
            if isinstance(step, bytes):
                transport.write(step)
                wanted += step
            elif step is None:
                reactor.end()
            else:
                socket.room = step
                if transport in reactor.writers:
                    transport.doWrite()
        socket.room = None
        reactor.end()
        if transport in reactor.writers:
            transport.doWrite()
        self.assertEqual(b"".join(socket.taken), wanted)
        self.assertEqual((transport.unsent(), reactor.writers), (0, set()))
        self.assertTrue(transport.wire.direct)

    def test_a_reactor_without_turns(self) -> None:
        """Then each write is sent at once."""
        transport, socket = self.make(FakeReactor())
        transport.write(b"a")
        transport.writeSequence([b"b", b"c"])
        self.assertEqual(socket.taken, [b"a", b"b", b"c"])


class Reading(TransportTestCase):
    """How much at a time."""

    def test_bulk(self) -> None:
        """A head and 64 KiB; of a body more as more is there, and little again where nobody takes it."""
        transport, socket = self.make(Turns())

        def read(size: int, *, bulk: bool) -> int:
            transport.wire.bulk = bulk
            socket.data = b"x" * size
            transport.doRead()
            return socket.asked[-1] // 1024

        self.assertEqual([read(65_536, bulk=False) for _ in range(2)], [72, 72])
        self.assertEqual([read(200_000, bulk=True) for _ in range(3)], [64, 128, 128])
        self.assertEqual(read(200_000, bulk=False), 72)
        self.assertEqual([read(70_000, bulk=True), read(9, bulk=True)], [128, 128])
        self.assertEqual([read(65_536, bulk=True), read(1, bulk=True)], [64, 128])
        read(65_536, bulk=True)
        transport.pauseProducing()
        self.assertEqual(read(1, bulk=True), 64)

    def test_unread(self) -> None:
        """What has come and was not read yet; an end is nothing to be served."""
        transport, socket = self.make(Turns())
        self.assertFalse(transport.unread())
        socket.data = b"GET"
        self.assertTrue(transport.unread())
        self.assertEqual(socket.data, b"GET")
        socket.data, socket.ended = b"", True
        self.assertFalse(transport.unread())


class EndOfTurn(SynchronousTestCase):
    """The reactor's part."""

    def test_one_that_fails(self) -> None:
        """It is cut, for a hole would be in what it sends, and told; the others are sent."""
        sent: list[str] = []

        class Socket:
            def send(self, data: bytes) -> int:
                if data == b"broken":
                    raise ValueError("broken")
                sent.append(data.decode())
                return len(data)

        reactor = LeanReactor()
        self.addCleanup(reactor._poller.close)
        aborted: list[bytes] = []

        class Transport:
            def __init__(self, data: bytes) -> None:
                self.data = data

            def abortConnection(self) -> None:
                aborted.append(self.data)

        for data in (b"sent", b"broken", b"sent"):
            wire = Wire(Transport(data))
            wire.direct, wire.socket, wire.turn = True, Socket(), reactor.turn
            wire.write(data)
        reactor.doPoll(0)
        self.assertEqual((sent, aborted), (["sent", "sent"], [b"broken"]))
        self.assertEqual(reactor.turn, [])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_fault_while_reading(self) -> None:
        """Closes the connection, once."""
        lost: list[Any] = []

        class Faulty(Protocol):
            def dataReceived(self, data: bytes) -> None:
                if data == b"closed":
                    self.transport.connectionLost(Failure(main.CONNECTION_DONE))
                raise ValueError("faulty")

        for data in (b"open", b"closed"):
            socket = FakeSocket()
            socket.data = data
            protocol = Faulty()
            address = ("127.0.0.1", 1)
            server = EagerServer(socket, protocol, address, FakePort(), 1, FakeReactor())
            protocol.makeConnection(server)
            read_each([(0, 1)], [server.wire], lambda *told: lost.append(told), lost.append)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            self.assertEqual([type(why) for _, why in lost], [ValueError])

    def test_a_fault_at_the_end(self) -> None:
        """Whoever fails at the end of its connection keeps nobody from being told."""
        told: list[Any] = []

        def otherwise(selectable: Any, fd: int, event: int) -> None:
            told.append(fd)
            raise ValueError("faulty")

        read_each([(0, 5), (1, 5)], ["one", "two"], lambda *_: None, otherwise)
        self.assertEqual(told, [0, 1])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_what_closes_between_turns_is_heard(self) -> None:
        """What it asks for at once does not wait for the next timed call."""
        reactor = LeanReactor()
        self.addCleanup(reactor._poller.close)
        heard: list[str] = []

        class Leaving(Protocol):
            def connectionLost(self, reason: Any = None) -> None:
                reactor.callLater(0, heard.append, "lost")

        near, far = socket.socketpair()
        self.addCleanup(far.close)
        protocol = Leaving()
        transport = EagerServer(near, protocol, ("127.0.0.1", 1), FakePort(), 1, reactor)
        protocol.makeConnection(transport)
        reactor.callLater(0, transport.loseConnection)
        reactor.callLater(9, heard.append, "late")
        reactor.runUntilCurrent()
        reactor.doIteration(reactor.timeout())
        reactor.runUntilCurrent()
        self.assertEqual(heard, ["lost"])

    @quick
    @given(st.lists(st.tuples(st.integers(0, 300), st.booleans())))
    def test_selectables(self, changes: list[tuple[int, bool]]) -> None:
        """The reactor's list says what its dictionary says, whatever comes and goes."""
        selectables = _Selectables({3: "waker"})
        for fd, comes in changes:
            if comes:
                selectables[fd] = str(fd)
            elif fd in selectables:
                del selectables[fd]
        at = dict(enumerate(selectables.at))
        self.assertEqual(dict(selectables), {fd: each for fd, each in at.items() if each})
