"""net.ports: whoever waits is accepted, and one who cannot be keeps nobody waiting."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, closing
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from gatewayd.core.addresses import parse_listen
from gatewayd.net.ports import listen
from gatewayd.net.reactor import LeanReactor


class Host(Factory):
    """Takes so many at once, and remembers them."""

    def __init__(self, room: int = 100) -> None:
        self.rooms = room
        self.made: list[Protocol] = []
        self.faulty = False

    def room(self) -> int:
        """For so many."""
        return self.rooms

    def buildProtocol(self, addr: Any) -> Protocol:
        """One has come."""
        if self.faulty:
            self.faulty = False
            raise ValueError("faulty")
        self.made.append(Protocol())
        return self.made[-1]


class Short:
    """A listening socket in a process that is short of descriptors."""

    def __init__(self, listening: Any) -> None:
        self._listening = listening
        self.refused = 0

    def _accept(self) -> Any:
        self.refused += 1
        raise OSError(errno.EMFILE, "Too many open files")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listening, name)


class Accepting(SynchronousTestCase):
    """doRead."""

    def setUp(self) -> None:
        self.reactor: Any = LeanReactor()
        self.addCleanup(self.reactor._poller.close)
        self.clients = ExitStack()
        self.addCleanup(self.clients.close)

    def listen(self, factory: Host, address: str = "127.0.0.1:0") -> Any:
        """A port."""
        port = listen(parse_listen(address), factory, self.reactor)
        self.addCleanup(port.socket.close)
        return port

    def come(self, port: Any, count: int) -> None:
        """Clients connect."""
        for _ in range(count):
            far = socket.create_connection(port.socket.getsockname()[:2])
            self.clients.enter_context(closing(far))

    def leave(self, factory: Host) -> None:
        """Everybody is let go."""
        for protocol in factory.made:
            self.addCleanup(protocol.transport.socket.close)  # type: ignore[union-attr]

    def test_all_that_wait(self) -> None:
        """In one call, as many as there is room for; none of them blocks."""
        factory = Host(room=3)
        port = self.listen(factory)
        self.come(port, 5)
        port.doRead()
        self.assertEqual(len(factory.made), 3)
        port.doRead()
        self.assertEqual(len(factory.made), 5)
        port.doRead()
        self.leave(factory)
        transports: list[Any] = [protocol.transport for protocol in factory.made]
        self.assertEqual({0.0}, {each.socket.gettimeout() for each in transports})
        self.assertEqual({"127.0.0.1"}, {each.getPeer().host for each in transports})
        self.assertEqual({port.getHost()}, {each.getHost() for each in transports})
        self.assertLessEqual(set(transports), set(self.reactor.getReaders()))

    def test_over_ipv6(self) -> None:
        """Its address is told without a port's or a link's name."""
        try:
            port = self.listen(Host(), "[::1]:0")
        except OSError as error:
            raise SkipTest("no IPv6 here") from error
        self.come(port, 1)
        port.doRead()
        self.leave(port.factory)
        transport: Any = port.factory.made[0].transport
        self.assertEqual(("::1", port.getHost()), (transport.getPeer().host, transport.getHost()))

    def test_a_fault(self) -> None:
        """Costs the one whom it met."""
        factory = Host()
        factory.faulty = True
        port = self.listen(factory)
        self.come(port, 2)
        port.doRead()
        self.leave(factory)
        self.assertEqual(len(factory.made), 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_short_of_descriptors(self) -> None:
        """Left to Twisted, which accepts with what it has in reserve, or closes them."""
        factory = Host()
        port = self.listen(factory)
        self.come(port, 2)
        port.socket = short = Short(port.socket)
        port.doRead()
        self.leave(factory)
        self.assertEqual((short.refused, len(factory.made)), (1, 2))
