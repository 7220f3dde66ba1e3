"""http1.requests: every head is read in one way, or refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import BadRequest, GatewayError, TooLarge
from gatewayd.core.messages import Host, RequestHead
from gatewayd.http1 import requests
from gatewayd.http1.requests import (
    PathRules,
    check_beginning,
    forget_hosts,
    host_name,
    read_length,
    read_request,
)
from tests.fuzz.relay import forget
from tests.heads import bare, request_of

FACTS = (
    "lines",
    "method",
    "path",
    "query",
    "version",
    "host",
    "authority",
    "length",
    "close",
    "keep_alive",
    "upgrade",
    "expects",
    "trailers",
    "forwarded",
    "request_id",
    "user_agent",
    "referer",
    "via",
)
# Every GET of `get` has these facts; a row names what differs.
PLAIN = {"lines": [b"Host: a"], "host": "a", "authority": b"a"}
quick = settings(deadline=None, database=None, max_examples=150)


def facts(head: RequestHead) -> dict[str, object]:
    """All that is known of a head, but for what is as in any GET."""
    known: dict[str, Any] = {name: getattr(head, name) for name in FACTS}
    known["lines"] = bare(known["lines"])
    known |= {name: tuple(bare(known[name])) for name in ("forwarded", "via")}
    known |= {name: known[name].removesuffix(b"\r\n") for name in ("user_agent", "referer")}
    plain = RequestHead([])
    return {name: value for name, value in known.items() if value != getattr(plain, name)}


def outcome(block: bytes, rules: PathRules | None = None, max_headers: int = 0) -> object:
    """The facts, or (error, status, detail)."""
    try:
        return facts(request_of(block, rules, max_headers))
    except GatewayError as error:
        return type(error).__name__, error.answer_status, error.detail


def get(*lines: bytes, target: bytes = b"/", host: bytes = b"Host: a") -> bytes:
    """A GET's head with more field lines."""
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", host, *lines])


def old(*lines: bytes, target: bytes = b"/") -> bytes:
    """A GET's head of HTTP/1.0."""
    return b"\r\n".join([b"GET " + target + b" HTTP/1.0", *lines])


def first(line: bytes) -> bytes:
    """A head with another request line."""
    return line + b"\r\nHost: a"


def host(value: bytes) -> bytes:
    """A head with another Host."""
    return get(host=b"Host: " + value)


LINE = "a malformed request line"
VERSION = "an HTTP version that is neither 1.1 nor 1.0"
FIELD = "a malformed header field"
HOST = "a malformed Host"
LABEL = "a Host with an empty label"
BRACKETS = "a Host in brackets that is no IPv6 address"
LENGTH = "a Content-Length that is no number"
TWO_LENGTHS = "more than one Content-Length"
BOTH = "Content-Length beside Transfer-Encoding"
LAST = "chunked is not the last transfer coding"
CODING = "a malformed Transfer-Encoding"
TWO_CODINGS = "more than one Transfer-Encoding"

TE = b"Transfer-Encoding: "
CL = b"Content-Length: "
CHUNKED = TE + b"chunked"

# All of these are answered 400; what follows by another status stands in OTHERWISE.
REFUSED: dict[str, list[bytes]] = {
    "empty lines instead of a request": [b"", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a"],
    "a bare LF as line end": [
        first(line)
        for line in [b"GET / HTTP/1.1\n", b"GET /b HTTP/1.1\nHost:", b"\nGET / HTTP/1.1", b"a\n"]
    ],
    LINE: [
        *map(
            first,
            [
                b"",
                b"GET",
                b"GET /",
                b"GET\t/\tHTTP/1.1",
                b"GET\t/ HTTP/1.1",
                b" GET / HTTP/1.1",
                b"GET  / HTTP/1.1",
                b"GET /  HTTP/1.1",
                b"GET / HTTP/1.1 ",
                b"GET / HTTP/1.1 x",
                b"GET /a b HTTP/1.1",
                b"GET / HTTP /1.1",
                b"GET\x0b/ HTTP/1.1",
                b"GET\xa0/ HTTP/1.1",
                b"/ HTTP/1.1",
                b"Host: a",
            ],
        ),
    ],
    VERSION: [
        first(line)
        for line in [
            b" GET /",
            b"GET / ",
            b"GET / http/1.1",
            b"GET / Http/1.1",
            b"GET / HTTP/1.10",
            b"GET / HTTP/1.01",
            b"GET / HTTP/01.1",
            b"GET / HTTP/1.2",
            b"GET / HTTP/1.",
            b"GET / HTTP/1",
            b"GET / HTTP/11",
            b"GET / HTTP/1,1",
            b"GET / HTTP/0.9",
            b"GET / HTTP/2",
            b"GET / HTTP/2.0",
            b"GET / HTTP/3.0",
            b"PRI * HTTP/2.0",
            b"GET / HTTP/1.1\t",
            b"GET / HTTP/1.1\r",
            b"GET / HTTP/1.1\0",
            b"GET / HTTP/1.\xb2",
            b"GET / HTTPS/1.1",
            b"GET / ICY/1.1",
            b"HTTP/1.1 200 OK",
        ]
    ],
    "a method that is no token": [
        first(line)
        for line in [
            b"G(T / HTTP/1.1",
            b"\tGET / HTTP/1.1",
            b"GE:T / HTTP/1.1",
            b"G\xe9T / HTTP/1.1",
            b"GET\r / HTTP/1.1",
            b"\rGET / HTTP/1.1",
            b"GET\0 / HTTP/1.1",
            b"M" * 65 + b" / HTTP/1.1",
            b" / HTTP/1.1",
        ]
    ],
    "a method that no gateway serves": [
        first(line)
        for line in [
            b"CONNECT a:443 HTTP/1.1",
            b"CONNECT / HTTP/1.1",
            b"connect / HTTP/1.1",
            b"Connect a HTTP/1.0",
            b"PRI * HTTP/1.1",
            b"pri / HTTP/1.1",
        ]
    ],
    "the target * is for OPTIONS alone": [get(target=b"*"), first(b"HEAD * HTTP/1.1")],
    FIELD: [
        get(line)
        for line in [
            b"A",
            b":",
            b": b",
            b" A: b",
            b"\tA: b",
            b"A : b",
            b"A\t: b",
            b"A\x0b: b",
            b" b",
            b"\tb",
            b"A: b\nC: d",
            b"A: b\rC: d",
            b"A: b\r",
            b"A: b\n",
            b"A: \0",
            b"A: \x7f",
            b"A: \x1b[0m",
            b"A\xe9: b",
            b"Content-Length : 5",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding\t: chunked",
            b"Transfer-Encoding\x0b: chunked",
            b"Transfer-Encoding: chunked\x0b",
            b"Transfer-Encoding: \x0cchunked",
            b"Transfer-Encoding: chunked\0",
            b"Transfer-Encoding: chunked\r",
            b"Content-Length: 5\0",
            b"Content-Length: \x0b5",
            b"Content-Length: 5\nA: b",
            b"Host : b",
        ]
    ]
    + [
        get(host=b" Host: a"),
        get(host=b"Host a"),
        get(host=b"Host: a\nA: b"),
        get(host=b"Host: a\0"),
    ],
    "no Host": [
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nA: b",
        b"GET http://a/ HTTP/1.1",
        b"GET / HTTP/1.1\r\nX-Forwarded-Host: a",
        b"GET / HTTP/1.1\r\nConnection: close",
    ],
    "more than one Host": [
        get(b"Host: a"),
        get(b"Host: b"),
        get(b"hOST: a"),
        get(b"HOST:a"),
        get(b"Host:"),
        get(b"A: b", b"Host: a"),
        get(b"Host: a", target=b"http://a/"),
        old(b"Host: a", b"Host: a"),
        get(b"Host: a", host=b"Host:"),
    ],
    HOST: [
        *map(
            host,
            [
                b"",
                b" ",
                b"a b",
                b"a,b",
                b"a, a",
                b"a/",
                b"/",
                b"http://a",
                b"u@a",
                b"u:p@a",
                b"@",
                b"a?",
                b"a#",
                b"a\\b",
                b"a:b",
                b"a:80b",
                b"a:-1",
                b"a:+1",
                b"a: 80",
                b"a:65536",
                b"a:99999",
                b"a:000080",
                b"a:80:80",
                b":80",
                b"::1",
                b"[::1",
                b"::1]",
                b"[]",
                b"[:]b",
                b"[g::1]",
                b"[::1]a",
                b"[::1]:a",
                b"[::1]:65536",
                b"[::1%25eth0]",
                b"[fe80::1%eth0]",
                b"[v1.a]",
                b"a%2eb",
                b"a%00",
                b'"a"',
                b"a\xe9",
                b"a;b",
                b"a'b",
                b"a\tb",
                b"a" * 256,
            ],
        ),
        old(b"Host:"),
        old(b"Host: a b"),
        get(target=b"http://a/", host=b"Host: a b"),
        get(target=b"http://a/", host=b"Host:"),
        get(target=b"http://u@a/"),
        get(target=b"http://u:p@a/"),
        get(target=b"http://@a/"),
        get(target=b"http://a:b/"),
        get(target=b"http://a:65536/"),
        get(target=b"http://[::1/"),
        get(target=b"http://[fe80::1%25eth0]/"),
        get(target=b"http://a\\@b/"),
        get(target=b"http://a%40b/"),
        old(target=b"http://u@a/"),
        get(target=b"http://a*"),
    ],
    LABEL: [host(b"."), host(b".."), host(b"a..b"), host(b".a"), host(b"a.."), host(b"a..:80")],
    BRACKETS: [
        host(value)
        for value in [
            b"[1.2.3.4]",
            b"[:::1]",
            b"[::1::]",
            b"[1:2:3:4:5:6:7:8:9]",
            b"[..]",
            b"[aa]",
            b"[::1.2.3]:80",
            b"[12345::]",
        ]
    ],
    LENGTH: [
        get(CL + value)
        for value in [
            b"",
            b" ",
            b"+5",
            b"-5",
            b"-0",
            b"5e0",
            b"5.0",
            b"5.",
            b"1_0",
            b"0x5",
            b"0o5",
            b"5x",
            b"x",
            b"5 5",
            b"5, 5",
            b"5,5",
            b"5,",
            b",5",
            b"5;5",
            b'"5"',
            b"5\xa0",
            b"\xa05",
            b"\x855",
            b"\xb2",
            b"\xd9\xa5",
            b"9223372036854775808",
            b"18446744073709551616",
            b"18446744073709551621",
            b"9" * 4000,
            b"0" * 20,
        ]
    ]
    + [old(CL + b"x")],
    TWO_LENGTHS: [
        get(CL + b"5", CL + b"6"),
        get(CL + b"5", CL + b"5"),
        get(CL + b"0", CL + b"5"),
        get(CL + b"5", CL),
        get(CL + b"5", b"content-length:5"),
        get(CL + b"5", b"A: b", CL + b"5"),
    ],
    BOTH: [
        get(CL + b"5", CHUNKED),
        get(CHUNKED, CL + b"5"),
        get(CL + b"0", CHUNKED),
        get(CHUNKED, b"A: b", b"content-length:5"),
        get(CHUNKED, CL + b"5", b"Connection: content-length"),
        old(CL + b"5", CHUNKED),
    ],
    "Transfer-Encoding in an HTTP/1.0 request": [
        old(CHUNKED),
        old(b"Host: a", CHUNKED, b"Connection: keep-alive"),
    ],
    LAST: [
        get(TE + value)
        for value in [
            b"identity",
            b"IDENTITY",
            b"chunked, identity",
            b"identity, chunked",
            b"chunked, chunked",
            b"chunked,gzip",
            b"chunked,",
            b"chunked, ",
        ]
    ],
    CODING: [
        get(TE + value)
        for value in [
            b"",
            b" ",
            b",chunked",
            b", chunked",
            b"chunked chunked",
            b"chun\tked",
            b"chunked;q=1",
            b"chunked;",
            b'"chunked"',
            b"chunked\xa0",
            b"\xa0chunked",
            b"chunked\x85",
            b"chunked\xff",
            b"chun\xe2\x84\xaaed",
            b"a," * 600,
        ]
    ],
    TWO_CODINGS: [
        get(CHUNKED, CHUNKED),
        get(CHUNKED, TE + b"identity"),
        get(CHUNKED, TE),
        get(CHUNKED, b"transfer-encoding:chunked"),
    ],
    "a malformed Connection": [
        get(b"Connection: " + value)
        for value in [b"a b", b"close, a b", b"a, \xe9", b"a;b", b'"close"', b"close; a", b"@"]
    ],
}

# Targets of no form that RFC 9112 §3.2 allows, or with bytes, escapes or dots that nobody may send
# (core.targets has the words; here it counts that no head with one is read).
BAD_TARGETS: list[bytes] = [
    b"",
    b"a",
    b"a:80",
    b"?a=b",
    b"\\a",
    b"*a",
    b"*?a",
    b"ftp://a/",
    b"ws://a/",
    b"http:/a",
    b"http:a",
    b"http://",
    b"http://?a",
    b"javascript:a",
    b"httpx://a/",
    b"://a/",
    b"http:///a",
    b"https:///",
    b"http://?",
    b"/%",
    b"/%4",
    b"/%zz",
    b"/%4g",
    b"/%%41",
    b"/%u0041",
    b"/%00",
    b"/a%5cb",
    b"/a%5Cb",
    b"/a\\b",
    b"/..\\a",
    b"/..",
    b"/../a",
    b"/%2e%2e/a",
    b"/.%2E/a",
    b"/a/../../b",
    b"/./../a",
    b"//../a",
    b"/..;a/b",
    b"http://a/../b",
    b"/#",
    b"/a#b",
    b"/?a#b",
    b"#",
    b"http://a#b",
    *(b"/a" + bytes([byte]) for byte in [*range(0x20), *range(0x7F, 256)]),
    *(b"/?" + bytes([byte]) for byte in [*range(0x20), *range(0x7F, 256)]),
]

NO_CODING = "a transfer coding that is not supported"
NO_EXPECT = "an Expect other than 100-continue"
WIDE = "Connection is over 1024 bytes"
OTHERWISE: list[tuple[bytes, tuple[str, int, str]]] = [
    *(
        (get(TE + value), ("BadRequest", 501, NO_CODING))
        for value in [
            b"xchunked",
            b"chunkedx",
            b"gzip",
            b"gzip, chunked",
            b"x-chunked",
            b"trailers",
        ]
    ),
    (get(TE + b"identity", CHUNKED), ("BadRequest", 400, LAST)),
    *(
        (get(b"Expect: " + value), ("BadRequest", 417, NO_EXPECT))
        for value in [
            b"",
            b"200-ok",
            b"100-continue, a",
            b"100-continue;a",
            b"100",
            b"\xa0100-continue",
        ]
    ),
    (old(b"Expect: a"), ("BadRequest", 417, NO_EXPECT)),
    (get(b"Connection: " + b"a," * 512), ("TooLarge", 431, WIDE)),
    (get(*[b"Connection: " + b"a" * 100] * 11), ("TooLarge", 431, WIDE)),
]

# What is read, and how: facts beside those of any GET.
READ: list[tuple[bytes, dict[str, object]]] = [
    (get(), {}),
    # Request line
    (first(b"HEAD / HTTP/1.1"), {"method": b"HEAD"}),
    (first(b"get / HTTP/1.1"), {"method": b"get"}),
    (first(b"PRIX / HTTP/1.1"), {"method": b"PRIX"}),
    (first(b"!#$%&'*+-.^_`|~0aZ / HTTP/1.1"), {"method": b"!#$%&'*+-.^_`|~0aZ"}),
    (first(b"M" * 64 + b" / HTTP/1.1"), {"method": b"M" * 64}),
    (first(b"OPTIONS * HTTP/1.1"), {"method": b"OPTIONS", "path": b"*"}),
    (get(target=b"/a?b?c=/../"), {"path": b"/a", "query": b"?b?c=/../"}),
    (get(target=b"/?"), {"query": b"?"}),
    (get(target=b'/?%zz%00\\"<>'), {"query": b'?%zz%00\\"<>'}),
    # Paths come in their one form
    (get(target=b"/a/../b"), {"path": b"/b"}),
    (get(target=b"/a/%2e%2E/b"), {"path": b"/b"}),
    (get(target=b"/a/..;x/b"), {"path": b"/b"}),
    (get(target=b"/a/./b/."), {"path": b"/a/b/"}),
    (get(target=b"//a///b"), {"path": b"/a/b"}),
    (get(target=b"/%41%7e%2fb"), {"path": b"/A~%2Fb"}),
    (get(target=b"/a%2f..%2fb"), {"path": b"/a%2F..%2Fb"}),
    (get(target=b"/%252e%252e/a"), {"path": b"/%252e%252e/a"}),
    (get(target=b"/%25%32%65"), {"path": b"/%252e"}),
    (get(target=b'/"<>[]^`{|}'), {"path": b"/%22%3C%3E%5B%5D%5E%60%7B%7C%7D"}),
    (get(target=b"/..."), {"path": b"/..."}),
    # Absolute form: the target wins, Host is rewritten (RFC 9112 §3.2.2)
    (get(target=b"http://a"), {}),
    (get(target=b"http://a?b"), {"query": b"?b"}),
    (get(target=b"HTTP://a/b"), {"path": b"/b"}),
    (
        get(b"B: c", target=b"http://B:81/c"),
        {"lines": [b"Host: B:81", b"B: c"], "host": "b", "authority": b"B:81", "path": b"/c"},
    ),
    (
        get(target=b"http://b/", host=b"hOST:  a "),
        {"lines": [b"Host: b"], "host": "b", "authority": b"b"},
    ),
    (
        old(b"A: b", target=b"http://c/"),
        {
            "lines": [b"A: b", b"Host: c"],
            "host": "c",
            "authority": b"c",
            "version": 10,
            "close": True,
        },
    ),
    (
        get(target=b"http://[2001:DB8::1]:80/"),
        {
            "lines": [b"Host: [2001:DB8::1]:80"],
            "host": "[2001:db8::1]",
            "authority": b"[2001:DB8::1]:80",
        },
    ),
    # HTTP/1.0
    (old(), {"lines": [], "host": "", "authority": b"", "version": 10, "close": True}),
    (old(b"Host: a"), {"version": 10, "close": True}),
    (old(b"Host: a", b"Connection: Keep-Alive"), {"version": 10, "keep_alive": True}),
    (old(b"Host: a", b"Connection: keep-alive, close"), {"version": 10, "close": True}),
    (old(b"Host: a", b"Connection: a"), {"version": 10, "close": True}),
    (old(b"Host: a", b"Connection:"), {"version": 10, "close": True}),
    (old(b"Host: a", b"Proxy-Connection: keep-alive"), {"version": 10, "close": True}),
    (old(b"Host: a", b"Expect: 100-continue"), {"version": 10, "close": True}),
    (
        old(b"Host: a", b"Connection: upgrade, keep-alive", b"Upgrade: b"),
        {"version": 10, "keep_alive": True},
    ),
    (
        old(b"Host: a", CL + b"5"),
        {"version": 10, "close": True, "length": 5, "lines": [b"Host: a", b"Content-Length: 5"]},
    ),
    # Host
    (
        host(b"A.Example.:80"),
        {"lines": [b"Host: A.Example.:80"], "authority": b"A.Example.:80", "host": "a.example"},
    ),
    (host(b"a:"), {"lines": [b"Host: a:"], "authority": b"a:"}),
    (host(b"a:00080"), {"lines": [b"Host: a:00080"], "authority": b"a:00080"}),
    (host(b"a_b~c"), {"lines": [b"Host: a_b~c"], "authority": b"a_b~c", "host": "a_b~c"}),
    (host(b"[::1]"), {"lines": [b"Host: [::1]"], "authority": b"[::1]", "host": "[::1]"}),
    (
        host(b"[::FFFF:1.2.3.4]:8080"),
        {
            "lines": [b"Host: [::FFFF:1.2.3.4]:8080"],
            "authority": b"[::FFFF:1.2.3.4]:8080",
            "host": "[::ffff:1.2.3.4]",
        },
    ),
    (get(host=b"Host:\t a \t"), {"lines": [b"Host:\t a \t"]}),
    # Framing: one Content-Length goes on, in one spelling; Transfer-Encoding does not
    (get(CL + b"5"), {"length": 5, "lines": [b"Host: a", b"Content-Length: 5"]}),
    (get(b"content-LENGTH:\t0005 "), {"length": 5, "lines": [b"Host: a", b"Content-Length: 5"]}),
    (get(CL + b"0"), {"lines": [b"Host: a", b"Content-Length: 0"]}),
    (
        get(CL + b"9223372036854775807"),
        {"length": 2**63 - 1, "lines": [b"Host: a", b"Content-Length: 9223372036854775807"]},
    ),
    (get(CHUNKED), {"length": -1}),
    (get(b"transfer-encoding:\t CHUNKED \t"), {"length": -1}),
    (
        get(b"Content_Length: 5", b"Transfer_Encoding: chunked", b"HOST_: b"),
        {"lines": [b"Host: a", b"HOST_: b"]},
    ),
    (
        get(b"Content-Lengt: 5", b"Content-Length-: 5"),
        {"lines": [b"Host: a", b"Content-Lengt: 5", b"Content-Length-: 5"]},
    ),
    # Connection
    (get(b"Connection: close"), {"close": True}),
    (get(b"CONNECTION:CLOSE"), {"close": True}),
    (get(b"Connection: keep-alive"), {}),
    (get(b"Connection:"), {}),
    (get(b"Connection: ,, ,"), {}),
    (get(b"Connection: keep-alive", b"Connection: a , close"), {"close": True}),
    (get(b"Connection: xclose, close-x"), {}),
    (get(b"A: 1", b"b: 2", b"C: 3", b"Connection: a, B"), {"lines": [b"Host: a", b"C: 3"]}),
    (get(b"Connection: C", b"C: 3", b"c: 4"), {}),
    (
        get(b"Connection: Host, Content-Length, Transfer-Encoding, X", CL + b"5", b"X: y"),
        {"length": 5, "lines": [b"Host: a", b"Content-Length: 5"]},
    ),
    (get(b"Connection: transfer-encoding", CHUNKED), {"length": -1}),
    (
        get(
            b"Connection: x-forwarded-for, X-Request-Id", b"X-Forwarded-For: b", b"X-Request-Id: c"
        ),
        {"forwarded": (b"X-Forwarded-For: b",), "request_id": b"c"},
    ),
    (
        get(b"Connection: Via, user-agent", b"Via: 1.1 b", b"User-Agent: c"),
        {"via": (b"Via: 1.1 b",), "user_agent": b"User-Agent: c"},
    ),
    (
        get(
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: close",
            b"Proxy: b",
            b"HTTP2-Settings: c",
            b"Proxy-Authenticate: d",
            b"Proxy-Authorization: e",
        ),
        {},
    ),
    # Upgrade
    (get(b"Connection: upgrade", b"Upgrade: websocket"), {"upgrade": b"websocket"}),
    (get(b"Connection: Upgrade, keep-alive", b"Upgrade: a/1 , b"), {"upgrade": b"a/1, b"}),
    (
        get(b"Connection: upgrade", b"Upgrade: websocket", CL + b"0"),
        {"upgrade": b"websocket", "lines": [b"Host: a", b"Content-Length: 0"]},
    ),
    (get(b"Upgrade: websocket"), {}),
    (get(b"Connection: upgrade"), {}),
    (get(b"Connection: upgrade", b"Upgrade:"), {}),
    (
        get(b"Connection: upgrade", b"Upgrade: " + b"a," * 600),
        {},
    ),
    (get(b"Connection: upgrade", b"Upgrade: a b, \xe9, /, a/, c"), {"upgrade": b"c"}),
    *(
        (get(b"Connection: upgrade, http2-settings", b"Upgrade: " + value), {})
        for value in [
            b"h2c",
            b"H2C",
            b"h2",
            b"h2c-14",
            b",h2c",
            b"h2c ,",
            b"HTTP/2.0",
            b"TLS/1.0",
            b"h2c/1",
        ]
    ),
    (get(b"Connection: upgrade", b"Upgrade: websocket, h2c"), {"upgrade": b"websocket"}),
    (
        get(b"Connection: upgrade", b"Upgrade: a", CL + b"5"),
        {"length": 5, "lines": [b"Host: a", b"Content-Length: 5"]},
    ),
    (get(b"Connection: upgrade", b"Upgrade: a", CHUNKED), {"length": -1}),
    # TE, Expect
    (get(b"TE: trailers"), {"trailers": True}),
    (get(b"TE: gzip;q=1 , TRAILERS , a", b"Connection: te"), {"trailers": True}),
    (get(b"TE: trailers", b"TE: gzip"), {"trailers": True}),
    (get(b"TE:"), {}),
    (get(b"TE: xtrailers, trailersx, a trailers, trailers;q=0"), {}),
    (
        get(b"Expect: 100-Continue", CL + b"1"),
        {"expects": True, "length": 1, "lines": [b"Host: a", b"Content-Length: 1"]},
    ),
    # Those whom it is about
    (
        get(
            b"X-Forwarded-For: b",
            b"x-forwarded-anything: c",
            b"X-Real-IP: d",
            b"Forwarded: for=e",
            b"X_Forwarded_For: f",
            b"X-Real_Ip: g",
            b"x-forwarded-a_b: h",
        ),
        {
            "forwarded": (
                b"X-Forwarded-For: b",
                b"x-forwarded-anything: c",
                b"X-Real-IP: d",
                b"Forwarded: for=e",
                b"x-forwarded-a_b: h",
            )
        },
    ),
    (get(b"X-Request-Id:  b ", b"X_Request_Id: c"), {"request_id": b"b"}),
    (
        get(b"Via: 1.1 b", b"User-Agent: c", b"Referer: d", b"via: 1.0 e"),
        {
            "lines": [b"Host: a", b"Via: 1.1 b", b"User-Agent: c", b"Referer: d", b"via: 1.0 e"],
            "via": (b"Via: 1.1 b", b"via: 1.0 e"),
            "user_agent": b"User-Agent: c",
            "referer": b"Referer: d",
        },
    ),
    # Everything else goes on as it came, in order
    (
        get(b"Cookie: a=1", b"X-A:1", b"cookie: b=2", b"x-a: \xe9", b"X-A: 1", b"x_y: z"),
        {
            "lines": [
                b"Host: a",
                b"Cookie: a=1",
                b"X-A:1",
                b"cookie: b=2",
                b"x-a: \xe9",
                b"X-A: 1",
                b"x_y: z",
            ]
        },
    ),
    (get(b"A: " + b"b" * 70000), {"lines": [b"Host: a", b"A: " + b"b" * 70000]}),
]


def expected(different: dict[str, object]) -> dict[str, object]:
    """A row's facts, whole."""
    whole = {**PLAIN, **different}
    return {name: whole[name] for name in FACTS if whole.get(name, b"") not in (b"", "", [])}


class ReadRequestTests(SynchronousTestCase):
    """Whole heads."""

    def setUp(self) -> None:
        """Begin with nothing remembered."""
        forget()

    def check(self, rows: Iterable[tuple[bytes, object]]) -> None:
        """Compare outcomes; a failure shows the rows that differ."""
        actual = [(block, outcome(block), wanted) for block, wanted in rows]
        self.assertEqual([row for row in actual if row[1] != row[2]], [])

    def test_refused(self) -> None:
        """What is malformed or ambiguous is a 400 with its reason, cold and warm alike."""
        rows = [
            (block, ("BadRequest", 400, detail))
            for detail, blocks in REFUSED.items()
            for block in blocks
        ]
        for _ in range(2):
            self.check(rows)

    def test_bad_targets(self) -> None:
        """No head is read whose target is malformed or leads above the root."""
        rows = [(target, outcome(get(target=target))) for target in BAD_TARGETS]
        self.assertEqual(
            [
                row
                for row in rows
                if not isinstance(row[1], tuple) or row[1][:2] != ("BadRequest", 400)
            ],
            [],
        )

    def test_refused_otherwise(self) -> None:
        """What RFC 9110 has another status for gets it."""
        self.check(OTHERWISE)

    def test_read(self) -> None:
        """What is valid is read in one way, cold and warm alike."""
        rows = [(block, expected(different)) for block, different in READ]
        for _ in range(2):
            self.check(rows)

    def test_too_many_fields(self) -> None:
        """One line over max_headers is 431; 0 allows any number."""
        block = get(*[b"A: b"] * 9)
        self.assertEqual(
            [isinstance(outcome(block, max_headers=limit), dict) for limit in (0, 10)], [True, True]
        )
        self.assertEqual(
            outcome(block, max_headers=9), ("TooLarge", 431, "more than 9 header fields")
        )

    def test_ends(self) -> None:
        """A head ends at its first blank line, and without one it is not refused for that."""
        for block, _ in READ:
            data = block + b"\r\n\r\n"
            for rest in (b"", b"x", b"\n", data):
                head = read_request(data + rest, PathRules(), 0)
                assert head is not None
                self.assertEqual(head.size, len(data))
            cuts = range(len(data)) if len(data) < 300 else (1, 20, len(data) - 3, len(data) - 1)
            ends = [read_request(data[:cut], PathRules(), 0) for cut in cuts]
            self.assertEqual(ends, [None] * len(ends), block[:80])

    def test_an_empty_line_before_it(self) -> None:
        """One is borne (RFC 9112 §2.2) and counts as part of the head."""
        data = b"\r\n" + get() + b"\r\n\r\n"
        head = read_request(data + b"x", PathRules(), 0)
        assert head is not None
        self.assertEqual((facts(head), head.size), (PLAIN, len(data)))
        self.assertIsNone(read_request(b"\r\n", PathRules(), 0))
        self.assertIsNone(read_request(b"\r\nGET / HTTP/1.1\r\n", PathRules(), 0))

    def test_longest_first_line(self) -> None:
        """64 KiB, whether its end has come or not."""
        line = b"GET /" + b"a" * (65536 - 14) + b" HTTP/1.1"
        self.assertEqual(outcome(line + b"\r\nHost: a"), {**PLAIN, "path": line[4:-9]})
        over = ("TooLarge", 414, "the request line is over 65536 bytes")
        self.assertEqual(outcome(line.replace(b"/", b"/a", 1) + b"\r\nHost: a"), over)
        error = self.assertRaises(TooLarge, read_request, b"a" * 65539, PathRules(), 0)
        self.assertEqual(error.answer_status, 414)

    def test_path_rules(self) -> None:
        """A listener may keep runs of slashes, and refuse an encoded one."""
        keep = PathRules(merge_slashes=False)
        self.assertEqual(outcome(get(target=b"/a//b"), keep), {**PLAIN, "path": b"/a//b"})
        strict = PathRules(reject_slash=True)
        self.assertRaises(BadRequest, request_of, get(target=b"/a%2fb"), strict)

    def test_length(self) -> None:
        """Digits alone, at most 2^63 - 1 (RFC 9110 §8.6)."""
        cases = [(b"0", 0), (b"007", 7), (b"9" * 18, 10**18 - 1), (b"9" * 19, -1), (b"", -1)]
        lines = [b"content-length:" + value + b"\r\n" for value, _ in cases]
        lengths = [length for _, length in cases]
        for _ in range(2):  # read, and remembered
            self.assertEqual([read_length(line)[0] for line in lines], lengths)
        self.assertEqual(read_length(b"content-LENGTH:010 \r\n")[1], b"Content-Length: 10\r\n")

    def test_lengths_are_bounded(self) -> None:
        """At 4,096 lines those remembered are forgotten, and none is long."""
        requests._lengths.clear()
        for number in range(4097):
            read_length(b"Content-Length: %d\r\n" % number)
        read_length(b"Content-Length:" + b" " * 50 + b"7\r\n")
        last = b"Content-Length: 4096\r\n"
        self.assertEqual(requests._lengths, {last: (4096, last)})

    def test_remembered_hosts(self) -> None:
        """Beyond the lines that the memo of kinds knows a host is found as well, and is as strict."""
        forget_hosts()
        known: list[Host] = []
        for _ in range(2):
            for number in range(200):
                line = b"Host: remembered%d.example" % number
                head = request_of(b"GET / HTTP/1.1\r\nA: b\r\n" + line)
                self.assertEqual(f"remembered{number}.example", head.host)
                self.assertEqual(line[6:], head.authority)
                self.assertEqual([b"A: b", line], bare(head.lines))
                known.append(head.asked)
        self.assertEqual([id(host) for host in known[:200]], [id(host) for host in known[200:]])
        self.assertNotIn(line + b"\r\n", requests._known)
        for block in (b"GET / HTTP/1.1\r\n%b\r\n%b", b"GET / HTTP/1.1\r\n%b\r\nHost: a\r\n%b"):
            with self.assertRaises(BadRequest):
                request_of(block % (line, line))
        head = request_of(b"GET http://b.example/ HTTP/1.1\r\n" + line)
        self.assertEqual(("b.example", [b"Host: b.example"]), (head.host, bare(head.lines)))

    def test_hosts_are_bounded(self) -> None:
        """At 16,384 names those remembered are forgotten; a name can be no longer than 255 bytes."""
        requests._hosts.clear()
        for number in range(16_385):
            outcome(b"GET / HTTP/1.1\r\nHost: h%d" % number)
        self.assertEqual(
            {b"Host: h16384\r\n": "h16384"},
            {line: host.name for line, host in requests._hosts.items()},
        )
        long = b"a" * 255
        self.assertEqual(host_name(long), long.decode())
        outcome(b"GET / HTTP/1.1\r\nHost:" + b" " * 99 + long)
        self.assertEqual(len(requests._hosts), 1)


FRAGMENTS = sorted(
    {line for block, _ in READ for line in block.split(b"\r\n")[1:] if len(line) < 300}
    | {line for blocks in REFUSED.values() for block in blocks for line in block.split(b"\r\n")[1:]}
)
FIRSTS = sorted({block.split(b"\r\n")[0] for block, _ in READ})
heads = st.builds(
    lambda first, lines: b"\r\n".join([first, *lines]),
    st.sampled_from(FIRSTS),
    st.lists(st.just(b"Host: a") | st.sampled_from(FRAGMENTS) | st.binary(max_size=12), max_size=6),
)


class ReadRequestProperties(SynchronousTestCase):
    """What holds for any head."""

    @quick
    @given(st.lists(heads, min_size=1, max_size=4))
    def test_the_memo_changes_no_verdict(self, blocks: list[bytes]) -> None:
        """A head is read or refused in the same way whatever came before it."""
        forget()
        for block in blocks:
            outcome(block)
        warm = [outcome(block) for block in blocks]
        cold = []
        for block in blocks:
            forget()
            cold.append(outcome(block))
        self.assertEqual(warm, cold)

    @quick
    @given(heads | st.binary(max_size=60))
    def test_only_our_errors(self, block: bytes) -> None:
        """Any bytes are a head or one of our errors; `outcome` lets no other through."""
        self.assertIsInstance(outcome(block), dict | tuple)


class BeginningTests(SynchronousTestCase):
    """An unfinished head is judged by what there is of it."""

    def test_judged(self) -> None:
        """What can be no request is refused at once; what may become one is waited for."""
        rows: dict[bytes, bool | str] = {
            b"G": False,
            b"GET": False,
            b"GET /x HTT": False,
            b"GET /x HTTP/1.1\r": False,
            b"GET /x HTTP/1.1\r\nHo": True,
            b"\r": False,
            b"\x16\x03\x01\x02": "refused",  # TLS
            b"SSH-2.0-OpenSSH_9\r\n": "refused",
            b"GET /x\r\n": "refused",  # HTTP/0.9
            b"GET /x HTTP/2.0\r\nHost": "refused",
            b"{": "refused",
            b"a" * 70: "refused",
        }

        def judged(held: bytes) -> bool | str:
            try:
                return check_beginning(held, PathRules())
            except BadRequest:
                return "refused"

        self.assertEqual({held: judged(held) for held in rows}, rows)
        self.assertEqual(judged(bytearray(b"GET / HTTP/1.1\r\n")), True)  # type: ignore[arg-type]
