"""The server's side of HTTP/1.1: one client connection.

Requests are read one at a time and answered in order; what a client pipelines behind one waits in a
bounded buffer. The channel knows framing, keep-alive and the client's timeouts; what becomes of a
request is the business of the leaf that the listener's root finds for it.

Timers run only while the gateway waits for this client: for a head, a piece of a body, the next
request, or for it to take bytes. Everything is told to the exchange's way, and the way answers through
`respond`, `respond_body`, `respond_end`, `interim`, `switch` and `cut`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python.failure import Failure
from zope.interface import classImplements

from gatewayd.core.deadlines import INFINITY
from gatewayd.core.errors import BadRequest, GatewayError, SlowRequest, TooLarge
from gatewayd.core.exchange import Exchange, Origin
from gatewayd.core.messages import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead
from gatewayd.core.proxy_protocol import read_proxy_header
from gatewayd.http1.bodies import Body, Chunked, Length, Piece
from gatewayd.http1.grammar import head_ended
from gatewayd.http1.requests import MAX_LINE, check_beginning, read_request
from gatewayd.http1.serialising import chunk, chunk_pieces, last_chunk, response_bytes
from gatewayd.net import splice
from gatewayd.net.flow import Flow
from gatewayd.net.wire import Wire

if TYPE_CHECKING:
    from gatewayd.proxy.listener import Listener

# What the channel waits for
_IDLE: Final = 0  # the next request
_HEAD: Final = 1  # the rest of a head
_BODY: Final = 2  # the rest of a body
_ANSWER: Final = 3  # our answer
_FLUSH: Final = 4  # the client, to take the end of an answer
_LINGER: Final = 5  # the client, to leave after an answer that closes
_TUNNEL: Final = 6
_LOST: Final = 7
_PROXY: Final = 8  # a PROXY header

_MAX_PIPELINED: Final = 65536  # bytes held behind a request; then reading stops
_LINGER_SECONDS: Final = 5.0  # nginx lingering_timeout 5s
_RATE_SECONDS: Final = 10.0  # over which min_body_rate is measured


class ServerChannel:
    """One client connection; made by its listener, ended by either side."""

    wire: Wire  # the transport's
    transport: Any = None
    exchange: Exchange | None = None

    def __init__(self, listener: Listener, origin: Origin) -> None:
        """Args: listener: whose limits and timeouts hold. origin: of its requests."""
        self.deadline = INFINITY
        self.wakes = INFINITY  # the wheel's
        self._listener = listener
        self._terms = listener.terms
        self._context = listener.context
        self.origin = origin
        self._awaits = _PROXY if listener.expects_proxy(origin.peer) else _HEAD
        self._buffer: bytes | bytearray = b""
        self._body: Body | None = None
        self.pump: splice.Pump | None = None  # moves what the client sends past us
        self._looping = False
        self._line_read = False  # of an unfinished head, and found good
        self._paused = False
        self._chunking = False  # the response's body goes out in chunks
        self._closing = False  # after this answer
        self._stalled = 0.0  # since when the client takes nothing; 0 = it takes
        self._moved = 0
        self._waiting_since = 0.0  # for a piece of a body
        self._waited = 0.0
        self._rate_bytes = 0
        self._tunnel_timeout = 0.0
        # Not the wheel's now, which is as old as the last turns were long.
        self.rested_at = self._context.clock()

    def __repr__(self) -> str:
        names = ("idle", "head", "body", "answer", "flush", "linger", "tunnel", "lost", "proxy")
        return f"<ServerChannel {self.origin.peer} {names[self._awaits]} {self.exchange or '-'}>"

    # --- Twisted's side

    def makeConnection(self, transport: Any) -> None:
        """Twisted: connected."""
        self.transport = transport
        self.wire = transport.wire
        transport.stuck = self._stuck
        self._listener.opened(self)
        self._arm(self._context.wheel.now + self._terms.timeouts.header)

    def logPrefix(self) -> str:
        """Twisted: who logs."""
        return "client"

    @property
    def idle(self) -> bool:
        """Whether it may be closed without harm to anybody's request."""
        return self._awaits == _IDLE

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes came."""
        awaits = self._awaits
        if awaits <= _HEAD:
            self._read_heads(data)
        elif awaits == _BODY:
            self._read_body(data)
        elif awaits == _TUNNEL:
            exchange = self.exchange
            if exchange is not None:
                exchange.bytes_in += len(data)
                exchange.way.tunnel_client_data(exchange, data)
        elif awaits in (_ANSWER, _FLUSH):
            self._hold(data)
        elif awaits == _PROXY:
            self._read_proxy(data)

    def _read_proxy(self, data: bytes) -> None:
        data = bytes(self._buffer) + data
        try:
            proxied = read_proxy_header(data)
        except BadRequest as error:
            self._refuse(error)
            return
        if proxied is None:
            self._buffer = data
            return
        if proxied.source:
            self.origin.peer = proxied.source
            self.origin.trusted = proxied.source in self._listener.trusted
        self._buffer = b""
        self._awaits = _HEAD
        if len(data) > proxied.used:
            self._read_heads(data[proxied.used :])

    # --- reading

    def _read_heads(self, data: bytes) -> None:
        """Read requests and begin them, as long as each is answered at once."""
        terms = self._terms
        self._looping = True
        seen = len(self._buffer)
        held: bytes | bytearray = data
        if seen:
            held = self._buffer if isinstance(self._buffer, bytearray) else bytearray(self._buffer)
            held += data
            self._buffer = b""
        try:
            while held:
                head = None
                if not seen or head_ended(held, seen, _BARE_LF):
                    data = held if isinstance(held, bytes) else bytes(held)
                    head = read_request(data, terms.path_rules, terms.limits.max_headers)
                if head is None:
                    self._incomplete(held, seen)
                    break
                if seen:
                    seen = 0
                    self._listener.heads.release(self)
                self._begin(head, data[head.size :])
                if self._awaits != _IDLE:
                    break
                held = self._buffer
                self._buffer = b""
        except GatewayError as error:
            self._refuse(error)
        self._looping = False

    def _incomplete(self, held: bytes | bytearray, seen: int) -> None:
        """Wait for the rest of a head, within the limits."""
        limits = self._terms.limits
        if held[:2] == b"\r\n":
            held = held[2:]  # of which there is but one: read_request refuses a flood
            if not held:
                return  # a stray end of line after a request: still nothing to wait for
        size = len(held)
        if not self._line_read:
            self._line_read = check_beginning(held, self._terms.path_rules)
        if size > MAX_LINE + 1 and held.find(b"\r\n", 0, MAX_LINE + 2) < 0:
            raise TooLarge(f"the request line is over {MAX_LINE} bytes", status=414)
        if limits.max_header_bytes and size > limits.max_header_bytes:
            raise TooLarge(f"the head is over {limits.max_header_bytes} bytes", status=431)
        self._buffer = held if isinstance(held, bytearray) else bytearray(held)
        if self._awaits == _IDLE or not seen:
            if self._awaits == _IDLE:
                self._arm(self._context.wheel.now + self._terms.timeouts.header)
            self._awaits = _HEAD
        self._listener.heads.hold(self, size)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        """Make a head an exchange, and let it begin."""
        terms = self._terms
        limit = terms.limits.max_header_bytes
        if head.size - 4 > limit > 0:  # without the blank line
            raise TooLarge(f"the head is over {limit} bytes", status=431)
        self._line_read = False
        context = self._context
        now = context.clock()
        exchange = Exchange(head, self, self.origin, now)
        self.exchange = exchange
        self.deadline = INFINITY
        self._closing = head.close
        length = head.length
        if length:
            self._begin_body(exchange, length, rest)
        else:
            exchange.received = now
            self._awaits = _ANSWER
            if rest:
                self._buffer = rest
        exchange.way = terms.root
        terms.root.begin(exchange)

    def _begin_body(self, exchange: Exchange, length: int, rest: bytes) -> None:
        limit = self._terms.limits.max_body_bytes
        if limit and length > limit:
            raise TooLarge(f"the body is over {limit} bytes")
        self._body = body = Chunked(BadRequest) if length == CHUNKED else Length(length)
        self._awaits = _BODY
        self._waited = 0.0
        self._rate_bytes = 0
        piece, more = body.feed(rest) if rest else (b"", b"")
        exchange.held = piece
        exchange.bytes_in = len(piece)
        self._check_body_size(exchange)
        if body.ended:
            self._body_ended(exchange, body, more)
        else:
            self.wire.bulk = True
            self._wait_for_body()

    def _check_body_size(self, exchange: Exchange) -> None:
        limit = self._terms.limits.max_body_bytes
        if limit and exchange.bytes_in > limit:
            raise TooLarge(f"the body is over {limit} bytes")

    def _read_body(self, data: bytes) -> None:
        exchange = self.exchange
        body = self._body
        assert exchange is not None and body is not None
        connection = exchange.connection
        piece = b""
        pieces: list[Piece] = []
        may_relay = exchange.streamed and connection is not None and connection.takes_chunks
        relayed = body if may_relay and isinstance(body, Chunked) else None
        try:
            if relayed is not None:
                pieces, size, rest = relayed.relay(data)
            else:
                piece, rest = body.feed(data)
                size = len(piece)
            exchange.bytes_in += size
            self._check_body_size(exchange)
            self._check_rate(len(data))
        except GatewayError as error:
            exchange.way.request_failed(exchange, error)
            return
        if body.ended:
            self._body_ended(exchange, body, rest)
        elif not self._paused:
            self._wait_for_body()
        if relayed is not None:
            exchange.way.request_chunks(exchange, pieces, body.ended, body.trailers)
        else:
            exchange.way.request_body(exchange, piece, body.ended, body.trailers)
        if exchange.streamed and isinstance(body, Length) and body.left >= splice.WORTHWHILE:
            self._try_splice(exchange, body)

    def _try_splice(self, exchange: Exchange, body: Length) -> None:
        """Let the kernel move the rest of a long body that nobody would repeat, past us."""
        connection = exchange.connection
        sink = connection.splice_sink() if connection is not None else None
        if self._paused or self._body is not body or sink is None:
            return
        if not splice.possible(self.transport, sink):
            return

        def moved(size: int) -> None:
            exchange.bytes_in += size
            try:
                self._check_rate(size)
            except SlowRequest as error:
                exchange.way.request_failed(exchange, error)
                return
            if not self._paused:
                self._wait_for_body()

        def blocked(is_blocked: bool) -> None:
            self._paused = is_blocked
            if is_blocked:
                now = self._context.wheel.now
                self._waited += now - self._waiting_since
                self._waiting_since = now
                self.deadline = INFINITY
                connection.blocked()
            else:
                connection.unblocked()
                self._wait_for_body()

        def ended() -> None:
            self.pump = None
            body.left = 0
            body.ended = True
            self._body_ended(exchange, body, b"")
            exchange.way.request_body(exchange, b"", True, [])

        def gave_up() -> None:
            assert self.pump is not None
            body.left = self.pump.left
            self.pump = None
            connection.watch(self)

        connection.unwatch()
        try:
            self.pump = splice.Pump(self.transport, sink, body.left, moved, blocked, ended, gave_up)
        except OSError:
            # No pipe is to be had: the ordinary way serves too.
            connection.watch(self)

    def _stop_pump(self) -> None:
        if self.pump is not None:
            self.pump.stop()
            self.pump = None

    def _body_ended(self, exchange: Exchange, body: Body, rest: bytes) -> None:
        exchange.received = self._context.clock()
        exchange.trailers = body.trailers
        self.wire.bulk = False
        self._body = None
        self._awaits = _ANSWER
        self.deadline = INFINITY
        if rest:
            self._hold(rest)

    def _hold(self, data: bytes) -> None:
        """Keep what is pipelined until its turn comes."""
        self._buffer = bytes(self._buffer) + data
        if len(self._buffer) > _MAX_PIPELINED:
            self.pause()

    def _wait_for_body(self) -> None:
        now = self._context.wheel.now
        self._waiting_since = now
        limit = self._terms.timeouts.read
        if limit:
            self._arm(now + limit)

    def _check_rate(self, size: int) -> None:
        """Refuse a body that comes slower than min_body_rate while we wait for it."""
        rate = self._terms.limits.min_body_rate
        if not rate:
            return
        self._waited += self._context.wheel.now - self._waiting_since
        self._rate_bytes += size
        if self._waited >= _RATE_SECONDS:
            if self._rate_bytes < rate * self._waited:
                raise SlowRequest(f"the body came at less than {rate:g} bytes a second")
            self._waited = 0.0
            self._rate_bytes = 0

    def _refuse(self, error: GatewayError) -> None:
        """Answer what is no request."""
        self._listener.heads.release(self)
        self._buffer = b""
        exchange = self.exchange
        if exchange is None:
            head = RequestHead([])
            head.method, head.path = b"-", b"-"
            exchange = Exchange(head, self, self.origin, self._context.clock())
            exchange.client_ip = self.origin.peer
            self.exchange = exchange
        exchange.way = self._terms.root
        self._terms.root.refuse(exchange, error)

    def refuse_head(self) -> None:
        """Too much memory is held by unfinished heads, and ours is the largest."""
        self._refuse(TooLarge("too many unfinished heads", status=431))

    # --- answering: what the way calls

    def respond(self, exchange: Exchange, head: ResponseHead, body: bytes, ended: bool) -> None:
        """Send a response's head, with what there is of its body.

        Args:
            exchange: ours.
            head: status and lines; its length is -1 or -2 where the body's length is not known.
            body: bytes of the body.
            ended: the response is complete with this.
        """
        request = exchange.head
        added = b"" if head.dated else self._context.date()
        if head.length == CHUNKED or head.length == UNTIL_CLOSE:
            if request.version == 11:
                self._chunking = True
                added += b"Transfer-Encoding: chunked\r\n"
            else:
                self._closing = True
        if (self._terms.draining and not self._buffer) or (ended and not exchange.received):
            self._closing = True
        if self._closing:
            added += b"Connection: close\r\n"
        elif request.keep_alive:
            added += b"Connection: keep-alive\r\n"
        out = response_bytes(head.status, head.reason, head.lines, added)
        if self._chunking:
            out += chunk(body)
            if ended:
                out += last_chunk([])
                self._chunking = False
        else:
            out += body
        self.wire.write(out)
        if not ended:
            self.watch(exchange.connection)

    def respond_body(self, data: bytes) -> None:
        """Send a piece of the response's body."""
        if self._chunking:
            self.wire.write_each(chunk_pieces(data))
        else:
            self.wire.write(data)

    @property
    def takes_chunks(self) -> bool:
        """Whether the response goes out in chunks, so that those that come in can go on."""
        return self._chunking

    def respond_chunks(self, pieces: list[Piece]) -> None:
        """Send a part of the response's body that is in chunks already."""
        self.wire.write_each(pieces)

    def respond_end(self, trailers: list[bytes]) -> None:
        """End the response's body."""
        self.unwatch()  # first: the source is in the pool again, and nothing of ours may pause it there
        if self._chunking:
            self._chunking = False
            self.wire.write(last_chunk(trailers))

    def interim(self, head: ResponseHead) -> None:
        """Send a 1xx."""
        self.wire.write(response_bytes(head.status, head.reason, head.lines, b""))

    def finished(self) -> None:
        """The exchange is over, its answer handed over whole: go on, or close."""
        exchange = self.exchange
        self.exchange = None
        if self._awaits == _LOST:
            return
        if exchange is not None:
            self.rested_at = exchange.ended
        self.unwatch()
        if exchange is not None and not exchange.received:
            self._linger()
        elif self._closing:
            self._leave()
        elif not self.wire.direct and self.transport.unsent():
            self._wait_for_flush()
        else:
            self._next()

    def _stuck(self) -> None:
        """The client did not take the whole answer though we went on: it has to, before the next one."""
        if self._awaits == _IDLE:
            self._wait_for_flush()
        elif self._awaits == _LINGER and self.deadline == INFINITY:
            self._watch_progress()

    def _wait_for_flush(self) -> None:
        self._awaits = _FLUSH
        self.transport.drained = self._flushed
        self._watch_progress()

    def _flushed(self) -> None:
        self._stalled = 0.0
        if self._awaits == _FLUSH:
            self._next()

    def _next(self) -> None:
        """Wait for the next request, or take the one that was pipelined."""
        self._awaits = _IDLE
        limit = self._terms.timeouts.idle
        if limit:
            self._arm(self._context.wheel.now + limit)
        else:
            self.deadline = INFINITY
        if self._paused:
            self.resume()
        if self._buffer and not self._looping:
            data = bytes(self._buffer)
            self._buffer = b""
            self._read_heads(data)

    def cut(self) -> None:
        """End the connection so that the client can tell that the answer is not whole."""
        if self._awaits != _LOST:
            self._stop_pump()
            self._awaits = _LINGER
            self.exchange = None
            self.unwatch()
            self.transport.abortConnection()

    def close(self) -> bool:
        """Leave politely: the listener closes, or makes room; what has come is still served.

        Returns:
            Whether it leaves.
        """
        if self._buffer or self._awaits not in (_IDLE, _HEAD, _PROXY) or self.transport.unread():
            return False
        self._leave()
        return True

    def _leave(self) -> None:
        self._awaits = _LINGER
        self.deadline = INFINITY
        if self.transport.unsent():
            self._watch_progress()
        self.transport.loseConnection()

    def _linger(self) -> None:
        """Close our half and read on for a while: bytes still under way would reset our answer.

        RFC 9112 §9.6; nginx lingering_close.
        """
        self._stop_pump()
        self._awaits = _LINGER
        self._body = None
        self._buffer = b""
        if self._paused:
            self.resume()
        self.transport.loseWriteConnection()
        self._arm(self._context.wheel.now + _LINGER_SECONDS)

    # --- tunnel

    def switch(self, head: ResponseHead, rest: bytes, timeout: float) -> None:
        """Become a tunnel: 101 goes out, then bytes both ways.

        Args:
            head: of the 101.
            rest: bytes that the endpoint sent with it.
            timeout: seconds of silence in both directions, 0 = any.
        """
        exchange = self.exchange
        assert exchange is not None
        added = b"Connection: upgrade\r\nUpgrade: %b\r\n" % head.upgrade
        self.wire.write(response_bytes(head.status, head.reason, head.lines, added) + rest)
        self._awaits = _TUNNEL
        self._tunnel_timeout = timeout
        self.watch(exchange.connection)
        self.touch()
        self.resume()  # if more came early than was to be held
        if self._buffer:
            early = bytes(self._buffer)
            self._buffer = b""
            self.dataReceived(early)

    def touch(self) -> None:
        """The tunnel is alive; who takes nothing is under the write timeout meanwhile."""
        if self._tunnel_timeout and not self._stalled:
            self._arm(self._context.wheel.now + self._tunnel_timeout)

    def send_raw(self, data: bytes) -> None:
        """Send bytes of the tunnel."""
        if self._awaits == _TUNNEL:
            self.wire.write(data)

    def end_raw(self) -> None:
        """The endpoint has said its last word."""
        if self._awaits == _TUNNEL:
            self.unwatch()
            self.transport.loseWriteConnection()

    def close_tunnel(self) -> None:
        """The tunnel is over: what is buffered still goes out."""
        if self._awaits == _TUNNEL:
            self._stop_pump()
            self.exchange = None
            self.unwatch()
            self._leave()

    # --- back-pressure

    def watch(self, source: Any) -> None:
        """Stop reading from a source while the client does not take its bytes."""
        if self.transport.producer is None:
            self.transport.set_read_ahead(source.pool.read_ahead)
            self.transport.registerProducer(Flow(source, self), True)

    def unwatch(self) -> None:
        """The source has nothing more to give."""
        if self.transport.producer is not None:
            self.transport.unregisterProducer()
            self._stalled = 0.0

    def splice_sink(self) -> Any:
        """The transport, if a body may be moved to it past us; else None."""
        return None if self._chunking else self.transport

    def pause(self) -> None:
        """Read no more: nobody takes it."""
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()
            if self._awaits == _BODY:
                self._waited += self._context.wheel.now - self._waiting_since
                self.deadline = INFINITY

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
            if self._awaits == _BODY:
                self._wait_for_body()

    def blocked(self) -> None:
        """The client does not take the response: its write timeout runs."""
        if not self._stalled:
            self._watch_progress()

    def unblocked(self) -> None:
        """The client takes bytes again."""
        self._stalled = 0.0
        if self._awaits == _ANSWER:
            self.deadline = INFINITY
        elif self._awaits == _TUNNEL:
            self.touch()

    def _watch_progress(self) -> None:
        limit = self._terms.timeouts.write
        if limit:
            now = self._context.wheel.now
            self._stalled = now
            self._moved = self.transport.moved
            self._arm(now + limit / 4)

    # --- time

    def _arm(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < self.wakes:
            self._context.wheel.arm(self, deadline)

    def expired(self, now: float) -> None:
        """The wheel: the client did not do its part in time."""
        awaits = self._awaits
        if self._stalled:
            self._check_progress(now)
        elif awaits in (_HEAD, _PROXY) and self._buffer:
            self._refuse(SlowRequest("the head did not come within timeouts.header"))
        elif awaits in (_IDLE, _HEAD, _PROXY):
            if not self.close():
                self._arm(now)  # what has come is read before the next tick
        elif awaits == _BODY and self.exchange is not None:
            error = SlowRequest("no byte of the body within timeouts.read")
            self.exchange.way.request_failed(self.exchange, error)
        elif awaits == _TUNNEL and self.exchange is not None:
            self.exchange.way.tunnel_timeout(self.exchange)
        elif awaits == _LINGER:
            self.transport.abortConnection()

    def _check_progress(self, now: float) -> None:
        limit = self._terms.timeouts.write
        if self.transport.moved != self._moved:
            self._moved = self.transport.moved
            self._stalled = now
        if now - self._stalled < limit:
            self._arm(now + limit / 4)
            return
        exchange = self.exchange
        if exchange is not None:
            exchange.way.client_gone(exchange, "it took no byte within timeouts.write")
        self._awaits = _LINGER
        self.transport.abortConnection()

    # --- ends

    def readConnectionLost(self) -> None:
        """Twisted: the client has said its last word. Outside a tunnel that is good-bye.

        A client that has closed cannot be told from one that closed its half only; as nginx and Go
        do, we take it for gone and do not let an upstream work for nobody.
        """
        if self._awaits == _TUNNEL and self.exchange is not None:
            self._stop_pump()
            self.exchange.way.tunnel_client_ended(self.exchange)
        elif self._awaits == _FLUSH or self._awaits == _LINGER:
            self._leave()
        else:
            self.transport.connectionLost(_DONE)

    def writeConnectionLost(self) -> None:
        """Twisted: our half is closed."""

    def connectionLost(self, reason: Any) -> None:
        """Twisted: the connection is no more."""
        self._stop_pump()
        self._awaits = _LOST
        self.deadline = INFINITY
        self._listener.heads.release(self)
        self._listener.lost(self)
        exchange = self.exchange
        self.exchange = None
        if exchange is not None:
            exchange.way.client_gone(exchange, "it closed the connection")


classImplements(ServerChannel, IHalfCloseableProtocol)

_DONE: Final = Failure(ConnectionDone())
_BARE_LF: Final = BadRequest("a bare LF as line end")
