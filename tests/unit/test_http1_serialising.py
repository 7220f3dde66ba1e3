"""http1.serialising: what goes out can be read in one way only, by us and by a stranger."""

from __future__ import annotations

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import GatewayError
from gatewayd.core.messages import CHUNKED, HOP_BY_HOP, UNTIL_CLOSE, RequestHead, ResponseHead
from gatewayd.http1.requests import PathRules
from gatewayd.http1.serialising import (
    CONTINUE,
    LAST_CHUNK,
    REASONS,
    chunk,
    last_chunk,
    request_bytes,
    response_bytes,
)
from tests.fuzz.reader import Message, Unreadable, read_messages
from tests.fuzz.relay import RequestRelay, ResponseRelay, forget, request_out, response_out
from tests.heads import ended, request_of, response_of
from tests.unit import test_http1_requests, test_http1_responses

quick = settings(deadline=None, database=None, max_examples=150)
RULES = PathRules()


class WritingTests(SynchronousTestCase):
    """Bytes, one by one."""

    def test_request(self) -> None:
        """Line, the client's fields, ours, and the blank line."""
        ours = b"Via: 1.1 x\r\n"
        self.assertEqual(
            [
                request_bytes(b"GET", b"/?a", [b"Host: a\r\n", b"B:c\r\n"], ours),
                request_bytes(b"GET", b"/", [b"Host: a\r\n"], b""),
                request_bytes(b"GET", b"/", [], ours),
                request_bytes(b"OPTIONS", b"*", [], b""),
            ],
            [
                b"GET /?a HTTP/1.1\r\nHost: a\r\nB:c\r\nVia: 1.1 x\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET / HTTP/1.1\r\nVia: 1.1 x\r\n\r\n",
                b"OPTIONS * HTTP/1.1\r\n\r\n",
            ],
        )

    def test_response(self) -> None:
        """Status line, always with the blank before the reason (RFC 9112 §4), fields, ours."""
        self.assertEqual(
            [
                response_bytes(200, b"OK", [b"A: b\r\n", b"C:d\r\n"], b"Date: x\r\n"),
                response_bytes(204, b"", [], b"Date: x\r\n"),
                response_bytes(404, b"\xe9", [b"A: b\r\n"], b""),
                response_bytes(100, b"Continue", [], b""),
            ],
            [
                b"HTTP/1.1 200 OK\r\nA: b\r\nC:d\r\nDate: x\r\n\r\n",
                b"HTTP/1.1 204 \r\nDate: x\r\n\r\n",
                b"HTTP/1.1 404 \xe9\r\nA: b\r\n\r\n",
                CONTINUE,
            ],
        )

    def test_chunks(self) -> None:
        """An empty piece is no chunk: it would end the body."""
        self.assertEqual(
            [
                chunk(b""),
                chunk(b"a"),
                chunk(b"x" * 16),
                last_chunk([]),
                last_chunk([b"A: b\r\n", b"C:d\r\n"]),
            ],
            [
                b"",
                b"1\r\na\r\n",
                b"10\r\n" + b"x" * 16 + b"\r\n",
                LAST_CHUNK,
                b"0\r\nA: b\r\nC:d\r\n\r\n",
            ],
        )

    def test_reasons(self) -> None:
        """Every status that we answer with has a phrase."""
        ours = [400, 403, 404, 405, 408, 411, 413, 414, 417, 429, 431, 500, 501, 502, 503, 504, 508]
        self.assertEqual([status for status in ours if not REASONS.get(status)], [])
        self.assertEqual(REASONS[508], b"Loop Detected")


def sole(data: bytes, methods: list[bytes] | None = None) -> Message:
    """The only message that a stranger reads."""
    (message,) = read_messages(data, methods)
    return message


def is_length(line: bytes) -> bool:
    """Whether it is a Content-Length."""
    return line.startswith(b"Content-Length:")


class WrittenAndReadTests(SynchronousTestCase):
    """What goes on reads as what was read."""

    def check_request(self, head: RequestHead, body: bytes, trailers: list[bytes]) -> None:
        """One framing, one Host, nothing that should have stopped here; the same when read again."""
        out = request_out(head, body, ended(trailers))
        message = sole(out)
        self.assertEqual(message.first, (head.method, head.path + head.query, b"HTTP/1.1"))
        framing = "chunked" if head.length == CHUNKED else "length" if body else message.framing
        self.assertEqual((message.framing, message.body), (framing, body))
        self.assertIn(message.framing, ["none", "length", "chunked"])
        self.assertEqual(message.trailers, trailers if head.length == CHUNKED else [])
        names = [name for name, _ in message.fields]
        self.assertEqual(names.count("host"), 1)
        self.assertEqual(
            sorted(HOP_BY_HOP.intersection(name.encode() for name in names)),
            sorted(
                [b"transfer-encoding"] * (head.length == CHUNKED)
                + ([b"connection", b"upgrade"] if head.upgrade else [])
                + ([b"connection", b"te"] if head.trailers and not head.upgrade else [])
            ),
        )
        block = out[: out.index(b"\r\n\r\n")]
        again = request_of(block)
        same = ("method", "path", "query", "length", "upgrade")
        self.assertEqual(
            {name: getattr(again, name) for name in same},
            {name: getattr(head, name) for name in same},
        )
        if head.authority:
            self.assertEqual((again.host, again.authority), (head.host, head.authority))
            # A reader puts the one length last; the Host of an absolute form was behind it.
            self.assertEqual(
                [line for line in sorted(again.lines, key=is_length) if line in head.lines],
                sorted(head.lines, key=is_length),
            )

    def check_response(self, head: ResponseHead, method: bytes, body: bytes) -> None:
        """One framing, nothing that should have stopped here; the same when read again."""
        out = response_out(head, body, [])
        message = sole(out, [method])
        self.assertEqual(message.first[1:], (b"%d" % head.status, head.reason))
        self.assertEqual(message.body, body)
        names = {name.encode() for name, _ in message.fields}
        chunked = {b"transfer-encoding"} if head.length in (CHUNKED, UNTIL_CLOSE) else set()
        self.assertEqual(HOP_BY_HOP & names, chunked)
        again = response_of(out[: out.index(b"\r\n\r\n")], method)
        self.assertEqual(
            (again.status, again.reason, again.lines, again.length, again.dated),
            (
                head.status,
                head.reason,
                head.lines,
                CHUNKED if head.length == UNTIL_CLOSE else head.length,
                head.dated,
            ),
        )

    def test_requests(self) -> None:
        """Every request of the table of those that are read."""
        for block, _ in test_http1_requests.READ:
            head = request_of(block)
            if head.length < 100:
                self.check_request(head, b"x" * max(head.length, 0), [])

    def test_responses(self) -> None:
        """Every response of the table of those that are read."""
        for method, block, _ in test_http1_responses.READ:
            head = response_of(block, method)
            self.check_response(head, method, b"x" * max(head.length, 0))

    @quick
    @example(b"GET / HTTP/1.0\r\ncontent-LENGTH:\t0005 ", b"", [])
    @example(b"GET http://c/ HTTP/1.0\r\nContent-Length: 5", b"", [])
    @given(
        test_http1_requests.heads,
        st.binary(max_size=20),
        st.lists(st.sampled_from([b"A: b", b"C:"]), max_size=2),
    )
    def test_any_request(self, block: bytes, body: bytes, trailers: list[bytes]) -> None:
        """Whatever we read and send on is accepted by ourselves and by a stranger, in one way."""
        try:
            head = request_of(block)
        except GatewayError:
            return
        assume(head.length < 100)
        self.check_request(
            head, ((body or b"x") * 100)[: head.length] if head.length >= 0 else body, trailers
        )

    @quick
    @given(test_http1_responses.heads, test_http1_responses.methods, st.binary(max_size=20))
    def test_any_response(self, block: bytes, method: bytes, body: bytes) -> None:
        """Whatever we relay is accepted by ourselves and by a stranger, in one way."""
        try:
            head = response_of(block, method)
        except GatewayError:
            return
        assume(head.length < 100)
        size = head.length
        self.check_response(head, method, b"x" * size if size >= 0 else body)


class PipelinedTests(SynchronousTestCase):
    """Many messages on one connection."""

    def setUp(self) -> None:
        """Begin with nothing remembered."""
        forget()

    def test_requests(self) -> None:
        """N requests are N requests behind us; what comes after an error goes nowhere."""
        data = (
            b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
            b"\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5;x\r\nGET /\r\n0\r\nHost: b\r\nA: b\r\n\r\n"
            b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /4 HTTP/1.1\r\nHost : a\r\n\r\n"
            b"GET /5 HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        for step in (len(data), 1, 7):
            relay = RequestRelay()
            for at in range(0, len(data), step):
                relay.feed(data[at : at + step])
            read = [
                (message.first[1], message.framing, message.body, message.trailers)
                for message in read_messages(b"".join(relay.sent))
            ]
            self.assertEqual(
                read,
                [
                    (b"/1", "length", b"hello", []),
                    (b"/2", "chunked", b"GET /", [b"A: b"]),
                    (b"/3", "none", b"", []),
                ],
            )
            self.assertEqual(str(relay.error), "a malformed header field")

    def test_responses(self) -> None:
        """Interim and final responses stay apart, and stray bytes are nobody's answer."""
        data = (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
            b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n"
            b"HTTP/1.1 200 stray\r\n\r\n"
        )
        methods = [b"GET", b"HEAD", b"GET"]
        for step in (len(data), 1, 7):
            relay = ResponseRelay(methods)
            for at in range(0, len(data), step):
                relay.feed(data[at : at + step])
            relay.close()
            read = [
                (message.first[1], message.framing, message.body, message.trailers)
                for message in read_messages(b"".join(relay.sent), methods)
            ]
            self.assertEqual(
                read,
                [
                    (b"103", "none", b"", []),
                    (b"200", "length", b"hello", []),
                    (b"200", "none", b"", []),
                    (b"200", "chunked", b"hi", [b"A: b"]),
                ],
            )
            self.assertEqual(str(relay.error), "stray bytes")

    def test_until_close(self) -> None:
        """A body that its connection ends is given an end of its own."""
        relay = ResponseRelay([b"GET"])
        relay.feed(b"HTTP/1.0 200 OK\r\n\r\nhel")
        relay.feed(b"lo")
        self.assertEqual(relay.sent, [])
        relay.close()
        self.assertEqual(
            relay.sent,
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
        )


class StrangerTests(SynchronousTestCase):
    """The second reader is strict itself, or it would find nothing."""

    def test_refuses(self) -> None:
        """What we must never send is unreadable to it."""
        head = b"GET / HTTP/1.1\r\nHost: a\r\n"
        rows = [
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET a HTTP/1.1\r\n\r\n",
            b"GET /\xe9 HTTP/1.1\r\n\r\n",
            head + b"A : b\r\n\r\n",
            head + b"A: b\nC: d\r\n\r\n",
            head + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            head + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            head + b"Content-Length: 01\r\n\r\nx",
            head + b"Content-Length: +1\r\n\r\nx",
            head + b"Content-Length: 9223372036854775808\r\n\r\n",
            head + b"Content-Length: 2\r\n\r\nx",
            head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n0;a\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n a\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n",
        ]
        for row in rows:
            self.assertRaises(Unreadable, read_messages, row)
        for status in (b"099", b"20", b"2x0"):
            self.assertRaises(Unreadable, read_messages, b"HTTP/1.1 %b \r\n\r\n" % status, [b"GET"])
        bodiless = b"HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n"
        self.assertRaises(Unreadable, read_messages, bodiless, [b"GET"])
