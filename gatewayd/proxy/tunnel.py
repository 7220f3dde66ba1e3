"""The way of an exchange after 101: bytes both ways until both sides have said their last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatewayd.core.exchange import Exchange
from gatewayd.core.messages import ResponseHead
from gatewayd.proxy.context import Context
from gatewayd.proxy.way import Way

if TYPE_CHECKING:
    from gatewayd.proxy.forward import ReverseProxyResource


class Tunnel(Way):
    """Carries what ReverseProxyResource has switched; one for each of these."""

    def __init__(self, leaf: ReverseProxyResource, context: Context) -> None:
        """Args: leaf: that ends the exchange's accounts."""
        super().__init__(context)
        self._leaf = leaf

    def begin(self, exchange: Exchange, head: ResponseHead, rest: bytes, timeout: float) -> None:
        """Open the tunnel.

        Args:
            exchange: whose connections it joins.
            head: of the 101.
            rest: bytes that the endpoint sent with it.
            timeout: seconds of silence in both directions, 0 = any.
        """
        exchange.bytes_out = len(rest)
        exchange.connection.watch(exchange.client)
        exchange.client.switch(head, rest, timeout)

    def tunnel_data(self, exchange: Exchange, data: bytes) -> None:
        """Bytes from the endpoint."""
        exchange.bytes_out += len(data)
        exchange.client.touch()
        exchange.client.send_raw(data)

    def tunnel_client_data(self, exchange: Exchange, data: bytes) -> None:
        """Bytes from the client."""
        exchange.client.touch()
        exchange.connection.send_raw(data)

    def tunnel_ended(self, exchange: Exchange) -> None:
        """The endpoint has said its last word."""
        exchange.client.end_raw()
        self._half_closed(exchange)

    def tunnel_client_ended(self, exchange: Exchange) -> None:
        """The client has said its last word."""
        exchange.connection.end_raw()
        self._half_closed(exchange)

    def _half_closed(self, exchange: Exchange) -> None:
        if exchange.half_closed:
            self._close(exchange)
        exchange.half_closed = True

    def tunnel_closed(self, exchange: Exchange) -> None:
        """The endpoint's connection is no more."""
        exchange.connection = None
        self._close(exchange)

    def tunnel_timeout(self, exchange: Exchange) -> None:
        """Neither side has said anything for the route's timeouts.tunnel."""
        self._close(exchange)

    def client_gone(self, exchange: Exchange, detail: str) -> None:
        """The client's connection is no more: an ordinary end of a tunnel."""
        if exchange.connection is not None:
            exchange.connection.close()
        self.finish(exchange, tell=False)

    def failed(self, exchange: Exchange, connection: Any, error: Exception) -> None:
        """The endpoint takes no bytes any more."""
        exchange.connection = None
        self._close(exchange)

    def _close(self, exchange: Exchange) -> None:
        client = exchange.client
        if exchange.connection is not None:
            exchange.connection.close()
        self.finish(exchange, tell=False)
        client.close_tunnel()

    def finish(self, exchange: Exchange, *, tell: bool = True) -> None:
        """The leaf's accounts."""
        self._leaf.tunnel_over()
        self._leaf.finish(exchange, tell=tell)
