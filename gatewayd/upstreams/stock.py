"""Twisted's own HTTP client protocol, as a stock Agent or treq drives it, made to report to the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Factory
from twisted.web._newclient import HTTP11ClientProtocol


class StockProtocol(HTTP11ClientProtocol):
    """Tells the pool when it is idle and when it is no more; made by StockFactory."""

    def __init__(
        self, quiescent: Callable[[StockProtocol], None], lost: Callable[[StockProtocol], None]
    ) -> None:
        """Args: quiescent: told when a response is complete. lost: told of the connection's end."""
        super().__init__(quiescent)
        self._lost = lost
        self.forgotten = False  # by the ledger: evicted

    def __repr__(self) -> str:
        return f"<StockProtocol {self.state.lower()}>"

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self.state == "QUIESCENT" and not getattr(self.transport, "disconnecting", False)

    def close(self) -> None:
        """Leave: idle, or no more to be kept."""
        transport: Any = self.transport
        transport.loseConnection()

    def forget(self) -> None:
        """The ledger knows of this connection's end already."""
        self.forgotten = True

    def connectionLost(self, reason: Any = None) -> None:
        """Twisted: the connection is no more."""
        super().connectionLost(reason)
        if not self.forgotten:
            self._lost(self)

    def _finishResponse(self, rest: bytes) -> None:
        """Twisted: a response is complete; after stray bytes nobody uses the connection again."""
        request: Any = self._currentRequest
        if rest and request is not None:
            request.persistent = False
        super()._finishResponse(rest)


class StockFactory(Factory):
    """Makes protocols; made by the pool for one connection."""

    noisy = False

    def __init__(
        self, quiescent: Callable[[StockProtocol], None], lost: Callable[[StockProtocol], None]
    ) -> None:
        """Args: as StockProtocol."""
        self._callbacks = (quiescent, lost)

    def buildProtocol(self, addr: Any) -> StockProtocol:
        """Twisted: connected."""
        return StockProtocol(*self._callbacks)
