"""net.dialer: what cannot even begin fails like any other attempt, and what ends leaves nothing."""

from __future__ import annotations

import errno
import gc
import socket
from contextlib import closing
from typing import Any
from weakref import ref

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionRefusedError,
    TimeoutError,
    UserError,
)
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.pollreactor import PollReactor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from gatewayd.net.dialer import Dialer
from gatewayd.net.reactor import LeanReactor
from gatewayd.net.wire import flush_each


def lose(protocol: Protocol) -> None:
    """End a connection at once."""
    protocol.transport.connectionLost(Failure(CONNECTION_DONE))  # type: ignore[union-attr]


class Dialling(SynchronousTestCase):
    """dial."""

    def test_no_socket(self) -> None:
        """No IPv6 in the kernel, or no descriptor left: told later, as a failed attempt."""

        def refuse(*arguments: Any) -> None:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

        self.patch(socket, "SocketType", refuse)
        clock: Any = Clock()
        failures: list[Failure] = []
        Dialer(clock).dial("::1", 80, object(), 5.0, failures.append)
        self.assertEqual([], failures)
        clock.advance(0)
        self.assertEqual([OSError], [failure.type for failure in failures])
        self.assertEqual([], clock.getDelayedCalls())

    def test_no_room_in_the_reactor(self) -> None:
        """epoll takes no descriptor more: a failed attempt like any other."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)

        def refuse(selectable: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        reactor.add = refuse
        failures: list[Failure] = []
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            address = listening.getsockname()
            Dialer(reactor).dial(*address, Protocol(), 5.0, failures.append)
            self.assertEqual([], failures)
            reactor.iterate(0)
        self.assertEqual([OSError], [failure.type for failure in failures])
        self.assertEqual([], reactor.getDelayedCalls())

    def test_refused(self) -> None:
        """Told with the kernel's reason; nothing waits for the collector."""
        gc.disable()
        self.addCleanup(gc.enable)
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        with closing(socket.socket()) as unused:
            unused.bind(("127.0.0.1", 0))
            protocol = Protocol()
            failures: list[Failure] = []
            dialer = Dialer(reactor)
            dialer.dial("127.0.0.1", unused.getsockname()[1], protocol, 5.0, failures.append)
            for _ in range(500):
                if failures:
                    break
                reactor.iterate(0.01)
        self.assertEqual([ConnectionRefusedError], [failure.type for failure in failures])
        self.assertEqual([], reactor.getDelayedCalls())
        gone = ref(protocol)
        del protocol
        self.assertIsNone(gone())

    def test_refused_elsewhere(self) -> None:
        """The stock reactors tell of it twice; it is heard once."""
        for kind in (EPollReactor, PollReactor, SelectReactor):
            reactor: Any = kind()
            with closing(socket.socket()) as unused:
                unused.bind(("127.0.0.1", 0))
                failures: list[Failure] = []
                Dialer(reactor).dial(*unused.getsockname(), Protocol(), 5.0, failures.append)
                for _ in range(500):
                    if failures:
                        break
                    reactor.iterate(0.01)
            self.assertEqual([ConnectionRefusedError], [failure.type for failure in failures])
            self.assertEqual([], self.flushLoggedErrors())
            self.assertEqual([], reactor.getDelayedCalls())

    def test_a_fault_when_connected(self) -> None:
        """Ends the connection."""
        lost: list[Failure] = []

        class Faulty(Protocol):
            def connectionMade(self) -> None:
                raise ValueError("faulty")

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                lost.append(reason)

        for reactor in (LeanReactor(), SelectReactor()):
            made: Any = reactor
            with closing(socket.create_server(("127.0.0.1", 0))) as listening:
                Dialer(made).dial(*listening.getsockname(), Faulty(), 5.0, self.fail)
                for _ in range(5):
                    made.iterate(0.01)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual([ConnectionAborted] * 2, [failure.type for failure in lost])

    def test_given_up(self) -> None:
        """Before it has begun, and while it waits for an answer."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        with closing(socket.socket()) as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            with closing(socket.create_connection(address)):  # and no other is accepted
                for turns in (0, 3):
                    failures: list[Failure] = []
                    give_up = Dialer(reactor).dial(*address, Protocol(), 5.0, failures.append)
                    for _ in range(turns):
                        reactor.iterate(0.01)
                    self.assertEqual([], failures)
                    give_up()
                    self.assertEqual([UserError], [failure.type for failure in failures])
                    reactor.iterate(0.01)
                    self.assertEqual([], reactor.getDelayedCalls())
                    self.assertEqual([], reactor.getWriters())

    def test_at_the_end_of_the_turn(self) -> None:
        """All that a turn dials is dialled when it ends, and on this machine connected by then."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            listening.setblocking(False)
            dialled = [Protocol() for _ in range(3)]
            for each in dialled:
                Dialer(reactor).dial(*listening.getsockname(), each, 5.0, self.fail)
            self.assertRaises(BlockingIOError, listening.accept)
            self.assertEqual([None] * 3, [each.transport for each in dialled])
            flush_each(reactor.turn)
            self.assertNotIn(None, [each.transport for each in dialled])
            self.assertEqual([], reactor.getDelayedCalls())
            accepted = [listening.accept()[0] for _ in dialled]
            for each, far in zip(dialled, accepted, strict=True):
                each.transport.write(b"hello")  # type: ignore[union-attr]
                flush_each(reactor.turn)
                self.assertEqual(b"hello", far.recv(9))
                far.close()
                lose(each)

    def test_later(self) -> None:
        """Where the peer is slow to answer, the reactor waits for it, and the timer is stopped then."""
        for reactor in (LeanReactor(), SelectReactor()):
            made: Any = reactor
            with closing(socket.socket()) as full:
                full.bind(("127.0.0.1", 0))
                full.listen(0)
                address = full.getsockname()
                with closing(socket.create_connection(address)):
                    slow = Protocol()
                    Dialer(made).dial(*address, slow, 5.0, self.fail)
                    for _ in range(3):
                        made.iterate(0.01)
                    self.assertIsNone(slow.transport)
                    self.assertEqual(1, len(made.getDelayedCalls()))
                    full.accept()[0].close()  # now there is room, and the kernel tries again
                    for _ in range(500):
                        if slow.transport is not None:
                            break
                        made.iterate(0.01)
                    self.assertIsNotNone(slow.transport)
                    self.assertEqual([], made.getDelayedCalls())
                    self.assertEqual([], list(made.getWriters()))
                    lose(slow)

    def test_too_late(self) -> None:
        """Nobody answers within the timeout."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        with closing(socket.socket()) as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with closing(socket.create_connection(full.getsockname())):
                failures: list[Failure] = []
                Dialer(reactor).dial(*full.getsockname(), Protocol(), 0.05, failures.append)
                for _ in range(500):
                    if failures:
                        break
                    reactor.iterate(0.01)
        self.assertEqual([TimeoutError], [failure.type for failure in failures])
        self.assertEqual([], reactor.getWriters())

    def test_over_ipv6(self) -> None:
        """An address in its long form."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        try:
            listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError as error:
            raise SkipTest("no IPv6 here") from error
        with closing(listening):
            protocol = Protocol()
            Dialer(reactor).dial("::1", listening.getsockname()[1], protocol, 5.0, self.fail)
            flush_each(reactor.turn)
            self.assertIsNotNone(protocol.transport)
            lose(protocol)


class Leaving(SynchronousTestCase):
    """Connections that end."""

    def test_nothing_waits_for_the_collector(self) -> None:
        """Whoever had a connection is forgotten with it."""
        gc.disable()
        self.addCleanup(gc.enable)
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        lost: list[str] = []

        class Near(Protocol):
            def connectionMade(self) -> None:
                gone.append(ref(self.transport))

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                lost.append("near")

        class Far(Protocol):
            def connectionMade(self) -> None:
                self.transport.loseConnection()  # type: ignore[union-attr]

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                lost.append("far")

        port = reactor.listenTCP(0, Factory.forProtocol(Far), interface="127.0.0.1")
        self.addCleanup(port.socket.close)
        near = Near()
        gone = [ref(near)]
        address = port.getHost()
        give_up = Dialer(reactor).dial(address.host, address.port, near, 5.0, self.fail)
        del near
        for _ in range(500):
            if len(lost) == 2:
                break
            reactor.iterate(0.01)
        give_up()  # too late, and no harm
        del give_up
        self.assertEqual(["far", "near"], sorted(lost))
        self.assertEqual([None, None], [each() for each in gone])
