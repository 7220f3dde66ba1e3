"""Requests on the wire: malformed ones, ones that end badly, ambiguous ones and valid ones.

Generated where a rule has a class of bytes behind it, so that no member is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TOKEN = set(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
CONTROLS = [*range(0x20), 0x7F]


@dataclass(frozen=True)
class Bad:
    """A request that must be refused before anything of it reaches an upstream."""

    name: str
    raw: bytes
    statuses: tuple[int, ...] = (400,)


def get(*lines: bytes, target: bytes = b"/bad", host: bytes = b"Host: h") -> bytes:
    """A GET with more field lines."""
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", host, *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """A POST with more field lines and a body as it stands."""
    return b"\r\n".join([b"POST /bad " + version, b"Host: h", *lines, b"", b""]) + body


def request_lines() -> list[Bad]:
    """Bad request lines."""
    cases = [
        Bad(f"request line {line!r}", line + b"\r\nHost: h\r\n\r\n", statuses)
        for line, statuses in [
            (b"GET /bad", (400,)),
            (b"GET", (400,)),
            (b"GET /bad ", (400,)),
            (b" GET /bad HTTP/1.1", (400,)),
            (b"\tGET /bad HTTP/1.1", (400,)),
            (b"GET  /bad HTTP/1.1", (400,)),
            (b"GET /bad  HTTP/1.1", (400,)),
            (b"GET /bad HTTP/1.1 ", (400,)),
            (b"GET /bad HTTP/1.1\t", (400,)),
            (b"GET\t/bad HTTP/1.1", (400,)),
            (b"GET\t/bad\tHTTP/1.1", (400,)),
            (b"GET /bad\tHTTP/1.1", (400,)),
            (b"GET\x0b/bad HTTP/1.1", (400,)),
            (b"GET\x0c/bad HTTP/1.1", (400,)),
            (b"GET\xa0/bad HTTP/1.1", (400,)),
            (b"GET /bad HTTP/1.1 x", (400,)),
            (b"GET /bad /x HTTP/1.1", (400,)),
            (b"GET /b ad HTTP/1.1", (400,)),
            (b"GET /bad http/1.1", (400, 505)),
            (b"GET /bad Http/1.1", (400, 505)),
            (b"GET /bad HTTP/1.10", (400, 505)),
            (b"GET /bad HTTP/01.1", (400, 505)),
            (b"GET /bad HTTP/1.01", (400, 505)),
            (b"GET /bad HTTP/11", (400, 505)),
            (b"GET /bad HTTP/1", (400, 505)),
            (b"GET /bad HTTP/1.", (400, 505)),
            (b"GET /bad HTTP/.1", (400, 505)),
            (b"GET /bad HTTP/1.x", (400, 505)),
            (b"GET /bad HTTP/x.1", (400, 505)),
            (b"GET /bad HTTP/1,1", (400, 505)),
            (b"GET /bad HTTP/1.1.1", (400, 505)),
            (b"GET /bad HTTP/-1.1", (400, 505)),
            (b"GET /bad HTTP/+1.1", (400, 505)),
            (b"GET /bad HTTP /1.1", (400, 505)),
            (b"GET /bad HTTP/ 1.1", (400, 505)),
            (b"GET /bad HTTP/1 .1", (400, 505)),
            (b"GET /bad HTTPS/1.1", (400, 505)),
            (b"GET /bad XHTTP/1.1", (400, 505)),
            (b"GET /bad HTP/1.1", (400, 505)),
            (b"GET /bad ICY/1.1", (400, 505)),
            (b"GET /bad RTSP/1.0", (400, 505)),
            (b"GET /bad HTTP/0.9", (400, 505)),
            (b"GET /bad HTTP/0.0", (400, 505)),
            (b"GET /bad HTTP/2", (400, 505)),
            (b"GET /bad HTTP/2.0", (400, 505)),
            (b"GET /bad HTTP/3.0", (400, 505)),
            (b"GET /bad HTTP/9.9", (400, 505)),
            (b"GET /bad HTTP/1.\xb2", (400, 505)),
            (b"GET /bad HTTP/\xef\xbc\x91.1", (400, 505)),
            (b"/bad HTTP/1.1", (400,)),
            (b"HTTP/1.1 200 OK", (400,)),
            (b"Host: h", (400,)),
            (b"CONNECT /bad HTTP/1.1", (400, 405, 501)),
            (b"CONNECT h:443 HTTP/1.1", (400, 405, 501)),
            (b"CONNECT h HTTP/1.1", (400, 405, 501)),
            (b"PRI * HTTP/2.0", (400, 505)),
            (b"GET * HTTP/1.1", (400,)),
            (b"GET h HTTP/1.1", (400,)),
            (b"GET bad HTTP/1.1", (400,)),
            (b"GET ?a=b HTTP/1.1", (400,)),
            (b"GET h:80 HTTP/1.1", (400,)),
            (b"GET \\bad HTTP/1.1", (400,)),
            (b"GET ftp://h/bad HTTP/1.1", (400,)),
            (b"GET javascript:x HTTP/1.1", (400,)),
            (b"GET http:/bad HTTP/1.1", (400,)),
            (b"GET http:bad HTTP/1.1", (400,)),
            (b"GET http:///bad HTTP/1.1", (400,)),
            (b"GET http:// HTTP/1.1", (400,)),
            (b"GET http://u@h/bad HTTP/1.1", (400,)),
            (b"GET http://u:p@h/bad HTTP/1.1", (400,)),
            (b"GET http://h:x/bad HTTP/1.1", (400,)),
            (b"GET http://h:99999/bad HTTP/1.1", (400,)),
            (b"GET http://[::1/bad HTTP/1.1", (400,)),
            (b"GET http://h h/bad HTTP/1.1", (400,)),
            (b"GET http://h#x HTTP/1.1", (400,)),
            (b"GET http://h\\bad HTTP/1.1", (400,)),
        ]
    ]
    for byte in sorted(set(range(256)) - TOKEN - set(b" \r\n")):
        cases.append(
            Bad(
                f"byte {byte:#04x} in the method",
                b"GE" + bytes([byte]) + b"T /bad HTTP/1.1\r\nHost: h\r\n\r\n",
            )
        )
    cases += [
        Bad("HTTP/0.9", b"GET /bad\r\n"),
        Bad("HTTP/0.9 with a blank line", b"GET /bad\r\n\r\n"),
        Bad("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
        Bad(
            "TLS client hello", bytes.fromhex("160301020001 0001fc0303") + b"\0" * 40 + b"\r\n\r\n"
        ),
        Bad("a PROXY line that nobody asked for", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + get()),
        Bad("SSH", b"SSH-2.0-OpenSSH_9.0\r\n\r\n"),
        Bad("spaces for a request line", b"  \r\nHost: h\r\n\r\n"),
        Bad("bare LF first", b"\n" + get()),
        Bad("CR CR LF first", b"\r\r\n" + get()),
        Bad("LF after the request line", b"GET /bad HTTP/1.1\nHost: h\r\n\r\n"),
        Bad("CR after the request line", b"GET /bad HTTP/1.1\rHost: h\r\n\r\n"),
        Bad("CR CR LF after the request line", b"GET /bad HTTP/1.1\r\r\nHost: h\r\n\r\n"),
    ]
    return cases


def targets() -> list[Bad]:
    """Bad bytes, escapes and dots in the target."""
    cases = [
        Bad(
            f"byte {byte:#04x} in the {where}",
            get(target=before + bytes([byte]) + b"x"),
        )
        for byte in [*(byte for byte in CONTROLS if byte not in b"\r\n"), *range(0x80, 0x100, 17)]
        for where, before in [("path", b"/bad"), ("query", b"/bad?q=")]
    ]
    cases += [
        Bad(f"target {target!r}", get(target=target))
        for target in [
            b"/bad#fragment",
            b"/bad#",
            b"/bad?q#f",
            b"#",
            b"/bad%",
            b"/bad%4",
            b"/bad%zz",
            b"/bad%4g",
            b"/bad%%41",
            b"/bad%u0041",
            b"/bad%00",
            b"/%00",
            b"/bad\\x",
            b"/bad%5cx",
            b"/bad%5Cx",
            b"/bad/..%5c..",
            b"/..",
            b"/../",
            b"/../bad",
            b"/bad/../../x",
            b"/%2e%2e/bad",
            b"/%2E%2E/bad",
            b"/.%2e/bad",
            b"/%2e./bad",
            b"/./../bad",
            b"/bad/%2e%2e/%2e%2e/x",
            b"/bad/../..",
            b"/bad\xc3\xa9",
            b"http://h/../bad",
            b"http://h/bad#f",
            b"http://h/bad%00",
        ]
    ]
    return cases


def hosts() -> list[Bad]:
    """No Host, several, or one that is no authority."""
    bare = b"GET /bad HTTP/1.1\r\n"
    cases = [
        Bad("no Host", bare + b"\r\n"),
        Bad("no Host but others", bare + b"Accept: */*\r\n\r\n"),
        Bad("two Hosts", get(b"Host: i")),
        Bad("two equal Hosts", get(b"Host: h")),
        Bad("two Hosts in other cases", get(b"hOST: h")),
        Bad("two Hosts apart", get(b"A: b", b"Host: h")),
        Bad("no Host with an absolute target", b"GET http://h/bad HTTP/1.1\r\n\r\n"),
        Bad("two Hosts with an absolute target", get(b"Host: h", target=b"http://h/bad")),
        Bad("a bad Host with an absolute target", get(target=b"http://h/bad", host=b"Host: a b")),
        Bad("two Hosts in HTTP/1.0", b"GET /bad HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n"),
    ]
    cases += [
        Bad(f"Host {value!r}", get(host=b"Host: " + value))
        for value in [
            b"a b",
            b"a,b",
            b"h, h",
            b"a/b",
            b"/",
            b"h/",
            b"http://h",
            b"u@h",
            b"u:p@h",
            b"@",
            b"h?x",
            b"h#x",
            b"h\\x",
            b"h:x",
            b"h:80x",
            b"h:-1",
            b"h:+80",
            b"h: 80",
            b"h:80 ,x",
            b"h:65536",
            b"h:99999",
            b"h:0x50",
            b"h:80:80",
            b":80",
            b"::1",
            b"fe80::1",
            b"[::1",
            b"::1]",
            b"[]",
            b"[h]",
            b"[::1]x",
            b"[::1]:x",
            b"[::1]:99999",
            b"[::1%25eth0",
            b"[1.2.3.4]",
            b"[:::1]",
            b"[1:2:3:4:5:6:7:8:9]",
            b"h%",
            b"h%zz",
            b"h%00",
            b'"h"',
            b"<h>",
            b"h^",
            b"h`",
            b"h|i",
            b"{h}",
            b"h\xe9",
            b"h\x01",
            b"h\tb",
        ]
    ]
    return cases


def fields() -> list[Bad]:
    """Bad field lines and line ends."""
    cases = [
        Bad(f"byte {byte:#04x} in a value", get(b"X-A: a" + bytes([byte]) + b"b"))
        for byte in CONTROLS
        if byte != 0x09
    ]
    cases += [
        Bad(f"byte {byte:#04x} ends a value", get(b"X-A: a" + bytes([byte])))
        for byte in (0x00, 0x0B, 0x0C, 0x1F, 0x7F, 0x0D)
    ]
    cases += [
        Bad(f"byte {byte:#04x} in a name", get(b"X" + bytes([byte]) + b"A: a"))
        for byte in sorted(set(range(256)) - TOKEN - set(b":\n"))
        if byte < 0x80 or byte % 16 == 0
    ]
    cases += [
        Bad("space before the colon", get(b"X-A : b")),
        Bad("tab before the colon", get(b"X-A\t: b")),
        Bad("space before the colon of Host", get(host=b"Host : h")),
        Bad("space before the colon of CL", post(b"Content-Length : 5", body=b"hello")),
        Bad(
            "space before the colon of TE", post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")
        ),
        Bad("tab before the colon of TE", post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n")),
        Bad("VT before the colon of TE", post(b"Transfer-Encoding\v: chunked", body=b"0\r\n\r\n")),
        Bad("leading space in the first field", get(host=b" Host: h")),
        Bad("leading tab in the first field", get(host=b"\tHost: h")),
        Bad("obs-fold with a space", get(b"X-A: a", b" b")),
        Bad("obs-fold with a tab", get(b"X-A: a", b"\tb")),
        Bad("obs-fold of an empty line", get(b"X-A: a", b" ")),
        Bad("obs-fold of Host", get(b" x")),
        Bad("obs-fold that looks like a field", get(b"X-A: a", b" Content-Length: 5")),
        Bad("obs-fold of TE", post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n")),
        Bad("obs-fold of CL", post(b"Content-Length:", b" 5", body=b"hello")),
        Bad("empty name", get(b": b")),
        Bad("a colon alone", get(b":")),
        Bad("no colon", get(b"X-A")),
        Bad("no colon, first", get(host=b"Host h")),
        Bad("a quoted name", get(b'"X-A": b')),
        Bad("LF as a line's end", b"GET /bad HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n"),
        Bad("LF as every line's end", b"GET /bad HTTP/1.1\nHost: h\n\n"),
        Bad("LF LF at the end", b"GET /bad HTTP/1.1\r\nHost: h\n\n"),
        Bad("CRLF LF at the end", b"GET /bad HTTP/1.1\r\nHost: h\r\n\n\r\n\r\n"),
        Bad("LF CRLF at the end", b"GET /bad HTTP/1.1\r\nHost: h\n\r\n"),
        Bad("CR as a line's end", b"GET /bad HTTP/1.1\r\nHost: h\rX-A: b\r\n\r\n"),
        Bad("CR CR LF as a line's end", b"GET /bad HTTP/1.1\r\nHost: h\r\r\nX-A: b\r\n\r\n"),
        Bad("CR CR at the end", b"GET /bad HTTP/1.1\r\nHost: h\r\n\r\r\n\r\n"),
        Bad("LF before a field", b"GET /bad HTTP/1.1\r\nHost: h\r\n\nX-A: b\r\n\r\n"),
        Bad("LF and a smuggled field", get(b"X-A: b\nContent-Length: 5")),
        Bad("CR and a smuggled field", get(b"X-A: b\rContent-Length: 5")),
        Bad("NUL in Host", get(host=b"Host: h\0")),
        Bad("a value before its name", get(b"b :X-A")),
    ]
    return cases


def framing() -> list[Bad]:
    """Bad or ambiguous Content-Length and Transfer-Encoding."""
    chunked = b"5\r\nhello\r\n0\r\n\r\n"
    cases = [
        Bad(f"CL {value!r}", post(b"Content-Length: " + value, body=b"hello"), (400, 413))
        for value in [
            b"",
            b" ",
            b"+5",
            b"-5",
            b"-0",
            b"+0",
            b"5e0",
            b"5.0",
            b"5.",
            b"1_0",
            b"0x5",
            b"0o5",
            b"x",
            b"5x",
            b"x5",
            b"5 5",
            b"5;5",
            b"5,",
            b",5",
            b"5, 6",
            b"6, 5",
            b"5,x",
            b'"5"',
            b"5 x",
            b"5\x00",
            b"5\x0b",
            b"5\x0c",
            b"\x0b5",
            b"5\xa0",
            b"\xa05",
            b"5\x85",
            b"\xd9\xa5",
            b"\xb2",
            b"5\xb2",
            b"nan",
            b"inf",
            b"1e400",
            b"five",
            b"9223372036854775808",
            b"18446744073709551615",
            b"18446744073709551616",
            b"18446744073709551621",
            b"99999999999999999999999999",
            b"9" * 400,
            b"4294967301 ",
        ][:-1]
    ]
    cases += [
        Bad("two different CLs", post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!")),
        Bad("two CLs, one bad", post(b"Content-Length: 5", b"Content-Length: x", body=b"hello")),
        Bad("two CLs, one empty", post(b"Content-Length: 5", b"Content-Length:", body=b"hello")),
        Bad("CL 0 and CL 5", post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello")),
        Bad("CLs in two cases", post(b"Content-Length: 5", b"content-length: 0", body=b"hello")),
        Bad("CLs 5 and 05", post(b"Content-Length: 5, 6", b"Content-Length: 5", body=b"hello")),
        Bad("CL with TE", post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=chunked)),
        Bad("TE with CL", post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=chunked)),
        Bad(
            "CL 0 with TE", post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=chunked)
        ),
        Bad("TE, a field, CL", post(b"Transfer-Encoding: chunked", b"A: b", b"Content-Length: 3")),
        Bad("tE with cL", post(b"transfer-encoding: chunked", b"content-length: 15", body=chunked)),
        Bad("CL with TE in a GET", get(b"Content-Length: 5", b"Transfer-Encoding: chunked")),
    ]
    cases += [
        Bad(
            f"TE {value!r}",
            post(b"Transfer-Encoding: " + value, body=chunked),
            (400, 501),
        )
        for value in [
            b"",
            b"identity",
            b"xchunked",
            b"chunkedx",
            b"x-chunked",
            b"chunk",
            b"chunke",
            b"chunked, identity",
            b"identity, chunked",
            b"gzip",
            b"gzip, chunked",
            b"deflate, chunked",
            b"chunked, gzip",
            b"chunked, chunked",
            b"chunked,chunked",
            b"chunked chunked",
            b"chunked;q=1",
            b"chunked; a=b",
            b"chunked;",
            b"chunked,",
            b",chunked",
            b"chunked, ",
            b", chunked",
            b'"chunked"',
            b"'chunked'",
            b"chunked\x00",
            b"\x00chunked",
            b"chunked\x0b",
            b"\x0bchunked",
            b"chunked\x0c",
            b"\x0cchunked",
            b"chunked\xa0",
            b"\xa0chunked",
            b"chunked\x85",
            b"chunked\x1f",
            b"chun\tked",
            b"chun ked",
            b"chunked\xff",
            b"\xe2\x84\xaachunked",
            b"chun\xe2\x84\xaaed",
            b"cow",
            b"trailers",
            b"1",
        ]
    ]
    twice = (b"Transfer-Encoding: chunked",) * 2
    other = (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked")
    cases += [
        Bad("TE twice", post(*twice, body=chunked), (400, 501)),
        Bad("TE identity and TE chunked", post(*other, body=chunked), (400, 501)),
        Bad("TE chunked and TE identity", post(*other[::-1], body=chunked), (400, 501)),
        Bad(
            "TE chunked and TE empty",
            post(twice[0], b"Transfer-Encoding:", body=chunked),
            (400, 501),
        ),
        Bad(
            "TE chunked and TE cow",
            post(twice[0], b"Transfer-Encoding: cow", body=chunked),
            (400, 501),
        ),
        Bad(
            "TE in two cases",
            post(twice[0], b"transfer-encoding: chunked", body=chunked),
            (400, 501),
        ),
        Bad(
            "TE in HTTP/1.0",
            post(b"Transfer-Encoding: chunked", body=chunked, version=b"HTTP/1.0"),
            (400, 501),
        ),
        Bad(
            "TE in HTTP/1.0 with keep-alive",
            post(
                b"Connection: keep-alive",
                b"Transfer-Encoding: chunked",
                body=chunked,
                version=b"HTTP/1.0",
            ),
            (400, 501),
        ),
        Bad(
            "TE and CL in HTTP/1.0",
            post(
                b"Content-Length: 5",
                b"Transfer-Encoding: chunked",
                body=chunked,
                version=b"HTTP/1.0",
            ),
            (400, 501),
        ),
        Bad(
            "TE in a GET with CL named away",
            get(*twice, b"Connection: transfer-encoding"),
            (400, 501),
        ),
        Bad("unknown Expect", post(b"Expect: 200-ok", b"Content-Length: 5"), (417,)),
        Bad("Expect with a comma", post(b"Expect: 100-continue, x", b"Content-Length: 5"), (417,)),
    ]
    return cases


BAD = [*request_lines(), *targets(), *hosts(), *fields(), *framing()]


@dataclass(frozen=True)
class BadBody:
    """A good head and a body that breaks: the upstream never sees a complete request."""

    name: str
    body: bytes
    head: tuple[bytes, ...] = (b"Transfer-Encoding: chunked",)
    ends: bool = False


BAD_BODIES = [
    *(
        BadBody(f"chunk size {size!r}", size + b"\r\nhello\r\n0\r\n\r\n")
        for size in [
            b"",
            b" ",
            b"0x5",
            b"0X5",
            b"x5",
            b"+5",
            b"-5",
            b"5_0",
            b"5.0",
            b" 5",
            b"5 ",
            b"5\t",
            b"\t5",
            b"5\x0b",
            b"5\x0c",
            b"5\x00",
            b"\x005",
            b"5\xa0",
            b"5h",
            b"g",
            b"5,5",
            b'"5"',
            b"\xd9\xa5",
            b"\xef\xbc\x95",
            b"\xb5",
            b"8000000000000000",
            b"8000000000000005",
            b"ffffffffffffffff",
            b"FFFFFFFFFFFFFFFB",
            b"10000000000000005",
            b"100000000000000000",
            b"f" * 40,
            b"-0",
            b"5\r",
            b"5;a\x00b",
            b"5;a\x01",
            b"5;a\x7f",
            b"5;a\rb",
            b"5;\r",
            b"5\n;a",
        ]
    ),
    BadBody("LF after the size", b"5\nhello\r\n0\r\n\r\n"),
    BadBody("CR after the size", b"5\rhello\r\n0\r\n\r\n"),
    BadBody("LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    BadBody("LF in a quoted extension", b'5;a="\n"\r\nhello\r\n0\r\n\r\n'),
    BadBody("LF for an extension's end", b"5;a\nhello\r\n0\r\n\r\n"),
    BadBody("LF in the last chunk's extension", b"5\r\nhello\r\n0;a\nb\r\n\r\n"),
    BadBody("data without its CRLF", b"5\r\nhello0\r\n\r\n"),
    BadBody("data with LF alone", b"5\r\nhello\n0\r\n\r\n"),
    BadBody("data with CR alone", b"5\r\nhello\r0\r\n\r\n"),
    BadBody("data with LF CR", b"5\r\nhello\n\r0\r\n\r\n"),
    BadBody("data longer than its size", b"4\r\nhello\r\n0\r\n\r\n"),
    BadBody("data shorter than its size", b"6\r\nhello\r\n0\r\n\r\n"),
    BadBody("data of spaces after it", b"5\r\nhello  \r\n0\r\n\r\n"),
    BadBody("LF after the last size", b"5\r\nhello\r\n0\n\r\n"),
    BadBody("LF LF after the last size", b"5\r\nhello\r\n0\n\n"),
    BadBody("LF for the last line", b"5\r\nhello\r\n0\r\n\n"),
    BadBody("CR CR LF for the last line", b"5\r\nhello\r\n0\r\n\r\r\n"),
    BadBody("rubbish for the last line", b"5\r\nhello\r\n0\r\nxx\r\n\r\n"),
    BadBody("a trailer without colon", b"5\r\nhello\r\n0\r\nX-A\r\n\r\n"),
    BadBody("a trailer with a space before the colon", b"5\r\nhello\r\n0\r\nX-A : b\r\n\r\n"),
    BadBody("a trailer with an empty name", b"5\r\nhello\r\n0\r\n: b\r\n\r\n"),
    BadBody("a trailer with a bad name", b"5\r\nhello\r\n0\r\nX A: b\r\n\r\n"),
    BadBody("a trailer with NUL", b"5\r\nhello\r\n0\r\nX-A: \x00\r\n\r\n"),
    BadBody("a trailer with a control", b"5\r\nhello\r\n0\r\nX-A: a\x01b\r\n\r\n"),
    BadBody("a trailer with CR", b"5\r\nhello\r\n0\r\nX-A: a\rb\r\n\r\n"),
    BadBody("a trailer with LF", b"5\r\nhello\r\n0\r\nX-A: a\nX-B: c\r\n\r\n"),
    BadBody("a folded trailer", b"5\r\nhello\r\n0\r\nX-A: a\r\n b\r\n\r\n"),
    BadBody("a leading space in the first trailer", b"5\r\nhello\r\n0\r\n X-A: a\r\n\r\n"),
    BadBody("second chunk bad", b"5\r\nhello\r\n5\r\nhello\r\nz\r\n"),
    BadBody("an empty line between chunks", b"5\r\nhello\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    BadBody("no size", b"\r\n0\r\n\r\n"),
    BadBody("the end in the size", b"5", ends=True),
    BadBody("the end after the size", b"5\r\n", ends=True),
    BadBody("the end in a chunk", b"5\r\nhel", ends=True),
    BadBody("the end after a chunk's data", b"5\r\nhello", ends=True),
    BadBody("the end after a chunk", b"5\r\nhello\r\n", ends=True),
    BadBody("the end before the last line", b"5\r\nhello\r\n0\r\n", ends=True),
    BadBody("the end in a trailer", b"5\r\nhello\r\n0\r\nX-A: b\r\n", ends=True),
    BadBody("the end at once", b"", ends=True),
    BadBody("a length's end at once", b"", head=(b"Content-Length: 5",), ends=True),
    BadBody("a length's end one short", b"hell", head=(b"Content-Length: 5",), ends=True),
    BadBody("a length's end far short", b"x" * 4096, head=(b"Content-Length: 1000000",), ends=True),
]


@dataclass(frozen=True)
class Good:
    """A valid request and what the upstream must have got.

    Args:
        raw: with `@P` for the test's path.
        target: what the upstream sees, with `@P`; None: as the path alone.
        has: fields the upstream sees, in this order among those of the same name.
        hasnt: fields the upstream must not see.
    """

    name: str
    raw: bytes
    target: str = "@P"
    method: str = "GET"
    body: bytes = b""
    has: tuple[tuple[str, str], ...] = ()
    hasnt: tuple[str, ...] = ()
    trailers: tuple[tuple[str, str], ...] | None = field(default=None)


def good_get(name: str, *lines: bytes, **options: object) -> Good:
    """A valid GET with more field lines."""
    return Good(name, get(*lines, target=b"@P"), **options)  # type: ignore[arg-type]


def good_target(sent: str, seen: str) -> Good:
    """A valid target and its normal form."""
    return Good(f"target {sent}", get(target=sent.encode("latin-1")), target=seen)


def good_post(name: str, *lines: bytes, wire: bytes, body: bytes, **options: object) -> Good:
    """A valid POST: its body on the wire and the body it stands for."""
    raw = post(*lines, body=wire).replace(b"/bad", b"@P", 1)
    return Good(name, raw, method="POST", body=body, **options)  # type: ignore[arg-type]


TE = b"Transfer-Encoding: chunked"

GOOD = [
    good_get("plain"),
    Good("an empty line first", b"\r\n" + get(target=b"@P")),
    Good("HTTP/1.0 without Host", b"GET @P HTTP/1.0\r\n\r\n"),
    Good("HTTP/1.0 with Host", b"GET @P HTTP/1.0\r\nHost: h\r\n\r\n", has=(("Host", "h"),)),
    *(
        Good(f"method {method}", get(target=b"@P").replace(b"GET", method.encode()), method=method)
        for method in ["HEAD", "OPTIONS", "DELETE", "TRACE", "PATCH", "PURGE", "M-SEARCH", "get"]
    ),
    Good(
        "a method of every token character",
        get(target=b"@P").replace(b"GET", b"!#$%&'*+-.^_`|~0aZ"),
        method="!#$%&'*+-.^_`|~0aZ",
    ),
    Good("PUT with CL 0", b"PUT @P HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", method="PUT"),
    Good("POST without a body", b"POST @P HTTP/1.1\r\nHost: h\r\n\r\n", method="POST"),
    good_get("no space after the colon", b"X-A:b", has=(("X-A", "b"),)),
    good_get("spaces around a value", b"X-A:   b  ", has=(("X-A", "b"),)),
    good_get("tabs around a value", b"X-A:\tb\t", has=(("X-A", "b"),)),
    good_get("a tab in a value", b"X-A: b\tc", has=(("X-A", "b\tc"),)),
    good_get("an empty value", b"X-A:", has=(("X-A", ""),)),
    good_get("spaces for a value", b"X-A:    ", has=(("X-A", ""),)),
    good_get("a colon in a value", b"X-A: b:c: d", has=(("X-A", "b:c: d"),)),
    good_get("a colon first in a value", b"X-A::", has=(("X-A", ":"),)),
    good_get("obs-text in a value", b"X-A: \xe9\xff\x80", has=(("X-A", "\xe9\xff\x80"),)),
    good_get("quotes in a value", b'X-A: "b, c"; d="\\""', has=(("X-A", '"b, c"; d="\\""'),)),
    good_get(
        "name of every token character", b"!#$%&'*+-.^`|~9: b", has=(("!#$%&'*+-.^`|~9", "b"),)
    ),
    good_get("name of one digit", b"1: b", has=(("1", "b"),)),
    good_get(
        "repeated fields",
        b"X-A: 1",
        b"X-B: 2",
        b"x-a: 3",
        b"X-A: 1",
        has=(("X-A", "1"), ("X-B", "2"), ("X-A", "3"), ("X-A", "1")),
    ),
    good_get(
        "two Cookies", b"Cookie: a=1", b"Cookie: b=2", has=(("Cookie", "a=1"), ("Cookie", "b=2"))
    ),
    good_get("a long value", b"X-A: " + b"v" * 30000, has=(("X-A", "v" * 30000),)),
    good_get("200 fields", *(b"X-%d: %d" % (n, n) for n in range(200)), has=(("X-199", "199"),)),
    good_get("a Range", b"Range: bytes=0-1", b"If-Range: x", has=(("Range", "bytes=0-1"),)),
    good_get("Authorization", b"Authorization: Basic eDp5", has=(("Authorization", "Basic eDp5"),)),
    good_get("Upgrade without Connection", b"Upgrade: websocket", hasnt=("Upgrade",)),
    good_get(
        "Keep-Alive", b"Connection: keep-alive", b"Keep-Alive: timeout=5", hasnt=("Keep-Alive",)
    ),
    Good("Host with port", get(target=b"@P", host=b"Host: h:8080"), has=(("Host", "h:8080"),)),
    Good("Host in capitals", get(target=b"@P", host=b"HOST: h")),
    Good(
        "Host is IPv4",
        get(target=b"@P", host=b"Host: 127.0.0.1:80"),
        has=(("Host", "127.0.0.1:80"),),
    ),
    Good("Host is IPv6", get(target=b"@P", host=b"Host: [::1]"), has=(("Host", "[::1]"),)),
    Good(
        "Host is IPv6 with port",
        get(target=b"@P", host=b"Host: [::1]:80"),
        has=(("Host", "[::1]:80"),),
    ),
    Good("Host with dashes", get(target=b"@P", host=b"Host: xn--a-b.c-d.example")),
    Good(
        "Host last",
        b"GET @P HTTP/1.1\r\nX-A: b\r\nHost: h\r\n\r\n",
        has=(("X-A", "b"), ("Host", "h")),
    ),
    Good("absolute form", get(target=b"http://h@P"), has=(("Host", "h"),)),
    Good("absolute form against Host", get(target=b"http://i:81@P"), has=(("Host", "i:81"),)),
    Good("absolute form in capitals", get(target=b"HTTP://h@P?x"), target="@P?x"),
    Good("absolute form in HTTP/1.0", b"GET http://h@P HTTP/1.0\r\n\r\n", has=(("Host", "h"),)),
    good_target("@P?", "@P?"),
    good_target("@P?a=b&c=%zz", "@P?a=b&c=%zz"),
    good_target("@P?../..//?", "@P?../..//?"),
    good_target("@P?%00%2e", "@P?%00%2e"),
    good_target("@P/", "@P/"),
    good_target("@P//x///y", "@P/x/y"),
    good_target("//@P", "@P"),
    good_target("@P/a/../b", "@P/b"),
    good_target("@P/a/%2e%2E/b", "@P/b"),
    good_target("@P/./b/.", "@P/b/"),
    good_target("@P/a/..", "@P/"),
    good_target("@P/%41%7e%2d%2E%5fx", "@P/A~-._x"),
    good_target("@P/%2f%2Fx", "@P/%2F%2Fx"),
    good_target("@P/a%2f..%2fb", "@P/a%2F..%2Fb"),
    good_target("@P/%c3%a9%20", "@P/%C3%A9%20"),
    good_target("@P/%25%32%65", "@P/%252e"),
    good_target("@P/...", "@P/..."),
    good_target("@P/a;b=c/d,e", "@P/a;b=c/d,e"),
    good_target("@P/:@!$&'()*+,;=~", "@P/:@!$&'()*+,;=~"),
    good_target("@P/%3b%3F%23", "@P/%3B%3F%23"),
    good_post("CL", b"Content-Length: 5", wire=b"hello", body=b"hello"),
    good_post("CL with zeros", b"Content-Length: 0005", wire=b"hello", body=b"hello"),
    good_post("CL with spaces", b"Content-Length:  5 ", wire=b"hello", body=b"hello"),
    good_post("CL 0", b"Content-Length: 0", wire=b"", body=b""),
    good_post(
        "a body like a request",
        b"Content-Length: 27",
        wire=b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"[:27],
        body=b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"[:27],
    ),
    good_post(
        "a body of 100000", b"Content-Length: 100000", wire=b"x" * 100000, body=b"x" * 100000
    ),
    good_post("chunked", TE, wire=b"5\r\nhello\r\n0\r\n\r\n", body=b"hello"),
    good_post("chunked and empty", TE, wire=b"0\r\n\r\n", body=b""),
    good_post("CHUNKED", b"Transfer-Encoding: CHUNKED", wire=b"1\r\nx\r\n0\r\n\r\n", body=b"x"),
    good_post(
        "TE with spaces",
        b"Transfer-Encoding: \t chunked \t",
        wire=b"1\r\nx\r\n0\r\n\r\n",
        body=b"x",
    ),
    good_post(
        "several chunks", TE, wire=b"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", body=b"abcdef"
    ),
    good_post(
        "chunk sizes in hex",
        TE,
        wire=b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        body=b"01234567890123456789a",
    ),
    good_post("chunk sizes with zeros", TE, wire=b"0005\r\nhello\r\n000\r\n\r\n", body=b"hello"),
    good_post("a chunk extension", TE, wire=b"5;a=b\r\nhello\r\n0\r\n\r\n", body=b"hello"),
    good_post(
        "a quoted extension", TE, wire=b'5;a="b c;\\"d"\r\nhello\r\n0\r\n\r\n', body=b"hello"
    ),
    good_post(
        "an extension without value", TE, wire=b"5;a;b\r\nhello\r\n0;c\r\n\r\n", body=b"hello"
    ),
    good_post(
        "CRLF in a chunk", TE, wire=b"9\r\n\r\n0\r\n\r\nab\r\n0\r\n\r\n", body=b"\r\n0\r\n\r\nab"
    ),
    good_post(
        "a big chunk", TE, wire=b"186a0\r\n" + b"y" * 100000 + b"\r\n0\r\n\r\n", body=b"y" * 100000
    ),
    good_post(
        "a trailer", TE, wire=b"5\r\nhello\r\n0\r\nX-T: t\r\n\r\n", body=b"hello", hasnt=("X-T",)
    ),
    good_post(
        "CL, TE and Host in trailers",
        TE,
        b"Trailer: X-T",
        wire=b"0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: i\r\n\r\n",
        body=b"",
        trailers=(),
    ),
    Good("GET with CL", get(b"Content-Length: 5", target=b"@P") + b"hello", body=b"hello"),
    Good("GET with chunked", get(TE, target=b"@P") + b"1\r\nx\r\n0\r\n\r\n", body=b"x"),
    Good(
        "HTTP/1.0 POST",
        b"POST @P HTTP/1.0\r\nContent-Length: 2\r\n\r\nab",
        method="POST",
        body=b"ab",
    ),
]

# Two outcomes are right: refused, or served as if it had been written in one way only.
EITHER = [
    good_post(
        "equal CLs",
        b"Content-Length: 5",
        b"Content-Length: 5",
        wire=b"hello",
        body=b"hello",
        has=(("Content-Length", "5"),),
    ),
    good_post(
        "CL 5, 5",
        b"Content-Length: 5, 5",
        wire=b"hello",
        body=b"hello",
        has=(("Content-Length", "5"),),
    ),
    good_post(
        "CL 5,5,5",
        b"Content-Length: 5,5,5",
        wire=b"hello",
        body=b"hello",
        has=(("Content-Length", "5"),),
    ),
    good_get("Content_Length", b"Content_Length: 5", hasnt=("Content_Length",)),
    good_get("content_length", b"content_length: 5", hasnt=("Content_Length",)),
    good_get("Transfer_Encoding", b"Transfer_Encoding: chunked", hasnt=("Transfer_Encoding",)),
    good_get("TRANSFER_ENCODING", b"TRANSFER_ENCODING: chunked", hasnt=("Transfer_Encoding",)),
    good_get(
        "Transfer_Encoding with a value", b"Transfer_Encoding: x", hasnt=("Transfer_Encoding",)
    ),
    Good("an empty Host", get(target=b"@P", host=b"Host:")),
    Good("Host with an empty port", get(target=b"@P", host=b"Host: h:")),
    Good("three empty lines first", b"\r\n\r\n\r\n" + get(target=b"@P")),
    Good("HTTP/1.2", get(target=b"@P").replace(b"1.1", b"1.2")),
    Good("https absolute form", get(target=b"https://h@P")),
    Good(
        "chunk size of 20 zeros",
        post(TE, body=b"0" * 20 + b"5\r\nhello\r\n0\r\n\r\n").replace(b"/bad", b"@P", 1),
        method="POST",
        body=b"hello",
    ),
    good_post(
        "spaces around an extension", TE, wire=b"5 ; a = b\r\nhello\r\n0\r\n\r\n", body=b"hello"
    ),
    good_post(
        "a long extension", TE, wire=b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n", body=b"hello"
    ),
    Good(
        "OPTIONS *",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\nX-P: @P\r\n\r\n",
        method="OPTIONS",
        target="*",
    ),
]
