"""Streams of requests: what goes on is what a stranger reads, however it came.

The first two bytes of an input say where the rest, the stream, is cut.
"""

from __future__ import annotations

from tests.fuzz import harness

with harness.instrumented():
    from gatewayd.core.messages import CHUNKED
    from gatewayd.http1.requests import read_request
    from tests.fuzz.reader import doubts, read_messages
    from tests.fuzz.relay import RULES, RequestRelay, forget, memo_sizes

ERRORS = ("BadRequest", "TooLarge")

HEAD = b"GET /a/b?c HTTP/1.1\r\nHost: a\r\n"
SEEDS = [
    b"\x05\x09" + stream
    for stream in [
        HEAD + b"\r\n",
        HEAD + b"User-Agent: b\r\nAccept: */*\r\nCookie: c=d\r\n\r\n" * 2,
        HEAD + b"Content-Length: 5\r\n\r\nhello" + HEAD + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + HEAD + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nA: b\r\nHost: c\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
        HEAD + b"Connection: close, x-a, Host\r\nX-A: b\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\nHTTP2-Settings: a\r\n\r\n",
        HEAD + b"Connection: te\r\nTE: trailers, gzip\r\nExpect: 100-continue\r\n\r\n",
        HEAD + b"X-Forwarded-For: b\r\nX-Request-Id: c\r\nVia: 1.1 d\r\nForwarded: for=e\r\n\r\n",
        HEAD + b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\nProxy: x\r\n\r\n",
        HEAD + b"Content-Length : 5\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"A: b\r\n c\r\n\r\n",
        HEAD + b"A: b\nC: d\r\n\r\n",
        b"\r\n" + HEAD + b"\r\n",
        b"POST http://b:81/%41/../c HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc",
        b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + HEAD + b"\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
    ]
]
TOKENS = (
    b"\r\n|\n|\r|\r\n\r\n|:| :|: |\t| |\0|\x0b|\x0c|\x7f|\x80|\xa0|\xff|;|_|-|+|0|00|0x|5|1|a||"
    b"GET / HTTP/1.1\r\n|POST /a HTTP/1.1\r\nHost: a\r\n|HTTP/1.0|HTTP/1.1|HTTP/2.0|CONNECT|OPTIONS|*|"
    b"http://b|http://|https://|//|/../|/..;/|%2e%2e|%2F|%00|%5c|%|?|#|\\|@|[::1]|"
    b"Host: a\r\n|Host:|Host: b\r\n|Content-Length: 5\r\n|Content-Length: 0\r\n|Content-Length|"
    b"Transfer-Encoding: chunked\r\n|Transfer-Encoding: identity\r\n|Transfer-Encoding|chunked|gzip|"
    b"Connection: close\r\n|Connection: |keep-alive|close|upgrade|Upgrade: websocket\r\n|h2c|"
    b"TE: trailers\r\n|Expect: 100-continue\r\n|Content_Length: 5\r\n|X-Forwarded-For: b\r\n|"
    b"5\r\nhello\r\n|0\r\n\r\n|0\r\n|5;a=b\r\n|ffffffffffffffff|9223372036854775807|9223372036854775808|,|, "
).split(b"|")


def relayed(pieces: list[bytes]) -> RequestRelay:
    """A connection on which these pieces came."""
    relay = RequestRelay()
    for piece in pieces:
        relay.feed(piece)
    return relay


def check(data: bytes) -> None:
    """Hold all that must hold of a stream of requests."""
    first, second, stream = data[:1], data[1:2], data[2:]
    forget()
    relay = relayed([stream])
    verdict = relay.verdict()
    assert relayed([stream]).verdict() == verdict, "a warm memo changes the verdict"
    if relay.error is not None:
        assert type(relay.error).__name__ in ERRORS, "a fault that is not the client's"
    step = 1 + (ord(first) if first else 0) % 40
    start = (ord(second) if second else 0) % (len(stream) + 1)
    pieces = [stream[:start], *(stream[at : at + step] for at in range(start, len(stream), step))]
    split = relayed(pieces)
    _check_same(relay, split)
    _check_read(relay)
    sizes = memo_sizes()
    assert sizes["lines"] <= 3 * 4096 and sizes["longest line"] <= 258, "a memo without bound"
    assert sizes["hosts, lengths and statuses"] <= 16_384 + 4096 + 256
    assert sizes["longest of them"] <= 282


def _check_same(whole: RequestRelay, split: RequestRelay) -> None:
    if whole.error is not None and split.error is None:
        split.feed(b"\r\n\r\n")  # what is refused before its end has come is refused at it
    assert split.sent == whole.sent, "it matters how a stream is cut"
    bare = "a bare LF as line end"
    if split.error is not None and split.error.detail == bare:
        assert whole.error is not None, "a bare LF passes where its head comes whole"
    else:
        assert split.verdict() == whole.verdict(), "it matters how a stream is cut"


def _check_read(relay: RequestRelay) -> None:
    assert not [block for block in relay.blocks if doubts(block, response=False)], "a doubtful head"
    messages = read_messages(b"".join(relay.sent))
    assert len(messages) == len(relay.sent), "a stranger reads another number of requests"
    for head, body, sent, message in zip(
        relay.heads, relay.bodies, relay.sent, messages, strict=False
    ):
        assert message.first == (head.method, head.path + head.query, b"HTTP/1.1")
        assert message.body == body, "a stranger reads another body"
        assert (message.framing == "chunked") == (head.length == CHUNKED)
        names = [name for name, _ in message.fields]
        assert names.count("host") == 1, "not exactly one Host"
        assert not {"proxy", "content_length", "transfer_encoding", "keep-alive"}.intersection(
            names
        )
        assert names.count("x-forwarded-for") == 1, "somebody else's X-Forwarded-For"
        upgrades = b",".join(value for name, value in message.fields if name == "upgrade")
        assert not [
            protocol
            for protocol in upgrades.lower().split(b",")
            if protocol.strip().startswith((b"h2", b"http", b"tls"))
        ], "an upgrade to HTTP/2 or TLS"
        again = read_request(sent, RULES, 0)
        assert again is not None
        assert (again.method, again.path, again.query, again.length) == (
            head.method,
            head.path,
            head.query,
            head.length,
        ), "we read our own request in another way"
        assert not head.authority or again.host == head.host, "another host"


if __name__ == "__main__":
    raise SystemExit(harness.main("requests", __doc__, check, SEEDS, TOKENS))
