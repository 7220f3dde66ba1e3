"""What every way of answering an exchange has in common: own answers, and the one end.

A way serves many exchanges at once and keeps nothing of any: what is known of an exchange stands in
the exchange. The client's side and the endpoint's side tell it what happens, and it acts.
"""

from __future__ import annotations

from gatewayd.core.deadlines import INFINITY
from gatewayd.core.errors import ClientGone, GatewayError
from gatewayd.core.exchange import DONE, TUNNEL, Exchange
from gatewayd.core.messages import Edits, ResponseHead
from gatewayd.proxy.answers import error_answer
from gatewayd.proxy.context import Context


class Way:
    """Answers exchanges; made by the service from the configuration."""

    def __init__(self, context: Context, *, response_edits: Edits | None = None) -> None:
        """Args: context: shared by all. response_edits: of the route; own answers get them too."""
        self.context = context
        self._response_edits = response_edits

    # --- answering

    def answer(self, exchange: Exchange, head: ResponseHead, body: bytes) -> None:
        """Send a complete answer of the gateway's own, and end the exchange."""
        head.lines.append(b"X-Request-Id: %b\r\n" % exchange.request_id)
        if exchange.limit_field:
            head.lines.append(exchange.limit_field)
        if self._response_edits is not None:
            head.lines = self._response_edits.apply(head.lines)
        exchange.answered = True
        exchange.status = head.status
        exchange.bytes_out = len(body)
        exchange.client.respond(exchange, head, body, True)
        self.finish(exchange)

    def refuse(self, exchange: Exchange, error: GatewayError) -> None:
        """Answer with an error."""
        exchange.reason = error.reason
        self.context.counters.answered(exchange.origin.listener, exchange.route_name, error.reason)
        if self.context.on_error is not None:
            self.context.on_error(exchange, error)
        head, body = error_answer(exchange, error)
        self.answer(exchange, head, body)

    def cut(self, exchange: Exchange, error: GatewayError) -> None:
        """End an exchange whose response has begun, so that the client can tell."""
        exchange.reason = error.reason
        if self.context.on_error is not None:
            self.context.on_error(exchange, error)
        client = exchange.client
        self.finish(exchange, tell=False)
        client.cut()

    def finish(self, exchange: Exchange, *, tell: bool = True) -> None:
        """End an exchange: count it, log it, and let its client go on; called exactly once.

        Args:
            exchange: whose answer is handed over, or will never be.
            tell: whether its client's side goes on.
        """
        context = self.context
        if not exchange.ended:
            exchange.ended = context.clock()
        ended = exchange.ended
        tunnelled = exchange.state == TUNNEL
        exchange.state = DONE
        exchange.deadline = INFINITY
        seconds = -1.0 if tunnelled else ended - exchange.started
        listener = exchange.origin.listener
        counters = exchange.counters
        if counters is not None:
            counters.ended(
                context.counters,
                listener,
                exchange.upstream_name,
                exchange.status,
                seconds,
                exchange.bytes_in,
                exchange.bytes_out,
            )
        else:
            account = context.counters.exchange(
                listener, exchange.route_name, exchange.upstream_name
            )
            account.ended(exchange.status, seconds, exchange.bytes_in, exchange.bytes_out)
            exchange.place = account.place
        if exchange.gate is not None:
            exchange.gate.leave()
        client = exchange.client
        exchange.client = exchange.connection = exchange.waiting = None
        exchange.held = b""
        context.finish(exchange)
        if tell:
            client.finished()

    # --- what the client's side tells

    def request_body(
        self, exchange: Exchange, piece: bytes, ended: bool, trailers: list[bytes]
    ) -> None:
        """A piece of the request's body; nobody wants it."""

    def request_failed(self, exchange: Exchange, error: GatewayError) -> None:
        """The request's body is broken, too large or too slow."""
        self.refuse(exchange, error)

    def client_gone(self, exchange: Exchange, detail: str) -> None:
        """The client left: nobody works for it any more (499, as nginx counts it)."""
        error = ClientGone(detail)
        exchange.reason = error.reason
        if not exchange.status:
            exchange.status = error.status
        self.finish(exchange, tell=False)
