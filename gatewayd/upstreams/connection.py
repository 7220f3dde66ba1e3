"""The gateway's side of a connection to an endpoint.

An `UpstreamConnection` serves one exchange at a time. It is given request bytes, reads the response
strictly, and tells the exchange's way what came: interim heads, the head with whatever of the body
came along, pieces of the body, the end, or the failure. It goes back to the pool before the end is
told, so that the next request can already have it.

Whose fault it was is decided here and nowhere else: what a socket did becomes an error of core.errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface import classImplements

from gatewayd.core.deadlines import INFINITY, Wheel
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.errors import (
    BadResponse,
    BodyCut,
    GatewayError,
    HeaderTimeout,
    RequestTimeout,
    Reset,
)
from gatewayd.core.exchange import Exchange
from gatewayd.core.messages import CHUNKED, UNTIL_CLOSE, ResponseHead
from gatewayd.http1.bodies import Body, Chunked, Length, Piece, UntilClose
from gatewayd.http1.grammar import head_ended
from gatewayd.http1.responses import read_response
from gatewayd.http1.serialising import chunk_pieces, last_chunk
from gatewayd.net import splice
from gatewayd.net.flow import Flow
from gatewayd.net.wire import Wire

# What the connection waits for
_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_LOST: Final = 3
_TUNNEL: Final = 4

_MAX_INTERIM: Final = 16  # 1xx heads before a final one: no server needs more than two


class Timeouts(NamedTuple):
    """An upstream's timeouts in seconds, 0 = never."""

    connect: float
    response_header: float
    read: float
    write: float


class UpstreamConnection:
    """One connection to one endpoint; made by the pool, ended by itself, the pool or the endpoint."""

    # First what every request asks for, flags together: among thousands of connections memory is cold.
    wire: Wire  # the transport's
    exchange: Exchange | None = None
    reused = False
    _close = False
    _chunked = False  # the request's body goes out in chunks
    _sent = False  # the request is complete
    _paused = False
    _answered = False  # a byte of a response has come
    _sends = 0  # the wire's, before the request
    promised: float = 0.0  # seconds that the endpoint keeps an idle connection, 0 = unsaid
    idle_since: float = 0.0
    transport: Any = None

    def __init__(
        self,
        pool: Any,
        endpoint: Endpoint,
        timeouts: Timeouts,
        wheel: Wheel,
        max_header_bytes: int,
    ) -> None:
        """Args: pool: that counts it. max_header_bytes: of a response, 0 = any."""
        self.deadline = INFINITY
        self.wakes = INFINITY  # the wheel's
        self.pool = pool
        self.endpoint = endpoint
        self._timeouts = timeouts
        self._wheel = wheel
        self._max_header_bytes = max_header_bytes
        self._awaits = _IDLE
        self._buffer: bytes | bytearray = b""
        self._body: Body | None = None
        self._interim = 0
        self._read_timeout = 0.0
        self._stalled = 0.0  # since when the endpoint takes nothing, 0 = it takes
        self._moved = 0
        self.pump: splice.Pump | None = None

    def __repr__(self) -> str:
        awaits = ("idle", "awaits head", "awaits body", "lost", "tunnel")[self._awaits]
        return f"<UpstreamConnection {self.endpoint.label} {awaits}>"

    # --- the pool's side

    def makeConnection(self, transport: Any) -> None:
        """Twisted: connected."""
        self.transport = transport
        self.wire = transport.wire
        transport.set_read_ahead(self.pool.read_ahead)
        self.pool.connected(self)

    def logPrefix(self) -> str:
        """Twisted: who logs."""
        return "upstream"

    @property
    def takes_chunks(self) -> bool:
        """Whether the request's body goes out in chunks, so that those that come in can go on."""
        return self._chunked and self._awaits != _LOST

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._awaits == _IDLE

    # --- the way's side: sending

    def send(
        self, exchange: Exchange, data: bytes, *, chunked: bool, ended: bool, read: float
    ) -> None:
        """Send a request's head, with what there is of its body.

        Args:
            exchange: whose way is told what comes back.
            data: the head, then body bytes framed already.
            chunked: further body bytes go out in chunks.
            ended: the request is complete with this.
            read: seconds of silence allowed within the response's body, 0 = any.
        """
        self.exchange = exchange
        self._awaits = _HEAD
        self._chunked = chunked
        self._sent = ended
        self._read_timeout = read
        self._answered = False
        self._sends = self.wire.sends
        self.wire.write(data)
        if ended:
            self.request_ended()

    def request_ended(self) -> None:
        """The request's last byte is out: the wait for the response begins."""
        self._sent = True
        if self._awaits == _HEAD and self.exchange is not None:
            now = self._wheel.now
            limit = self._timeouts.response_header
            header = now + limit if limit else INFINITY
            self._arm(min(header, self.exchange.deadline))

    def send_body(self, data: bytes, ended: bool, trailers: list[bytes]) -> None:
        """Send a piece of the request's body."""
        if self._awaits == _LOST:
            return
        if self._chunked:
            self.send_chunks(chunk_pieces(data), ended, trailers)
            return
        if data:
            self.wire.write(data)
        if ended:
            self.request_ended()

    def send_chunks(self, pieces: Sequence[Piece], ended: bool, trailers: list[bytes]) -> None:
        """Send a part of the request's body that is in chunks already."""
        if self._awaits == _LOST:
            return
        self.wire.write_each(pieces)
        if ended:
            self.wire.write(last_chunk(trailers))
            self.request_ended()

    def send_raw(self, data: bytes) -> None:
        """Send bytes of a tunnel."""
        if self._awaits == _TUNNEL:
            self.wire.write(data)

    def end_raw(self) -> None:
        """The tunnel's client has said its last word."""
        if self._awaits == _TUNNEL:
            self.transport.loseWriteConnection()

    # --- Twisted's side: receiving

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes came."""
        awaits = self._awaits
        if awaits == _HEAD:
            self._read_head(data)
        elif awaits == _BODY:
            self._read_body(data)
        elif awaits == _TUNNEL:
            exchange = self.exchange
            if exchange is not None:
                exchange.way.tunnel_data(exchange, data)
        elif awaits == _IDLE:
            self.pool.discard(self)  # nobody asked: whatever it is, it is not the next answer
            self._abort()

    def _read_head(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if self.reused and self.unsent:
            self._fail(Reset("what an earlier answer left came before the request went out"))
            return
        self._answered = True
        held: bytes | bytearray = data
        seen = len(self._buffer)
        if seen:
            held = self._buffer if isinstance(self._buffer, bytearray) else bytearray(self._buffer)
            held += data
            self._buffer = b""
        try:
            while True:
                head = None
                if not seen or head_ended(held, seen, _BARE_LF):
                    data = held if isinstance(held, bytes) else bytes(held)
                    head = read_response(data, exchange.head.method)
                if head is None or head.size - 4 > self._max_header_bytes > 0:
                    self._incomplete(held)
                    return
                rest = data[head.size :]
                if head.status >= 200 or head.status == 101:
                    break
                self._interim += 1
                if self._interim > _MAX_INTERIM:
                    raise BadResponse("too many interim responses")
                exchange.way.interim(exchange, head)
                if self.exchange is not exchange:
                    return
                seen = 0
                held = rest
            if head.status == 101:
                self._switch(exchange, head, rest)
                return
        except BadResponse as error:
            self._fail(error)
            return
        self._interim = 0
        self._begin_body(exchange, head, rest)

    def _incomplete(self, held: bytes | bytearray) -> None:
        """Wait for the rest of a head, if it can become one."""
        if len(held) > self._max_header_bytes > 0:
            raise BadResponse("the head is over upstreams.max_header_bytes")
        if held[:5] != b"HTTP/"[: len(held)]:
            raise BadResponse("this is no HTTP response")
        self._buffer = held

    def _begin_body(self, exchange: Exchange, head: ResponseHead, data: bytes) -> None:
        self._close = head.close
        self.promised = float(head.idle_timeout)
        length = head.length
        if length == len(data):
            self._finish(True)
            exchange.way.response(exchange, head, data, True)
            return
        body: Body
        if length == CHUNKED:
            body = Chunked(BadResponse)
        elif length == UNTIL_CLOSE:
            body = UntilClose()
        else:
            body = Length(length)
        try:
            piece, rest = body.feed(data) if data else (b"", b"")
        except BadResponse as error:
            self._fail(error)
            return
        if body.ended and not body.trailers:
            if rest:
                self._close = True  # stray bytes: what follows cannot be told from them
            if length == CHUNKED:
                head.length = len(piece)
                head.lines.append(b"Content-Length: %d\r\n" % len(piece))
            self._finish(not rest)
            exchange.way.response(exchange, head, piece, True)
            return
        self._body = body
        self._awaits = _BODY
        self.wire.bulk = True
        self._arm_read()
        exchange.way.response(exchange, head, piece, False)
        if self.exchange is exchange:
            if body.ended:
                self._end_body(exchange, body, rest)
            elif length - len(piece) >= splice.WORTHWHILE:
                self._try_splice(exchange, body)

    def _read_body(self, data: bytes) -> None:
        exchange = self.exchange
        body = self._body
        assert exchange is not None and body is not None
        piece = b""
        pieces: list[Piece] = []
        try:
            if isinstance(body, Chunked) and exchange.client.takes_chunks:
                pieces, size, rest = body.relay(data)
            else:
                piece, rest = body.feed(data)
        except BadResponse:
            self._fail(BodyCut("the chunked coding is broken"))
            return
        if not self._paused:
            self._arm_read()
        if pieces:
            exchange.way.response_chunks(exchange, pieces, size)
        elif piece:
            exchange.way.response_body(exchange, piece)
        if body.ended and self.exchange is exchange:
            self._end_body(exchange, body, rest)

    def _end_body(self, exchange: Exchange, body: Body, rest: bytes) -> None:
        if rest:
            self._close = True
        self.wire.bulk = False
        self._finish(not rest)
        exchange.way.response_ended(exchange, body.trailers)

    def _finish(self, clean: bool) -> None:
        """The response is complete: back to the pool, or away."""
        self._body = None
        self._awaits = _IDLE
        if self._paused:
            self.resume()
        self._stalled = 0.0
        self.exchange = None
        self.reused = True
        if self._close or not clean or not self._sent:
            self.deadline = INFINITY
            self._awaits = _LOST
            if self._sent:
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()
        else:
            self.pool.release(self)

    def _try_splice(self, exchange: Exchange, body: Body) -> None:
        """Let the kernel move the rest of a long body, where both sides are plain sockets."""
        sink = exchange.client.splice_sink()
        if (
            sink is None
            or not splice.possible(self.transport, sink)
            or not isinstance(body, Length)
        ):
            return

        def moved(size: int) -> None:
            exchange.bytes_out += size
            if not self._paused:
                self._arm_read()

        def blocked(is_blocked: bool) -> None:
            self._paused = is_blocked
            if is_blocked:
                self.deadline = INFINITY
                exchange.client.blocked()
            else:
                self._arm_read()
                exchange.client.unblocked()

        def ended() -> None:
            self.pump = None
            body.left = 0
            body.ended = True
            self._end_body(exchange, body, b"")

        def gave_up() -> None:
            assert self.pump is not None
            body.left = self.pump.left
            self.pump = None
            exchange.client.watch(self)

        exchange.client.unwatch()
        try:
            self.pump = splice.Pump(self.transport, sink, body.left, moved, blocked, ended, gave_up)
        except OSError:
            # No pipe is to be had: the ordinary way serves too.
            exchange.client.watch(self)

    def _switch(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        if not exchange.head.upgrade:
            raise BadResponse("101 to a request that asked for no upgrade")
        asked = {member.strip().lower() for member in exchange.head.upgrade.split(b",")}
        if head.upgrade.lower() not in asked:
            raise BadResponse("101 to another protocol than was asked for (RFC 9110 §15.2.2)")
        self._awaits = _TUNNEL
        self.deadline = INFINITY
        exchange.way.switched(exchange, head, rest)

    # --- back-pressure: what flow.Flow asks of a source and of a sink

    def pause(self) -> None:
        """Read no more: the client does not take it."""
        if not self._paused and self._awaits != _LOST:
            self._paused = True
            self.transport.pauseProducing()
            if self._awaits == _BODY:
                self.deadline = INFINITY

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if self._awaits != _LOST:
                self.transport.resumeProducing()
            if self._awaits == _BODY:
                self._arm_read()

    def watch(self, source: Any) -> None:
        """Stop reading from a source while the endpoint does not take its bytes."""
        if self._awaits != _LOST and self.transport.producer is None:
            self.transport.registerProducer(Flow(source, self), True)

    def unwatch(self) -> None:
        """The source has nothing more to give."""
        if self.transport.producer is not None:
            self.transport.unregisterProducer()
            self._stalled = 0.0

    def splice_sink(self) -> Any:
        """The transport, if the rest of a request's body may be moved to it past us; else None."""
        return None if self._chunked or self._awaits == _LOST else self.transport

    def blocked(self) -> None:
        """The endpoint does not take the request's body: its write timeout runs."""
        if self._timeouts.write and not self._stalled and self._awaits != _LOST:
            self._stalled = self._wheel.now
            self._moved = self.transport.moved
            self._arm(self._wheel.now + self._timeouts.write / 4)

    def unblocked(self) -> None:
        """The endpoint takes bytes again."""
        self._stalled = 0.0
        if not self._sent or self._awaits == _TUNNEL:
            self.deadline = INFINITY

    # --- time

    def _arm(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < self.wakes:
            self._wheel.arm(self, deadline)

    def _arm_read(self) -> None:
        if self._read_timeout:
            self._arm(self._wheel.now + self._read_timeout)
        else:
            self.deadline = INFINITY

    def rest(self, until: float) -> None:
        """Stay idle in the pool until a time on the wheel's clock."""
        self.idle_since = self._wheel.now
        self._arm(until)

    def expired(self, now: float) -> None:
        """The wheel: the endpoint did not do its part, or has been idle long enough."""
        if self._awaits == _IDLE:
            self.pool.discard(self)
            self._awaits = _LOST
            self.transport.loseConnection()
            return
        exchange = self.exchange
        if exchange is None:
            return
        if self._stalled and (not self._sent or self._awaits == _TUNNEL):
            if self.transport.moved != self._moved:
                self._moved = self.transport.moved
                self._stalled = now
            if now - self._stalled < self._timeouts.write:
                self._arm(now + self._timeouts.write / 4)
                return
            self._fail(RequestTimeout("the endpoint took no byte within timeouts.write"))
        elif self._awaits == _BODY:
            self._fail(BodyCut("no byte of the body within timeouts.read"))
        elif now >= exchange.deadline:
            self._fail(RequestTimeout("no response within the route's timeouts.request"))
        else:
            self._fail(HeaderTimeout("no response within timeouts.response_header"))

    # --- ends

    def connectionLost(self, reason: Any) -> None:
        """Twisted: the connection is no more."""
        awaits = self._awaits
        self._awaits = _LOST
        self.deadline = INFINITY
        exchange = self.exchange
        self.exchange = None
        self._stop_pump()
        if awaits == _IDLE:
            self.pool.discard(self)
        self.pool.closed(self)
        if exchange is None:
            return
        clean = reason.check(ConnectionDone) is not None
        if awaits == _TUNNEL:
            exchange.way.tunnel_closed(exchange)
        elif awaits == _BODY:
            if clean and isinstance(self._body, UntilClose):
                exchange.way.response_ended(exchange, [])
            else:
                exchange.way.failed(exchange, self, BodyCut("the body ended early"))
        elif self._buffer:
            exchange.way.failed(exchange, self, Reset("closed within the response's head"))
        else:
            exchange.way.failed(exchange, self, Reset("closed before the response"))

    def readConnectionLost(self) -> None:
        """Twisted: the endpoint has said its last word."""
        exchange = self.exchange
        if self._awaits == _TUNNEL and exchange is not None:
            self._stop_pump()
            exchange.way.tunnel_ended(exchange)
        elif exchange is None or isinstance(self._body, UntilClose):
            self.transport.loseConnection()
        else:
            self._cut()  # what we still have to send would wait for nobody

    def writeConnectionLost(self) -> None:
        """Twisted: our half is closed."""

    @property
    def unsent(self) -> bool:
        """Whether not a byte of the request has left: it still waits for the turn's end."""
        return self.wire.sends == self._sends

    @property
    def untouched(self) -> bool:
        """Whether not a byte of a response came: then a repeat can do no harm but the request's own."""
        return not self._answered

    def give_up(self) -> None:
        """The exchange needs this connection no more; what comes on it cannot be told from its rest."""
        if self._awaits == _LOST:
            return
        self.exchange = None
        self._abort()

    def close(self) -> None:
        """Leave: idle, or the tunnel's other side is gone."""
        if self._awaits != _LOST:
            self._stop_pump()
            self.exchange = None
            self._awaits = _LOST
            self.deadline = INFINITY
            self.transport.loseConnection()

    def _fail(self, error: GatewayError) -> None:
        exchange = self.exchange
        self.exchange = None
        self._abort()
        if exchange is not None:
            exchange.way.failed(exchange, self, error)

    def _abort(self) -> None:
        self._stop_pump()
        self._awaits = _LOST
        self.deadline = INFINITY
        self._cut()

    def _cut(self) -> None:
        if self.unsent:
            self.wire.take_back()  # it may be sent to another, and must not be twice
        self.transport.abortConnection()

    def _stop_pump(self) -> None:
        if self.pump is not None:
            self.pump.stop()
            self.pump = None


classImplements(UpstreamConnection, IHalfCloseableProtocol)

_BARE_LF: Final = BadResponse("a bare LF in the head")
