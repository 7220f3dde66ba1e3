"""Opening connections to endpoints with eager transports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from gatewayd.net.transports import EagerClient


class _Connector(tcp.Connector):
    def _makeTransport(self) -> EagerClient:
        return EagerClient(self.host, self.port, self.bindAddress, self, self.reactor)

    def connectionLost(self, reason: Failure) -> None:
        """Twisted: it is over; no ring is left that only the collector could free."""
        super().connectionLost(reason)
        self.transport = None


class _Once(ClientFactory):
    """Hands one protocol its connection, or its failure."""

    noisy = False

    def __init__(self, protocol: Any, failed: Callable[[Failure], None]) -> None:
        self._waiting: tuple[Any, Callable[[Failure], None]] | None = (protocol, failed)

    def buildProtocol(self, addr: Any) -> Any:
        assert self._waiting is not None
        protocol, _ = self._waiting
        self._waiting = None  # and keeps neither
        return protocol

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        assert self._waiting is not None
        _, failed = self._waiting
        self._waiting = None
        failed(reason)


class Dialer:
    """Connects a protocol to an address; made by the service, used by the pools."""

    def __init__(self, reactor: Any) -> None:
        """Args: reactor: Twisted's."""
        self._reactor = reactor

    def dial(
        self,
        host: str,
        port: int,
        protocol: Any,
        timeout: float,
        failed: Callable[[Failure], None],
    ) -> Callable[[], None]:
        """Begin to connect.

        Args:
            host: an IP address; names are resolved before they become endpoints.
            port: 1 to 65535.
            protocol: its makeConnection is called on success.
            timeout: seconds; 0 = no limit.
            failed: called instead, with the reason.

        Returns:
            A call that gives up; `failed` is called then too.
        """
        seconds: Any = timeout or None
        factory = _Once(protocol, failed)
        connector = _Connector(host, port, factory, seconds, None, self._reactor)
        connector.connect()
        return connector.disconnect
