"""net.loopback: what stays on this machine is not paced; on any other way the system's choice stands."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import parse_listen
from gatewayd.net.loopback import unpace
from gatewayd.net.ports import listen
from gatewayd.net.reactor import LeanReactor
from gatewayd.net.transports import EagerClient

PLAIN = b"reno"


def control(sock: socket.socket) -> bytes:
    """The congestion control of a socket."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def is_prompt(sock: socket.socket) -> bool:
    """Whether it sends small segments at once."""
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


class _Host(Factory):
    """Keeps the transports of those who came."""

    def __init__(self) -> None:
        self.transports: list[Any] = []

    def room(self) -> int:
        """For one."""
        return 1

    def buildProtocol(self, addr: Any) -> Protocol:
        """A protocol that tells of its transport."""
        protocol = Protocol()
        protocol.connectionMade = lambda: self.transports.append(protocol.transport)  # type: ignore[method-assign]
        return protocol


class Unpacing(SynchronousTestCase):
    """unpace."""

    def test_loopback_alone(self) -> None:
        """127.0.0.0/8 and ::1 are loopback, also as a listener on [::] sees the former."""
        with closing(socket.socket()) as untouched:
            systems = control(untouched)
        expected = {
            "127.0.0.1": PLAIN,
            "127.200.0.9": PLAIN,
            "::1": PLAIN,
            "::ffff:127.0.0.1": PLAIN,
            "::ffff:192.0.2.1": systems,
            "192.0.2.1": systems,
            "0.0.0.0": systems,
            "::": systems,
            "::2": systems,
        }
        found = {}
        for host in expected:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with closing(socket.socket(family)) as sock:
                unpace(sock, host)
                found[host] = control(sock)
        self.assertEqual(found, expected)

    def test_no_such_choice(self) -> None:
        """What has no congestion control goes as it is."""
        with closing(socket.socket(socket.AF_UNIX)) as sock:
            unpace(sock, "127.0.0.1")


class Sockets(SynchronousTestCase):
    """Of listeners and of connections to endpoints."""

    def test_a_listener(self) -> None:
        """What it accepts is as it is."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        port = listen(parse_listen("127.0.0.1:0"), Factory(), reactor)
        self.addCleanup(port.stopListening)
        with closing(socket.create_connection(("127.0.0.1", port.getHost().port))):
            port.socket.setblocking(True)
            accepted, _ = port.socket.accept()
            with closing(accepted):
                self.assertEqual((control(accepted), is_prompt(accepted)), (PLAIN, True))

    def test_a_socket_that_was_handed_over(self) -> None:
        """Who had connected before is served like those who come after."""
        reactor: Any = LeanReactor()
        self.addCleanup(reactor._poller.close)
        with closing(socket.socket()) as handed:
            handed.bind(("127.0.0.1", 0))
            handed.listen()
            with closing(socket.create_connection(handed.getsockname())):
                factory = _Host()
                port = listen(parse_listen("127.0.0.1:0"), factory, reactor, handed.fileno())
                self.addCleanup(port.stopListening)
                with closing(socket.create_connection(handed.getsockname())):
                    port.doRead()
                    port.doRead()
                    for transport in factory.transports:
                        self.addCleanup(transport.socket.close)
                    found = [each.socket for each in factory.transports]
                    self.assertEqual([PLAIN, PLAIN], [*map(control, found)])
                    self.assertEqual([True, True], [*map(is_prompt, found)])

    def test_a_local_client(self) -> None:
        """Whoever comes from here to a listener on all addresses is served unpaced too."""
        reactor: Any = LeanReactor()
        port = listen(parse_listen("0.0.0.0:0"), _Host(), reactor)
        self.addCleanup(port.stopListening)
        with closing(socket.create_connection(("127.0.0.1", port.getHost().port))):
            port.doRead()
            (transport,) = port.factory.transports
            self.addCleanup(transport.socket.close)
            made = transport.socket
            self.assertEqual((control(made), is_prompt(made)), (PLAIN, True))

    def test_an_endpoint(self) -> None:
        """Before it connects."""
        reactor: Any = LeanReactor()
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            protocol = Protocol()
            EagerClient(*listening.getsockname(), protocol, self.fail, 0.0, reactor)
            reactor.doIteration(0)
            transport: Any = protocol.transport
            found = (control(transport.socket), is_prompt(transport.socket))
            self.assertEqual(found, (PLAIN, True))
            transport.connectionLost(Failure(CONNECTION_DONE))
