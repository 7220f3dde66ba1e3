"""Opening connections to endpoints with eager transports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from gatewayd.net.transports import EagerClient


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
        return EagerClient(host, port, protocol, failed, timeout, self._reactor).give_up
