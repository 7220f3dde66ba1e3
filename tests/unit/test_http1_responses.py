"""http1.responses: an endpoint's heads are read as strictly as a client's."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import GatewayError
from gatewayd.core.messages import ResponseHead
from gatewayd.http1 import responses
from gatewayd.http1.responses import read_response
from tests.fuzz.relay import forget
from tests.heads import bare, response_of

FACTS = (
    "lines",
    "status",
    "reason",
    "version",
    "length",
    "close",
    "idle_timeout",
    "upgrade",
    "dated",
)
UNTIL_CLOSE: dict[str, object] = {"length": -2, "close": True}
quick = settings(deadline=None, database=None, max_examples=150)


def outcome(block: bytes, method: bytes = b"GET") -> object:
    """All facts but those as in a `200 OK` without fields and body, or (error, status, detail)."""
    try:
        head = response_of(block, method)
    except GatewayError as error:
        return type(error).__name__, error.answer_status, error.detail
    known = {name: getattr(head, name) for name in FACTS} | {"lines": bare(head.lines)}
    plain = ResponseHead([])
    plain.length = 0
    return {name: value for name, value in known.items() if value != getattr(plain, name)}


def ok(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response's head."""
    return b"\r\n".join([status, *lines])


STATUS = "a malformed status line"
FIELD = "a malformed header field"
LENGTH = "a Content-Length that is no number"
TWO_LENGTHS = "more than one Content-Length"
CODING = "a transfer coding other than chunked"
BOTH = "Content-Length beside Transfer-Encoding"
ANNOUNCED = "a body announced by a 1xx"
CONNECTION = "a malformed Connection"

TE = b"Transfer-Encoding: "
CL = b"Content-Length: "
CHUNKED = TE + b"chunked"

REFUSED: dict[str, list[bytes]] = {
    STATUS: [
        ok(status=status)
        for status in [
            b"",
            b"HTTP/1.1",
            b"HTTP/1.1 ",
            b"HTTP/1.1 20",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 099 OK",
            b"HTTP/1.1 000 OK",
            b"HTTP/1.1 +20 OK",
            b"HTTP/1.1 2x0 OK",
            b"HTTP/1.1 \xb2\xb2\xb2 OK",
            b"HTTP/1.1 200OK",
            b"HTTP/1.1 200\tOK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1\t200 OK",
            b" HTTP/1.1 200 OK",
            b"http/1.1 200 OK",
            b"HTTP/1.2 200 OK",
            b"HTTP/1.10 200 OK",
            b"HTTP/0.9 200 OK",
            b"HTTP/2 200",
            b"HTTP/2.0 200 OK",
            b"ICY 200 OK",
            b"SSH-2.0-OpenSSH_9.0",
            b"HTTP/1.1 200 O\0K",
            b"HTTP/1.1 200 OK\r",
            b"HTTP/1.1 200 OK\n",
            b"HTTP/1.1 200 OK\nContent-Length: 5",
            b"HTTP/1.1 200 \x7f",
            b"HTTP/1.1 200\0",
            b"GET / HTTP/1.1",
        ]
    ],
    FIELD: [
        ok(line)
        for line in [
            b"A",
            b": b",
            b" A: b",
            b"A : b",
            b" folded",
            b"\tfolded",
            b"A: b\nC: d",
            b"A: b\r",
            b"A: \0",
            b"A: \x7f",
            b"Content-Length : 5",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: chunked\x0b",
            b"Content-Length: 5\x0c",
            b"Set-Cookie: a=\x01",
        ]
    ],
    LENGTH: [
        *(
            ok(CL + value)
            for value in [
                b"",
                b"+5",
                b"-5",
                b"5.0",
                b"1_0",
                b"0x5",
                b"5, 5",
                b"5,6",
                b"5x",
                b"5\xa0",
            ]
        ),
        ok(CL + b"9223372036854775808"),
        ok(CL + b"0" * 20),
        ok(CL + b"x", status=b"HTTP/1.1 204 No Content"),
        ok(CL + b"x", status=b"HTTP/1.1 304 Not Modified"),
    ],
    TWO_LENGTHS: [
        ok(CL + b"5", CL + b"5"),
        ok(CL + b"5", CL + b"6"),
        ok(CL + b"0", b"content-length:0"),
    ],
    CODING: [
        *(
            ok(TE + value)
            for value in [
                b"",
                b"identity",
                b"gzip",
                b"gzip, chunked",
                b"chunked, chunked",
                b"chunked;a=b",
                b"xchunked",
                b"chunked,",
                b",chunked",
                b"chunked\xa0",
            ]
        ),
        ok(CHUNKED, CHUNKED),
        ok(CHUNKED, TE + b"identity"),
        ok(CHUNKED, status=b"HTTP/1.0 200 OK"),
        ok(CHUNKED, b"Connection: keep-alive", status=b"HTTP/1.0 200 OK"),
    ],
    BOTH: [
        ok(CL + b"5", CHUNKED),
        ok(CHUNKED, CL + b"5"),
        ok(CHUNKED, CL + b"0"),
        ok(CL + b"5", CHUNKED, status=b"HTTP/1.1 204 No Content"),
        ok(CL + b"5", CHUNKED, status=b"HTTP/1.1 304 Not Modified"),
        ok(CHUNKED, CL + b"5", b"Connection: content-length"),
    ],
    ANNOUNCED: [
        ok(CL + b"5", status=b"HTTP/1.1 100 Continue"),
        ok(CHUNKED, status=b"HTTP/1.1 100 Continue"),
        ok(CHUNKED, status=b"HTTP/1.1 101 Switching Protocols"),
        ok(CL + b"1", status=b"HTTP/1.1 103 Early Hints"),
    ],
    CONNECTION: [ok(b"Connection: " + value) for value in [b"a b", b"a, \xe9", b'"close"', b"a;b"]],
    "Connection is over 1024 bytes": [
        ok(b"Connection: " + b"a," * 512),
        ok(*[b"Connection: " + b"a" * 100] * 11),
    ],
    "more than 1024 header fields": [ok(*[b"A: b"] * 1025)],
}

READ: list[tuple[bytes, bytes, dict[str, object]]] = [
    # Status lines; odd ones that cannot be misread are borne
    (b"GET", ok(), UNTIL_CLOSE),
    (b"GET", ok(status=b"HTTP/1.1 200"), {**UNTIL_CLOSE, "reason": b""}),
    (b"GET", ok(status=b"HTTP/1.1 200 "), {**UNTIL_CLOSE, "reason": b""}),
    (b"GET", ok(status=b"HTTP/1.1 200  O\tK "), {**UNTIL_CLOSE, "reason": b" O\tK "}),
    (b"GET", ok(status=b"HTTP/1.1 404 \xe9"), {**UNTIL_CLOSE, "status": 404, "reason": b"\xe9"}),
    (
        b"GET",
        ok(status=b"HTTP/1.1 999 " + b"x" * 100),
        {**UNTIL_CLOSE, "status": 999, "reason": b"x" * 100},
    ),
    (b"GET", ok(status=b"HTTP/1.0 200 OK"), {**UNTIL_CLOSE, "version": 10}),
    # Framing (RFC 9112 §6.3)
    (b"GET", ok(CL + b"5"), {"length": 5, "lines": [b"Content-Length: 5"]}),
    (b"GET", ok(b"content-length:\t5 "), {"length": 5, "lines": [b"Content-Length: 5"]}),
    (b"GET", ok(b"content-length: 010"), {"length": 10, "lines": [b"Content-Length: 10"]}),
    (b"GET", ok(CL + b"0"), {"lines": [b"Content-Length: 0"]}),
    (b"GET", ok(CL + b"00"), {"lines": [b"Content-Length: 0"]}),
    (b"GET", ok(CHUNKED), {"length": -1}),
    (b"GET", ok(b"transfer-encoding:Chunked\t"), {"length": -1}),
    (
        b"GET",
        ok(CL + b"5", status=b"HTTP/1.0 200 OK"),
        {"length": 5, "lines": [b"Content-Length: 5"], "version": 10, "close": True},
    ),
    (
        b"GET",
        ok(CL + b"5", b"Connection: Keep-Alive", status=b"HTTP/1.0 200 OK"),
        {"length": 5, "lines": [b"Content-Length: 5"], "version": 10},
    ),
    (
        b"GET",
        ok(b"Connection: keep-alive", status=b"HTTP/1.0 200 OK"),
        {**UNTIL_CLOSE, "version": 10},
    ),
    (b"GET", ok(b"Connection: keep-alive"), UNTIL_CLOSE),
    # HEAD and 304 tell of a body that does not come
    (b"HEAD", ok(CL + b"5"), {"lines": [b"Content-Length: 5"]}),
    (b"HEAD", ok(CHUNKED), {}),
    (b"HEAD", ok(), {}),
    (b"head", ok(CL + b"5"), {"length": 5, "lines": [b"Content-Length: 5"]}),
    (
        b"GET",
        ok(CL + b"5", status=b"HTTP/1.1 304 Not Modified"),
        {"status": 304, "reason": b"Not Modified", "lines": [b"Content-Length: 5"]},
    ),
    (
        b"GET",
        ok(CHUNKED, status=b"HTTP/1.1 304 Not Modified"),
        {"status": 304, "reason": b"Not Modified"},
    ),
    # 204 and 1xx have none, and say nothing of one; where one was announced, the connection ends
    (b"GET", ok(status=b"HTTP/1.1 204 No Content"), {"status": 204, "reason": b"No Content"}),
    (
        b"GET",
        ok(CL + b"0", b"A: b", status=b"HTTP/1.1 204 No Content"),
        {"status": 204, "reason": b"No Content", "lines": [b"A: b"]},
    ),
    (
        b"GET",
        ok(CL + b"5", b"A: b", status=b"HTTP/1.1 204 No Content"),
        {"status": 204, "reason": b"No Content", "lines": [b"A: b"], "close": True},
    ),
    (
        b"GET",
        ok(b"content-length:" + b" " * 300 + b"7", status=b"HTTP/1.1 204 No Content"),
        {"status": 204, "reason": b"No Content", "close": True},
    ),
    (
        b"GET",
        ok(CHUNKED, status=b"HTTP/1.1 204 No Content"),
        {"status": 204, "reason": b"No Content", "close": True},
    ),
    (
        b"HEAD",
        ok(CL + b"5", status=b"HTTP/1.1 204 No Content"),
        {"status": 204, "reason": b"No Content", "close": True},
    ),
    (b"GET", ok(status=b"HTTP/1.1 100 Continue"), {"status": 100, "reason": b"Continue"}),
    (
        b"GET",
        ok(CL + b"0", status=b"HTTP/1.1 100 Continue"),
        {"status": 100, "reason": b"Continue"},
    ),
    (
        b"GET",
        ok(b"Link: </a>", b"link: </b>", status=b"HTTP/1.1 103 Early Hints"),
        {"status": 103, "reason": b"Early Hints", "lines": [b"Link: </a>", b"link: </b>"]},
    ),
    (
        b"GET",
        ok(CL + b"5", status=b"HTTP/1.1 205 Reset Content"),
        {"status": 205, "reason": b"Reset Content", "length": 5, "lines": [b"Content-Length: 5"]},
    ),
    (
        b"GET",
        ok(
            b"Connection: Upgrade",
            b"Upgrade:  websocket",
            b"Sec-WebSocket-Accept: a",
            status=b"HTTP/1.1 101 Switching Protocols",
        ),
        {
            "status": 101,
            "reason": b"Switching Protocols",
            "lines": [b"Sec-WebSocket-Accept: a"],
            "upgrade": b"websocket",
        },
    ),
    # Connection, and the rest that stops here
    (
        b"GET",
        ok(CL + b"5", b"Connection: close"),
        {"length": 5, "lines": [b"Content-Length: 5"], "close": True},
    ),
    (
        b"GET",
        ok(CL + b"5", b"Connection: keep-alive, Close"),
        {"length": 5, "lines": [b"Content-Length: 5"], "close": True},
    ),
    (
        b"GET",
        ok(CL + b"5", b"Connection:", b"Connection: close"),
        {"length": 5, "lines": [b"Content-Length: 5"], "close": True},
    ),
    (
        b"GET",
        ok(CL + b"5", b"Connection: upgrade,, xclose"),
        {"length": 5, "lines": [b"Content-Length: 5"]},
    ),
    (
        b"GET",
        ok(CL + b"5", b"A: b", b"C: d", b"Connection: a, Content-Length, Transfer-Encoding"),
        {"length": 5, "lines": [b"Content-Length: 5", b"C: d"]},
    ),
    (b"GET", ok(CHUNKED, b"Connection: transfer-encoding"), {"length": -1}),
    (
        b"GET",
        ok(CL + b"0", b"Date: a"),
        {"lines": [b"Content-Length: 0", b"Date: a"], "dated": True},
    ),
    (
        b"GET",
        ok(CL + b"0", b"Date: a", b"Connection: b"),
        {"lines": [b"Content-Length: 0", b"Date: a"], "dated": True},
    ),
    (b"GET", ok(CL + b"0", b"Date: a", b"Connection: date"), {"lines": [b"Content-Length: 0"]}),
    (
        b"GET",
        ok(
            CL + b"0",
            b"Proxy-Connection: a",
            b"Proxy-Authenticate: b",
            b"Proxy-Authorization: c",
            b"TE: d",
            b"X-Request-Id: e",
            b"Upgrade: f",
        ),
        {"lines": [b"Content-Length: 0"], "upgrade": b"f"},
    ),
    (
        b"GET",
        ok(CL + b"0", b"Keep-Alive: timeout=5, max=100"),
        {"lines": [b"Content-Length: 0"], "idle_timeout": 5},
    ),
    (
        b"GET",
        ok(CL + b"0", b"Keep-Alive: max=100, Timeout=15"),
        {"lines": [b"Content-Length: 0"], "idle_timeout": 15},
    ),
    (
        b"GET",
        ok(CL + b"0", b"Keep-Alive: xtimeout=5, timeout=a"),
        {"lines": [b"Content-Length: 0"]},
    ),
    # Everything else goes on as it came, in order
    (
        b"GET",
        ok(
            CL + b"0",
            b"Set-Cookie: a",
            b"Via: 1.1 b",
            b"set-cookie: c",
            b"Set-Cookie: a",
            b"A_b: \xe9",
            b"Trailer: c",
        ),
        {
            "lines": [
                CL + b"0",
                b"Set-Cookie: a",
                b"Via: 1.1 b",
                b"set-cookie: c",
                b"Set-Cookie: a",
                b"A_b: \xe9",
                b"Trailer: c",
            ]
        },
    ),
]


class ReadResponseTests(SynchronousTestCase):
    """Whole heads."""

    def setUp(self) -> None:
        """Begin with nothing remembered."""
        forget()

    def check(self, rows: Iterable[tuple[bytes, bytes, object]]) -> None:
        """Compare outcomes; a failure shows the rows that differ."""
        actual = [(block, outcome(block, method), wanted) for method, block, wanted in rows]
        self.assertEqual([row for row in actual if row[1] != row[2]], [])

    def test_refused(self) -> None:
        """What is malformed or ambiguous is a 502 with its reason, cold and warm alike."""
        for _ in range(2):
            self.check(
                (b"GET", block, ("BadResponse", 502, detail))
                for detail, blocks in REFUSED.items()
                for block in blocks
            )

    def test_read(self) -> None:
        """What is valid is read in one way, cold and warm alike."""
        for _ in range(2):
            self.check(READ)

    def test_ends(self) -> None:
        """A head ends at its first blank line, and without one it is not refused for that."""
        for method, block, _ in READ:
            data = block + b"\r\n\r\n"
            for rest in (b"", b"x", b"\n", data):
                head = read_response(data + rest, method)
                assert head is not None
                self.assertEqual(head.size, len(data))
            ends = [read_response(data[:cut], method) for cut in range(len(data))]
            self.assertEqual(ends, [None] * len(data), block)

    def test_204_with_lengths_that_no_memo_holds(self) -> None:
        """The length of a 204 never goes on, however many lengths came before."""
        for number in range(100):
            head = response_of(ok(CL + b"%d" % number, status=b"HTTP/1.1 204 x"), b"GET")
            self.assertEqual(head.lines, [])

    def test_status_lines_are_bounded(self) -> None:
        """At 256 status lines those remembered are forgotten; long ones never enter."""
        for number in range(257):
            response_of(b"HTTP/1.1 200 %d" % number, b"GET")
        self.assertEqual(responses._statuses, {b"HTTP/1.1 200 256\r\n": (200, 11, b"256")})
        response_of(b"HTTP/1.1 200 " + b"x" * 60, b"GET")
        self.assertEqual(len(responses._statuses), 1)


LINES = sorted({line for _, block, _ in READ for line in block.split(b"\r\n")[1:]})
BAD_LINES = sorted(
    {line for blocks in REFUSED.values() for block in blocks for line in block.split(b"\r\n")[1:]}
)
STATUSES = sorted({block.split(b"\r\n")[0] for _, block, _ in READ})
heads = st.builds(
    lambda status, lines: b"\r\n".join([status, *lines]),
    st.sampled_from(STATUSES),
    st.lists(
        st.sampled_from(LINES) | st.sampled_from(BAD_LINES) | st.binary(max_size=12), max_size=5
    ),
)
methods = st.sampled_from([b"GET", b"HEAD"])


class ReadResponseProperties(SynchronousTestCase):
    """What holds for any head."""

    @quick
    @given(st.lists(st.tuples(heads, methods), min_size=1, max_size=4))
    def test_the_memo_changes_no_verdict(self, answers: list[tuple[bytes, bytes]]) -> None:
        """A head is read or refused in the same way whatever came before it."""
        forget()
        for block, method in answers:
            outcome(block, method)
        warm = [outcome(block, method) for block, method in answers]
        cold = []
        for block, method in answers:
            forget()
            cold.append(outcome(block, method))
        self.assertEqual(warm, cold)

    @quick
    @given(heads | st.binary(max_size=60), methods)
    def test_only_our_errors(self, block: bytes, method: bytes) -> None:
        """Any bytes are a head or one of our errors; `outcome` lets no other through."""
        self.assertIsInstance(outcome(block, method), dict | tuple)
