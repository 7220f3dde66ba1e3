"""The way of an exchange after 101: bytes both ways until both sides have said their last word."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gatewayd.core.exchange import Exchange
from gatewayd.core.messages import ResponseHead
from gatewayd.net import splice
from gatewayd.proxy.context import Context
from gatewayd.proxy.way import Way

if TYPE_CHECKING:
    from gatewayd.proxy.forward import ReverseProxyResource

_BULK: Final = 65_536  # bytes that come at once


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
        client = exchange.client
        client.touch()
        client.send_raw(data)
        if len(data) >= _BULK:

            def moved(size: int) -> None:
                exchange.bytes_out += size
                client.touch()

            _pass_by(exchange.connection, client, moved)

    def tunnel_client_data(self, exchange: Exchange, data: bytes) -> None:
        """Bytes from the client."""
        client = exchange.client
        client.touch()
        exchange.connection.send_raw(data)
        if len(data) >= _BULK:

            def moved(size: int) -> None:
                exchange.bytes_in += size
                client.touch()

            _pass_by(client, exchange.connection, moved)

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
        self._leaf.tunnel_over(exchange)
        self._leaf.finish(exchange, tell=tell)


def _pass_by(source: Any, sink: Any, moved: Callable[[int], None]) -> None:
    """Let the kernel carry what comes from here on: this tunnel is no chat.

    Args:
        source, sink: the client's and the endpoint's side, either way.
        moved: told how many bytes went by.
    """
    if source.pump is not None or not splice.possible(source.transport, sink.transport):
        return

    def blocked(is_blocked: bool) -> None:
        if is_blocked:
            sink.blocked()
        else:
            sink.unblocked()

    def gave_up() -> None:
        source.pump = None
        sink.watch(source)

    sink.unwatch()
    try:
        source.pump = splice.Pump(
            source.transport, sink.transport, splice.ENDLESS, moved, blocked, lambda: None, gave_up
        )
    except OSError:
        gave_up()  # no pipe is to be had: the ordinary way serves too
