"""The gateway less its sockets: reads with the parsers, writes with the serialiser.

Reads as proxy.channel and upstreams.connection do, piece by piece, and writes what proxy.forward and
the channel write, so that a finding here is one there. Of a message that breaks nothing is kept: the
other side sees an abort.
"""

from __future__ import annotations

from gatewayd.core.errors import BadRequest, BadResponse, GatewayError
from gatewayd.core.messages import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead
from gatewayd.http1 import bodies, requests, responses
from gatewayd.http1.bodies import Body, Chunked, Length, UntilClose
from gatewayd.http1.grammar import head_ended
from gatewayd.http1.requests import PathRules, read_request
from gatewayd.http1.responses import read_response
from gatewayd.http1.serialising import chunk, last_chunk, request_bytes, response_bytes

RULES = PathRules()
OURS = b"X-Forwarded-For: 192.0.2.1\r\nVia: 1.1 gatewayd-00000000\r\n"
MAX_HEADERS = 256


def forget() -> None:
    """Make every memo cold."""
    for memo in (requests._memo, responses._memo, bodies._trailers):
        memo._forget_all()
    requests._hosts.clear()
    requests._lengths.clear()
    responses._statuses.clear()


def memo_sizes() -> dict[str, int]:
    """How much is remembered: entries, and bytes of the longest."""
    lines = [*requests._known, *responses._known, *bodies._trailers.known]
    others = [*requests._hosts, *requests._lengths, *responses._statuses]
    return {
        "lines": len(lines),
        "longest line": max(map(len, lines), default=0),
        "hosts, lengths and statuses": len(others),
        "longest of them": max(map(len, others), default=0),
    }


def request_out(head: RequestHead, body: bytes, trailers: list[bytes]) -> bytes:
    """A whole request for the upstream."""
    added = OURS
    if head.length == CHUNKED:
        added += b"Transfer-Encoding: chunked\r\n"
        body = chunk(body) + last_chunk(trailers)
    if head.upgrade:
        added += b"Connection: upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    elif head.trailers:
        added += b"TE: trailers\r\nConnection: TE\r\n"
    if not head.authority:  # HTTP/1.0 without Host
        added += b"Host: 192.0.2.2:80\r\n"
    return request_bytes(head.method, head.path + head.query, head.lines, added) + body


def response_out(head: ResponseHead, body: bytes, trailers: list[bytes]) -> bytes:
    """A whole response for a client of HTTP/1.1."""
    added = b""
    if head.length in (CHUNKED, UNTIL_CLOSE):
        added += b"Transfer-Encoding: chunked\r\n"
        body = chunk(body) + last_chunk(trailers)
    return response_bytes(head.status, head.reason, head.lines, added) + body


class Relay:
    """One connection, read in pieces; `error` is set once it can be read no further."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.error: GatewayError | None = None
        self.sent: list[bytes] = []  # whole messages as they go on
        self.bodies: list[bytes] = []  # theirs
        self.blocks: list[bytes] = []  # heads as they came
        self._held = b""
        self._body: Body | None = None
        self._pieces = b""

    def feed(self, data: bytes) -> None:
        """Bytes came."""
        seen = 0
        if self._body is None:
            seen = len(self._held)
            data = self._held + data
            self._held = b""
        try:
            while data and self.error is None:
                if self._body is None:
                    data, waits = self._feed_head(data, seen)
                    if waits:
                        self._held = data
                        return
                else:
                    data = self._feed_body(self._body, data)
                seen = 0
        except GatewayError as error:
            self.error = error

    def verdict(self) -> object:
        """What became of all that was fed, to be compared whole."""
        error = self.error
        refused = error and (type(error).__name__, error.answer_status, error.detail)
        broken = self._body is not None
        return self.sent, refused, broken, b"" if error else self._held

    def _feed_head(self, data: bytes, seen: int) -> tuple[bytes, bool]:
        raise NotImplementedError

    def _begin(self, body: Body) -> None:
        self._body = body
        self._pieces = b""
        if body.ended:
            self._end(body)

    def _feed_body(self, body: Body, data: bytes) -> bytes:
        piece, rest = body.feed(data)
        self._pieces += piece
        if isinstance(body, Chunked):
            assert len(body._line) <= 4096, "a chunk's line is held without bound"
            held = sum(len(line) - 2 for line in body.trailers)
            assert held <= 16384 and len(body.trailers) <= 128, "trailers without bound"
        if body.ended:
            self._end(body)
        else:
            assert rest == b"", "bytes come back from a body that has not ended"
        return rest

    def _end(self, body: Body) -> None:
        self._body = None
        self.bodies.append(self._pieces)
        self.sent.append(self._whole(self._pieces, body.trailers))
        self._pieces = b""

    def _whole(self, body: bytes, trailers: list[bytes]) -> bytes:
        raise NotImplementedError


class RequestRelay(Relay):
    """A client's connection."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        super().__init__()
        self.heads: list[RequestHead] = []

    def _feed_head(self, data: bytes, seen: int) -> tuple[bytes, bool]:
        if seen and not head_ended(data, seen, BadRequest("a bare LF as line end")):
            return data, True
        head = read_request(data, RULES, MAX_HEADERS)
        if head is None:
            return data, True
        self.heads.append(head)
        self.blocks.append(data[: head.size].removeprefix(b"\r\n")[:-4])
        self._begin(Chunked(BadRequest) if head.length == CHUNKED else Length(head.length))
        return data[head.size :], False

    def _whole(self, body: bytes, trailers: list[bytes]) -> bytes:
        return request_out(self.heads[-1], body, trailers)


class ResponseRelay(Relay):
    """An endpoint's connection."""

    def __init__(self, methods: list[bytes]) -> None:
        """Args: methods: of the requests that are answered, in order."""
        super().__init__()
        self.heads: list[ResponseHead] = []
        self._methods = list(methods)
        self._closed = False

    def _feed_head(self, data: bytes, seen: int) -> tuple[bytes, bool]:
        if not self._methods or self._closed:
            raise BadResponse("stray bytes")
        if seen and not head_ended(data, seen, BadResponse("a bare LF as line end")):
            return data, True
        head = read_response(data, self._methods[0])
        if head is None:
            return data, True
        self.heads.append(head)
        self.blocks.append(data[: head.size - 4])
        if head.status >= 200:
            self._methods.pop(0)
            self._closed = head.close
        elif head.status == 101:
            self._closed = True
        body: Body = Length(head.length)
        if head.length == CHUNKED:
            body = Chunked(BadResponse)
        elif head.length == UNTIL_CLOSE:
            body = UntilClose()
        self._begin(body)
        return data[head.size :], False

    def close(self) -> None:
        """The endpoint closed."""
        if self.error is None and isinstance(self._body, UntilClose):
            self._end(self._body)

    def _whole(self, body: bytes, trailers: list[bytes]) -> bytes:
        return response_out(self.heads[-1], body, trailers)
