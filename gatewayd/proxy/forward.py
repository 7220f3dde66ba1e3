"""The way of a proxied request: pick, connection, request out, response back.

Each step goes on at once where it can; only a request that has to wait, for a slot, a first membership
or a new connection, takes the detour by a Deferred, and its client is not read meanwhile.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gatewayd.core.counters import RouteCounters
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.errors import (
    ConnectFailed,
    GatewayError,
    RequestTimeout,
    Reset,
    UpstreamFault,
)
from gatewayd.core.exchange import (
    CONNECTED,
    HEAD,
    PICK,
    PICKED,
    RELAYING,
    REPEAT,
    RETRY,
    SWITCHED,
    Exchange,
)
from gatewayd.core.forwarded import request_key
from gatewayd.core.messages import CHUNKED, Edits, ResponseHead, name_of
from gatewayd.core.retries import ANSWERS, CONNECT_FAILURE, RESET, TIMEOUT, RetryPolicy
from gatewayd.core.rewrites import Rewrite
from gatewayd.http1.bodies import Piece
from gatewayd.http1.serialising import chunk, last_chunk, request_bytes
from gatewayd.proxy.context import Context
from gatewayd.proxy.resource import Leaf
from gatewayd.proxy.tunnel import Tunnel
from gatewayd.upstreams.connection import UpstreamConnection
from gatewayd.upstreams.split import Split
from gatewayd.upstreams.upstream import Upstream

IDEMPOTENT: Final = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE")
)  # RFC 9110 §9.2.2


class Forwarding:
    """How routes forward: edits, timeouts and retries."""

    def __init__(
        self,
        context: Context,
        *,
        rewrite: Rewrite | None = None,
        request_edits: Edits | None = None,
        response_edits: Edits | None = None,
        preserve_host: bool = True,
        request_timeout: float = 25.0,
        tunnel_timeout: float = 3600.0,
        stream_timeout: float | None = None,
        retries: RetryPolicy | None = None,
    ) -> None:
        """Args: as in the configuration, in seconds; stream_timeout None = the upstream's read,
        retries None = with their defaults.
        """
        self.context = context
        self.rewrite = rewrite
        self.request_edits = request_edits
        self.response_edits = response_edits
        self.preserve_host = preserve_host
        self.request_timeout = request_timeout
        self.tunnel_timeout = tunnel_timeout
        self.stream_timeout = stream_timeout
        self.retries = retries if retries is not None else RetryPolicy()


class ReverseProxyResource(Leaf):
    """A leaf that forwards to an upstream; one for all routes that forward alike.

    What is of each route, its counters with the budget of its retries, a request has from its route.
    """

    def __init__(self, upstream: Upstream | Split, *, route: Forwarding | None = None) -> None:
        """Make a leaf.

        Args:
            upstream: where to; a Split draws one for each request.
            route: how; without one, with the defaults and in a context of its own.
        """
        if route is None:
            sample = upstream.choose()
            route = Forwarding(Context.standalone(sample.clock, sample.wheel))
        super().__init__(route.context, response_edits=route.response_edits)
        self._upstream = upstream
        self._rewrite = route.rewrite
        self._request_edits = route.request_edits
        self._preserve_host = route.preserve_host
        self._request_timeout = route.request_timeout or float("inf")
        self._stream_timeout = route.stream_timeout
        self._buffer = route.retries.buffer if route.retries.attempts else 0
        self._retries = route.retries
        self.upstream = upstream
        self.route = route
        self._tunnel = Tunnel(self, route.context)

    def __repr__(self) -> str:
        return f"<ReverseProxyResource to {self.upstream!r}>"

    # --- out: pick, connect, send

    def begin(self, exchange: Exchange) -> None:
        """Take an exchange on its way."""
        counters = exchange.counters = self._counters_of(exchange)
        context = self.context
        upstream: Upstream = self._upstream.choose()
        exchange.upstream = upstream
        exchange.upstream_name = upstream.name
        exchange.place = counters.began(
            context.counters, exchange.origin.listener, upstream.name, exchange.started
        )
        head = exchange.head
        if exchange.received:
            exchange.deadline = exchange.received + self._request_timeout
        try:
            path = self.target_of(exchange, upstream)
            exchange.target = path + head.query if head.query else path
            key = request_key(exchange, upstream.hash_key) if upstream.hash_key else None
            endpoint = upstream.pick(key)
        except GatewayError as error:
            self.refuse(exchange, error)
            return
        if isinstance(endpoint, Endpoint):
            self._picked(endpoint, exchange)
        else:
            exchange.advance(PICK)
            self._wait(exchange, endpoint, self._picked)

    def _counters_of(self, exchange: Exchange) -> RouteCounters:
        """Those of its route; a stock Site's requests come by none, and count as `-`."""
        counters = exchange.route.counters if exchange.route is not None else None
        return counters or self.context.counters.route(exchange.route_name)

    def target_of(self, exchange: Exchange, upstream: Upstream) -> bytes:
        """The path that an upstream sees.

        Raises:
            BadRewrite: the rewrite's result is none.
        """
        path = exchange.head.path
        if self._rewrite is None and not upstream.base_path:
            return path
        return (self._rewrite or _AS_IT_IS).apply(path, upstream.base_path)

    def _wait(self, exchange: Exchange, waiting: Deferred[Any], then: Any) -> None:
        """Go on when a Deferred fires; meanwhile the client is not read."""
        exchange.waiting = waiting
        exchange.waited_since = self.context.clock()
        if not exchange.received:
            exchange.client.pause()
        if exchange.deadline < exchange.wakes:
            self.context.wheel.arm(exchange, exchange.deadline)
        waiting.addCallbacks(
            self._come, self._wait_failed, callbackArgs=(exchange, then), errbackArgs=(exchange,)
        )

    def _come(self, found: Any, exchange: Exchange, then: Any) -> None:
        exchange.waiting = None
        if exchange.client is None:
            self._returned(found, exchange)
        else:
            then(found, exchange)

    def _returned(self, found: Any, exchange: Exchange) -> None:
        """What an exchange waited for has come after its end."""
        if isinstance(found, Endpoint):
            exchange.upstream.released(found, 0.0, False, told=False)
        else:
            exchange.upstream.pool.release(found)

    def _wait_failed(self, failure: Failure, exchange: Exchange) -> None:
        exchange.waiting = None
        if exchange.client is None:
            return
        error = failure.value
        if not isinstance(error, GatewayError):
            error = ConnectFailed(f"the balancer of {exchange.upstream_name} failed: {error!r}")
        if isinstance(error, UpstreamFault) and exchange.endpoint is not None:
            self.failed(exchange, None, error)
        else:
            self.refuse(exchange, error)

    def _picked(self, endpoint: Endpoint, exchange: Exchange) -> None:
        if exchange.waited_since:
            exchange.queued = self.context.clock() - exchange.waited_since
            exchange.picked = self.context.clock()
        elif exchange.tried:
            exchange.picked = self.context.clock()
        exchange.endpoint = endpoint
        exchange.settled = False
        exchange.advance(PICKED)
        self._connect(exchange, endpoint, fresh=False)

    def _connect(self, exchange: Exchange, endpoint: Endpoint, *, fresh: bool) -> None:
        exchange.tries += 1
        repeatable = exchange.head.method in IDEMPOTENT
        upstream: Upstream = exchange.upstream
        connection = upstream.pool.acquire(endpoint, repeatable=repeatable, fresh=fresh)
        if isinstance(connection, UpstreamConnection):
            self._send(connection, exchange)
        else:
            self._wait(exchange, connection, self._dialled)

    def _dialled(self, connection: UpstreamConnection, exchange: Exchange) -> None:
        exchange.dialled = self.context.clock() - exchange.waited_since
        assert exchange.endpoint is not None
        exchange.endpoint.connect_failures = 0
        self._send(connection, exchange)

    def _send(self, connection: UpstreamConnection, exchange: Exchange) -> None:
        exchange.connection = connection
        exchange.advance(CONNECTED)
        upstream: Upstream = exchange.upstream
        head = exchange.head
        ended = bool(exchange.received)
        body = exchange.held
        lines, added = self._request_fields(exchange, upstream, connection.endpoint)
        chunked = head.length == CHUNKED
        if chunked:
            added += b"Transfer-Encoding: chunked\r\n"
            body = chunk(body) + last_chunk(exchange.trailers) if ended else chunk(body)
        out = request_bytes(head.method, exchange.target, lines, added)
        read = self._stream_timeout
        connection.send(
            exchange,
            out + body if body else out,
            chunked=chunked,
            ended=ended,
            read=upstream.pool.timeouts.read if read is None else read,
        )
        if not ended and exchange.connection is connection:
            connection.watch(exchange.client)
            exchange.client.resume()
        if exchange.held and len(exchange.held) > self._buffer:
            exchange.held = b""
            exchange.streamed = True

    def _request_fields(
        self, exchange: Exchange, upstream: Upstream, endpoint: Endpoint
    ) -> tuple[list[bytes], bytes]:
        head = exchange.head
        lines = head.lines
        added = exchange.added
        if upstream.via_out:
            added += self.context.via.line
        if not self._preserve_host or not head.authority:  # HTTP/1.0 may come without
            lines = [line for line in lines if name_of(line) != b"host"]
            lines.insert(0, b"Host: %b\r\n" % endpoint.authority)
        if self._request_edits is not None:
            lines = self._request_edits.apply(lines + added.splitlines(keepends=True))
            added = b""
        if head.expects and not exchange.received and not exchange.held:
            added += b"Expect: 100-continue\r\n"
        if head.upgrade:
            added += b"Connection: upgrade\r\nUpgrade: %b\r\n" % head.upgrade
        elif head.trailers:
            added += b"TE: trailers\r\nConnection: TE\r\n"
        return lines, added

    # --- what the client's side tells

    def request_body(
        self, exchange: Exchange, piece: bytes, ended: bool, trailers: list[bytes]
    ) -> None:
        """A piece of the request's body."""
        if ended:
            exchange.deadline = exchange.received + self._request_timeout
        connection = exchange.connection
        if connection is None:
            exchange.held += piece
            return
        if piece and not exchange.streamed:
            if len(exchange.held) + len(piece) <= self._buffer:
                exchange.held += piece
            else:
                exchange.held = b""
                exchange.streamed = True
        connection.send_body(piece, ended, trailers)
        if ended:
            connection.unwatch()
            exchange.client.resume()  # or it would not be seen to leave

    def request_chunks(
        self, exchange: Exchange, pieces: list[Piece], ended: bool, trailers: list[bytes]
    ) -> None:
        """A part of a body that is no longer held, in chunks already."""
        if ended:
            exchange.deadline = exchange.received + self._request_timeout
        connection = exchange.connection
        connection.send_chunks(pieces, ended, trailers)
        if ended:
            connection.unwatch()
            exchange.client.resume()

    def request_failed(self, exchange: Exchange, error: GatewayError) -> None:
        """The request's body is broken, too large or too slow: the upstream sees an abort."""
        self._let_go(exchange)
        if exchange.status:
            self.cut(exchange, error)
        else:
            self.refuse(exchange, error)

    def client_gone(self, exchange: Exchange, detail: str) -> None:
        """The client left: the upstream's request is cancelled."""
        self._let_go(exchange)
        super().client_gone(exchange, detail)

    def request_timeout(self, exchange: Exchange) -> None:
        """The route's timeouts.request is over while the exchange waits for an endpoint."""
        if not exchange.status and exchange.client is not None:
            self._let_go(exchange)
            self.refuse(exchange, RequestTimeout("no endpoint within the route's timeouts.request"))

    def _let_go(self, exchange: Exchange) -> None:
        """Give up whatever works or waits for an exchange."""
        connection = exchange.connection
        if connection is not None:
            exchange.connection = None
            connection.give_up()
        waiting = exchange.waiting
        if waiting is not None:
            exchange.waiting = None
            waiting.addErrback(lambda _: None)
            client = exchange.client
            exchange.client = None  # what still comes is too late
            waiting.cancel()
            exchange.client = client

    # --- what the endpoint's side tells

    def interim(self, exchange: Exchange, head: ResponseHead) -> None:
        """A 1xx: for whoever can take it (RFC 9110 §15.2)."""
        if exchange.head.version == 11:
            exchange.client.interim(head)

    def response(self, exchange: Exchange, head: ResponseHead, body: bytes, ended: bool) -> None:
        """The response's head, with what there is of its body."""
        if head.status in ANSWERS and self._replaced(exchange, head.status, ended):
            return
        exchange.advance(HEAD)
        exchange.headed = self.context.clock()
        self._count_head(exchange, head)
        exchange.bytes_out = len(body)
        exchange.client.respond(exchange, head, body, ended)
        if ended:
            self.finish(exchange)

    def _count_head(self, exchange: Exchange, head: ResponseHead) -> None:
        exchange.status = status = head.status
        upstream: Upstream = exchange.upstream
        counters = upstream.counters
        counters.count(status)
        counters.response_header.observe(exchange.headed - (exchange.received or exchange.started))
        lines = head.lines
        if upstream.via_back:
            lines.append(self.context.via.line)
        lines.append(b"X-Request-Id: %b\r\n" % exchange.request_id)
        if exchange.limit_field:
            lines.append(exchange.limit_field)
        if self._response_edits is not None:
            head.lines = self._response_edits.apply(lines)

    def response_body(self, exchange: Exchange, piece: bytes) -> None:
        """A piece of the response's body."""
        exchange.bytes_out += len(piece)
        exchange.client.respond_body(piece)

    def response_chunks(self, exchange: Exchange, pieces: list[Piece], size: int) -> None:
        """A part of the response's body in chunks already, with so many bytes of the body in it."""
        exchange.bytes_out += size
        exchange.client.respond_chunks(pieces)

    def response_ended(self, exchange: Exchange, trailers: list[bytes]) -> None:
        """The response is whole."""
        exchange.client.respond_end(trailers if exchange.head.trailers else [])
        self.finish(exchange)

    def failed(self, exchange: Exchange, connection: Any, error: UpstreamFault) -> None:
        """The endpoint failed: repeat what a stale connection lost, else answer or cut.

        A kept connection may close just as a request goes out. Nobody is to blame, so what can be
        repeated (RFC 9110 §9.2.2), or has not gone out, is: once, on a fresh connection to the same
        endpoint.
        """
        exchange.connection = None
        endpoint = exchange.endpoint
        assert endpoint is not None
        if exchange.state == RELAYING:
            _count_error(endpoint, error)
            self.cut(exchange, error)
            return
        stale = (
            isinstance(error, Reset)
            and connection is not None
            and connection.reused
            and connection.untouched
        )
        repeatable = stale and (connection.unsent or exchange.head.method in IDEMPOTENT)
        if repeatable and not exchange.streamed:
            exchange.advance(REPEAT)
            self._connect(exchange, endpoint, fresh=True)
            return
        if not stale:
            _count_error(endpoint, error)
        if connection is None or (isinstance(error, Reset) and not stale):
            exchange.upstream.failed_connect(endpoint)
        self._settle(exchange, failed=not stale, told=not stale)  # a stale connection says nothing
        kind = _KINDS.get(error.reason, "")
        if not self._retry(exchange, kind, sent=connection is not None):
            self.refuse(exchange, error)

    # --- further tries

    def _replaced(self, exchange: Exchange, status: int, ended: bool) -> bool:
        """An endpoint answered that it cannot: try another, if one may be asked."""
        endpoint = exchange.endpoint
        assert endpoint is not None
        kind = ANSWERS[status]
        if self._refusal(exchange, kind, sent=True):
            return False
        connection = exchange.connection
        self._settle(exchange, failed=True)
        if not self._retry(exchange, kind, sent=True):
            return False
        if not ended:
            connection.give_up()
        return True

    def _refusal(self, exchange: Exchange, kind: str, *, sent: bool) -> str:
        return self._retries.refusal(
            kind,
            exchange.head.method,
            tries=len(exchange.tried) + 1,
            sent=sent,
            held=not exchange.streamed,
        )

    def _retry(self, exchange: Exchange, kind: str, *, sent: bool) -> bool:
        """Try a failed request again, before anything of an answer has gone to its client.

        Returns:
            Whether it goes on.
        """
        now = self.context.clock()
        if self._refusal(exchange, kind, sent=sent) or now >= exchange.deadline:
            return False
        counters = exchange.counters
        assert counters is not None
        if not counters.has_room(self._retries.budget, now):
            counters.retried(kind, "refused")
            return False
        assert exchange.endpoint is not None
        tried = (*exchange.tried, exchange.endpoint)
        other = exchange.upstream.pick_other(tried)
        if other is None:
            return False
        counters.retry(now)
        exchange.tried = tried
        if exchange.retried:
            counters.retried(exchange.retried, "failure")
        exchange.retried = kind
        exchange.advance(RETRY)
        self._picked(other, exchange)
        return True

    def _settle(self, exchange: Exchange, *, failed: bool, told: bool = True) -> None:
        """Tell the endpoint's upstream how a try went; once a try."""
        endpoint = exchange.endpoint
        if endpoint is None or exchange.settled:
            return
        exchange.settled = True
        # Of this try alone: neither a wait for a slot, nor a try elsewhere, nor a slow upload is its doing.
        began = max(exchange.started, max(exchange.picked, exchange.received))
        seconds = max(0.0, (exchange.headed or self.context.clock()) - began)
        upstream: Upstream = exchange.upstream
        upstream.released(endpoint, seconds, failed, told=told)

    def switched(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        """101: from here on bytes go both ways."""
        exchange.advance(SWITCHED)
        exchange.headed = self.context.clock()
        self._count_head(exchange, head)
        assert exchange.counters is not None
        exchange.counters.tunnels += 1
        exchange.way = self._tunnel
        self._tunnel.begin(exchange, head, rest, self.route.tunnel_timeout)

    # --- the end

    def tunnel_over(self, exchange: Exchange) -> None:
        """One tunnel less."""
        assert exchange.counters is not None
        exchange.counters.tunnels -= 1

    def finish(self, exchange: Exchange, *, tell: bool = True) -> None:
        """End the exchange here and at its upstream."""
        exchange.ended = now = self.context.clock()
        counters = exchange.counters
        if counters is not None and exchange.endpoint is not None:
            upstream: Upstream = exchange.upstream
            if exchange.headed and exchange.way is self:
                upstream.counters.window.add(now - exchange.started)
            failed = exchange.status in ANSWERS
            self._settle(exchange, failed=failed, told=bool(exchange.headed))
            if exchange.retried:
                counters.retried(exchange.retried, "failure" if failed else "success")
        super().finish(exchange, tell=tell)


_AS_IT_IS: Final = Rewrite()


_KINDS: Final = {
    "connect_failed": CONNECT_FAILURE,
    "connect_timeout": CONNECT_FAILURE,
    "reset": RESET,
    "bad_response": RESET,  # it broke the protocol before its head
    "header_timeout": TIMEOUT,
}


def _count_error(endpoint: Endpoint, error: GatewayError) -> None:
    endpoint.errors[error.reason] = endpoint.errors.get(error.reason, 0) + 1
