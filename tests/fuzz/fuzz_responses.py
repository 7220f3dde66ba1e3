"""Streams of responses: every client reads its own answer and nobody else's, however it came.

The first two bytes of an input say where the rest, the stream, is cut, the third which of the four
requests were HEAD.
"""

from __future__ import annotations

from tests.fuzz import harness

with harness.instrumented():
    from gatewayd.http1.responses import read_response
    from tests.fuzz.reader import doubts, read_messages
    from tests.fuzz.relay import ResponseRelay, forget, memo_sizes

OK = b"HTTP/1.1 200 OK\r\n"
SEEDS = [
    b"\x05\x09" + heads + stream
    for heads, stream in [
        (
            b"\0",
            OK + b"Content-Length: 5\r\nDate: a\r\n\r\nhello" + OK + b"Content-Length: 0\r\n\r\n",
        ),
        (
            b"\0",
            OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + OK + b"\r\nrest",
        ),
        (b"\0", OK + b"Transfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\nA: b\r\nHost: c\r\n\r\n"),
        (b"\0", OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (b"\0", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: a\r\n\r\n" + OK + b"\r\n"),
        (b"\0", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
        (b"\0", b"HTTP/1.1 204\r\n\r\nHTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n" + OK + b"\r\n"),
        (b"\0", b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00"),
        (b"\0", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx" + OK),
        (b"\0", b"HTTP/1.0 200 OK\r\n\r\nhello"),
        (b"\x03", (OK + b"Content-Length: 5\r\n\r\n") * 2 + OK + b"Content-Length: 010\r\n\r\n"),
        (b"\x01", OK + b"Transfer-Encoding: chunked\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nab"),
        (b"\0", OK + b"Connection: close, a, Content-Length\r\nA: b\r\nContent-Length: 1\r\n\r\nx"),
        (b"\0", OK + b"Set-Cookie: a\r\nset-cookie: b\r\nKeep-Alive: timeout=5\r\n\r\n"),
        (b"\0", OK + b"A : b\r\n\r\n"),
        (b"\0", OK + b"A: b\r\n c\r\n\r\n"),
        (b"\0", b"HTTP/1.1 200 OK\nA: b\n\n"),
        (b"\0", b"ICY 200 OK\r\n\r\n"),
    ]
]
TOKENS = (
    b"\r\n|\n|\r|\r\n\r\n|:| :|: |\t| |\0|\x0b|\x7f|\x80|\xa0|\xff|;|_|+|0|00|5|1|a||"
    b"HTTP/1.1 200 OK\r\n|HTTP/1.0 200 OK\r\n|HTTP/1.1 204 x\r\n|HTTP/1.1 304 x\r\n|HTTP/1.1 100 x\r\n|"
    b"HTTP/1.1 101 x\r\n|HTTP/1.1 099 x\r\n|HTTP/1.1 200|200|204|304|103|"
    b"Content-Length: 5\r\n|Content-Length: 0\r\n|Content-Length: 05\r\n|Content-Length|"
    b"Transfer-Encoding: chunked\r\n|Transfer-Encoding: identity\r\n|Transfer-Encoding|chunked|gzip|"
    b"Connection: close\r\n|Connection: keep-alive\r\n|Connection: |close|upgrade|Date: a\r\n|"
    b"Upgrade: websocket\r\n|Keep-Alive: timeout=5\r\n|X-Request-Id: a\r\n|Set-Cookie: a\r\n|"
    b"5\r\nhello\r\n|0\r\n\r\n|0\r\n|5;a=b\r\n|ffffffffffffffff|9223372036854775807|,|, "
).split(b"|")


def relayed(pieces: list[bytes], methods: list[bytes]) -> ResponseRelay:
    """A connection on which these pieces came before it closed."""
    relay = ResponseRelay(methods)
    for piece in pieces:
        relay.feed(piece)
    relay.close()
    return relay


def check(data: bytes) -> None:
    """Hold all that must hold of a stream of responses."""
    first, second, third, stream = data[:1], data[1:2], data[2:3], data[3:]
    bits = ord(third) if third else 0
    methods = [b"HEAD" if bits >> number & 1 else b"GET" for number in range(4)]
    forget()
    relay = relayed([stream], methods)
    verdict = relay.verdict()
    assert relayed([stream], methods).verdict() == verdict, "a warm memo changes the verdict"
    if relay.error is not None:
        assert type(relay.error).__name__ == "BadResponse", "a fault that is not the endpoint's"
    step = 1 + (ord(first) if first else 0) % 40
    start = (ord(second) if second else 0) % (len(stream) + 1)
    pieces = [stream[:start], *(stream[at : at + step] for at in range(start, len(stream), step))]
    split = relayed(pieces, methods)
    if relay.error is not None and split.error is None:
        split.feed(b"\r\n\r\n")  # what is refused before its end has come is refused at it
    assert split.sent == relay.sent, "it matters how a stream is cut"
    if split.error is not None and split.error.detail == "a bare LF as line end":
        assert relay.error is not None, "a bare LF passes where its head comes whole"
    else:
        assert split.verdict() == verdict, "it matters how a stream is cut"
    _check_read(relay, methods)
    sizes = memo_sizes()
    assert sizes["lines"] <= 3 * 4096 and sizes["longest line"] <= 258, "a memo without bound"
    assert sizes["hosts, lengths and statuses"] <= 16_384 + 4096 + 256
    assert sizes["longest of them"] <= 282


def _check_read(relay: ResponseRelay, methods: list[bytes]) -> None:
    assert not [block for block in relay.blocks if doubts(block, response=True)], "a doubtful head"
    messages = read_messages(b"".join(relay.sent), methods)
    assert len(messages) == len(relay.sent), "a stranger reads another number of responses"
    answered = 0
    for head, body, sent, message in zip(
        relay.heads, relay.bodies, relay.sent, messages, strict=False
    ):
        assert message.first == (b"HTTP/1.1", b"%d" % head.status, head.reason)
        assert message.body == body, "a stranger reads another body"
        names = [name for name, _ in message.fields]
        assert not {"connection", "keep-alive", "upgrade", "x-request-id"}.intersection(names)
        again = read_response(sent, methods[answered])
        assert again is not None
        answered += head.status >= 200
        assert (again.status, again.reason, again.lines, max(again.length, -1)) == (
            head.status,
            head.reason,
            head.lines,
            max(head.length, -1),
        ), "we read our own response in another way"


if __name__ == "__main__":
    raise SystemExit(harness.main("responses", __doc__, check, SEEDS, TOKENS))
