"""http1.bodies: where a body ends, in one piece or byte by byte."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import BadRequest, BadResponse, GatewayError
from gatewayd.http1.bodies import Body, Chunked, Length, UntilClose
from gatewayd.http1.serialising import chunk, last_chunk
from tests.heads import bare, ended

quick = settings(deadline=None, database=None, max_examples=200)

LONG = "a chunk's line is too long or its data has no end"
BARE = "a bare LF in the chunked coding"
SIZE = "a malformed chunk size"
OVER = "a chunk size over 2^63"
TRAILER = "a malformed trailer field"
MANY_TRAILERS = "too many trailer fields"
MANY_EXTENSIONS = "too many chunk extensions"

Outcome = tuple[bytes, bytes, bool, list[bytes]] | str


def fed(body: Body, pieces: list[bytes]) -> Outcome:
    """(body, rest, ended, trailers), or what is wrong."""
    data = rest = b""
    try:
        for piece in pieces:
            if body.ended:
                rest += piece
                continue
            more, rest = body.feed(piece)
            data += more
    except GatewayError as error:
        return error.detail
    return data, rest, body.ended, bare(body.trailers)


def one_by_one(data: bytes) -> list[bytes]:
    """Single bytes."""
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Pieces, some of them empty."""
    ends = sorted(at % (len(data) + 1) for at in cuts)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


# A chunked body, and what becomes of it.
CHUNKED: list[tuple[bytes, Outcome]] = [
    (b"", (b"", b"", False, [])),
    (b"0\r\n\r\n", (b"", b"", True, [])),
    (b"000\r\n\r\n", (b"", b"", True, [])),
    (b"5\r\nhello\r\n0\r\n\r\n", (b"hello", b"", True, [])),
    (b"0005\r\nhello\r\n0\r\n\r\nGET /", (b"hello", b"GET /", True, [])),
    (b"0000000000000005\r\nhello\r\n0\r\n\r\n", (b"hello", b"", True, [])),
    (
        b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        (b"01234567890123456789a", b"", True, []),
    ),
    (b"9\r\n\r\n0\r\n\r\nab\r\n0\r\n\r\n", (b"\r\n0\r\n\r\nab", b"", True, [])),
    # Extensions are dropped
    (b"5;a=b\r\nhello\r\n0;c\r\n\r\n", (b"hello", b"", True, [])),
    (b'5;a="b c;\\"d"\t\xe9\r\nhello\r\n0\r\n\r\n', (b"hello", b"", True, [])),
    (b"5;\r\nhello\r\n0;;\r\n\r\n", (b"hello", b"", True, [])),
    (b"1;" + b"a" * 4092 + b"\r\nx\r\n0\r\n\r\n", (b"x", b"", True, [])),
    # Unfinished: never a clean end
    (b"5", (b"", b"", False, [])),
    (b"5\r\nhel", (b"hel", b"", False, [])),
    (b"5\r\nhello", (b"hello", b"", False, [])),
    (b"5\r\nhello\r", (b"hello", b"", False, [])),
    (b"5\r\nhello\r\n", (b"hello", b"", False, [])),
    (b"5\r\nhello\r\n0\r\n", (b"hello", b"", False, [])),
    (b"0\r\n\r", (b"", b"", False, [])),
    (b"0\r\nA: b\r\n", (b"", b"", False, [b"A: b"])),
    (b"7fffffffffffffff\r\nx", (b"x", b"", False, [])),
    # Trailers: kept in order, what has no place there is dropped
    (
        b"0\r\nA: b\r\nGrpc-Status:0\r\na:  c\r\n\r\nX",
        (b"", b"X", True, [b"A: b", b"Grpc-Status:0", b"a:  c"]),
    ),
    *(
        (b"0\r\n" + name + b": 1\r\nA: b\r\n\r\n", (b"", b"", True, [b"A: b"]))
        for name in (
            b"Content-Length TRANSFER-ENCODING host Connection Keep-Alive TE Trailer Upgrade "
            b"Proxy-Connection Proxy-Authenticate Proxy-Authorization Proxy Content-Encoding "
            b"Content-Type Content-Range Authorization Cookie Set-Cookie WWW-Authenticate Via "
            b"Forwarded X-Forwarded-For X-Forwarded-Anything X-Real-IP X-Request-Id Expect "
            b"Max-Forwards Cache-Control Pragma Range If-Match If-None-Match If-Modified-Since "
            b"If-Unmodified-Since If-Range Age Date Expires Location Retry-After Vary Warning "
            b"Content_Length Transfer_Encoding X_Forwarded_For A_B User-Agent Referer HTTP2-Settings"
        ).split(b" ")
    ),
    (b"0\r\n" + b"A:1\r\n" * 128 + b"\r\n", (b"", b"", True, [b"A:1"] * 128)),
    (b"0\r\n" + b"A:1\r\n" * 129 + b"\r\n", MANY_TRAILERS),
    (b"0\r\n" + b"TE:1\r\n" * 4096 + b"\r\n", (b"", b"", True, [])),
    (b"0\r\n" + b"TE:1\r\n" * 4097 + b"\r\n", MANY_TRAILERS),
    (b"1;" + b"a" * 4000 + b"\r\nx\r\n0\r\n" + b"TE:1\r\n" * 4096 + b"\r\n", (b"x", b"", True, [])),
    (b"0\r\nA: " + b"b" * 4092 + b"\r\n\r\n", LONG),
    *(
        (b"0\r\n" + line + b"\r\n\r\n", TRAILER)
        for line in [
            b"A",
            b":",
            b": b",
            b"A : b",
            b" A: b",
            b"\tA: b",
            b"A: \0",
            b"A: \x7f",
            b"A\xe9: b",
            b"A: b\rC: d",
        ]
    ),
    (b"0\r\nA: b\r\n c\r\n\r\n", TRAILER),
    (b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", TRAILER),
    # Sizes
    *(
        (size + b"\r\nhello\r\n0\r\n\r\n", SIZE)
        for size in [
            b"",
            b" ",
            b"0x5",
            b"0X5",
            b"x5",
            b"+5",
            b"-5",
            b"-0",
            b"5_0",
            b"5.0",
            b" 5",
            b"5 ",
            b"5\t",
            b"\t5",
            b"5 ;a",
            b"5,5",
            b"g",
            b"5h",
            b'"5"',
            b"5\x0b",
            b"5\x0c",
            b"5\0",
            b"\05",
            b"5\xa0",
            b"\xd9\xa5",
            b"5\r",
            b"5;\r",
            b"5;a\rb",
            b"5;a\0",
            b"5;a\x01",
            b"5;a\x7f",
            b"00000000000000005",
            b"10000000000000000",
            b"f" * 40,
        ]
    ),
    *(
        (size + b"\r\nhello\r\n0\r\n\r\n", OVER)
        for size in [
            b"8000000000000000",
            b"8000000000000005",
            b"ffffffffffffffff",
            b"FFFFFFFFFFFFFFFB",
        ]
    ),
    (b"\r\n5\r\nhello\r\n0\r\n\r\n", SIZE),
    (b"5\r\nhello\r\n\r\n0\r\n\r\n", SIZE),
    # Line ends
    (b"5\nhello\r\n0\r\n\r\n", BARE),
    (b"5;a\nb\r\nhello\r\n0\r\n\r\n", BARE),
    (b'5;a="\n"\r\nhello\r\n0\r\n\r\n', BARE),
    (b"5\r\nhello\r\n0\n\r\n", BARE),
    (b"5\r\nhello\r\n0\r\n\n", BARE),
    (b"5\r\nhello\r\n0\r\nA: b\n\r\n", BARE),
    (b"\n", BARE),
    (b"5\r\nhello\r\n0\r\n\r\r\n", TRAILER),
    (b"5\rhello\r\n0\r\n\r\n", SIZE),
    # Data without its CRLF
    (b"5\r\nhello0\r\n\r\n", LONG),
    (b"5\r\nhello\n0\r\n\r\n", BARE),
    (b"5\r\nhello\r0\r\n\r\n", LONG),
    (b"5\r\nhello\n\r0\r\n\r\n", BARE),
    (b"5\r\nhellox\n0\r\n\r\n", LONG),
    (b"4\r\nhello\r\n0\r\n\r\n", LONG),
    (b"6\r\nhello\r\n0\r\n\r\n", BARE),
    (b"5\r\nhello  \r\n0\r\n\r\n", LONG),
    # Floods
    (b"1;" + b"a" * 4093 + b"\r\nx\r\n0\r\n\r\n", LONG),
    (b"5" + b" " * 5000, LONG),
    ((b"1;" + b"a" * 1023 + b"\r\nx\r\n") * 64 + b"0\r\n\r\n", (b"x" * 64, b"", True, [])),
    ((b"1;" + b"a" * 1023 + b"\r\nx\r\n") * 65 + b"0\r\n\r\n", MANY_EXTENSIONS),
    (b"1;\r\nx\r\n" * 65537, MANY_EXTENSIONS),
    (b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n", (b"x" * 5000, b"", True, [])),
]


class ChunkedTests(SynchronousTestCase):
    """Chunked bodies, one by one."""

    maxDiff = 2000

    def check(self, split: bool) -> None:
        """Compare outcomes; a failure shows the rows that differ."""
        actual = [
            (data[:80], fed(Chunked(BadRequest), one_by_one(data) if split else [data]), wanted)
            for data, wanted in CHUNKED
        ]
        self.assertEqual([row for row in actual if row[1] != row[2]], [])

    def test_whole(self) -> None:
        """Fed in one piece."""
        self.check(split=False)

    def test_byte_by_byte(self) -> None:
        """Fed byte by byte."""
        self.check(split=True)

    def test_whose_fault(self) -> None:
        """A broken coding is a fault of whoever sent it."""
        for fault in (BadRequest, BadResponse):
            self.assertRaises(fault, Chunked(fault).feed, b"x\r\n")

    def test_after_the_end(self) -> None:
        """What comes after the end is never the body's."""
        body = Chunked(BadRequest)
        self.assertEqual(body.feed(b"0\r\n\r\nab"), (b"", b"ab"))
        self.assertEqual([body.feed(b"cd"), body.feed(b"")], [(b"", b"cd"), (b"", b"")])

    def test_holds_little(self) -> None:
        """While data flows nothing of it is held; of an unfinished line at most 4 KiB."""
        body = Chunked(BadRequest)
        self.assertEqual(body.feed(b"100000\r\n" + b"x" * 70000), (b"x" * 70000, b""))
        self.assertEqual(body._line, b"")
        body = Chunked(BadRequest)
        for _ in range(4095):
            body.feed(b";" if body._line else b"1")
        self.assertEqual(len(body._line), 4095)


def relayed(pieces: list[bytes], at_first: int = 0) -> tuple[Outcome, bytes]:
    """As `fed`, but relayed after so many pieces; and what went out, but for the last chunk."""
    body = Chunked(BadRequest)
    out = rest = b""
    size = 0
    try:
        for number, piece in enumerate(pieces):
            if body.ended:
                rest += piece
            elif number < at_first:
                more, rest = body.feed(piece)
                out += chunk(more)
                size += len(more)
            else:
                on, whole, rest = body.relay(piece)
                out += b"".join(on)
                size += whole
    except GatewayError as error:
        return error.detail, out
    there = fed(Chunked(BadResponse), [out])
    assert not isinstance(there, str), (there, out)
    assert len(there[0]) == size, "the count is of the body's bytes"
    return (there[0], rest, body.ended, bare(body.trailers)), out


class RelayTests(SynchronousTestCase):
    """Chunks that go on as they came."""

    def check(self, split: bool, at_first: int = 0) -> None:
        """What goes out is what `feed` would make of it, and the same is refused."""
        for data, wanted in CHUNKED:
            pieces = one_by_one(data) if split else [data]
            self.assertEqual(relayed(pieces, at_first)[0], wanted, data)

    def test_whole(self) -> None:
        """In one piece."""
        self.check(split=False)

    def test_byte_by_byte(self) -> None:
        """In single bytes, relayed from each of them on."""
        for at_first in range(14):
            self.check(split=True, at_first=at_first)

    def test_plain_chunks_are_not_copied(self) -> None:
        """As they came; the last chunk is kept back."""
        data = b"5\r\nhello\r\nfF\r\n" + b"x" * 100
        body = Chunked(BadRequest)
        self.assertIs(body.relay(data)[0][0], data)
        self.assertEqual(
            relayed([data, b"x" * 155 + b"\r\n0\r\n\r\n"])[1], data + b"x" * 155 + b"\r\n"
        )

    def test_sizes_met_before(self) -> None:
        """Whatever is remembered of size lines, and forgotten: each chunk goes on as it came."""
        data = b"".join(chunk(b"x" * (number % 1500 + 1)) for number in range(2000))
        for step in (len(data), 4096, 1499):
            pieces = [data[at : at + step] for at in range(0, len(data), step)]
            found, out = relayed(pieces)
            self.assertEqual((found[2], out), (False, data))

    def test_others_in_one_spelling(self) -> None:
        """What two servers might read in two ways is written anew: extensions, leading zeros."""
        for line in (b"5;a=b", b"0005", b"5;", b"00000005"):
            self.assertEqual(relayed([line + b"\r\nhello\r\n"])[1], b"5\r\nhello\r\n")
            self.assertEqual(relayed(one_by_one(line + b"\r\nhello\r\n"))[1], b"5\r\nhello\r\n")

    def test_a_size_is_not_sent_before_it_is_whole(self) -> None:
        """It might still become another."""
        body = Chunked(BadRequest)
        self.assertEqual(body.relay(b"1\r\nx\r\n12")[0], [memoryview(b"1\r\nx\r\n")])
        self.assertEqual(body.relay(b"3\r\n")[0], [b"123\r\n"])

    @quick
    @given(
        st.lists(
            st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from([b"", b";a", b';b="c"'])),
            max_size=6,
        ),
        st.booleans(),
        st.lists(st.integers(0, 400), max_size=8),
        st.integers(0, 9),
    )
    def test_any_split(
        self, chunks: list[tuple[bytes, bytes]], upper: bool, cuts: list[int], at_first: int
    ) -> None:
        """Whatever the chunks, the splits and the moment of the change."""
        data = b"".join(
            (b"%X" if upper else b"%x") % len(part) + extension + b"\r\n" + part + b"\r\n"
            for part, extension in chunks
        )
        data += b"0\r\nA: b\r\n\r\nGET"
        whole = b"".join(part for part, _ in chunks)
        self.assertEqual(
            relayed(cut(data, cuts), at_first)[0], (whole, b"GET", True, [b"A: b"]), data
        )


class OtherBodiesTests(SynchronousTestCase):
    """Bodies by length, and until close."""

    def test_length(self) -> None:
        """A body of so many bytes; the rest belongs to the next message."""
        cases: list[tuple[int, list[bytes], Outcome]] = [
            (0, [], (b"", b"", True, [])),
            (0, [b"ab"], (b"", b"ab", True, [])),
            (5, [], (b"", b"", False, [])),
            (5, [b"hel"], (b"hel", b"", False, [])),
            (5, [b"hello"], (b"hello", b"", True, [])),
            (5, [b"hel", b"", b"lo"], (b"hello", b"", True, [])),
            (5, [b"hel", b"loGET /"], (b"hello", b"GET /", True, [])),
            (5, [b"helloGET", b" /"], (b"hello", b"GET /", True, [])),
        ]
        actual = [(size, pieces, fed(Length(size), pieces)) for size, pieces, _ in cases]
        self.assertEqual(actual, cases)

    def test_length_left(self) -> None:
        """What is left is counted, and after the end nothing is taken."""
        body = Length(5)
        body.feed(b"hel")
        self.assertEqual((body.left, body.ended), (2, False))
        body.feed(b"lo")
        self.assertEqual((body.left, body.ended, body.feed(b"x")), (0, True, (b"", b"x")))

    def test_until_close(self) -> None:
        """Everything is the body's, and it never ends by itself."""
        self.assertEqual(
            fed(UntilClose(), [b"a", b"", b"0\r\n\r\n"]), (b"a0\r\n\r\n", b"", False, [])
        )


sizes = st.sampled_from([b"0", b"1", b"5", b"a", b"10", b"", b"0x1", b"7fffffffffffffff"])
wires = st.lists(
    sizes
    | st.sampled_from(
        [b"\r\n", b"\r\n", b"\n", b"\r", b";", b";a=b", b"hello", b"x", b"A: b", b"Host: c", b" "]
    )
    | st.binary(max_size=4),
    max_size=20,
).map(b"".join)
trailers = st.lists(st.sampled_from([b"A: b", b"X-Sum:1", b"c:  \xe9 "]), max_size=4)


class ChunkedProperties(SynchronousTestCase):
    """What holds for any bytes."""

    @quick
    @given(
        wires | st.sampled_from([data for data, _ in CHUNKED if len(data) < 6000]),
        st.lists(st.integers(0, 6000), max_size=8),
    )
    @example(b"5\r\nhello\r\n0\r\n\r\nX", [9, 16, 17])
    def test_any_split(self, data: bytes, cuts: list[int]) -> None:
        """Fed in any split it gives the same as fed whole."""
        whole = fed(Chunked(BadRequest), [data])
        self.assertEqual(fed(Chunked(BadRequest), cut(data, cuts)), whole)
        self.assertEqual(fed(Chunked(BadRequest), one_by_one(data)), whole)

    @quick
    @given(st.lists(st.binary(max_size=40), max_size=8), trailers, st.binary(max_size=8))
    def test_written_and_read_again(
        self, pieces: list[bytes], lines: list[bytes], rest: bytes
    ) -> None:
        """What serialising writes reads as the same body, trailers and rest."""
        wire = b"".join(map(chunk, pieces)) + last_chunk(ended(lines)) + rest
        self.assertEqual(fed(Chunked(BadRequest), [wire]), (b"".join(pieces), rest, True, lines))

    @quick
    @given(st.integers(0, 30), st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=6))
    def test_length_in_any_split(self, size: int, data: bytes, cuts: list[int]) -> None:
        """A length takes exactly its bytes."""
        self.assertEqual(
            fed(Length(size), cut(data, cuts)), (data[:size], data[size:], len(data) >= size, [])
        )
