"""core.forwarded: what an upstream is told of its client, and whom of it we believe."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Networks
from gatewayd.core.exchange import Exchange, Origin
from gatewayd.core.forwarded import RequestIds, Via, introduce, request_key
from gatewayd.core.messages import RequestHead
from tests.heads import ended

quick = settings(deadline=None, database=None, max_examples=100)
PROXIES = Networks(["10.0.0.0/8", "unix"])


def origin(peer: str, scheme: str = "http") -> Origin:
    """A connection from a peer, trusted as the listener would."""
    return Origin(listener="web", peer=peer, scheme=scheme, port=2000, trusted=peer in PROXIES)


def exchange(
    source: Origin,
    *forwarded: bytes,
    authority: bytes = b"example.com",
    request_id: bytes = b"",
    lines: list[bytes] | None = None,
) -> Exchange:
    """A request with these X-Forwarded-* lines."""
    head = RequestHead(lines or [])
    head.authority = authority
    head.forwarded = tuple(ended(forwarded))
    head.request_id = request_id
    return Exchange(head, None, source, 0.0)


def told(asked: Exchange) -> list[bytes]:
    """The lines for the upstream."""
    lines = introduce(asked, PROXIES, RequestIds(b"id")).split(b"\r\n")
    assert lines.pop() == b""
    return lines


class StrangerTests(SynchronousTestCase):
    """A peer that is not trusted: what it says of itself is replaced."""

    def test_replaced(self) -> None:
        """Only what we know ourselves goes on."""
        asked = exchange(
            origin("192.0.2.1"),
            b"X-Forwarded-For: 1.1.1.1",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: evil.example",
            b"X-Forwarded-Port: 1",
            b"X-Real-IP: 1.1.1.1",
            b"Forwarded: for=1.1.1.1",
            request_id=b"mine",
        )
        self.assertEqual(
            told(asked),
            [
                b"X-Forwarded-For: 192.0.2.1",
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Host: example.com",
                b"X-Request-Id: id-1",
            ],
        )
        self.assertEqual(
            (asked.client_ip, asked.scheme, asked.request_id), ("192.0.2.1", "http", b"id-1")
        )

    def test_next_request(self) -> None:
        """On a kept connection each request has its own host and its own id."""
        source = origin("2001:db8::1", "https")
        ids = RequestIds(b"id")
        found = [
            introduce(exchange(source, authority=authority), PROXIES, ids)
            for authority in (b"a.example", b"a.example", b"b.example:81", b"")
        ]
        begin = b"X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: https\r\n"
        self.assertEqual(
            found,
            [
                begin + b"X-Forwarded-Host: a.example\r\nX-Request-Id: id-1\r\n",
                begin + b"X-Forwarded-Host: a.example\r\nX-Request-Id: id-2\r\n",
                begin + b"X-Forwarded-Host: b.example:81\r\nX-Request-Id: id-3\r\n",
                begin + b"X-Request-Id: id-4\r\n",
            ],
        )

    def test_first_without_host(self) -> None:
        """HTTP/1.0 without Host: nothing is made up."""
        self.assertEqual(
            told(exchange(origin("192.0.2.1"), authority=b"")),
            [b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Proto: http", b"X-Request-Id: id-1"],
        )

    def test_socket(self) -> None:
        """An untrusted peer on a Unix socket has no address to show."""
        source = Origin(listener="web", peer="unix", scheme="http", port=0, trusted=False)
        self.assertEqual(told(exchange(source))[0], b"X-Forwarded-For: unknown")


class ProxyTests(SynchronousTestCase):
    """A trusted peer: what it says is believed and appended to."""

    def test_appended(self) -> None:
        """Its chain goes on with the peer at its end; other fields as they came, in order."""
        asked = exchange(
            origin("10.0.0.1"),
            b"X-Forwarded-For: 9.9.9.9, 1.1.1.1",
            b"X-Real-IP: 1.1.1.1",
            b"x-forwarded-for:10.0.0.2",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: shop.example",
            b"X-Forwarded-Port: 443",
            b"Forwarded: for=1.1.1.1",
            request_id=b"their.id_1-A",
        )
        self.assertEqual(
            told(asked),
            [
                b"X-Forwarded-For: 9.9.9.9, 1.1.1.1, 10.0.0.2, 10.0.0.1",
                b"X-Forwarded-Proto: https",
                b"X-Forwarded-Host: shop.example",
                b"X-Real-IP: 1.1.1.1",
                b"X-Forwarded-Port: 443",
                b"Forwarded: for=1.1.1.1",
                b"X-Request-Id: their.id_1-A",
            ],
        )
        self.assertEqual(
            (asked.client_ip, asked.scheme, asked.request_id), ("1.1.1.1", "https", b"their.id_1-A")
        )

    def test_says_nothing(self) -> None:
        """Then it is the client itself."""
        asked = exchange(origin("10.0.0.1"))
        self.assertEqual(
            told(asked),
            [
                b"X-Forwarded-For: 10.0.0.1",
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Host: example.com",
                b"X-Request-Id: id-1",
            ],
        )
        self.assertEqual((asked.client_ip, asked.scheme), ("10.0.0.1", "http"))

    def test_last_value(self) -> None:
        """Of Proto and Host the last value is believed; rubbish is not, nor what stood before it."""
        expected = [
            ([b"X-Forwarded-Proto: http, https"], "https", b"example.com"),
            ([b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http"], "http", b"example.com"),
            ([b"X-Forwarded-Proto: HTTPS"], "https", b"example.com"),
            ([b"X-Forwarded-Proto: gopher"], "http", b"example.com"),
            ([b"X-Forwarded-Proto:"], "http", b"example.com"),
            ([b"X-Forwarded-Proto: https, ?"], "http", b"example.com"),
            ([b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: ?"], "http", b"example.com"),
            ([b"X-Forwarded-Host: a, b.example:1"], "http", b"b.example:1"),
            ([b"X-Forwarded-Host: a", b"X-Forwarded-Host: b"], "http", b"b"),
            ([b"X-Forwarded-Host:"], "http", b"example.com"),
            ([b"X-Forwarded-Host: a", b"X-Forwarded-Host:"], "http", b"example.com"),
        ]
        found = []
        for lines, _, _ in expected:
            asked = exchange(origin("10.0.0.1"), *lines)
            host = told(asked)[2].partition(b": ")[2]
            found.append((lines, asked.scheme, host))
        self.assertEqual(found, expected)

    def test_underscores(self) -> None:
        """Spellings that servers may read as ours go, from trusted peers too."""
        asked = exchange(origin("10.0.0.1"), b"X-Forwarded-F_or: 1.1.1.1")
        self.assertEqual([line for line in told(asked) if b"_" in line], [])

    def test_request_ids(self) -> None:
        """Kept if `[A-Za-z0-9._-]{1,128}`, else new."""
        good = [b"a", b"A-z.0_9", b"x" * 128]
        bad = [b"", b"x" * 129, b"a b", b"a\n", b"a/b", b"\xe9", b"a,b"]
        kept = [
            said
            for said in good + bad
            if b"X-Request-Id: " + said in told(exchange(origin("10.0.0.1"), request_id=said))
        ]
        self.assertEqual(kept, good)

    def test_socket(self) -> None:
        """A trusted proxy on a Unix socket is `unknown` in the chain, and the client behind it counts."""
        asked = exchange(origin("unix"), b"X-Forwarded-For: 1.1.1.1", authority=b"")
        self.assertEqual(
            told(asked)[:2], [b"X-Forwarded-For: 1.1.1.1, unknown", b"X-Forwarded-Proto: http"]
        )
        self.assertEqual(asked.client_ip, "1.1.1.1")

    def test_empty_chain(self) -> None:
        """An empty field adds no empty member."""
        asked = exchange(origin("10.0.0.1"), b"X-Forwarded-For:", b"X-Forwarded-For: 1.1.1.1")
        self.assertEqual(told(asked)[0], b"X-Forwarded-For: 1.1.1.1, 10.0.0.1")
        self.assertEqual(asked.client_ip, "1.1.1.1")

    @quick
    @given(st.binary(max_size=40).filter(lambda value: not {10, 13} & set(value)))
    def test_any_chain(self, value: bytes) -> None:
        """Whatever a proxy passes on, the peer stands last and nothing breaks a line."""
        lines = told(exchange(origin("10.0.0.1"), b"X-Forwarded-For: " + value))
        self.assertTrue(lines[0].endswith(b"10.0.0.1"))
        self.assertEqual(len(lines), 4)


class RequestIdsTests(SynchronousTestCase):
    """Ids that are ours."""

    def test_unique(self) -> None:
        """They count on, and are such as we would keep ourselves."""
        ids = RequestIds(b"7f3a")
        found = [ids.next() for _ in range(17)]
        self.assertEqual([found[0], found[9], found[16]], [b"7f3a-1", b"7f3a-a", b"7f3a-11"])
        self.assertEqual(len(set(found)), 17)


class ViaTests(SynchronousTestCase):
    """Our Via (decisions.md, Via)."""

    def test_line(self) -> None:
        """1.1 and the pseudonym."""
        self.assertEqual(Via(b"gatewayd-0badcafe").line, b"Via: 1.1 gatewayd-0badcafe\r\n")

    def test_own(self) -> None:
        """Only the own id is a loop."""
        via = Via(b"gatewayd-0badcafe")
        expected = {
            (): False,
            (b"Via: 1.1 gatewayd-0badcafe",): True,
            (b"Via: 1.0 fred, 1.1 gatewayd-0badcafe (us)",): True,
            (b"Via: 1.1 a", b"via:1.1 b,1.1 gatewayd-0badcafe"): True,
            (b"Via: 1.1 gatewayd-12345678",): False,
            (b"Via: 1.1 gatewayd-0badcafe0",): False,
            (b"Via: 1.1 xgatewayd-0badcafe",): False,
            (b"Via: 1.1 gatewayd",): False,
            (b"Via:",): False,
        }
        self.assertEqual({lines: via.is_in(lines) for lines in expected}, expected)


class KeyTests(SynchronousTestCase):
    """What consistent hashing goes by."""

    def test_keys(self) -> None:
        """client_ip, path, header:NAME or cookie:NAME; None where there is no such thing."""
        asked = exchange(
            origin("192.0.2.1"),
            lines=[
                b"X-User: ada",
                b"Cookie: a=1; sid=x=y; b",
                b"x-user: bob",
                b"Cookie: sid=later;other=2",
                b"X-Empty:",
            ],
        )
        asked.client_ip = "192.0.2.1"
        asked.head.path = b"/a/b"
        expected = {
            "client_ip": b"192.0.2.1",
            "path": b"/a/b",
            "header:X-User": b"ada, bob",
            "header:x-empty": b"",
            "header:X-None": None,
            "cookie:a": b"1",
            "cookie:sid": b"x=y",
            "cookie:other": b"2",
            "cookie:b": None,
            "cookie:SID": None,
            "cookie:id": None,
        }
        self.assertEqual({source: request_key(asked, source) for source in expected}, expected)
