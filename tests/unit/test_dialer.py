"""net.dialer: what cannot even begin fails like any other attempt, and what ends leaves nothing."""

from __future__ import annotations

import errno
import gc
import socket
from contextlib import closing
from typing import Any
from weakref import ref

from twisted.internet.error import ConnectBindError, ConnectionRefusedError, UserError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.net.dialer import Dialer
from gatewayd.net.reactor import LeanReactor


class Dialling(SynchronousTestCase):
    """dial."""

    def test_no_socket(self) -> None:
        """No IPv6 in the kernel, or no descriptor left: told later, as a failed attempt."""

        def refuse(*arguments: Any) -> None:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

        self.patch(socket, "socket", refuse)
        clock: Any = Clock()
        failures: list[Failure] = []
        Dialer(clock).dial("::1", 80, object(), 5.0, failures.append)
        self.assertEqual([], failures)
        clock.advance(0)
        self.assertEqual([ConnectBindError], [failure.type for failure in failures])
        self.assertEqual([], clock.getDelayedCalls())

    def test_no_room_in_the_reactor(self) -> None:
        """epoll takes no descriptor more: a failed attempt like any other."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)

        def refuse(selectable: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        reactor.add_both = refuse
        failures: list[Failure] = []
        Dialer(reactor).dial("127.0.0.1", 9, Protocol(), 5.0, failures.append)
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
